"""Finished cells of a benchmark on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

from scripts.evaluate import without_nan
from scripts.usage import UsageError


class CellStore:
    """A JSONL file: a line that says for which settings, then one line per finished cell."""

    def __init__(self, path: Path, basis: dict[str, Any], hash: str) -> None:
        """Open or begin the file; UsageError if it can't be written or is for other settings."""
        self.path = path
        self.rows: list[dict[str, Any]] = []  # {"cell": key, "result": ...}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise UsageError(f"cannot write to {path.parent}: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UsageError(f"{path} is being written by another telic process") from None
        lines = self._whole_lines()
        if not lines:
            self._append({"hash": hash, "basis": basis})
        elif lines[0].get("hash") != hash:
            self._file.close()
            raise UsageError(f"{path} holds cells of other settings; remove it or choose out=")
        # What was skipped, such as for a training that had failed, is tried again.
        self.rows = [row for row in lines[1:] if "skipped" not in row["result"]]

    def has(self, key: dict[str, Any]) -> bool:
        """Whether the cell is finished."""
        return any(row["cell"] == key for row in self.rows)

    def result(self, key: dict[str, Any] | None) -> dict[str, Any]:
        """The result of a finished cell."""
        return next(row["result"] for row in self.rows if row["cell"] == key)

    def add(self, key: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep a finished cell."""
        row: dict[str, Any] = without_nan({"cell": key, "result": result})
        self._append(row)
        self.rows.append(row)

    def close(self) -> None:
        """Let other processes write."""
        self._file.close()

    def _append(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def _whole_lines(self) -> list[dict[str, Any]]:
        """The rows of the file, of which a killed process may have left half a one at the end."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            self._file.close()
            raise UsageError(f"{self.path} is damaged; remove it to begin anew") from None
