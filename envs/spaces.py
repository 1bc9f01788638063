"""Which Gymnasium spaces we accept, and labels for flattened observations."""

from collections.abc import Iterator

import gymnasium
import numpy as np
from gymnasium import spaces


def check_spaces(name: str, env: gymnasium.Env) -> None:
    """Raise ValueError unless actions are a finite float Box and observations Boxes of numbers."""
    actions = env.action_space
    if not isinstance(actions, spaces.Box):
        kind = "a discrete action space" if _is_discrete(actions) else "the action space"
        raise ValueError(f"{name} has {kind} {actions}; telic supports Box actions so far")
    if not np.issubdtype(actions.dtype, np.floating):
        raise ValueError(f"{name} has integer actions {actions}; telic supports float Box actions")
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        raise ValueError(f"{name} has unbounded actions {actions}; telic needs finite bounds")
    for label, box in _leaves("observation", env.observation_space):
        if not isinstance(box, spaces.Box):
            raise ValueError(f"{name} has {label} {box}; telic supports Box observations so far")
        if box.dtype == np.uint8 and len(box.shape) == 3:
            raise ValueError(f"{name} has pictures as {label}; pixels are not supported yet")


def observation_labels(space: spaces.Space) -> tuple[str, ...]:
    """Return one label per number of the flattened observation, such as "velocity[1]", (O,)."""
    leaves = _leaves("observation", space)
    return tuple(label for key, box in leaves for label in number_labels(key, box.shape or ()))


def number_labels(key: str, shape: tuple[int, ...]) -> list[str]:
    """Return a label for every number of an array: "key[0]", "key[1,2]", or "key" for a scalar."""
    indices = [",".join(map(str, index)) for index in np.ndindex(shape)]
    return [f"{key}[{index}]" if index else key for index in indices]


def _is_discrete(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)


def _leaves(label: str, space: spaces.Space) -> Iterator[tuple[str, spaces.Space]]:
    """Yield the parts of a (nested) Dict space in the order in which Gymnasium flattens them."""
    if not isinstance(space, spaces.Dict):
        yield label, space
        return
    for key, part in space.spaces.items():
        yield from _leaves(key if label == "observation" else f"{label}.{key}", part)
