"""Recording episodes, as data to train a world model on: of a policy, or of a trained agent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents import run_goal_episodes
from envs import make_env, spec_of
from envs.config import EnvConfig
from envs.goals import GoalSimulation, GoalTask
from mpc import Planner
from mpc.noise import coloured
from scripts.goal_tasks import draw_goals, goal_agent
from scripts.loading import LoadedGoalRun
from scripts.settings import AND

POLICIES = ("smooth-random", "random", "scripted")
SLOWEST = 2.0  # largest power of the frequency with which the power of smooth noise falls
TOGETHER = 25  # episodes of an agent that are planned for side by side

Act = Callable[[], NDArray[np.float32]]
Recording = dict[str, Tensor]  # obs, actions, rewards, terminated, of a simulation also states


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps what is seen and done in an episode."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._newest = spec_of(env).newest_dim

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, and its record."""
        obs, info = self.env.reset(**given)
        self._seen = [obs[-self._newest :]]
        self._states: list[NDArray[np.float64] | None] = [info.get("state")]
        self._actions: list[NDArray[np.float32]] = []
        self._rewards: list[float] = []
        self.over = self._terminated = False
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """A control step, recorded."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._seen.append(obs[-self._newest :])
        self._states.append(info.get("state"))
        self._actions.append(action)
        self._rewards.append(float(reward))
        self.over, self._terminated = terminated or truncated, bool(terminated)
        return obs, reward, terminated, truncated, info

    @property
    def recording(self) -> Recording:
        """The episode so far."""
        actions = np.zeros((0, *self.action_space.shape), np.float32)  # type: ignore[misc]
        found = {
            "obs": torch.from_numpy(np.stack(self._seen)),
            "actions": torch.from_numpy(np.stack(self._actions) if self._actions else actions),
            "rewards": torch.tensor(self._rewards),
            "terminated": torch.tensor(self._terminated),
        }
        states = [state for state in self._states if state is not None]
        if states:
            found["states"] = torch.from_numpy(np.stack(states))
        return found


class Source(ABC):
    """Episodes that can be recorded, each from random numbers of its own."""

    together: ClassVar[int] = 1  # episodes that are made side by side

    def __init__(self, config: EnvConfig, steps: int, seed: int) -> None:
        """`steps` control steps an episode, at most."""
        self.config = config
        self.envs = [Recorder(make_env(config)) for _ in range(self.together)]
        self.spec = spec_of(self.envs[0])
        self.steps, self.seed = steps, seed

    @abstractmethod
    def record(self, first: int) -> list[Recording]:
        """Episodes number `first` to `first + together - 1`; `first` is a multiple of that."""

    def beside(self, path: Path) -> str:
        """What `data=` takes to train on the dataset at `path`."""
        return str(path)

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


class PolicyEpisodes(Source):
    """Episodes of one of POLICIES, from anywhere in the task."""

    def __init__(self, config: EnvConfig, steps: int, seed: int, policy: str) -> None:
        """Raises ValueError where the task has no script."""
        super().__init__(config, steps, seed)
        self.policy = policy
        if policy == "scripted" and not isinstance(self.envs[0].unwrapped, GoalTask):
            raise ValueError(f"{self.spec.name} has no scripted policy; use policy=smooth-random")
        self._policy(0)  # finds out now if a goal task has none

    def record(self, first: int) -> list[Recording]:
        """One episode."""
        (env,), rng = self.envs, np.random.default_rng((self.seed, first))
        seed = int(rng.integers(2**31))
        task, options = env.unwrapped, None
        if isinstance(task, GoalSimulation):
            options = {"state": task.draw_state(rng)}
        env.reset(seed=seed, options=options)
        act = self._policy(int(rng.integers(2**31)))
        for _ in range(self.steps):
            env.step(act())
            if env.over:
                break
        return [env.recording]

    def _policy(self, seed: int) -> Act:
        """Actions (A,) of one episode."""
        rng, task = np.random.default_rng(seed), self.envs[0].unwrapped
        if self.policy == "scripted":
            assert isinstance(task, GoalTask)
            return task.script(rng)
        white = torch.from_numpy(rng.standard_normal((2 * self.steps, self.spec.action_dim)))
        # Slow noise reaches far but ends at walls, quick noise stays free: each has its own kind.
        beta = rng.uniform(0.0, SLOWEST) if self.policy == "smooth-random" else 0.0
        # Of deviation 1 and clipped: a third of the actions are at the bounds.
        actions = coloured(white, beta)[: self.steps].float().numpy()
        if not self.spec.choices:
            actions = actions.clip(-1.0, 1.0)
        steps = iter(actions)
        return lambda: next(steps)


class AgentEpisodes(Source):
    """Episodes of an agent on its way to goals, in which it meets what its model gets wrong.

    They end where the goal is reached. Every second one has exploration noise. Recorded goals are
    those of episodes that the model was trained on, so that held-out ones stay unseen.
    """

    together = TOGETHER

    def __init__(self, loaded: LoadedGoalRun, planner: Planner[Any], steps: int, seed: int) -> None:
        """Raises ValueError if goals are to come from data that is not there, or has none."""
        super().__init__(loaded.settings.env, steps, seed)
        self.loaded, self.planner = loaded, planner
        self.recorded = loaded.trained_on()
        draw_goals(loaded.settings.goal, self.recorded, 1, 0)  # finds out now if there are none

    def record(self, first: int) -> list[Recording]:
        """Episodes side by side, with one batched plan for all."""
        settings, model = self.loaded.settings, self.loaded.trained.model
        rng = np.random.default_rng((self.seed, first))
        seed, *seeds = rng.integers(2**31, size=1 + self.together).tolist()
        run_goal_episodes(
            lambda goals: goal_agent(model, self.planner, settings.agent, settings.goal, goals),
            self.envs,
            seeds,
            draw_goals(settings.goal, self.recorded, self.together, seed),
            self.steps,
            agent_seed=seed,
            device=str(self.loaded.device),
            explore=np.arange(self.together) % 2,
        )
        return [env.recording for env in self.envs]

    def beside(self, path: Path) -> str:
        """The data that the agent's model was trained on, and its own."""
        return AND.join([self.loaded.settings.data, str(path)])
