"""Trainings that were measured before, or on another machine, in place of repeating them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.run_results import flat
from scripts.settings import BEFORE
from scripts.usage import UsageError

Terms = Mapping[str, Any]  # of one planner: the options by which trainings and evaluations went


class EarlierResults:
    """The cells of `<suite>.json` files that went by the same terms."""

    def __init__(self, files: Sequence[str], suite: str) -> None:
        """Read the files. Raises UsageError for one that is no result of `suite`."""
        self.digests: dict[str, str] = {}  # by file
        self._found: dict[str, dict[str, Any]] = {}
        for file in files:
            try:
                content = Path(file).read_bytes()
                found = json.loads(content)
                if found["suite"] != suite:
                    raise ValueError
                cells = [{"date": found["date"], **row} for row in found["cells"]]
                self._found[file] = {"cells": cells, "basis": found["basis"]}
            except OSError as error:
                raise UsageError(f"results: cannot read {file}: {error.strerror}") from None
            except (ValueError, KeyError, TypeError):
                raise UsageError(
                    f"results: {file} is not the {suite}.json of a telic benchmark suite={suite}"
                ) from None
            self.digests[file] = hashlib.sha256(content).hexdigest()[:12]

    def rows(self, terms: Mapping[str, Terms]) -> list[dict[str, Any]]:
        """The finished cells of these planners.

        Raises UsageError where a file went by other terms, and where two differ in a cell.
        """
        rows: dict[str, dict[str, Any]] = {}
        for file, found in self._found.items():
            for planner, own in terms.items():
                cells = [
                    row
                    for row in found["cells"]
                    if row["cell"]["planner"] == planner and "skipped" not in row["result"]
                ]
                if cells:
                    _require_same(file, found["basis"]["facts"].get("terms", {}), planner, own)
                for row in cells:
                    name = json.dumps(row["cell"], sort_keys=True)
                    if rows.setdefault(name, row)["result"] != row["result"]:
                        raise UsageError(f"results: {file} and another file differ in {name}")
        return list(rows.values())


def _require_same(file: str, terms: Mapping[str, Terms], planner: str, own: Terms) -> None:
    """Raise UsageError unless a file's `terms` of a planner are `own`."""
    if planner not in terms:
        raise UsageError(f"results: {file} does not tell by which options {planner} was trained")
    theirs = {**dict(flat(BEFORE)), **terms[planner]}
    for key in sorted({*own, *theirs}):
        if own.get(key) != theirs.get(key):
            raise UsageError(
                f"results: {file} is of {key}={theirs.get(key)}, not {own.get(key)}; give the "
                "options by which it was measured"
            )
