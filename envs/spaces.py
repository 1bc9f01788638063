"""Which Gymnasium spaces we accept, their discrete choices, and labels for observations."""

import math
from collections.abc import Iterator

import gymnasium
import numpy as np
from gymnasium import spaces


def check_actions(name: str, env: gymnasium.Env) -> None:
    """Raise ValueError unless actions are a finite float Box, or discrete."""
    if not choices_of(env.action_space):
        _check_box_actions(name, env.action_space)


def check_observations(name: str, env: gymnasium.Env) -> None:
    """Raise ValueError unless observations are Boxes of numbers."""
    for label, box in _leaves(env.observation_space):
        if not isinstance(box, spaces.Box):
            raise ValueError(f"{name} has {label} {box}; telic supports Box observations so far")
        if box.dtype == np.uint8 and len(box.shape) == 3:
            raise ValueError(f"{name} has pictures as {label}; use env.obs=pixels")


def choices_of(actions: spaces.Space) -> tuple[int, ...]:
    """Return how many choices each number of a discrete action has; () for any other space."""
    if isinstance(actions, spaces.Discrete):
        return (int(actions.n),)
    if isinstance(actions, spaces.MultiDiscrete):
        return tuple(actions.nvec.ravel().tolist())
    if isinstance(actions, spaces.MultiBinary):
        return (2,) * math.prod(actions.shape)
    return ()


def _check_box_actions(name: str, actions: spaces.Space) -> None:
    """Raise ValueError unless `actions` is a finite float Box."""
    if not isinstance(actions, spaces.Box):
        raise ValueError(
            f"{name} has the action space {actions}; telic supports Box and discrete actions"
        )
    if not np.issubdtype(actions.dtype, np.floating):
        raise ValueError(f"{name} has integer actions {actions}; telic supports float Box actions")
    if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
        raise ValueError(f"{name} has unbounded actions {actions}; telic needs finite bounds")


def observation_labels(space: spaces.Space, key: str = "") -> tuple[str, ...]:
    """Return one label per number of the flattened observation, such as "velocity[1]", (O,).

    `key` is that of a part of a larger observation.
    """
    leaves = _leaves(space, key)
    return tuple(label for leaf, box in leaves for label in number_labels(leaf, box.shape or ()))


def number_labels(key: str, shape: tuple[int, ...]) -> list[str]:
    """Return a label for every number of an array: "key[0]", "key[1,2]", or "key" for a scalar."""
    indices = [",".join(map(str, index)) for index in np.ndindex(shape)]
    return [f"{key}[{index}]" if index else key for index in indices]


def _leaves(space: spaces.Space, label: str = "") -> Iterator[tuple[str, spaces.Space]]:
    """Yield the parts of a (nested) Dict space in the order in which Gymnasium flattens them."""
    if not isinstance(space, spaces.Dict):
        yield label or "observation", space
        return
    for key, part in space.spaces.items():
        yield from _leaves(part, f"{label}.{key}" if label else key)
