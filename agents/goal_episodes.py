"""Running episodes towards goals: one goal per environment, one batched decision for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.agent import Memory, MPCAgent


def run_goal_episodes(
    make_agent: Callable[[NDArray[np.float32]], MPCAgent],
    envs: Sequence[gymnasium.Env[Any, Any]],
    seeds: Sequence[int],
    options: Sequence[Mapping[str, Any] | None],
    steps: int,
    agent_seed: int = 0,
    device: str = "cpu",
    watch: Callable[[MPCAgent, Memory], None] | None = None,
    explore: ArrayLike = 0.0,
) -> list[int | None]:
    """After how many control steps each environment's goal was reached; None: not within `steps`.

    Environments are reset with their seeds and options, and neither stepped nor planned for once
    their episode is over. `make_agent(goals)` is handed the observations (B, O) of the goals of
    those that go on; `watch` is called after the first decision, which is made for all. `explore`,
    for all or (B,), as in `MPCAgent.act`.
    """
    starts = [
        env.reset(seed=seed, options=None if given is None else dict(given))
        for env, seed, given in zip(envs, seeds, options, strict=True)
    ]
    obs = np.stack([start for start, _ in starts])
    goals = np.stack([info["goal"] for _, info in starts])
    reached: list[int | None] = [0 if info["success"] else None for _, info in starts]
    rows = list(range(len(envs)))  # environments that are planned for
    share = np.broadcast_to(explore, len(envs))
    agent = make_agent(goals)
    memory = agent.start(agent_seed, device)
    for step in range(1, steps + 1):
        actions, memory = agent.act(obs[rows], memory, share[rows])
        if watch is not None and step == 1:
            watch(agent, memory)
        kept = []
        for i, (row, action) in enumerate(zip(rows, actions, strict=True)):
            if reached[row] is not None:  # from the start
                continue
            obs[row], _, terminated, truncated, info = envs[row].step(action)
            if info["success"]:
                reached[row] = step
            elif not (terminated or truncated):
                kept.append(i)
        if not kept:
            break
        if len(kept) < len(rows):
            rows = [rows[i] for i in kept]
            agent, memory = make_agent(goals[rows]), memory.rows(kept)
    return reached
