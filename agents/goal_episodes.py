"""Running episodes towards goals: one goal per environment, one batched decision for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.agent import Memory, MPCAgent

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
) -> list[int | None]:
    """After how many control steps each environment's goal was reached; None: not within `steps`.

    Environments are reset with their seeds and options, and no longer stepped once the goal is
    reached. `make_agent(goals)` is handed the observations (B, O) of the goals, and
    `watch(actions, memory, running)` is called after every decision.
    """
    starts = [
        env.reset(seed=seed, options=None if given is None else dict(given))
        for env, seed, given in zip(envs, seeds, options, strict=True)
    ]
    obs = np.stack([start for start, _ in starts])
    agent = make_agent(np.stack([info["goal"] for _, info in starts]))
    reached = [0 if info["success"] else None for _, info in starts]
    running = [one is None for one in reached]
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
            if info["success"]:
                reached[i] = step
            running[i] = not (info["success"] or terminated or truncated)
    return reached
