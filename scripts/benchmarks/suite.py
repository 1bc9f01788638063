"""What the suites of `telic benchmark` share: cells, targets, and the report they end in."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING
from rich.console import Console

from mpc import PLANNERS, Planner
from mpc.checks import require_at_least
from scripts.benchmarks.store import Row
from scripts.hardware import machine
from scripts.loading import PlannerChoice
from scripts.options import Options
from scripts.run_results import flat
from scripts.settings import build, make_planner_from, prepare_torch, require_seed
from scripts.usage import UsageError
from scripts.version import code_version


@dataclass(frozen=True)
class SuiteSettings:
    """Options that every suite has."""

    suite: str = "???"  # latency, truth, horizon, dmc or goals
    out: str | None = None  # folder; null: benchmarks/results where there is one, else benchmarks
    seed: int = 1  # of everything random
    threads: int = 1  # of torch on the CPU

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "threads")
        require_seed(self.seed)

    def require_list(self, option: str, least: float) -> None:
        """Raise ValueError unless `option` lists different values of at least `least`."""
        values = getattr(self, option)
        if not values or min(values) < least or len(set(values)) < len(values):
            raise ValueError(f"{option} must list different values from {least} on, got {values}")


@dataclass(frozen=True)
class TrainedSettings(SuiteSettings):
    """Options of suites that measure trained models at equal time per decision."""

    runs: list[str] = MISSING  # run folders of trainings
    device: str = "auto"  # auto, cpu, cuda, mps
    trials: int = 9  # single decisions timed for each number of iterations that is tried
    most: int = 1000  # iterations of a plan

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        require_at_least(self, 1, "trials", "most")
        if not self.runs or (self.runs != MISSING and len(set(self.runs)) < len(self.runs)):
            raise ValueError(f"runs must list different run folders, got {self.runs}")


@dataclass(frozen=True)
class Cell:
    """One piece of work, kept when it is finished."""

    key: dict[str, Any]  # tells it from all others of its suite
    measure: Callable[..., dict[str, Any]]  # the result, as JSON has it
    needs: dict[str, Any] | None = None  # key of an earlier cell whose result `measure` is given
    timed: bool = True  # whether it measures time: nothing may run beside it

    def __str__(self) -> str:
        """The key in words."""
        kind, *rest = self.key.items()
        return ", ".join([str(kind[1]), *(f"{name}={value}" for name, value in rest)])


@dataclass(frozen=True)
class Target:
    """Something that we want to hold, and whether it was measured to."""

    text: str
    measured: str
    met: bool | None  # None: not measured, or too little to tell

    def line(self) -> str:
        """As an item of a checked list."""
        words = {True: "met", False: "MISSED", None: "open"}[self.met]
        return f"- [{'x' if self.met else ' '}] {self.text}: {self.measured} ({words})"


@dataclass(frozen=True)
class Report:
    """What a suite found out."""

    title: str
    protocol: str  # what was measured, and how
    sections: Sequence[str]  # in Markdown
    targets: Sequence[Target]


Rows = Sequence[Row]  # finished cells


class Suite(ABC):
    """Cells to measure, and a report on them."""

    name: ClassVar[str]
    summary: ClassVar[str]
    Settings: ClassVar[type[SuiteSettings]]
    GROUPS: ClassVar[tuple[str, ...]] = ()  # groups of options beside `planner`
    MORE: ClassVar[Sequence[tuple[str, str, str]]] = ()  # how the help shows those
    WITHOUT: ClassVar[tuple[str, ...]] = ("out",)  # settings that results do not depend on
    FIXED: ClassVar[Mapping[str, str]] = {}  # options that the suite sets: what to use instead

    def __init__(self, settings: Any, choice: PlannerChoice, changes: Options) -> None:
        self.settings, self.choice, self.changes = settings, choice, changes
        prepare_torch(settings.threads)
        given = dict(flat({"planner": choice.options, **changes}))
        for option, instead in self.FIXED.items():
            if option in given:
                raise UsageError(f"{option} is set by suite={self.name}; use {instead}")

    @property
    def workers(self) -> int:
        """Processes that measure what is not timed."""
        return 1

    @classmethod
    @abstractmethod
    def default_planners(cls) -> list[str]:
        """Planners that are compared unless `planner` names others."""

    def prepare(self, console: Console) -> int:
        """What comes before the cells; returns an exit code, after 130 nothing is measured."""
        return 0

    def given(self) -> Rows:
        """Cells that were measured elsewhere, and are not to be measured here."""
        return ()

    def outdated(self, row: Row) -> bool:
        """Whether what a finished cell measured is no longer what it would measure now."""
        return False

    @abstractmethod
    def cells(self) -> list[Cell]:
        """All cells, in the order in which they are measured."""

    @abstractmethod
    def report(self, rows: Rows) -> Report:
        """What all finished cells say."""

    @abstractmethod
    def draw(self, rows: Rows, folder: Path) -> None:
        """Pictures of all finished cells, `<folder>/<name>*.png`."""

    def facts(self) -> dict[str, Any]:
        """What else the results depend on."""
        return {}

    @cached_property
    def basis(self) -> dict[str, Any]:
        """Everything that results depend on; cells of another basis are never mixed in."""
        settings = {k: v for k, v in asdict(self.settings).items() if k not in self.WITHOUT}
        planners = {
            "names": self.choice.names,
            "options": self.choice.options,
            "defaults": {name: asdict(PLANNERS[name].Config()) for name in self.choice.names},
        }
        basis = {"settings": settings, "planner": planners, "changes": self.changes}
        return basis | {"machine": machine(), "version": code_version(), "facts": self.facts()}

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that stand for the basis."""
        text = json.dumps(self.basis, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Chosen:
    """A schema with nothing but a planner."""

    planner: Any = None


def planner_of(name: str, *options: Mapping[str, Any]) -> Planner[Any]:
    """Planner `name` with those of the `options` that it has; later ones win.

    Raises UsageError for a value that the planner refuses.
    """
    known = PLANNERS[name].Config.options()
    chosen: Options = {"name": name}
    for given in options:
        chosen |= {key: value for key, value in given.items() if key in known}
    return make_planner_from(build(_Chosen, {"planner": chosen}).planner)


def has_option(planner: str, option: str) -> bool:
    """Whether `planner` has `option`."""
    return option in PLANNERS[planner].Config.options()


def registered() -> list[str]:
    """All planners, GRASP first."""
    return sorted(PLANNERS.names(), key=lambda name: (name != "grasp", name))


def select(rows: Rows, **key: Any) -> list[Mapping[str, Any]]:
    """The rows whose cells have all of these values."""
    return [row for row in rows if all(row["cell"].get(k) == v for k, v in key.items())]


def skipped(rows: Rows) -> list[str]:
    """A section on the cells that could not be measured, where there are any."""
    lines = [
        f"- {', '.join(f'{k}={v}' for k, v in row['cell'].items())}: {row['result']['skipped']}"
        for row in rows
        if "skipped" in row["result"]
    ]
    return ["\n".join(["## Skipped", "", *lines])] if lines else []


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(suite: Suite, report: Report, command: str, rows: Rows) -> str:
    """The report on `rows` as a Markdown document."""
    found = suite.basis["machine"]
    dates = sorted({row["date"] for row in rows})
    codes = sorted({row.get("code", "not noted") for row in rows})
    origin = (
        f"`{command}`, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {found['cpu']}, "
        f"{found['cores']} cores, "
        f"{suite.settings.threads} thread{'s' * (suite.settings.threads > 1)}, "
        f"torch {found['torch']}, telic {suite.basis['version']} (code {', '.join(codes)}), "
        f"seed {suite.settings.seed}, settings `{suite.hash}`."
    )
    parts = [f"# {report.title}", origin, report.protocol, *report.sections, "## Targets"]
    parts.append("\n".join(target.line() for target in report.targets) or "None.")
    return "\n\n".join(parts) + "\n"
