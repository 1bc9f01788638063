"""Running episodes: several environments at once, one batched decision for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.agent import Memory, MPCAgent


@dataclass
class EpisodeRecord:
    """One evaluated episode."""

    seed: int
    rewards: list[float] = field(default_factory=list)  # one per control step
    terminated: bool = False
    fallbacks: int = 0  # of the batch that it ran in

    @property
    def score(self) -> float:
        """Undiscounted return."""
        return float(sum(self.rewards))


Watcher = Callable[[NDArray[np.float32], NDArray[np.float32], Memory, Sequence[bool]], None]


def run_episodes(
    agent: MPCAgent,
    envs: Sequence[gymnasium.Env[Any, Any]],
    seeds: Sequence[int],
    agent_seed: int = 0,
    device: str = "cpu",
    watch: Watcher | None = None,
) -> list[EpisodeRecord]:
    """One episode per environment, environment i reset with seeds[i], without exploration noise.

    All run side by side with batched decisions; those that have ended are no longer stepped.
    `watch(obs, actions, memory, running)` is called after every decision.
    """
    obs = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    records = [EpisodeRecord(seed) for seed in seeds]
    memory = agent.start(agent_seed, device)
    running = [True] * len(envs)
    while any(running):
        actions, memory = agent.act(obs, memory)
        if watch is not None:
            watch(obs, actions, memory, running)
        for i, env in enumerate(envs):
            if not running[i]:
                continue
            seen, reward, terminated, truncated, _ = env.step(actions[i])
            records[i].rewards.append(float(reward))
            records[i].terminated = bool(terminated)
            running[i] = not (terminated or truncated)
            if running[i]:  # else planning goes on from what was seen before, and is not used
                obs[i] = seen
    for record in records:
        record.fallbacks = memory.fallbacks
    return records
