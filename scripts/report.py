"""`telic report`: what runs have learned and how their planners did, as text or as one page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING
from rich.console import Console
from rich.table import Table

from scripts.evaluate import score_table
from scripts.option_help import layout, option_rows
from scripts.reference import Curve, reference_curves
from scripts.report_page import page, summary_rows
from scripts.run_results import Group, RunResults, find_runs, grouped
from scripts.settings import load
from scripts.terminal import console as make_console
from scripts.terminal import counted
from scripts.usage import UsageError, usage_errors

logger = logging.getLogger(__name__)

BAR = 40  # characters of the longest bar
FILES = ("plots/*.png", "videos/*.mp4")  # of a run, that are listed


@dataclass(frozen=True)
class ReportSettings:
    """Options of `telic report`."""

    run: str = MISSING  # run folder; several with commas between, or a folder of runs
    html: str | None = None  # file to write one page to, with curves over seeds and pictures


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    return layout(option_rows(ReportSettings()))


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    settings = load(ReportSettings, files, overrides)
    with usage_errors():
        runs = find_runs([Path(path) for path in settings.run.split(",")])
    console, groups = make_console(), grouped(runs)
    for group in groups:
        if group.repeated:
            seeds = ", ".join(map(str, group.repeated))
            logger.warning(
                "%s, %s: more than one run of seed %s, counted as if independent",
                group.task,
                group.label,
                seeds,
            )
    if settings.html is not None:
        _write_page(groups, Path(settings.html), console)
    elif len(runs) == 1:
        _print_run(runs[0], console)
    else:
        heading, *rows = summary_rows(groups)
        table = Table(*heading)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    return 0


def _write_page(groups: Sequence[Group], path: Path, console: Console) -> None:
    if path.is_dir():
        raise UsageError(f"html={path} is a folder; name a file in it")
    count = sum(len(group.runs) for group in groups)
    tasks = counted(len({group.task for group in groups}), "task")
    text = page(groups, f"{counted(count, 'training')} of {tasks}")
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write html={path}: {error.strerror}") from None
    console.print(f"{path}: {counted(count, 'run')}, {len(text) / 1e6:.1f} MB")


def _print_run(run: RunResults, console: Console) -> None:
    """Curve, latest evaluation and files of one run."""
    _print_curve(run, console)
    _print_planners(run, console)
    folder = run.folder.path
    console.print(f"run folder: {folder}")
    for pattern in FILES:
        for path in sorted(folder.glob(pattern)):
            console.print(f"  {path}")


def _print_curve(run: RunResults, console: Console) -> None:
    """Returns over env frames, and the published curves below them; or success over updates."""
    table = Table(title=f"learning curve of {run.task}")
    table.add_column(run.unit, justify="right")
    table.add_column("method")
    table.add_column("success" if run.for_goals else "return", justify="right")
    table.add_column("")
    points = [(f, "this run", value) for f, value in zip(run.frames, run.returns, strict=True)]
    references = reference_curves(run.task)
    points += [point for name, curve in references.items() for point in _published(name, curve)]
    highest = max((abs(value) for _, _, value in points), default=0.0) or 1.0
    for frames, method, value in sorted(points):
        bar = "█" * max(0, round(BAR * value / highest))
        shown = f"{100 * value:.0f} %" if run.for_goals else f"{value:.1f}"
        table.add_row(str(frames), method, shown, bar)
    console.print(table)


def _published(method: str, curve: Curve) -> list[tuple[int, str, float]]:
    """The point of a published curve at 100k env frames, where there is one."""
    near = [i for i, frames in enumerate(curve.frames) if abs(frames - 100_000) <= 5_000]
    return [(curve.frames[i], f"{method}, published, from states", curve.mean[i]) for i in near[:1]]


def _print_planners(run: RunResults, console: Console) -> None:
    """The table of the latest evaluation."""
    latest = run.evaluation()
    if latest is None and run.for_goals:
        console.print(f"compare planners: telic benchmark suite=goals runs={run.folder.path}")
        return
    if latest is None:
        console.print(f"no evaluation yet: telic evaluate run={run.folder.path}")
        return
    path, result, scores = latest
    console.print(score_table(scores, result["control_period"]))
    console.print(
        f"model of {result['frames']} env frames, {len(scores[0].returns)} episodes, "
        f"protocol {result['protocol_hash']}: {path}"
    )
