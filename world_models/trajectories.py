"""Recorded trajectories: windows of control steps, with goals from the same record."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from world_models.replay import Episode, observations_at


class GoalBatch(NamedTuple):
    """B windows of control steps, time first, each with a goal that is some recorded state."""

    obs: Tensor  # (T + 1, B, O), the first h - 1 only fill the window of a model with a history
    actions: Tensor  # (T, B, A), actions[t] led from obs[t] to obs[t + 1]
    goals: Tensor  # (B, O)
    ahead: Tensor  # (B,) int64, steps from the last obs but H to the goal; -1: not in this episode


class Trajectories:
    """Episodes in memory, and a generator that draws windows from them."""

    def __init__(
        self, episodes: Sequence[Episode], length: int, seed: int, pictures: int = 0
    ) -> None:
        """`length` control steps of a window.

        Observations of `pictures` stacked pictures are held as single ones, uint8, and stacked
        when they are drawn. Episodes without a control step are left out. Raises ValueError if no
        episode is as long as a window.
        """
        episodes = [episode for episode in episodes if episode.steps]
        longest = max((episode.steps for episode in episodes), default=0)
        if longest < length:
            raise ValueError(
                f"a window takes {length} control steps, the longest episode has {longest}"
            )
        self.length, self.pictures = length, pictures
        self.rng = torch.Generator().manual_seed(seed)
        self.obs = torch.cat([episode.obs for episode in episodes])
        # A row more than there are actions in every episode; the last one's action is never drawn.
        self.actions = torch.cat([torch.cat([e.actions, e.actions[-1:]]) for e in episodes])
        rows = torch.tensor([episode.steps + 1 for episode in episodes])
        ends = rows.cumsum(0)
        self._first = (ends - rows).repeat_interleave(rows)  # row of the episode's first step
        self._last = (ends - 1).repeat_interleave(rows)
        here = torch.arange(len(self.obs))
        self._starts = here[here + length <= self._last]

    @property
    def windows(self) -> int:
        """How many different windows can be drawn."""
        return len(self._starts)

    def sample(
        self, size: int, unrolled: int, here: float, ahead: float, discount: float
    ) -> GoalBatch:
        """`size` windows and goals, each window equally likely.

        Goals are seen from the observation `unrolled` steps before the window's last. With chance
        `here` the goal is that observation, with chance `ahead` one of its future, `discount`^k as
        likely k steps ahead, else any of the record (as Park et al. 2023, arXiv:2307.11949).
        """
        draw = torch.randint(self.windows, (size,), generator=self.rng)
        rows = self._starts[draw] + torch.arange(self.length + 1).unsqueeze(1)
        base = rows[-1 - unrolled]
        chance, far = torch.rand((2, size), generator=self.rng)
        # The inverse of the geometric distribution function, cut off at the end of the episode.
        steps = 1 + (far.clamp_min(1e-9).log() / torch.tensor(discount).log()).long()
        future = torch.minimum(base + steps, self._last[base])
        anywhere = torch.randint(len(self.obs), (size,), generator=self.rng)
        goal = torch.where(chance < here + ahead, future, anywhere)
        goal = torch.where(chance < here, base, goal)
        same = (self._first[goal] == self._first[base]) & (goal >= base)
        steps = torch.where(same, goal - base, -1)
        return GoalBatch(self._observed(rows), self.actions[rows[:-1]], self._observed(goal), steps)

    def examples(self, count: int) -> Tensor:
        """`count` observations (count, O) from anywhere, of which statistics may be taken."""
        return self._observed(torch.randint(len(self.obs), (count,), generator=self.rng))

    def spaced(self, count: int) -> Tensor:
        """`count` observations (count, O) at equal distances in the record; nothing is drawn."""
        rows = torch.linspace(0, len(self.obs) - 1, count, dtype=torch.float64).long()
        return self._observed(rows)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that stand for the whole record."""
        digest = hashlib.sha256()
        for x in (self.obs, self.actions, self._first):
            digest.update(x.numpy().data)
        return digest.hexdigest()[:12]

    def _observed(self, rows: Tensor) -> Tensor:
        """Observations at `rows`: (...) -> (..., O)."""
        return observations_at(rows, self.obs, self._first, self.pictures)
