"""Where the time of a training goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

COMPONENTS = ("decide", "environment", "update")
WHOLE = "step"  # a whole control step: the components and what lies between them


class Stopwatch:
    """Mean time by component over control steps, without the first few, which may compile."""

    def __init__(self, skip: int = 20) -> None:
        self.skip, self.steps = skip, 0
        self._skipped = 0
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, component: str) -> Iterator[None]:
        """Add the time inside to `component`, unless this step is to be skipped."""
        started = time.perf_counter()
        yield
        if self.steps >= self.skip:
            self.seconds[component] += time.perf_counter() - started

    def count(self, steps: int = 1) -> None:
        """Say that measured control steps are over."""
        if self.steps < self.skip:
            self._skipped = self.steps + steps
        self.steps += steps

    def milliseconds(self) -> dict[str, float]:
        """Mean milliseconds per control step by component and as a whole; empty before any."""
        counted = self.steps - self._skipped
        if counted <= 0:
            return {}
        return {name: 1000.0 * self.seconds[name] / counted for name in (*COMPONENTS, WHOLE)}
