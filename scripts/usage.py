"""What a user did wrong, told in one line; importing this loads nothing heavy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(Exception):
    """Wrong usage or configuration: one clear line for the user, exit code 2."""


def first_line(error: Exception) -> str:
    """The first line of what an error says; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the ValueError of a wrong name, folder or checkpoint into a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(first_line(error)) from error


def require_writable(folder: Path) -> None:
    """Raise UsageError unless files can be written to `folder`, there or not; leaves no trace."""
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None
