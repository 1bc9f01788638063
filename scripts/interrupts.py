"""Ctrl-C, SIGTERM and SIGHUP, taken note of instead of raised."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def noted_signals(raise_second: bool = False) -> Iterator[list[int]]:
    """A list that SIGNALS are added to; a second one may raise KeyboardInterrupt."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        seen.append(number)
        if raise_second and len(seen) > 1:
            raise KeyboardInterrupt

    # Under nohup SIGHUP is ignored, and stays so.
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    taken = [s for s in SIGNALS if not (ignored and s == signal.SIGHUP)]
    previous = {s: signal.signal(s, note) for s in taken}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
