"""`suite=latency`: milliseconds and model calls of warm plans, by planner, horizon and batch."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from mpc import BoxActions, Planner, Problem, Reward, WarmStart, shift
from mpc.checks import require_at_least, require_positive
from scripts.benchmarks.suite import (
    Cell,
    Report,
    Rows,
    Suite,
    SuiteSettings,
    Target,
    has_option,
    planner_of,
    registered,
    select,
    table,
)
from scripts.plots import Line, Panel, line_panels, lines_through
from scripts.settings import resolve_device
from world_models import LatentModel, ModelConfig

WARM_UP = 3  # plans before the timed ones: a cold one, and warm ones that may compile
ENOUGH_PLANS = 5  # that are always timed
UNCOMPILED = "nothing is compiled"
PARALLEL = {"iterations": 5, "sync_every": 0, "select": "lifted", "restarts": 1}
FASTER = {50: 5.0, 200: 12.0}  # horizon -> how much faster an iteration of GRASP shall be
NEAR, FAR, GROWTH = 25, 200, 3.0  # a parallel plan at FAR shall cost at most so many at NEAR
BATCH, SHARE = 64, 0.5  # so many problems at once shall cost at most this share of single ones


@dataclass(frozen=True)
class LatencySettings(SuiteSettings):
    """Options of `telic benchmark suite=latency`."""

    device: str = "cpu"  # auto, cpu, cuda, mps
    horizons: list[int] = field(default_factory=lambda: [10, 25, 50, 100, 200])  # control steps
    batches: list[int] = field(default_factory=lambda: [1, 8, 64])  # problems planned at once
    compile: list[bool] = field(default_factory=lambda: [False, True])  # eager, compiled
    repeats: int = 30  # timed plans
    enough: float = 20.0  # seconds of timed plans after which 5 are enough
    cap: float = 10.0  # seconds; where one plan takes longer, the planner is skipped
    counts: list[int] = field(default_factory=lambda: [2, 6])  # iterations of plans for the slope
    obs_dim: int = 5  # observation numbers of the random model
    action_dim: int = 1  # its action numbers
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        for option in ("horizons", "batches", "counts"):
            self.require_list(option, 1)
        self.require_list("compile", False)
        require_at_least(self, 1, "repeats", "obs_dim", "action_dim")
        require_positive(self, "enough", "cap")
        if len(self.counts) != 2 or self.counts[0] > self.counts[1]:
            raise ValueError(f"counts must be two ascending numbers, got {self.counts}")


def random_model(settings: LatencySettings) -> LatentModel:
    """A latent model with random weights everywhere; those of zero would give no gradients."""
    torch.manual_seed(settings.seed)
    model = LatentModel(settings.obs_dim, settings.action_dim, settings.model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.trunc_normal_(parameter, std=0.05)
    return model.frozen().to(resolve_device(settings.device))


def random_problem(model: LatentModel, horizon: int, batch: int, seed: int) -> Problem:
    """Planning problems from random observations."""
    rng = torch.Generator().manual_seed(seed)
    obs = torch.randn(batch, model.obs_dim, generator=rng).to(model.bins.device)
    return Problem(model, Reward(), model.encode(obs), horizon, BoxActions(model.action_dim), 0.99)


class WarmPlans:
    """Plans one after another, each from the shifted one before, as an agent makes them."""

    def __init__(self, planner: Planner[Any], problem: Problem, seed: int) -> None:
        self.planner, self.problem = planner, problem
        self.calls = (0, 0)  # of the model by the last plan, and how many were differentiated
        self._rng = torch.Generator(problem.state.device).manual_seed(seed)
        self._warm: WarmStart | None = None

    def once(self) -> float:
        """Make a plan; returns the milliseconds it took."""
        started = time.perf_counter()
        plan = self.planner.plan(self.problem, self._warm, self._rng)
        plan.actions.to("cpu")  # waits for other devices
        taken = 1000.0 * (time.perf_counter() - started)
        with torch.no_grad():
            state = self.problem.model.step(self.problem.state, plan.actions[:, 0])
        self.problem, self._warm = replace(self.problem, state=state), shift(plan.warm_start)
        self.calls = plan.diagnostics.forward_calls, plan.diagnostics.backward_calls
        return taken

    def warm_up(self, cap: float) -> str | None:
        """Make the first plans; the reason to go no further if one takes more than `cap` s."""
        for i in range(WARM_UP):
            seconds = self.once() / 1000.0
            # A compiled planner compiles in a cold plan and in the first warm one.
            if seconds > cap and (i == WARM_UP - 1 or not self.planner.config.compile):
                return f"one plan took {seconds:.3g} s, more than cap={cap:g}"
        return None


def interleave(
    plans: Mapping[str, WarmPlans], repeats: int, enough: float
) -> dict[str, list[float]]:
    """Milliseconds of `repeats` plans each, made in turn, so that noise hits all alike.

    After `enough` seconds a few are enough.
    """
    taken: dict[str, list[float]] = {name: [] for name in plans}
    for i in range(repeats):
        for name, one in plans.items():
            if i < ENOUGH_PLANS or sum(taken[name]) < 1000.0 * enough:
                taken[name].append(one.once())
    return taken


def slope(short: Sequence[float], long: Sequence[float], iterations: int) -> float:
    """Median milliseconds of one iteration; `long` plans have `iterations` more than `short`."""
    # Pairs of neighbours in time. The longer plans may have been stopped earlier.
    return statistics.median((b - a) / iterations for a, b in zip(short, long, strict=False))


def compiles(planner: Planner[Any]) -> bool:
    """Whether a planner that was made with compile=true holds anything compiled."""
    held = (x for v in vars(planner).values() for x in (v if isinstance(v, tuple) else (v,)))
    return any(getattr(x, "__module__", "") == "mpc.compilation" for x in held)


class Latency(Suite):
    """How long plans take."""

    name = "latency"
    summary = "milliseconds and model calls of warm plans on a random latent model"
    Settings = LatencySettings
    FIXED: ClassVar = {
        "planner.horizon": "horizons=10,25",
        "planner.compile": "compile=false,true",
        "planner.iterations": "its default for whole plans, counts=2,6 for the time of one",
        "planner.deadline_ms": "no deadline where time is what is measured",
    }

    @classmethod
    def default_planners(cls) -> list[str]:
        """All that are registered."""
        return registered()

    @cached_property
    def model(self) -> LatentModel:
        """The model of all cells."""
        return random_model(self.settings)

    def facts(self) -> dict[str, Any]:
        """The device."""
        return {"device": str(resolve_device(self.settings.device))}

    def cells(self) -> list[Cell]:
        """Whole plans, single iterations, and how parallel GRASP grows with the horizon."""
        settings, names = self.settings, self.choice.names
        iterative = [name for name in names if has_option(name, "iterations")]
        cells = []
        for compile, horizon in itertools.product(settings.compile, settings.horizons):
            size = {"horizon": horizon, "compile": compile}
            for name in names:
                self._planner(name, **size)  # refuses wrong options before the work begins
                key = {"kind": "plans", "planner": name, **size}
                cells.append(Cell(key, partial(self._plans, name, horizon, compile)))
            for batch in settings.batches if iterative else ():
                key = {"kind": "iterations", "batch": batch, **size}
                measure = partial(self._iterations, iterative, batch, horizon, compile)
                cells.append(Cell(key, measure))
        for compile in settings.compile if "grasp" in names else ():
            key = {"kind": "growth", "compile": compile}
            cells.append(Cell(key, partial(self._growth, compile)))
        return cells

    def _planner(self, name: str, **options: Any) -> Planner[Any]:
        return planner_of(name, {"restarts": 1}, self.choice.options, options)

    def _plans(self, name: str, horizon: int, compile: bool) -> dict[str, Any]:
        """Whole plans at all batch sizes."""
        planner = self._planner(name, horizon=horizon, compile=compile)
        if compile and not compiles(planner):
            return {str(batch): {"skipped": UNCOMPILED} for batch in self.settings.batches}
        return self._measure({str(batch): (planner, batch) for batch in self.settings.batches})

    def _iterations(
        self, names: Sequence[str], batch: int, horizon: int, compile: bool
    ) -> dict[str, Any]:
        """Plans of few (0) and of more (1) iterations by all planners, GRASP's without sync."""
        wanted = {}
        for name in names:
            for which, count in enumerate(self.settings.counts):
                options = {"horizon": horizon, "iterations": count, "sync_every": 0}
                planner = self._planner(name, **options, compile=compile)
                # What is not compiled is measured in its eager cell, but for GRASP's rival.
                if not compile or compiles(planner) or name == "gradient":
                    wanted[f"{name} {which}"] = planner, batch
        return self._measure(wanted)

    def _growth(self, compile: bool) -> dict[str, Any]:
        """Whole plans of GRASP without sequential calls at all horizons."""
        wanted = {}
        for horizon in self.settings.horizons:
            options = PARALLEL | {"horizon": horizon, "compile": compile}
            wanted[str(horizon)] = self._planner("grasp", **options), 1
        return self._measure(wanted)

    def _measure(self, wanted: Mapping[str, tuple[Planner[Any], int]]) -> dict[str, Any]:
        """By name: milliseconds of plans and model calls, or why there are none."""
        settings = self.settings
        found: dict[str, Any] = {}
        plans = {}
        torch._dynamo.reset()
        # Code is compiled for every size; beyond 8 of them torch would silently run eager.
        with torch._dynamo.config.patch(recompile_limit=256):
            for name, (planner, batch) in wanted.items():
                problem = random_problem(self.model, planner.config.horizon, batch, settings.seed)
                one = WarmPlans(planner, problem, settings.seed)
                try:
                    reason = one.warm_up(settings.cap)
                except ValueError as error:  # such as a planner that needs a goal
                    reason = str(error)
                if reason is None:
                    plans[name] = one
                else:
                    found[name] = {"skipped": reason}
            for name, taken in interleave(plans, settings.repeats, settings.enough).items():
                forward, backward = plans[name].calls
                found[name] = {"ms": taken, "forward": forward, "backward": backward}
        return found

    def report(self, rows: Rows) -> Report:
        """Tables of whole plans, of iterations, of model calls and of GRASP's growth."""
        settings = self.settings
        protocol = (
            "Warm plans in a loop, each from the shifted one before, on a latent model of random "
            f"weights (latent {settings.model.latent_dim}, hidden {settings.model.hidden_dim}, "
            f"{settings.obs_dim} observation and {settings.action_dim} action numbers) on "
            f"{self.facts()['device']}, planners with their defaults but one restart"
            f"{given(self.choice.options)}. {settings.repeats} timed plans ({ENOUGH_PLANS} or more "
            f"where they take over {settings.enough:g} s) after {WARM_UP} that do not count; what "
            "is compared is measured in turn in one process. An iteration is the slope between "
            f"plans of {settings.counts[0]} and of {settings.counts[1]}, GRASP's without sync."
        )
        sections = []
        for compile in settings.compile:
            for batch in settings.batches:
                sections.append(self._plan_table(rows, batch, compile))
                sections.append(self._iteration_table(rows, batch, compile))
        sections.append(self._growth_table(rows))
        sections.append(self._call_table(rows))
        sections.append(left_out(rows))
        found = targets(rows, settings.counts)
        return Report("Latency of plans", protocol, [s for s in sections if s], found)

    def _plan_table(self, rows: Rows, batch: int, compile: bool) -> str:
        lines = []
        for name in self.choice.names:
            numbers = [plan_ms(rows, name, h, batch, compile) for h in self.settings.horizons]
            if any(numbers):
                lines.append([name, *(_summary(ms) for ms in numbers)])
        title = f"## Whole plans, B = {batch}, {_mode(compile)}: ms, median (95th)"
        return self._by_horizon(title, lines)

    def _iteration_table(self, rows: Rows, batch: int, compile: bool) -> str:
        lines = []
        for name in self.choice.names:
            numbers = [
                iteration_ms(rows, name, h, batch, compile, self.settings.counts)
                for h in self.settings.horizons
            ]
            if any(n is not None for n in numbers):
                lines.append([name, *("–" if n is None else f"{n:.2f}" for n in numbers)])
        title = f"## One iteration, B = {batch}, {_mode(compile)}: ms"
        return self._by_horizon(title, lines)

    def _growth_table(self, rows: Rows) -> str:
        lines = [
            [
                _mode(row["cell"]["compile"]),
                *(_summary(row["result"][str(h)].get("ms")) for h in self.settings.horizons),
            ]
            for row in select(rows, kind="growth")
        ]
        options = " ".join(f"{key}={value}" for key, value in PARALLEL.items())
        return self._by_horizon(f"## GRASP, B = 1, `{options}`: ms, median (95th)", lines)

    def _call_table(self, rows: Rows) -> str:
        lines = []
        for name in self.choice.names:
            calls = []
            for horizon in self.settings.horizons:
                found = select(rows, kind="plans", planner=name, horizon=horizon)
                counted = [r for row in found for r in row["result"].values() if "ms" in r]
                calls += [f"{r['forward']} ({r['backward']})" for r in counted[:1]] or ["–"]
            lines.append([name, *calls])
        return self._by_horizon("## Model calls of a whole plan (differentiated)", lines)

    def _by_horizon(self, title: str, lines: Sequence[Sequence[str]]) -> str:
        heading = ["", *(f"H = {h}" for h in self.settings.horizons)]
        return f"{title}\n\n{table(heading, lines)}" if lines else ""

    def draw(self, rows: Rows, folder: Path) -> None:
        """Whole plans and iterations over the horizon, a panel for each batch size."""
        horizons, counts = self.settings.horizons, self.settings.counts
        for stem, what in (("latency", "plan"), ("latency-iterations", "iteration")):
            panels = []
            for batch in self.settings.batches:
                lines: list[Line] = []
                for compile, name in itertools.product(self.settings.compile, self.choice.names):
                    points = []
                    for h in horizons:
                        if what == "plan":
                            taken = plan_ms(rows, name, h, batch, compile)
                            ms = statistics.median(taken) if taken else None
                        else:
                            ms = iteration_ms(rows, name, h, batch, compile, counts)
                        if ms is not None and ms > 0:
                            points.append((h, ms))
                    label = f"{name}, compiled" if compile else name
                    lines += lines_through(label, points)
                panels.append(Panel(f"B = {batch}", "horizon H", f"ms per {what}", lines))
            line_panels(folder / f"{stem}.png", panels, f"Latency of one {what}", log="xy")


