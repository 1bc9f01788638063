"""The console that commands write their results to."""

from __future__ import annotations

from rich.console import Console


def console() -> Console:
    """Standard output; where it is no terminal, wide enough for tables and paths in one line."""
    found = Console(soft_wrap=True, highlight=False)
    return found if found.is_terminal else Console(soft_wrap=True, highlight=False, width=120)
