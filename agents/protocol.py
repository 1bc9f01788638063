"""The frozen description of an evaluation; results of different protocols are never pooled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Protocol:
    """What was run, in a form that can be hashed."""

    env: str
    action_repeat: int  # env frames per control step
    episode_steps: int | None  # time limit in control steps
    seeds: tuple[int, ...]  # of the environment, one episode each
    agent_seed: int
    replan_every: int  # control steps
    warm_start: str  # what a plan is handed of the last one
    exploration: bool = False
    score: str = "undiscounted return of one episode"

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that stand for all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