def given(options: Mapping[str, Any]) -> str:
    """Planner options of the command line, for a sentence."""
    words = " ".join(f"planner.{key}={value}" for key, value in options.items())
    return f" and `{words}`" if words else ""


def plan_ms(rows: Rows, name: str, horizon: int, batch: int, compile: bool) -> list[float] | None:
    """Milliseconds of whole plans, None where they were skipped."""
    for row in select(rows, kind="plans", planner=name, horizon=horizon, compile=compile):
        found: list[float] | None = row["result"].get(str(batch), {}).get("ms")
        return found
    return None


def iteration_ms(
    rows: Rows, name: str, horizon: int, batch: int, compile: bool, counts: Sequence[int]
) -> float | None:
    """Milliseconds of one iteration, None where that was not measured."""
    for row in select(rows, kind="iterations", horizon=horizon, batch=batch, compile=compile):
        short, long = (row["result"].get(f"{name} {i}", {}).get("ms") for i in (0, 1))
        if short and long:
            return slope(short, long, counts[1] - counts[0])
    return None


def left_out(rows: Rows) -> str:
    """What was left out, and why; that nothing is compiled at some size is no news."""
    unit = {"plans": "B = ", "growth": "H = ", "iterations": ""}
    lines = [
        f"- {', '.join(f'{k}={v}' for k, v in row['cell'].items())}, "
        f"{unit[row['cell']['kind']]}{name}: {found['skipped']}"
        for row in rows
        for name, found in row["result"].items()
        if found.get("skipped", UNCOMPILED) != UNCOMPILED
    ]
    return "\n".join(["## Skipped", "", *lines]) if lines else ""


