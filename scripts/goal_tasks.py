"""Goals for episodes, and agents that plan towards them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from agents import AgentConfig, MPCAgent
from envs.goals import GoalTask
from mpc import Disagreement, GoalDistance, Objective, Planner, TemporalDistance, Weighted
from scripts.datasets import Recorded
from scripts.settings import GoalConfig
from world_models import GoalModel

Options = dict[str, NDArray[np.float64]]


def goal_task(env: gymnasium.Env[Any, Any]) -> GoalTask:
    """The task below the wrappers. Raises ValueError if it has no goals."""
    task = env.unwrapped
    if not isinstance(task, GoalTask):
        raise ValueError(f"{env} is no goal task; see `telic list envs`, goal/...")
    return task


def goal_agent(
    model: GoalModel,
    planner: Planner[Any],
    config: AgentConfig,
    goal: GoalConfig,
    goals: NDArray[np.float32],
) -> MPCAgent:
    """An agent for B environments, each to see its goal of `goals` (B, O)."""
    with torch.no_grad():
        target = model.encode_goal(torch.as_tensor(goals, device=model.spread.device))
    kinds: dict[str, type[TemporalDistance] | type[GoalDistance]]
    kinds = {"temporal": TemporalDistance, "latent": GoalDistance}
    objective: Objective = kinds[goal.distance](target)
    if goal.disagreement:
        parts = {"goal": (1.0, objective), "disagreement": (goal.disagreement, Disagreement())}
        objective = Weighted(parts)
    return MPCAgent(model.frozen().towards(target), planner, objective, 1.0, config)


def draw_goals(
    config: GoalConfig, episodes: Sequence[Recorded], count: int, seed: int
) -> list[Options | None]:
    """What to reset `count` environments with; None: their own pairs.

    Raises ValueError if the data holds no states, or no episode long enough.
    """
    if config.source == "env":
        return [None] * count
    paths = [one.states for one in episodes if one.states is not None]
    if config.source == "ahead":
        paths = [path for path in paths if len(path) > config.ahead]
    if not paths:
        long = f" and of {config.ahead} control steps" if config.source == "ahead" else ""
        raise ValueError(f"goal.source={config.source} needs recorded episodes with states{long}")
    rng = np.random.default_rng(seed)
    return [_pair(config, paths, rng) for _ in range(count)]


def _pair(
    config: GoalConfig, paths: Sequence[NDArray[np.float64]], rng: np.random.Generator
) -> Options:
    path = paths[int(rng.integers(len(paths)))]
    if config.source == "ahead":
        start = int(rng.integers(len(path) - config.ahead))
        return {"state": path[start], "goal": path[start + config.ahead]}
    other = paths[int(rng.integers(len(paths)))]
    return {"state": path[rng.integers(len(path))], "goal": other[rng.integers(len(other))]}
