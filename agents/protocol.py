"""The frozen description of an evaluation; results of different protocols are never pooled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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
        return _hash(asdict(self))


@dataclass(frozen=True)
class GoalProtocol:
    """What was run towards goals, in a form that can be hashed."""

    env: str
    action_repeat: int  # env frames per control step
    episode_steps: int  # time limit in control steps, of closed loops
    seeds: tuple[int, ...]  # of the environment, one start and goal each
    goals: Mapping[str, Any]  # where goals come from
    replan_every: int  # control steps, of closed loops
    success: str = "the task's rule is met at any control step"

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that stand for all fields."""
        return _hash(asdict(self))


def _hash(fields: Mapping[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