def targets(rows: Rows, counts: Sequence[int]) -> list[Target]:
    """What shall hold, with what was measured."""
    found = []
    for compile in sorted({bool(row["cell"]["compile"]) for row in rows}):
        found += [_faster(rows, horizon, compile, counts) for horizon in FASTER]
        found.append(_growth_target(rows, compile))
        for name in sorted({row["cell"]["planner"] for row in select(rows, kind="plans")}):
            target = _batching(rows, name, compile)
            # Most planners compile nothing at most horizons.
            found += [target] if target.met is not None or not compile else []
    return found


def _faster(rows: Rows, horizon: int, compile: bool, counts: Sequence[int]) -> Target:
    grasp, gradient = (
        iteration_ms(rows, name, horizon, 1, compile, counts) for name in ("grasp", "gradient")
    )
    text = (
        f"{_mode(compile)}: an iteration of grasp at B = 1, H = {horizon} is at least "
        f"{FASTER[horizon]:g} times as fast as one of gradient"
    )
    if grasp is None or gradient is None:
        return Target(text, "–", None)
    # A slope of a few noisy plans can be negative.
    if grasp <= 0:
        return Target(text, f"{grasp:.3f} ms is no time", None)
    measured = f"{gradient / grasp:.1f} times ({grasp:.2f} and {gradient:.2f} ms)"
    return Target(text, measured, gradient / grasp >= FASTER[horizon])


