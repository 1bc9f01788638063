"""What finished and running trainings have reached, together over their seeds."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from scripts.evaluate import Score
from scripts.metrics import read_column
from scripts.plots import Line
from scripts.run_folder import RunFolder
from scripts.settings import read_run_options
from scripts.statistics import Interval, mean_interval
from scripts.stopwatch import WHOLE
from scripts.terminal import counted

# Options that runs of one group may differ in: which one it is, how it ran and was looked at.
PER_RUN = ("seed", "name", "runs", "wandb", "device", "threads")
LOOKING = (
    "train.eval_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
    "train.overlap",
    "train.processes",
)


@dataclass(frozen=True)
class RunResults:
    """What is on disk of one training."""

    folder: RunFolder
    options: dict[str, Any]  # by dotted name
    frames: list[int]  # of the evaluations, env frames; of trainings on data, updates
    returns: list[float]  # of trainings for goals, shares of goals reached
    milliseconds: float | None  # per control step: decision, environment, update

    @classmethod
    def read(cls, path: Path) -> RunResults:
        """Raises ValueError when `path` is no run folder."""
        folder = RunFolder.open(path)
        metrics = folder.path / "metrics.csv"
        _, spent = read_column(metrics, f"time/{WHOLE}_ms")
        options = dict(flat(read_run_options(folder)))
        measure = "success" if _for_goals(options) else "return"
        frames, returns = read_column(metrics, f"eval/{measure}")
        return cls(folder, options, frames, returns, spent[-1] if spent else None)

    @property
    def task(self) -> str:
        """The environment's name."""
        return str(self.options["env.name"])

    @property
    def for_goals(self) -> bool:
        """Whether it was trained for goals, on data."""
        return _for_goals(self.options)

    @property
    def unit(self) -> str:
        """What `frames` are."""
        return "updates" if self.for_goals else "env frames"

    @property
    def varied(self) -> dict[str, Any]:
        """The options by which runs are told apart, beside the task and what is in PER_RUN."""
        return {
            key: value
            for key, value in self.options.items()
            if key.partition(".")[0] not in PER_RUN and key not in (*LOOKING, "env.name")
        }

    def evaluation(self) -> tuple[Path, dict[str, Any], list[Score]] | None:
        """The latest `telic evaluate`: its file, what it holds, and the scores."""
        found = []
        for path in self.folder.evaluations.glob("*.json"):
            with suppress(json.JSONDecodeError):  # one that is damaged hides no other
                found.append((path, json.loads(path.read_text(encoding="utf-8"))))
        if not found:
            return None
        path, result = max(found, key=_made)
        scores = [
            Score(
                **{**s, "interval": _interval(s["interval"]), "difference": _gap(s["difference"])}
            )
            for s in result["scores"]
        ]
        return path, result, scores


@dataclass(frozen=True)
class Group:
    """Trainings that differ in their seeds alone."""

    task: str
    label: str  # planner, and the options in which the groups of this task differ
    runs: list[RunResults]

    @property
    def evaluated(self) -> list[RunResults]:
        """The runs that have been evaluated; returns are theirs."""
        return [run for run in self.runs if run.frames]

    @property
    def for_goals(self) -> bool:
        """Whether they were trained for goals, on data."""
        return self.runs[0].for_goals

    @property
    def repeated(self) -> list[int]:
        """Seeds of more than one of the runs, which are the same training then."""
        counts = Counter(run.options["seed"] for run in self.runs)
        return sorted(seed for seed, count in counts.items() if count > 1)

    def final(self) -> Interval | None:
        """Mean return at `frames`; None where there is no evaluation."""
        shared = self._shared()
        return mean_interval(shared[max(shared)], np.random.default_rng(0)) if shared else None

    def frames(self) -> int:
        """Env frames of the last evaluation that all evaluated runs have; 0 without one."""
        return max(self._shared(), default=0)

    def milliseconds(self) -> float | None:
        """Per control step, mean over the runs."""
        known = [run.milliseconds for run in self.runs if run.milliseconds is not None]
        return sum(known) / len(known) if known else None

    def curve(self) -> Line:
        """Mean return over env frames that all runs have seen, with 95 % intervals over runs."""
        shared, rng = self._shared(), np.random.default_rng(0)
        found = [mean_interval(values, rng) for values in shared.values()]
        x, y, count = list(shared), [i.point for i in found], len(self.evaluated)
        line = Line(f"{self.label}, {counted(count, 'run')}", x, y)
        if count > 1:
            line = Line(line.label, x, y, [i.low for i in found], [i.high for i in found])
        return line

    def _shared(self) -> dict[int, list[float]]:
        """Returns of the evaluated runs wherever all of them were evaluated, by env frames."""
        seen = [dict(zip(run.frames, run.returns, strict=True)) for run in self.evaluated]
        shared = sorted(set.intersection(*map(set, seen))) if seen else []
        return {frames: [one[frames] for one in seen] for frames in shared}


def _made(evaluation: tuple[Path, Mapping[str, Any]]) -> float:
    """When an evaluation was made, in seconds; those of earlier versions do not say it."""
    path, result = evaluation
    if "date" in result:
        return datetime.fromisoformat(result["date"]).timestamp()
    return path.stat().st_mtime


def _for_goals(options: Mapping[str, Any]) -> bool:
    return options.get("train.objective") == "goal"


def find_runs(paths: Sequence[Path]) -> list[RunResults]:
    """The runs that `paths` are, or hold in folders directly below them, each of them once.

    Raises ValueError for a path that is neither.
    """
    found: dict[Path, RunResults] = {}
    for path in paths:
        inside = sorted(config.parent for config in path.glob("*/config.yaml"))
        alone = RunFolder(path).config.exists() or not inside
        for run in [path] if alone else inside:
            found.setdefault(run.resolve(), RunResults.read(run))
    return list(found.values())


def grouped(runs: Sequence[RunResults]) -> list[Group]:
    """Runs by task and by everything but their seeds, tasks in alphabetical order."""
    groups = []
    ordered = sorted(runs, key=_kind)
    for (task, _), same in itertools.groupby(ordered, _kind):
        kinds: dict[str, list[RunResults]] = {}
        for run in same:
            kinds.setdefault(json.dumps(run.varied, sort_keys=True, default=str), []).append(run)
        several = [members[0].varied for members in kinds.values()]
        groups += [
            Group(task, _label(members[0].varied, several), members) for members in kinds.values()
        ]
    return groups


def _kind(run: RunResults) -> tuple[str, bool]:
    """What runs must share to be compared."""
    return run.task, run.for_goals


def _label(options: Mapping[str, Any], all_of: Sequence[Mapping[str, Any]]) -> str:
    """The planner, and other options where they differ between groups of the same planner."""
    planner = options["planner.name"]
    alike = [other for other in all_of if other["planner.name"] == planner]
    differing = [
        f"{key}={value}"
        for key, value in options.items()
        if any(other.get(key) != value for other in alike)
    ]
    return ", ".join([planner, *differing])


def flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested options."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _interval(stored: Mapping[str, float | None]) -> Interval:
    """An interval from JSON, where unknown bounds are null."""
    return Interval(**{k: math.nan if v is None else v for k, v in stored.items()})


def _gap(stored: Mapping[str, float | None] | None) -> Interval | None:
    return None if stored is None else _interval(stored)
