"""`telic report`: what a run has learned and how its planners did, in one page of text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.evaluate import Score, score_table
from scripts.metrics import read_column
from scripts.option_help import layout, option_rows
from scripts.options import read_options
from scripts.reference import Curve, reference_curves
from scripts.run_folder import RunFolder
from scripts.settings import build, read_run_options
from scripts.statistics import Interval
from scripts.terminal import console as make_console
from scripts.usage import usage_errors

BAR = 40  # characters of the longest bar
PICTURES = ("plots/*.png", "videos/*.mp4")


@dataclass(frozen=True)
class ReportSettings:
    """Options of `telic report`."""

    run: str = "???"  # run folder of the training


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    return layout(option_rows(ReportSettings()))


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    settings = build(ReportSettings, read_options(files, overrides))
    with usage_errors():
        folder = RunFolder.open(Path(settings.run))
        env = read_run_options(folder)["env"]["name"]
    console = make_console()
    _print_curve(folder, env, console)
    _print_planners(folder, console)
    console.print(f"run folder: {folder.path}")
    for pattern in PICTURES:
        for path in sorted(folder.path.glob(pattern)):
            console.print(f"  {path}")
    return 0


def _print_curve(folder: RunFolder, env: str, console: Console) -> None:
    """Returns over env frames, and the published curves below them."""
    frames_seen, returns = read_column(folder.path / "metrics.csv", "eval/return")
    table = Table(title=f"learning curve of {env}")
    table.add_column("env frames", justify="right")
    table.add_column("method")
    table.add_column("return", justify="right")
    table.add_column("")
    points = [(f, "this run", value) for f, value in zip(frames_seen, returns, strict=True)]
    references = reference_curves(env)
    points += [point for name, curve in references.items() for point in _published(name, curve)]
    highest = max((abs(value) for _, _, value in points), default=0.0) or 1.0
    for frames, method, value in sorted(points):
        bar = "█" * max(0, round(BAR * value / highest))
        table.add_row(str(frames), method, f"{value:.1f}", bar)
    console.print(table)


def _published(method: str, curve: Curve) -> list[tuple[int, str, float]]:
    """The point of a published curve at 100k env frames, where there is one."""
    near = [i for i, frames in enumerate(curve.frames) if abs(frames - 100_000) <= 5_000]
    return [(curve.frames[i], f"{method}, published", curve.mean[i]) for i in near[:1]]


def _print_planners(folder: RunFolder, console: Console) -> None:
    """The table of the latest evaluation."""
    files = sorted(
        (folder.path / "evaluations").glob("*.json"), key=lambda path: path.stat().st_mtime
    )
    if not files:
        console.print(f"no evaluation yet: telic evaluate run={folder.path}")
        return
    result = json.loads(files[-1].read_text(encoding="utf-8"))
    scores = [
        Score(**{**s, "interval": _interval(s["interval"]), "difference": _gap(s["difference"])})
        for s in result["scores"]
    ]
    console.print(score_table(scores, result["control_period"]))
    console.print(
        f"model of {result['frames']} env frames, {len(scores[0].returns)} episodes, "
        f"protocol {result['protocol_hash']}: {files[-1]}"
    )


def _interval(stored: dict[str, float | None]) -> Interval:
    """An interval from JSON, where unknown bounds are null."""
    return Interval(**{k: math.nan if v is None else v for k, v in stored.items()})


def _gap(stored: dict[str, float | None] | None) -> Interval | None:
    return None if stored is None else _interval(stored)
