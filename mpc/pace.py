"""Anytime planning: how many iterations fit into a deadline."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

# A slow iteration is remembered and fades; the share of its time that is kept per measurement.
FADING = 0.9


class Pace:
    """Ends the iterations of a planner early enough to keep a deadline.

    It learns from plan to plan how long an iteration takes and how long what follows the last one.
    Those are the only facts a planner keeps between plans, and without a deadline it keeps none.
    """

    def __init__(self, deadline_ms: float | None) -> None:
        self.limit = None if deadline_ms is None else deadline_ms / 1000.0  # seconds
        self.share = 1.0  # of the time, after which the present part of the plan should be ready
        self._iteration = 0.0  # seconds, expected of the next one
        self._rest = 0.0  # seconds, expected from the last iteration to the plan
        self._started = self._left = 0.0
        self._device = torch.device("cpu")

    def begin(self, device: torch.device) -> None:
        """A plan starts now."""
        self._device = device
        self._started = time.perf_counter()
        self.share = 1.0

    def iterations(self, count: int) -> Iterator[int]:
        """0 .. count - 1, or fewer: none is begun that would probably miss the deadline.

        There is always a first one.
        """
        try:
            for i in range(count):
                before = self._now()
                expected = before + self._iteration + self._rest - self._started
                if i and self.limit is not None and expected > self.share * self.limit:
                    break
                yield i
                self._iteration = max(self._now() - before, FADING * self._iteration)
        finally:
            self._left = self._now()

    def end(self) -> float:
        """The plan is ready; returns the seconds that it took."""
        now = self._now()
        if self._left > self._started:
            self._rest = max(now - self._left, FADING * self._rest)
        return now - self._started

    def _now(self) -> float:
        """Wall-clock; with a deadline, on an accelerator, of finished work."""
        if self.limit is not None and self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()
