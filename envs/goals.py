"""Goal tasks, `goal/<task>`: environments whose goal is an observation to be seen.

`env.reset()` draws a start and a goal, `info["goal"]` is the observation of the goal, and
`info["success"]` says at every step whether the rule of the task is met. Nothing of ours
terminates: when an episode counts as a success is up to the protocol of the evaluation.
`goal/<Gymnasium id>` is any environment of the registry that observes a `desired_goal`.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from envs import gym
from envs.config import EnvConfig
from envs.registry import Suite, closed_on_error

EXTRA = "pip install 'telic[goals]'"


class GoalTask(gymnasium.Env[np.ndarray, np.ndarray]):
    """A goal, and a rule for when it is reached.

    Both are of states (S,), which hold what the task is about; what is observed is (O,) float32.
    """

    goal: np.ndarray  # (S,), the state to be reached
    obs_names: tuple[str, ...]  # (O,)
    goal_dim: int = 0  # first numbers of an observation, all that matters in a goal; 0: all do
    action_repeat: int = 1  # usual env frames per control step

    @abstractmethod
    def state_of(self, obs: np.ndarray) -> np.ndarray:
        """The state (S,) that an observation (O,) of numbers shows; what it doesn't show is 0."""

    @abstractmethod
    def reached(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether `state` (S,) counts as `goal` (S,)."""

    def script(self, rng: np.random.Generator) -> Callable[[], np.ndarray]:
        """A collection policy for one episode, better than chance at covering the task.

        It reads the present state and returns actions (A,) in [-1, 1], float32. Raises ValueError
        where the task has none.
        """
        raise ValueError("this task has no scripted policy; use policy=smooth-random")

    def outline(self) -> list[tuple[float, float, float]]:
        """Walls for a picture of paths of the first two state numbers: squares, corner and width.

        In the units of the state.
        """
        return []


class GoalSimulation(GoalTask):
    """A simulation whose whole state can be read and set.

    A state (S,) is all that the simulation goes on from. `reset(options={"state": ..., "goal":
    ...})` takes states in place of the drawn ones.
    """

    dt: float  # seconds of simulated time per env frame

    @property
    @abstractmethod
    def state(self) -> np.ndarray:
        """The present state, (S,) float64."""

    @abstractmethod
    def restore(self, state: np.ndarray) -> np.ndarray:
        """Put the simulation into `state` (S,); returns the observation (O,)."""

    @abstractmethod
    def advance(self, action: np.ndarray) -> np.ndarray:
        """Apply a native action for one env frame; returns the observation (O,)."""

    @abstractmethod
    def draw_state(self, rng: np.random.Generator) -> np.ndarray:
        """A state (S,) from anywhere in the task, to begin the collection of data in."""

    @abstractmethod
    def draw_pair(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Start and goal (S,) of an episode that tests the task."""

    def view(self) -> np.ndarray | None:
        """The picture that an agent is given, (H, W, 3) uint8: the state and no sign of the goal.

        MuJoCo tasks need none: their pictures come from the simulation.
        """
        return self.render()  # type: ignore[return-value]

    @property
    def success(self) -> bool:
        """Whether the present state counts as the goal."""
        return self.reached(self.state, self.goal)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; both states are drawn even if given, so that seeds stay comparable."""
        super().reset(seed=seed)
        drawn = dict(zip(("state", "goal"), self.draw_pair(self.np_random), strict=True))
        drawn |= options or {}
        self.goal = np.asarray(drawn["goal"], np.float64)
        goal = self.restore(self.goal)
        obs = self.restore(np.asarray(drawn["state"], np.float64))
        return obs, {"goal": goal, "success": self.success, "state": self.state}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Run one env frame; the reward is 1 where the goal is reached."""
        obs = self.advance(action)
        success = self.success
        return obs, float(success), False, False, {"success": success, "state": self.state}


@dataclass(frozen=True)
class GoalSpec:
    """Where a goal task is made."""

    module: str
    make: str  # class in `module`, called with `variant` and whether to render
    variant: str
    episode_steps: int  # time limit in control steps


TASKS = {
    f"pointmaze-{size}": GoalSpec("envs.point_maze", "PointMaze", size, 400)
    for size in ("umaze", "medium", "large")
} | {
    "push-t": GoalSpec("envs.push_t", "PushT", "", 300),
    "reacher": GoalSpec("envs.goal_reacher", "GoalReacher", "", 500),
    "two-rooms": GoalSpec("envs.two_rooms", "TwoRooms", "", 200),
}


def load(task: str, config: EnvConfig, render: bool) -> gymnasium.Env:
    """Make goal task `task` ("pointmaze-umaze", or an id of Gymnasium's registry).

    Raises ValueError for an unknown task, and for a package that is not installed.
    """
    spec = TASKS.get(task)
    if spec is None:
        inner = gym.load(task, config, render)
        goals: Callable[[gymnasium.Env, EnvConfig], GoalTask]
        goals = import_module("envs.gym_goals").GymGoals
        with closed_on_error(inner):
            return goals(inner, config)
    try:
        make: Callable[[str, bool], GoalSimulation] = getattr(import_module(spec.module), spec.make)
        env = make(spec.variant, render)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{config.name} needs the Python package {error.name!r}: {EXTRA}"
        ) from error
    frames = spec.episode_steps * (config.action_repeat or env.action_repeat)
    return TimeLimit(env, config.episode_frames or frames)


def unbounded(size: int) -> spaces.Box:
    """The space of `size` float32 observation numbers."""
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


SUITE = Suite(load, lambda: list(TASKS), others="ID (of Gymnasium, with a desired_goal)")
