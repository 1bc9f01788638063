"""Running episodes towards goals: one goal per environment, one batched decision for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.agent import Memory, MPCAgent


@dataclass
class GoalRecord:
    """One episode towards a goal."""

    seed: int
    reached: int | None = None  # control steps after which the goal was first reached
    final: bool = False  # whether it was reached at the end
    steps: int = 0  # control steps that were taken

    @property
    def success(self) -> bool:
        """Whether the goal was reached at any time."""
        return self.reached is not None


GoalWatcher = Callable[[NDArray[np.float32], Memory, Sequence[bool]], None]


def run_goal_episodes(
    make_agent: Callable[[NDArray[np.float32]], MPCAgent],
    envs: Sequence[gymnasium.Env[Any, Any]],
    seeds: Sequence[int],
    options: Sequence[Mapping[str, Any] | None],
    steps: int,
    agent_seed: int = 0,
    device: str = "cpu",
    watch: GoalWatcher | None = None,
) -> list[GoalRecord]:
    """At most `steps` control steps in each environment, reset with its seed and options.

    `make_agent(goals)` is handed the observations (B, O) of the goals. An environment is no longer
    stepped once its goal is reached. `watch(actions, memory, running)` is called after every
    decision.
    """
    starts = [
        env.reset(seed=seed, options=None if given is None else dict(given))
        for env, seed, given in zip(envs, seeds, options, strict=True)
    ]
    obs = np.stack([start for start, _ in starts])
    agent = make_agent(np.stack([info["goal"] for _, info in starts]))
    records = [
        GoalRecord(seed, 0 if info["success"] else None, bool(info["success"]))
        for seed, (_, info) in zip(seeds, starts, strict=True)
    ]
    running = [not record.success for record in records]
    memory = agent.start(agent_seed, device)
    for step in range(1, steps + 1):
        if not any(running):
            break
        actions, memory = agent.act(obs, memory)
        if watch is not None:
            watch(actions, memory, running)
        for i, env in enumerate(envs):
            if not running[i]:
                continue
            obs[i], _, terminated, truncated, info = env.step(actions[i])
            record = records[i]
            record.steps, record.final = step, bool(info["success"])
            if record.final:
                record.reached = step
            running[i] = not (record.success or terminated or truncated)
    return records
