"""What commands write to people: results to standard output, problems to standard error."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.text import Text


def console() -> Console:
    """Standard output; where it is no terminal, wide enough for tables and paths in one line."""
    found = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found = Console(soft_wrap=True, highlight=False, markup=False, emoji=False, width=140)
    return found


def counted(count: int, noun: str) -> str:
    """Such as "1 training" and "2 trainings"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


VERDICTS = {"ok": "green", "missing": "yellow", "broken": "bold red", "fails": "bold red"}


def verdict(kind: str, message: str) -> Text:
    """A line that begins with one of VERDICTS."""
    return Text.assemble((f"{kind:9}", VERDICTS[kind]), message)


def complain(kind: str, message: str, style: str = "bold red") -> None:
    """Write `kind: message` to standard error, in one line unless `message` has more."""
    text = Text.assemble((f"{kind}:", style), f" {message}")
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


class LogLines(logging.Handler):
    """Log records as plain lines on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, with its traceback if it has one."""
        style = "bold red" if record.levelno >= logging.ERROR else "yellow"
        complain(record.levelname.lower(), self.format(record), style)
