"""The dm_control suite, `dmc/<domain>-<task>`.

Shimmy's DmControlCompatibilityV0 was tried first and seeds correctly, but it lets PhysicsError
escape from `step`, sets one `render_fps` (in the wrong unit) for all of its instances, draws with
the backend that was fixed when dm_control was imported, and doubles the time that a control step of
cartpole spends outside dm_control (0.054 ms instead of 0.027 ms).
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import dm_env
import gymnasium
import numpy as np
from dm_control.rl.control import Environment, PhysicsError
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs.config import EnvConfig
from envs.registry import Suite, unknown_environment
from envs.rendering import MujocoPictures, picture_metadata, select_gl_backend
from envs.spaces import number_labels

EPISODE_FRAMES = 1000  # of every suite task with a time limit of its own
SHORT_DOMAINS = {"cup": "ball_in_cup", "pointmass": "point_mass"}


class DmControlEnv(MujocoPictures, gymnasium.Env[np.ndarray, np.ndarray]):
    """A dm_control suite task; observation parts are concatenated in the suite's order, (O,).

    Actuators without control limits, as those of lqr, take [-1, 1]. A discount of 0 terminates.
    Diverged physics truncates, with the last sound observation, reward 0 and the reason in
    `info["physics_error"]`: nothing says that the state itself was worthless.
    """

    def __init__(self, name: str, env: Environment, render: bool):
        self._env = env
        self.spec = gymnasium.envs.registration.EnvSpec(id=name)
        self.dt = float(env.control_timestep())
        self.metadata = picture_metadata(self.dt)
        self.render_mode = "rgb_array" if render else None
        parts = env.observation_spec()
        self.obs_names = tuple(
            label for key, part in parts.items() for label in number_labels(key, part.shape)
        )
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(self.obs_names),), np.float32)
        bounds = env.action_spec()
        # For those dm_control says +-1e10, at which physics diverge.
        limited = self.model.actuator_ctrllimited.astype(bool)
        low = np.where(limited, bounds.minimum, -1.0)
        high = np.where(limited, bounds.maximum, 1.0)
        self.action_space = spaces.Box(low, high, dtype=np.float64)
        self._obs = np.zeros(len(self.obs_names), np.float32)
        # quadruped-escape asks dm_control for an OpenGL context on every reset, drawn or not.
        env.physics._make_rendering_contexts = lambda: None

    @property
    def model(self) -> Any:
        """The simulation's MjModel."""
        return self._env.physics.model.ptr

    @property
    def data(self) -> Any:
        """The simulation's MjData."""
        return self._env.physics.data.ptr

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the same seed (below 2**32) gives the same one on any instance."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed)
        obs = self._flatten(self._env.reset())
        if self.model.nhfield:
            self.free_renderer()  # it holds the terrain of the last episode
        return obs, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Run one env frame with a native action; ResetNeeded unless an episode is under way."""
        try:
            step = self._env.step(action)
        except PhysicsError as error:
            return self._obs.copy(), 0.0, False, True, {"physics_error": str(error)}
        if step.first():
            # dm_control has just begun a new episode and thrown the action away.
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        terminated = bool(step.last() and step.discount == 0)
        truncated = step.last() and not terminated
        return self._flatten(step), float(step.reward), terminated, truncated, {}

    def close(self) -> None:
        """Free the drawing context and the simulation."""
        self.free_renderer()
        self._env.close()

    def _flatten(self, step: dm_env.TimeStep) -> np.ndarray:
        parts = [np.ravel(part) for part in step.observation.values()]
        self._obs = np.concatenate(parts).astype(np.float32)
        return self._obs


def dm_suite() -> ModuleType:
    """dm_control's suite, imported without its complaint that there is no display."""
    with warnings.catch_warnings():
        # dm_control initialises glfw on import, which complains where there is no display.
        warnings.filterwarnings("ignore", module="glfw")
        from dm_control import suite
    return suite


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what MuJoCo finds deprecated in dm_control's own models."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def load(task: str, config: EnvConfig, render: bool) -> gymnasium.Env:
    """Make `task` ("cartpole-swingup"), truncated after `config.episode_frames` or 1000 frames.

    Raises ValueError for an unknown task, RenderingUnavailable if `render` cannot be had.
    """
    if render:
        select_gl_backend()  # before dm_control is imported, which fails if MUJOCO_GL is unusable
    if task not in tasks():
        raise unknown_environment(f"dmc/{task}")
    domain, _, name = task.partition("-")
    # lqr draws its masses and springs when it is loaded: fixed here, so that seeds are reproduced.
    task_kwargs = {"random": 0, "time_limit": math.inf}
    with _quiet():
        env = dm_suite().load(domain, name, task_kwargs=task_kwargs)
    env.task.random.seed()  # from the system, until somebody passes a seed to reset
    return TimeLimit(DmControlEnv(task, env, render), config.episode_frames or EPISODE_FRAMES)


def tasks() -> list[str]:
    """Return every task of the suite as "<domain>-<task>"."""
    return [f"{domain}-{task}" for domain, task in dm_suite().ALL_TASKS]


def canonical(task: str) -> str:
    """Spell the usual short names out: cup-catch is ball_in_cup-catch."""
    domain, dash, name = task.partition("-")
    return SHORT_DOMAINS.get(domain, domain) + dash + name


SUITE = Suite(load=load, tasks=tasks, canonical=canonical, action_repeat=2)
