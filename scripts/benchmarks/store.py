"""Finished cells of a benchmark on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import datetime
import fcntl
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from scripts.evaluate import without_nan
from scripts.usage import UsageError
from scripts.version import CODE

Row = Mapping[str, Any]  # {"cell": key, "result":, "date": of the measurement, "code": its digest}


class CellStore:
    """A JSONL file: a line that says for which settings, then one line per finished cell.

    Of a cell that was measured again the last line counts.
    """

    def __init__(self, path: Path, basis: dict[str, Any], hash: str) -> None:
        """Open or begin the file; UsageError if it can't be written or is for other settings."""
        self.path = path
        self._rows: dict[str, Row] = {}
        self._given: dict[str, Row] = {}
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
        self._rows = _by_name(lines[1:])
        # What was skipped, such as for a training that had failed, is tried again, and so is what
        # an earlier version measured, which did not say when.
        self.drop(lambda row: "skipped" in row["result"] or "date" not in row)

    @property
    def rows(self) -> list[Row]:
        """The finished cells of the file."""
        return list(self._rows.values())

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether the cell is finished, or was given."""
        return _name(key) in self._given or _name(key) in self._rows

    def row(self, key: Mapping[str, Any]) -> Row:
        """A cell that is finished or was given."""
        return self._given.get(_name(key)) or self._rows[_name(key)]

    def result(self, key: Mapping[str, Any] | None) -> dict[str, Any]:
        """The result of a finished cell; of none nothing."""
        return {} if key is None else self.row(key)["result"]

    def add(self, key: dict[str, Any], result: dict[str, Any]) -> None:
        """Keep a cell that has just been finished."""
        date = str(datetime.date.today())
        row: Row = without_nan({"cell": key, "result": result, "date": date, "code": CODE})
        self._append(row)
        self._rows[_name(key)] = row

    def give(self, rows: Iterable[Row]) -> None:
        """Have these cells, too, which were measured elsewhere and are not written."""
        self._given = _by_name(rows)

    def drop(self, which: Callable[[Row], bool]) -> None:
        """Have no more the finished cells of which `which` is true."""
        self._rows = {name: row for name, row in self._rows.items() if not which(row)}

    def close(self) -> None:
        """Let other processes write."""
        self._file.close()

    def _append(self, row: Row) -> None:
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


def _name(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _by_name(rows: Iterable[Row]) -> dict[str, Row]:
    return {_name(row["cell"]): row for row in rows}
