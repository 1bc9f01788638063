"""`suite=truth`: how far plans are from the optimum on exact models, over what they cost."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mpc import (
    BoxActions,
    Effort,
    GoalDistance,
    Objective,
    Planner,
    Problem,
    Reward,
    WarmStart,
    Weighted,
    WorldModel,
    trajectory_cost,
)
from mpc.checks import require_at_least, require_positive
from scripts.benchmarks.calibration import SIZES, calibrate, yardstick
from scripts.benchmarks.suite import (
    Cell,
    Report,
    Rows,
    Suite,
    SuiteSettings,
    has_option,
    planner_of,
    registered,
    select,
    table,
)
from scripts.options import Options
from scripts.plots import Line, Panel, line_panels, lines_through
from scripts.statistics import Interval, mean_interval, span
from world_models import Pendulum, PointMass, double_integrator

SMALLEST = 1e-6  # of gaps in the picture, whose axis is logarithmic


@dataclass(frozen=True)
class TruthSettings(SuiteSettings):
    """Options of `telic benchmark suite=truth`."""

    problems: list[str] = field(default_factory=lambda: list(TASKS))  # which of these
    starts: int = 12  # the same for all planners
    horizon: int | None = None  # control steps; null: that of each problem
    iterations: list[int] = field(default_factory=lambda: [1, 3, 10, 30, 100, 300])  # to sweep
    budgets: list[float] = field(default_factory=lambda: [10.0, 40.0, 160.0])  # ms of a plan
    repeats: int = 5  # timed single plans
    cap: float = 60.0  # seconds; a sweep ends where one plan takes longer
    search: int = 500  # iterations of each search for the best known plan

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        unknown = sorted(set(self.problems) - set(TASKS))
        if unknown or not self.problems:
            raise ValueError(f"problems must be among {', '.join(TASKS)}, got {self.problems}")
        self.require_list("iterations", 1)
        require_at_least(self, 1, "starts", "repeats", "search")
        require_positive(self, "cap")
        if not self.budgets or min(self.budgets) <= 0:
            raise ValueError(f"budgets must be above 0 ms, got {self.budgets}")
        if self.horizon is not None:
            require_at_least(self, 1, "horizon")


@dataclass(frozen=True)
class Task:
    """A family of problems on an exact model."""

    title: str
    horizon: int  # control steps
    starts: Callable[[int, int, torch.Generator], Tensor]  # (count, horizon, rng) -> (B, Z)
    model: Callable[[], WorldModel]
    objective: Callable[[Tensor], Objective]  # of the starts

    def problem(self, start: Tensor, horizon: int) -> Problem:
        """The problems from `start` (B, Z)."""
        model = self.model()
        return Problem(model, self.objective(start), start, horizon, BoxActions(model.action_dim))


def unbound_starts(count: int, horizon: int, rng: torch.Generator) -> Tensor:
    """Positions and speeds (B, 2), not near rest, whose optimal pushes stay within the bounds."""
    model = double_integrator()
    found: list[Tensor] = []
    while len(found) < count:
        start = state = 0.5 * _uniform(1, 2, rng)
        largest = 0.0
        for _ in range(horizon):
            push = -state @ model.gain.T
            largest = max(largest, float(push.abs().max()))
            state = model.step(state, push)
        if largest < 1.0 and start.norm() > 0.2:
            found.append(start)
    return torch.cat(found)


def hanging_starts(count: int, horizon: int, rng: torch.Generator) -> Tensor:
    """Angles and speeds (B, 2) about hanging still."""
    spread = torch.tensor([0.3, 0.5], dtype=torch.float64)
    return torch.tensor([math.pi, 0.0], dtype=torch.float64) + spread * _uniform(count, 2, rng)


def outer_starts(count: int, horizon: int, rng: torch.Generator) -> Tensor:
    """Positions at rest (B, 4) at a distance of 1 to 1.4 from the obstacle."""
    angle, far = _uniform(count, 2, rng).unbind(-1)
    place = torch.stack([(math.pi * angle).cos(), (math.pi * angle).sin()], -1)
    place = (1.2 + 0.2 * far).unsqueeze(-1) * place
    return torch.cat([place, torch.zeros_like(place)], -1)


def across(start: Tensor) -> Objective:
    """Come to rest on the other side of the obstacle, without much effort."""
    parts = {"goal": (10.0, GoalDistance(-start)), "obstacle": (1.0, Reward())}
    return Weighted(parts | {"effort": (0.01, Effort())})


def _uniform(count: int, dim: int, rng: torch.Generator) -> Tensor:
    return 2.0 * torch.rand(count, dim, generator=rng, dtype=torch.float64) - 1.0


TASKS: dict[str, Task] = {
    "lq": Task(
        "linear-quadratic: a double integrator",
        25,
        unbound_starts,
        double_integrator,
        lambda start: Reward(),
    ),
    "pendulum": Task(
        "swing-up of a pendulum", 40, hanging_starts, Pendulum, lambda start: Reward()
    ),
    "point_mass": Task("a point mass around an obstacle", 20, outer_starts, PointMass, across),
}
# Searches for the best known plan, each improved by descent from where it ended.
SEARCHES: dict[str, tuple[str, Options]] = {
    "cem": ("cem", {"samples": 1024, "elites": 64, "min_std": 0.02}),
    "cem, narrow": ("cem", {"samples": 1024, "elites": 16, "min_std": 0.02}),
    "mppi": ("mppi", {"samples": 1024, "elites": 128, "min_std": 0.02}),
    "gradient": ("gradient", {"restarts": 64, "init_std": 1.0}),
    "gradient, slow": ("gradient", {"restarts": 64, "init_std": 0.5, "action_lr": 0.03}),
    "grasp": ("grasp", {"restarts": 16, "sync_every": 10, "sync_steps": 10}),
}
POLISH: Options = {"restarts": 16, "init_std": 0.1, "action_lr": 0.02, "final_lr": 0.01}


class Truth(Suite):
    """How good plans are where the model is exact."""

    name = "truth"
    summary = "gap to the best known cost over time, on exact models: no learning error"
    Settings = TruthSettings
    FIXED: ClassVar = {
        "planner.horizon": "horizon=25",
        "planner.iterations": "iterations=1,10,100",
        "planner.deadline_ms": "budgets=10,40",
    }

    @classmethod
    def default_planners(cls) -> list[str]:
        """All that are registered but the policy prior, which exact models have not."""
        return [name for name in registered() if name != "policy"]

    def cells(self) -> list[Cell]:
        """By problem: the best known costs, the sweep of each planner, each planner in time."""
        settings, cells = self.settings, []
        for task in settings.problems:
            key: Options = {"kind": "best", "problem": task}
            cells.append(Cell(key, partial(self._best, task)))
            for name in self.choice.names:
                self._planner(name, task, {})  # refuses wrong options before the work begins
                counts = settings.iterations if has_option(name, "iterations") else [None]
                for count in counts:
                    key = {"kind": "sweep", "problem": task, "planner": name, "iterations": count}
                    cells.append(Cell(key, partial(self._sweep, task, name, count)))
                for budget in settings.budgets:
                    key = {"kind": "budget", "problem": task, "planner": name, "ms": budget}
                    cells.append(Cell(key, partial(self._budget, task, name, budget)))
        return cells

    def problem(self, task: str, rows: slice = slice(None)) -> Problem:
        """Those `rows` of the starts of a task."""
        settings, found = self.settings, TASKS[task]
        horizon = settings.horizon or found.horizon
        rng = torch.Generator().manual_seed(settings.seed)
        return found.problem(found.starts(settings.starts, horizon, rng)[rows], horizon)

    def _planner(self, name: str, task: str, options: Options) -> Planner[Any]:
        horizon = self.settings.horizon or TASKS[task].horizon
        options = options | {"horizon": horizon, "compile": False}
        return planner_of(name, self.choice.options, options)

    def _best(self, task: str) -> dict[str, Any]:
        """The least known cost from each start, and how it was found."""
        problem = self.problem(task)
        still = true_cost(problem, problem.state.new_zeros(1, 1, problem.actions.dim))
        if task == "lq":
            least = -problem.model.value(problem.state)
            found = {"costs": least.tolist(), "by": ["Riccati equation"] * problem.batch}
            return found | {"still": still.tolist()}
        best = still.clone()
        by = ["doing nothing"] * problem.batch
        for label, (name, options) in SEARCHES.items():
            cost = self._search(problem, name, options)
            for i in torch.nonzero(cost < best).flatten().tolist():
                best[i], by[i] = cost[i], label
        return {"costs": best.tolist(), "by": by, "still": still.tolist()}

    def _search(self, problem: Problem, name: str, options: Options) -> Tensor:
        """Costs (B,) of a long search and of what descent makes of its end."""
        size = {"horizon": problem.horizon, "iterations": self.settings.search, "compile": False}
        rng = torch.Generator().manual_seed(self.settings.seed)
        plan = planner_of(name, options, size).plan(problem, None, rng)
        after = planner_of("gradient", POLISH, size).plan(problem, WarmStart(plan.actions), rng)
        costs = true_cost(problem, plan.actions), true_cost(problem, after.actions)
        return torch.minimum(*(cost.nan_to_num(nan=math.inf) for cost in costs))

    def _sweep(self, task: str, name: str, count: int | None) -> dict[str, Any]:
        """Costs and time with a number of iterations."""
        options = {} if count is None else {"iterations": count}
        try:
            return self._costs(task, name, options)
        except ValueError as error:  # such as a planner that needs a policy
            return {"skipped": str(error)}

    def _budget(self, task: str, name: str, budget: float) -> dict[str, Any]:
        """Costs with as many iterations as a time allows."""
        config = self._planner(name, task, {}).config
        try:
            found = calibrate(
                lambda options: yardstick().measure(lambda: min(self._times(task, name, options))),
                budget,
                config,
            )
            return asdict(found) | self._costs(task, name, found.options)
        except ValueError as error:
            return {"skipped": str(error)}

    def _costs(self, task: str, name: str, options: Options) -> dict[str, Any]:
        """True costs of plans from all starts, and milliseconds of single ones."""
        taken = self._times(task, name, options)
        if 1000.0 * self.settings.cap < taken[0]:
            reason = f"one plan took {taken[0] / 1000:.3g} s, more than cap={self.settings.cap:g}"
            return {"skipped": reason}
        problem, planner = self.problem(task), self._planner(name, task, options)
        costs = true_cost(problem, self._plan(problem, planner))
        return {"costs": costs.tolist(), "ms": taken}

    def _times(self, task: str, name: str, options: Options) -> list[float]:
        """Milliseconds of cold plans from single starts; only one if it is beyond the cap."""
        planner = self._planner(name, task, options)
        problem = self.problem(task, slice(0, 1))
        self._plan(problem, self._planner(name, task, options | {"iterations": 1}))
        taken: list[float] = []
        for i in range(self.settings.repeats):
            row = i % self.settings.starts
            problem = self.problem(task, slice(row, row + 1))
            started = time.perf_counter()
            self._plan(problem, planner)
            taken.append(1000.0 * (time.perf_counter() - started))
            if taken[0] > 1000.0 * self.settings.cap:
                break
        return taken

    def _plan(self, problem: Problem, planner: Planner[Any]) -> Tensor:
        """Actions (B, H, A) of a cold plan."""
        rng = torch.Generator().manual_seed(self.settings.seed)
        return planner.plan(problem, None, rng).actions

    def report(self, rows: Rows) -> Report:
        """By problem: gaps in equal time, gaps over iterations, and how the best was found."""
        settings = self.settings
        protocol = (
            f"Cold plans from the same {settings.starts} starts for every planner, eager, float64. "
            "The gap is the true cost of the planned actions minus the best known, in percent of "
            "what doing nothing costs more than the best known: 0 is the best known plan, 100 is "
            "doing nothing. Means over starts with 95 % intervals over starts; random numbers are "
            "shared by all starts. Time is the median of single plans "
            f"(B = 1, {settings.repeats} of them, after one that does not count). Budgets are kept "
            "by the number of iterations, the largest whose fastest plan fits, laid out for that "
            "number; a planner for which one iteration is too much gets half of its samples or "
            "restarts, and so on, down to 32 and 2. A star: one iteration takes longer than that. "
            "The "
            "best known costs come from the Riccati equation, or are the least that "
            f"{len(SEARCHES)} searches of {settings.search} iterations ({', '.join(SEARCHES)}), "
            "each improved by as much descent, or any measured plan found."
        )
        if self.choice.options:
            protocol += f" Planner options: `{self.choice.options}`."
        sections = []
        for task in settings.problems:
            horizon = settings.horizon or TASKS[task].horizon
            title = f"## {TASKS[task].title[0].upper()}{TASKS[task].title[1:]}, H = {horizon}"
            known = best_known(rows, task)
            sections += [f"{title}\n\n{_origin(rows, task)}", self._budget_table(rows, task, known)]
            sections.append(self._sweep_table(rows, task, known))
        reasons = {
            f"- {row['cell']['planner']} on {row['cell']['problem']}: {row['result']['skipped']}"
            for row in rows
            if "skipped" in row["result"]
        }
        if reasons:
            sections.append("\n".join(["## Skipped", "", *sorted(reasons)]))
        return Report("Truth: plans on exact models", protocol, sections, [])

    def _budget_table(self, rows: Rows, task: str, known: Sequence[float]) -> str:
        lines = []
        for name in self.choice.names:
            line = [name]
            for budget in self.settings.budgets:
                cells = select(rows, kind="budget", problem=task, planner=name, ms=budget)
                line.append(_in_time(cells[0]["result"], known, still(rows, task)))
            lines.append(line)
        heading = ["gap in %, iterations", *(f"{b:g} ms" for b in self.settings.budgets)]
        return table(heading, lines)

    def _sweep_table(self, rows: Rows, task: str, known: Sequence[float]) -> str:
        lines = []
        for name in self.choice.names:
            found = [
                row["result"]
                for count in self.settings.iterations
                for row in select(rows, kind="sweep", problem=task, planner=name, iterations=count)
            ]
            if found:
                cells = [_gap_and_time(result, known, still(rows, task)) for result in found]
                lines.append([name, *cells])
        heading = ["gap in %, ms of a plan", *(f"{n} it." for n in self.settings.iterations)]
        return table(heading, lines)

    def draw(self, rows: Rows, folder: Path) -> None:
        """Gap over the time of a plan, a panel for each problem."""
        panels = []
        for task in self.settings.problems:
            lines: list[Line] = []
            for name in self.choice.names:
                points = []
                for row in select(rows, kind="sweep", problem=task, planner=name):
                    gap = gap_interval(row["result"], best_known(rows, task), still(rows, task))
                    if gap is not None:
                        ms = statistics.median(row["result"]["ms"])
                        low = gap.point if math.isnan(gap.low) else gap.low
                        high = gap.point if math.isnan(gap.high) else gap.high
                        points.append((ms, *(max(g, SMALLEST) for g in (gap.point, low, high))))
                lines += lines_through(name, sorted(points))
            panels.append(Panel(TASKS[task].title, "ms of a plan", "gap, %", lines))
        line_panels(folder / "truth.png", panels, "Gap to the best known cost", log="xy")


def true_cost(problem: Problem, actions: Tensor) -> Tensor:
    """What actions (B, H, A), or (1, 1, A) throughout, cost in the exact model: (B,)."""
    actions = actions.expand(problem.batch, problem.horizon, -1)
    model, objective = problem.model, problem.objective
    return trajectory_cost(model, objective, problem.discount, problem.state, actions)[0]


def best_known(rows: Rows, task: str) -> list[float]:
    """The least cost from each start that anything has found."""
    costs = [row["result"].get("costs") for row in select(rows, problem=task)]
    # The optimum of the Riccati equation is below all others but for rounding.
    return [
        min(c for c in column if c is not None)
        for column in zip(*(c for c in costs if c), strict=True)
    ]


def still(rows: Rows, task: str) -> list[float]:
    """What doing nothing costs from each start."""
    found: list[float] = select(rows, kind="best", problem=task)[0]["result"]["still"]
    return found


def gap_interval(
    result: Mapping[str, Any], known: Sequence[float], idle: Sequence[float]
) -> Interval | None:
    """Mean gap over starts in percent of what doing nothing costs more; None if skipped."""
    costs = result.get("costs")
    if costs is None:
        return None
    if any(c is None for c in costs):  # it was not finite
        return Interval(math.inf, math.nan, math.nan)
    gaps = 100.0 * (np.array(costs) - known) / (np.array(idle) - known)
    return mean_interval(gaps, np.random.default_rng(0))


def _in_time(result: Mapping[str, Any], known: Sequence[float], idle: Sequence[float]) -> str:
    gap = gap_interval(result, known, idle)
    if gap is None:
        return "–"
    options = result["options"]
    made = f", {options['iterations']} it." if "iterations" in options else ""
    made += "".join(f" of {options[size]} {size}" for size in SIZES if size in options)
    return f"{span(gap, '.3g')}{made}{'' if result['fits'] else ' *'}"


def _gap_and_time(result: Mapping[str, Any], known: Sequence[float], idle: Sequence[float]) -> str:
    gap = gap_interval(result, known, idle)
    return "–" if gap is None else f"{gap.point:.3g}, {statistics.median(result['ms']):.3g} ms"


def _origin(rows: Rows, task: str) -> str:
    """How the best known costs were found."""
    found = select(rows, kind="best", problem=task)[0]["result"]
    known = best_known(rows, task)
    by = [
        who if best <= cost * (1 + 1e-12) or task == "lq" else "a measured planner"
        for who, cost, best in zip(found["by"], found["costs"], known, strict=True)
    ]
    counted = ", ".join(f"{by.count(who)} by {who}" for who in dict.fromkeys(by))
    return f"Best known costs of {len(by)} starts: {counted}."
