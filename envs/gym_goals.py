"""Any Gymnasium environment with goals: those that observe an `achieved_goal`, a `desired_goal`."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.config import EnvConfig
from envs.goals import GoalTask, unbounded
from envs.rendering import mujoco_renderer_of
from envs.spaces import check_observations, number_labels, observation_labels

ACHIEVED, DESIRED = "achieved_goal", "desired_goal"


class GymGoals(GoalTask):
    """An environment of Gymnasium-Robotics' `GoalEnv` interface, as a goal task.

    Observed are the achieved goal (G,) and whatever else the environment shows, (O,) together; of
    its goals only the first G numbers are known. The state of the rule is the achieved goal, and a
    goal is reached where the reward is what it would be at the goal itself.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], config: EnvConfig) -> None:
        """Raises ValueError for an environment without goals, time limit or sparse rewards."""
        self.inner, self._name, space = env, config.name, env.observation_space
        if not (isinstance(space, spaces.Dict) and {ACHIEVED, DESIRED} <= set(space.spaces)):
            raise ValueError(
                f"{config.name} has no goals: it observes no {ACHIEVED} and {DESIRED}; "
                f"train for its reward with env=gym/{config.name.partition('/')[2]}"
            )
        check_observations(config.name, env)
        achieved = space[ACHIEVED]
        if not isinstance(achieved, spaces.Box):
            raise ValueError(f"{config.name} has {ACHIEVED} {achieved}; telic needs a Box")
        self._others = {k: part for k, part in space.spaces.items() if k not in (ACHIEVED, DESIRED)}
        labels = number_labels(ACHIEVED, achieved.shape)
        self.goal_dim = len(labels)
        for key, part in self._others.items():
            labels += observation_labels(part, key)
        self.obs_names = tuple(labels)
        self.observation_space = unbounded(len(self.obs_names))
        self.action_space, self.metadata = env.action_space, env.metadata
        self.spec, self.render_mode = env.spec, env.render_mode
        self.dt = getattr(env.unwrapped, "dt", None)
        self._require_rule()
        self._fresh = True  # no episode has begun

    @property
    def mujoco_renderer(self) -> Any:
        """What draws the environment, of those with MuJoCo."""
        return mujoco_renderer_of(self.inner)

    def state_of(self, obs: np.ndarray) -> np.ndarray:
        """The achieved goal, (G,)."""
        return obs[: self.goal_dim].astype(np.float64)

    def reached(self, state: np.ndarray, goal: np.ndarray) -> bool:
        """Whether the reward at `state` (G,) is what it is at `goal` (G,)."""
        return self._reward(state, goal) >= self._reward(goal, goal)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode, with the goal that the environment draws."""
        super().reset(seed=seed)
        if seed is None and self._fresh:
            # Else it would go on from the seed of the episode that the rule was tried in.
            seed = int(self.np_random.integers(2**31))
        self._fresh = False
        seen, info = self.inner.reset(seed=seed, options=options)
        self.goal = np.ravel(seen[DESIRED]).astype(np.float64)
        obs = self._flat(seen)
        goal = np.full_like(obs, np.nan)
        goal[: self.goal_dim] = self.goal
        return obs, {**info, "goal": goal, "success": self._succeeded(seen)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Run one env frame; the reward is 1 where the goal is reached."""
        seen, _, terminated, truncated, info = self.inner.step(action)
        success = self._succeeded(seen)
        info = {**info, "success": success}
        return self._flat(seen), float(success), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """The environment's own picture."""
        return self.inner.render()

    def close(self) -> None:
        """Free the simulation."""
        self.inner.close()

    def __str__(self) -> str:
        return self._name

    def _require_rule(self) -> None:
        """Raise ValueError unless episodes end, and it can be said when a goal is reached."""
        name = self._name
        if self.spec is None or self.spec.max_episode_steps is None:
            raise ValueError(f"{name} has no time limit; give one, such as env.episode_frames=200")
        if not hasattr(self.inner.unwrapped, "compute_reward"):
            raise ValueError(f"{name} has no compute_reward, which says when a goal is reached")
        goal = np.ravel(self.inner.reset(seed=0)[0][DESIRED]).astype(np.float64)
        if not self.reached(goal + 1e-6, goal):
            raise ValueError(
                f"{name} rewards every bit of nearness, so that it is unknown when a goal is "
                "reached; use its variant with sparse rewards"
            )

    def _reward(self, state: np.ndarray, goal: np.ndarray) -> float:
        env: Any = self.inner.unwrapped
        shape = env.observation_space[ACHIEVED].shape
        return float(env.compute_reward(state.reshape(shape), goal.reshape(shape), {}))

    def _succeeded(self, seen: dict[str, np.ndarray]) -> bool:
        return self.reached(np.ravel(seen[ACHIEVED]).astype(np.float64), self.goal)

    def _flat(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        others = [spaces.flatten(part, seen[key]) for key, part in self._others.items()]
        return np.concatenate([np.ravel(seen[ACHIEVED]), *others]).astype(np.float32)
