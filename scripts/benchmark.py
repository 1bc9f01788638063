"""`telic benchmark`: a suite of measurements, resumable cell by cell."""

from __future__ import annotations

import json
import multiprocessing
import shlex
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_origin, get_type_hints

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mpc import nearest
from scripts.benchmarks.dmc import Dmc
from scripts.benchmarks.goals import Goals
from scripts.benchmarks.horizon import Horizon
from scripts.benchmarks.latency import Latency
from scripts.benchmarks.store import CellStore
from scripts.benchmarks.suite import Cell, Report, Rows, Suite, document
from scripts.benchmarks.truth import Truth
from scripts.evaluate import without_nan
from scripts.loading import PlannerChoice
from scripts.option_help import layout, option_rows
from scripts.options import Options, read_options, split_groups
from scripts.settings import build, read_training_options
from scripts.terminal import complain
from scripts.terminal import console as make_console
from scripts.usage import UsageError
from scripts.version import CODE

SUITES: dict[str, type[Suite]] = {
    suite.name: suite for suite in (Latency, Truth, Horizon, Dmc, Goals)
}
INTERRUPTED = 130


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """The suites, and the options of the one in `overrides` or else of each."""
    raw = read_options(files, overrides)
    wanted = [suite_named(raw)] if "suite" in raw else list(SUITES.values())
    parts = ["suites:\n" + "\n".join(f"  {s.name:8}  {s.summary}" for s in SUITES.values())]
    for suite in wanted:
        rows = option_rows(suite.Settings(suite=suite.name))
        planners = ",".join(suite.default_planners())
        rows.append(("planner", planners, "which planners; planner.OPTION=value"))
        parts.append(layout([*rows, *suite.MORE]))
    parts.append(
        "Finished cells are kept in <out>/cells: after Ctrl-C the same command goes on. It writes\n"
        "<out>/<suite>.json (all numbers), <suite>.md (tables and targets) and <suite>*.png."
    )
    return "\n\n".join(parts)


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    named = suite_named(read_options(files, overrides))
    raw = read_training_options(files, overrides, named.Settings)
    suite = make_suite(raw)
    cells, out = suite.cells(), folder(suite.settings.out)
    path = out / "cells" / f"{suite.name}-{suite.hash}.jsonl"
    store, console = CellStore(path, suite.basis, suite.hash), make_console()
    try:
        code = suite.prepare(console)
        if code == INTERRUPTED:
            return code
        store.drop(suite.outdated)
        store.give(suite.given())
        measure(suite, cells, raw, store, console)
    except KeyboardInterrupt:
        kept = f"{len(store.rows)} of {len(cells)} cells kept in {path}; the same command goes on"
        complain("interrupted", kept, "yellow")
        return INTERRUPTED
    finally:
        store.close()
    words = [*(f"--config {shlex.quote(file)}" for file in files), shlex.join(overrides)]
    # In the order of the cells, whichever was finished first.
    rows = [store.row(cell.key) for cell in cells]
    report = write(suite, rows, out, " ".join(["telic benchmark", *words]))
    for target in report.targets:
        console.print(target.line())
    console.print(f"written to {out}: {suite.name}.md, {suite.name}.json and {suite.name}*.png")
    return code


def suite_named(raw: Options) -> type[Suite]:
    """The suite that the options name. Raises UsageError."""
    name = str(raw.get("suite", ""))
    if name not in SUITES:
        choices = ", ".join(SUITES)
        if not name:
            raise UsageError(f"suite=... is required; choose from {choices}")
        raise UsageError(
            f"unknown suite {name!r}{nearest(name, list(SUITES))} (choose from: {choices})"
        )
    return SUITES[name]


def make_suite(raw: Options) -> Suite:
    """The suite that the options describe. Raises UsageError."""
    cls = suite_named(raw)
    groups, rest = split_groups(raw, (*cls.GROUPS, "planner"))
    settings = build(cls.Settings, split_lists(cls.Settings, rest))
    choice = PlannerChoice.read(groups, ",".join(cls.default_planners()))
    changes = {key: value for key, value in groups.items() if key != "planner"}
    return cls(settings, choice, changes)


