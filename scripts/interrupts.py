"""Ctrl-C and SIGTERM, taken note of instead of raised."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noted_signals(raise_second: bool = False) -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM are added to; a second one may raise KeyboardInterrupt."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        seen.append(number)
        if raise_second and len(seen) > 1:
            raise KeyboardInterrupt

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
