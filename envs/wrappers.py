"""What stands between a native environment and the agent, innermost first."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

from envs.config import EnvSpec
from envs.rendering import frame_rate, free_drawing, mujoco_renderer_of
from envs.spaces import choices_of


class RepeatAction(gymnasium.Wrapper):
    """One control step of `repeat` env frames: rewards are summed, the last observation is kept.

    Stops early when the episode ends; `info["frames"]` counts the env frames that were run.
    """

    def __init__(self, env: gymnasium.Env, repeat: int):
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply a native action for up to `repeat` env frames."""
        total, frames, over = 0.0, 0, False
        while frames < self._repeat and not over:
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            frames += 1
            over = terminated or truncated
        return obs, total, bool(terminated), bool(truncated), {**info, "frames": frames}


class UnitAction(gymnasium.ActionWrapper):
    """Actions (A,) in [-1, 1], clipped to it, stretched linearly to the native bounds.

    Gymnasium's RescaleAction neither clips nor gives float32 actions.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        native = env.action_space
        assert isinstance(native, spaces.Box)
        self._native = native
        self._low = native.low.ravel().astype(np.float64)
        self._high = native.high.ravel().astype(np.float64)
        self._centre = (self._high + self._low) / 2
        self._half = (self._high - self._low) / 2
        self.action_space = spaces.Box(-1.0, 1.0, self._centre.shape, np.float32)

    def action(self, action: Any) -> np.ndarray:
        """Return the native action; ValueError if `action` is not finite or not of shape (A,)."""
        unit = _checked(action, self._centre.shape)
        stretched = self._centre + self._half * unit
        inside = np.minimum(np.maximum(stretched, self._low), self._high)
        return inside.reshape(self._native.shape).astype(self._native.dtype)


class ChosenAction(gymnasium.ActionWrapper):
    """One-hot groups (A,) in, one group per number of the native discrete action.

    The largest number of a group is the choice, so that any vector stands for an action.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self._native = env.action_space
        choices = choices_of(self._native)
        self._ends = np.cumsum(choices)[:-1]
        self._start = np.ravel(getattr(self._native, "start", 0))
        self.action_space = spaces.Box(0.0, 1.0, (sum(choices),), np.float32)

    def action(self, action: Any) -> Any:
        """Return the native action; ValueError if `action` is not finite or not of shape (A,)."""
        groups = np.split(_checked(action, self.action_space.shape), self._ends)
        chosen = np.array([group.argmax() for group in groups]) + self._start
        return chosen.reshape(self._native.shape).astype(self._native.dtype)[()]


class ActionBlock(gymnasium.Wrapper):
    """One control step of `size` actions in a row: (size * A,), the first to be taken first.

    Rewards and `info["frames"]` are summed, the last observation is kept; stops early when the
    episode ends.
    """

    def __init__(self, env: gymnasium.Env, size: int):
        super().__init__(env)
        one = env.action_space
        assert isinstance(one, spaces.Box)
        self._size = size
        low, high = np.tile(one.low, size), np.tile(one.high, size)
        self.action_space = spaces.Box(low, high, dtype=np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take the actions of a block (size * A,); ValueError for any other shape."""
        total, frames = 0.0, 0
        for one in np.split(_checked(action, self.action_space.shape), self._size):
            obs, reward, terminated, truncated, info = self.env.step(one)
            total += float(reward)
            frames += info["frames"]
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, {**info, "frames": frames}


class Described(gymnasium.Wrapper):
    """The outermost layer: carries the `EnvSpec`, and the frame rate that a video should have."""

    def __init__(self, env: gymnasium.Env, telic_spec: EnvSpec):
        super().__init__(env)
        self.telic_spec = telic_spec
        self.metadata = {**env.metadata, "render_fps": frame_rate(telic_spec.control_period)}

    def render(self) -> np.ndarray | None:
        """Draw the present state, (height, width, 3) uint8; None if pictures weren't asked for."""
        renderer = mujoco_renderer_of(self)
        if renderer is not None and renderer.viewer is not None:
            # Gymnasium draws into whichever environment's OpenGL context was made last.
            renderer.viewer.make_context_current()
        picture = super().render()
        # MuJoCo's pictures come upside down and are views that PyTorch cannot take over.
        return None if picture is None else np.ascontiguousarray(picture)

    def close(self) -> None:
        """Free the pictures and the simulation; may be called again."""
        free_drawing(mujoco_renderer_of(self))
        super().close()


def _checked(action: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return `action` as float64; ValueError if it is not finite or not of `shape`."""
    numbers = np.asarray(action, dtype=np.float64)
    if numbers.shape != shape:
        raise ValueError(f"action: expected shape {shape}, got {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"action is not finite: {numbers}")
    return numbers


def flatten_observation(env: gymnasium.Env) -> gymnasium.Env:
    """Give the environment float32 observations of shape (O,), each in memory of its own."""
    space = env.observation_space
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    with np.errstate(over="ignore"):  # bounds beyond float32 become infinite, which they mean
        low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
    box = spaces.Box(low, high, dtype=np.float32)
    return TransformObservation(env, lambda o: np.array(spaces.flatten(space, o), np.float32), box)
