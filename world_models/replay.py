"""Replay: whole episodes in, windows of control steps out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Episode:
    """T control steps. A truncated episode ends without `terminated`: its value goes on."""

    obs: Tensor  # (T + 1, O), of stacked pictures the newest
    actions: Tensor  # (T, A), as they were executed
    rewards: Tensor  # (T,)
    terminated: bool  # whether the last step ended the task itself, not merely the time limit

    @property
    def steps(self) -> int:
        """T, control steps."""
        return self.actions.shape[0]


class Batch(NamedTuple):
    """B windows of H control steps, time first."""

    obs: Tensor  # (H + 1, B, O)
    actions: Tensor  # (H, B, A)
    rewards: Tensor  # (H, B)
    terminated: Tensor  # (H, B), 1.0 where the step ended the task


def observations_at(rows: Tensor, obs: Tensor, first: Tensor, pictures: int) -> Tensor:
    """Observations at `rows` of the record `obs` (R, O / pictures): (...) -> (..., O).

    `first` (R,) is the row in which the episode of each row begins, whose picture repeats before
    it. Without `pictures`, 0, an observation is its row.
    """
    if not pictures:
        return obs[rows]
    rows = rows.unsqueeze(-1)
    ago = torch.arange(pictures - 1, -1, -1)
    return obs[(rows - ago).maximum(first[rows])].flatten(-2)


class Replay:
    """A ring of episodes with its own generator; the oldest episodes give way to new ones.

    The state in which a task ended stays for ever without reward: an episode that terminated is
    held with H - 1 such control steps behind it. Without them its last step would be seen at the
    end of windows alone, never from an encoded observation, and H times less than others.
    """

    def __init__(
        self,
        capacity: int,
        obs_dim: int,
        action_dim: int,
        horizon: int,
        seed: int,
        pictures: int = 0,
    ) -> None:
        """`capacity` in control steps, `horizon` H of the windows that will be drawn.

        Observations of `pictures` stacked pictures are held as single ones, uint8, and stacked
        when they are drawn; before the first picture of an episode it repeats.
        """
        self.capacity, self.horizon, self.pictures = capacity, horizon, pictures
        self.rng = torch.Generator().manual_seed(seed)
        kind = torch.uint8 if pictures else torch.float32
        self.obs = torch.empty(capacity, obs_dim // max(1, pictures), dtype=kind)
        self._first = torch.zeros(capacity, dtype=torch.int64)  # row of the episode's first step
        self.actions = torch.zeros(capacity, action_dim)
        self.rewards = torch.zeros(capacity)
        self.terminated = torch.zeros(capacity)
        # First row and control steps of each episode, those behind its end included.
        self.spans: deque[tuple[int, int]] = deque()
        self.added = 0  # episodes ever added; the last len(spans) of them are held
        self.least = self.most = 0.0  # rewards held, without the zeros behind terminated episodes
        self.ends = False  # whether an episode held has terminated
        self._next = 0
        self._starts = torch.empty(0, dtype=torch.int64)  # rows where a window may begin

    @property
    def steps(self) -> int:
        """Control steps held, those behind the end of an episode included."""
        return sum(steps for _, steps in self.spans)

    @property
    def windows(self) -> int:
        """How many different windows can be drawn."""
        return self._starts.shape[0]

    def add(self, episode: Episode) -> None:
        """Append an episode; the oldest go if there is no room.

        Raises ValueError for an episode that is longer than the whole replay.
        """
        end = episode.steps
        ended = episode.terminated and end > 0
        steps = end + (self.horizon - 1 if ended else 0)
        if steps + 1 > self.capacity:
            raise ValueError(f"an episode of {end} steps exceeds replay.capacity {self.capacity}")
        if self._next + steps + 1 > self.capacity:
            self._next = 0
        first, last = self._next, self._next + steps
        # In order of age, also past episodes that lie elsewhere in the ring.
        while any(self._overlaps(span, first, last) for span in self.spans):
            self.spans.popleft()
        after = first + end
        self.obs[first : after + 1], self.obs[after + 1 : last + 1] = episode.obs, episode.obs[-1]
        self.actions[first:after], self.actions[after:last] = episode.actions, episode.actions[-1:]
        self.rewards[first:after], self.rewards[after:last] = episode.rewards, 0.0
        self.terminated[first : last + 1] = 0.0
        if ended:
            self.terminated[after - 1 : last] = 1.0
        self._first[first : last + 1] = first
        self.spans.append((first, steps))
        self.added += 1
        self._next = last + 1
        reach = self.horizon - 1
        ranges = [torch.arange(row, row + max(0, n - reach)) for row, n in self.spans]
        self._starts = torch.cat(ranges)
        ended_spans = [n > 0 and bool(self.terminated[row + n - 1]) for row, n in self.spans]
        self.ends = any(ended_spans)
        paid = [
            torch.arange(row, row + n - reach * ended)
            for (row, n), ended in zip(self.spans, ended_spans, strict=True)
        ]
        held = self.rewards[torch.cat(paid)]
        if len(held):
            self.least, self.most = (float(x) for x in held.aminmax())

    def sample(self, size: int) -> Batch:
        """`size` windows, each equally likely. Raises ValueError while there are none."""
        if not self.windows:
            raise ValueError(f"the replay holds no window of {self.horizon} control steps yet")
        draw = torch.randint(self.windows, (size,), generator=self.rng)
        rows = self._starts[draw] + torch.arange(self.horizon + 1).unsqueeze(1)
        return Batch(
            self._observations(rows),
            self.actions[rows[:-1]],
            self.rewards[rows[:-1]],
            self.terminated[rows[:-1]],
        )

    def _observations(self, rows: Tensor) -> Tensor:
        """Observations at `rows`: (...) -> (..., O)."""
        return observations_at(rows, self.obs, self._first, self.pictures)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs beside the episodes held: their places and the generator."""
        spans = torch.tensor(list(self.spans), dtype=torch.int64).reshape(-1, 2)
        return {"rng": self.rng.get_state(), "spans": spans, "added": torch.tensor(self.added)}

    def restore(self, state: Mapping[str, Tensor], read: Callable[[int], Episode]) -> None:
        """Fill an empty replay as it was: `read(i)` gives the i-th episode ever added."""
        spans = state["spans"].tolist()
        self.added = int(state["added"]) - len(spans)
        for row, _ in spans:
            self._next = row
            self.add(read(self.added))
        self.rng.set_state(state["rng"])

    @staticmethod
    def _overlaps(span: tuple[int, int], first: int, last: int) -> bool:
        row, steps = span
        return row <= last and row + steps >= first