def split_lists(schema: type[Any], raw: Options) -> Options:
    """`raw` with `horizons=10,25` and `horizons=10` as the lists that they mean."""
    kinds = get_type_hints(schema)
    found = dict(raw)
    for key, value in raw.items():
        if get_origin(kinds.get(key)) is list and not isinstance(value, list | dict | None):
            words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
            found[key] = words if isinstance(words, list) else [words]
    return found


def folder(out: str | None) -> Path:
    """Where results go."""
    if out is not None:
        return Path(out)
    checkout = Path("benchmarks") / "results"
    return checkout if checkout.is_dir() else checkout.parent


def measure(
    suite: Suite, cells: Sequence[Cell], raw: Options, store: CellStore, console: Console
) -> None:
    """Measure the cells that `store` lacks, under a progress bar where there is a terminal.

    First those that measure time, one after the other, then the others side by side.
    """
    missing = [(i, cell) for i, cell in enumerate(cells) if not store.has(cell.key)]
    if len(missing) < len(cells):
        console.print(f"{len(cells) - len(missing)} of {len(cells)} cells are finished already")
    others = sum(row["code"] != CODE for row in store.rows)
    if others:
        console.print(f"{others} of them by other code; to measure them anew remove {store.path}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(cells), completed=len(cells) - len(missing))

        def keep(cell: Cell, result: dict[str, Any]) -> None:
            store.add(cell.key, result)
            bar.advance(task)
            if not console.is_terminal:
                console.print(f"  {bar.tasks[task].completed:.0f}/{len(cells)} {cell}")

        for _, cell in missing:
            if cell.timed:
                bar.update(task, description=str(cell))
                keep(cell, cell.measure())
        bar.update(task, description=f"{suite.name}, episodes")
        work = [(i, store.result(cell.needs)) for i, cell in missing if not cell.timed]
        for i, result in side_by_side(suite.workers, cells, raw, work):
            keep(cells[i], result)


Work = Sequence[tuple[int, dict[str, Any]]]  # number of a cell, and the result that it needs


def side_by_side(
    workers: int, cells: Sequence[Cell], raw: Options, work: Work
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Results of cells as they come, with so many processes at most."""
    if min(workers, len(work)) < 2:
        yield from ((i, cells[i].measure(needed)) for i, needed in work)
        return
    # Begun anew, not forked: neither threads of torch nor a GPU outlive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(work)), _Worker.begin, (raw,)) as pool:
        yield from pool.imap_unordered(_Worker.measure, work)


class _Worker:
    """What a process that measures cells keeps: they are described by their number."""

    cells: ClassVar[list[Cell]] = []

    @classmethod
    def begin(cls, raw: Options) -> None:
        """Make the suite of these options."""
        # Ctrl-C reaches every process of a terminal; the first one ends the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        cls.cells = make_suite(raw).cells()

    @classmethod
    def measure(cls, item: tuple[int, dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        """The number and result of a cell."""
        number, needed = item
        return number, cls.cells[number].measure(needed)


def write(suite: Suite, rows: Rows, out: Path, command: str) -> Report:
    """Write the results as JSON, Markdown and pictures; returns the report."""
    report = suite.report(rows)
    result = {
        "suite": suite.name,
        "command": command,
        "date": max(row["date"] for row in rows),
        "hash": suite.hash,
        "basis": suite.basis,
        "cells": rows,
        "targets": [vars(target) for target in report.targets],
    }
    texts = {
        "json": json.dumps(without_nan(result), indent=1, allow_nan=False) + "\n",
        "md": document(suite, report, command, rows),
    }
    for ending, text in texts.items():
        draft = out / f".{suite.name}.new"
        draft.write_text(text, encoding="utf-8")
        draft.replace(out / f"{suite.name}.{ending}")
    suite.draw(rows, out)
    return report