def _growth_target(rows: Rows, compile: bool) -> Target:
    text = (
        f"{_mode(compile)}: a warm plan of grasp without sequential calls costs at H = {FAR} at "
        f"most {GROWTH:g} times what it costs at H = {NEAR}"
    )
    for row in select(rows, kind="growth", compile=compile):
        near, far = (row["result"].get(str(h), {}).get("ms") for h in (NEAR, FAR))
        if near and far:
            low, high = statistics.median(near), statistics.median(far)
            measured = f"{high / low:.2f} times ({low:.2f} and {high:.2f} ms)"
            return Target(text, measured, high <= GROWTH * low)
    return Target(text, "–", None)


def _batching(rows: Rows, name: str, compile: bool) -> Target:
    """At the horizon where batching helps least."""
    text = (
        f"{_mode(compile)}: {BATCH} problems at once cost {name} at most {SHARE:g} of {BATCH} "
        "single ones, at every horizon"
    )
    shares = []
    for row in select(rows, kind="plans", planner=name, compile=compile):
        one, many = (row["result"].get(str(b), {}).get("ms") for b in (1, BATCH))
        if one and many:
            share = statistics.median(many) / (BATCH * statistics.median(one))
            shares.append((share, row["cell"]["horizon"]))
    if not shares:
        return Target(text, "–", None)
    worst, horizon = max(shares)
    return Target(text, f"{worst:.3f} at H = {horizon}, the worst", worst <= SHARE)


def _mode(compile: bool) -> str:
    return "compiled" if compile else "eager"


def _summary(ms: Sequence[float] | None) -> str:
    if not ms:
        return "–"
    return f"{np.median(ms):.3g} ({np.quantile(ms, 0.95):.3g})"
