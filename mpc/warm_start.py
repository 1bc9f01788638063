"""Warm starts: shifting a plan in time and forgetting rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mpc.contracts import Problem, WarmStart


def shift(warm_start: WarmStart, steps: int = 1) -> WarmStart:
    """Drop the executed steps and repeat the last one at the end, in every (B, H, ...) tensor.

    `filled` counts the repeated steps, so that a planner can fill the tail better.
    """

    def move(x: Tensor) -> Tensor:
        kept = x[:, steps:]
        tail = x[:, -1:].expand(-1, x.shape[1] - kept.shape[1], *x.shape[2:])
        return torch.cat([kept, tail], dim=1)

    horizon = warm_start.actions.shape[1]
    return replace(warm_start.map(move), filled=min(horizon, warm_start.filled + steps))


def forget(warm_start: WarmStart, done: Tensor) -> WarmStart:
    """Mark rows `done` (B,) bool as holding no plan; they start cold, the others stay warm."""
    known = torch.ones_like(done) if warm_start.known is None else warm_start.known
    return replace(warm_start, known=known & ~done)


def known_rows(warm_start: WarmStart | None, batch: int, device: torch.device) -> Tensor:
    """Which of the B problems have a plan to start from: (B,) bool."""
    if warm_start is None:
        return torch.zeros(batch, dtype=torch.bool, device=device)
    if warm_start.known is None:
        return torch.ones(batch, dtype=torch.bool, device=device)
    return warm_start.known


def first_actions(problem: Problem, warm_start: WarmStart | None) -> Tensor:
    """Relaxed actions (B, H, A) to start from: the warm start's, or the middle of the action space.

    The middle also for the rows that a warm start knows nothing of.
    """
    middle = problem.actions.centre((problem.batch, problem.horizon), problem.state)
    if warm_start is None:
        return middle
    return fill(known_rows(warm_start, problem.batch, middle.device), warm_start.actions, middle)


def fill(known: Tensor, warm: Tensor, cold: Tensor) -> Tensor:
    """Rows of `warm` (B, ...) where `known` (B,), rows of `cold` (B, ...) elsewhere."""
    return torch.where(known.view(-1, *(1,) * (warm.dim() - 1)), warm, cold)
