"""`suite=horizon`: return of trained agents over the horizon, at equal time per decision."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from agents import Protocol
from mpc.checks import require_at_least
from scripts.benchmarks.calibration import SIZES, calibrate, yardstick
from scripts.benchmarks.suite import (
    Cell,
    Report,
    Rows,
    Suite,
    Target,
    TrainedSettings,
    registered,
    select,
    skipped,
    table,
)
from scripts.evaluate import (
    EvaluateSettings,
    make_protocol,
    planner_options,
    run_protocol,
    time_decisions,
)
from scripts.loading import CHANGES, MORE, LoadedRun, PlannerChoice, open_run
from scripts.options import Options
from scripts.plots import Line, Panel, line_panels, lines_through
from scripts.statistics import mean_interval, paired_difference, span

OURS = "grasp"
KEPT, LONGEST = 0.95, 50  # share of its best return that GRASP shall keep up to this horizon
LONG = 25  # horizon from which it shall beat all others
BEHIND = 0.03  # share by which it may be behind another planner at that one's best horizon


@dataclass(frozen=True)
class HorizonSettings(TrainedSettings):
    """Options of `telic benchmark suite=horizon`."""

    seed: int = 30_000_000  # of the first episode; far from those of trainings and evaluations
    horizons: list[int] = field(default_factory=lambda: [3, 6, 12, 25, 50])  # control steps
    budgets: list[float] = field(default_factory=lambda: [10.0, 40.0])  # ms of a decision
    episodes: int = 10  # per cell, the same starts for all planners
    decisions: int = 30  # single decisions timed with what fits
    workers: int | None = None  # processes that run episodes; null: as many as there are cores

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.require_list("horizons", 1)
        require_at_least(self, 1, "episodes", "decisions")
        if self.workers is not None:
            require_at_least(self, 1, "workers")
        if not self.budgets or min(self.budgets) <= 0:
            raise ValueError(f"budgets must be above 0 ms, got {self.budgets}")


class Horizon(Suite):
    """How well agents do with longer plans in the same time."""

    name = "horizon"
    summary = "return of trained agents over the horizon, at equal time per decision"
    Settings = HorizonSettings
    GROUPS = CHANGES
    MORE = MORE
    WITHOUT = ("out", "workers")
    FIXED: ClassVar = {
        "planner.horizon": "horizons=3,12",
        "planner.iterations": "budgets=10,40: as many as fit",
        "planner.deadline_ms": "budgets=10,40",
    }

    def __init__(self, settings: HorizonSettings, choice: PlannerChoice, changes: Options) -> None:
        super().__init__(settings, choice, changes)
        self.loaded = {run: open_run(run, None, settings.device, changes) for run in settings.runs}

    @property
    def workers(self) -> int:
        """Those of the settings, or as many as cores allow."""
        return self.settings.workers or max(1, (os.cpu_count() or 1) // self.settings.threads)

    @classmethod
    def default_planners(cls) -> list[str]:
        """All that are registered but those that know nothing."""
        return [name for name in registered() if name not in ("zero", "random")]

    def facts(self) -> dict[str, Any]:
        """The trained models and what they are evaluated on."""
        return {
            run: {
                "frames": one.trained.frames,
                "self_test": one.trained.checkpoint.meta["self_test"],
                "device": str(one.device),
                "protocol": self._protocol(one).hash,
                "planner": one.options.get("planner", {}),
            }
            for run, one in self.loaded.items()
        }

    def cells(self) -> list[Cell]:
        """Every planner at every horizon and budget on every run: first calibrated, then run."""
        settings, calibrations, episodes = self.settings, [], []
        for run, loaded in self.loaded.items():
            for name in self.choice.names:  # refuses wrong options before the work begins
                loaded.make_agent(name, self.choice.options | {"horizon": min(settings.horizons)})
            for budget in settings.budgets:
                for horizon in settings.horizons:
                    for name in self.choice.names:
                        key = {"run": run, "planner": name, "horizon": horizon, "ms": budget}
                        first = Cell(
                            {"kind": "calibration", **key},
                            partial(self._calibrate, run, name, horizon, budget),
                        )
                        calibrations.append(first)
                        then = partial(self._run, run, name)
                        episodes.append(Cell({"kind": "return", **key}, then, first.key, False))
        return calibrations + episodes

    def _protocol(self, loaded: LoadedRun) -> Protocol:
        settings = self.settings
        same = EvaluateSettings(run="", episodes=settings.episodes, seed=settings.seed)
        return make_protocol(loaded, same)

    def _calibrate(self, run: str, name: str, horizon: int, budget: float) -> dict[str, Any]:
        """What fits the budget, by single decisions, and what those take then."""
        settings, loaded = self.settings, self.loaded[run]
        options = self.choice.without_deadline | {"horizon": horizon}
        protocol, device = self._protocol(loaded), str(loaded.device)
        config = loaded.make_agent(name, options).planner.config
        with closing(loaded.make_env()) as env:

            def decision(found: Options) -> float:
                agent = loaded.make_agent(name, options | found)

                def fastest() -> float:
                    seconds, _ = time_decisions(agent, env, protocol, settings.trials, device)
                    return 1000.0 * min(seconds)

                return yardstick().measure(fastest)

            try:
                found = calibrate(decision, budget, config, settings.most)
            except ValueError as error:  # such as a planner that needs a goal
                return {"skipped": str(error)}
            agent = loaded.make_agent(name, options | found.options)
            seconds, calls = time_decisions(agent, env, protocol, settings.decisions, device)
        # What else runs on a machine only ever adds to a time, so these count too.
        least = min(found.milliseconds, 1000.0 * min(seconds))
        found = replace(found, milliseconds=least, fits=least <= budget)
        steps = min(math.ceil(least / budget), horizon)
        return {
            "calibration": asdict(found),
            "replan_every": max(steps, loaded.settings.agent.replan_every),
            "options": planner_options(agent),
            "latency_ms": [1000.0 * s for s in seconds],
            "forward_calls": calls[0],
            "backward_calls": calls[1],
        }

    def _run(self, run: str, name: str, calibrated: Mapping[str, Any]) -> dict[str, Any]:
        """The episodes, with what fits."""
        if "skipped" in calibrated:
            return dict(calibrated)
        loaded = self.loaded[run]
        planner = loaded.make_planner(name, calibrated["options"])
        config = replace(loaded.settings.agent, replan_every=calibrated["replan_every"])
        agent = loaded.trained.agent(planner, config)
        records = run_protocol(loaded, agent, self._protocol(loaded))
        fallbacks = max(record.fallbacks for record in records)
        return {
            **calibrated,
            "returns": [record.score for record in records],
            "fallbacks": fallbacks,
        }

    def report(self, rows: Rows) -> Report:
        """By run and budget: returns, differences to GRASP, what was calibrated; the targets."""
        settings, rows = self.settings, select(rows, kind="return")
        protocol = (
            f"{settings.episodes} episodes from the same starts for every planner, run side by "
            "side: a batch plans exactly as single problems do. For each planner, horizon and "
            "budget the number of iterations is the largest whose fastest single decision "
            f"(B = 1, {settings.trials} along an episode) takes at most that long, up to "
            f"{settings.most}, measured before any episode, with nothing beside it and while a "
            "yardstick says that the machine is at full speed; schedules are laid out for that "
            "number and there is no deadline, so returns repeat exactly. A planner for which one "
            "iteration is too much gets half of its samples or restarts, and so on, down to 32 and "
            "2. A star: that still takes longer than the budget, and so does the fastest of "
            f"{settings.decisions} more decisions. As in real time, such a planner "
            "plans again only after as many control steps as its plan takes budgets, rounded up, "
            "and executes its last plan meanwhile. Other options are "
            "those of the training for the planner that trained, else the defaults. Intervals at "
            "95 % over starts of ONE trained model each."
        )
        if self.choice.options:
            protocol += f" Planner options: `{self.choice.options}`."
        sections, targets = [], []
        for run, loaded in self.loaded.items():
            frames = f"{loaded.trained.frames} env frames"
            found = f"protocol `{self._protocol(loaded).hash}`"
            sections.append(f"## {loaded.spec.name}: {run}, {frames}, {found}")
            for budget in settings.budgets:
                chosen = select(rows, run=run, ms=budget)
                sections += list(self._tables(chosen, f"{budget:g} ms per decision"))
                label = f"{loaded.folder.name}, {budget:g} ms"
                targets += horizon_targets(label, returns(chosen), late(chosen))
        sections += skipped(rows)
        return Report("Return over the horizon", protocol, sections, targets)

    def _tables(self, rows: Rows, title: str) -> Iterator[str]:
        """Returns, differences to GRASP, and what plans were made of."""
        found, slow = returns(rows), late(rows)
        heading = ["", *(f"H = {h}" for h in self.settings.horizons)]
        scores, gaps, sizes = [], [], []
        for name in self.choice.names:
            line, gap_line, size_line = [name], [name], [name]
            for horizon in self.settings.horizons:
                at = name, horizon
                if at not in found:
                    for one in (line, gap_line, size_line):
                        one.append("–")
                    continue
                star = " *" if at in slow else ""
                line.append(span(mean_interval(found[at], np.random.default_rng(0))) + star)
                ours = found.get((OURS, horizon))
                gap_line.append("–" if ours is None else _difference(found[at], ours))
                size_line.append(_size(select(rows, planner=name, horizon=horizon)[0]["result"]))
            scores.append(line)
            gaps += [gap_line] if name != OURS else []
            sizes.append(size_line)
        yield f"### {title}: return\n\n{table(heading, scores)}"
        if OURS in self.choice.names and gaps:
            yield f"### {title}: minus {OURS}, paired by start\n\n{table(heading, gaps)}"
        title += ": iterations, model calls (differentiated), ms (95th)"
        yield f"### {title}\n\n{table(heading, sizes)}"

    def draw(self, rows: Rows, folder: Path) -> None:
        """Return over the horizon, a picture for each run with a panel for each budget."""
        for number, (run, loaded) in enumerate(self.loaded.items(), 1):
            panels = []
            for budget in self.settings.budgets:
                found = returns(select(rows, run=run, ms=budget))
                lines: list[Line] = []
                for name in self.choice.names:
                    points = []
                    for horizon in self.settings.horizons:
                        if (name, horizon) in found:
                            interval = mean_interval(found[name, horizon], np.random.default_rng(0))
                            points.append((horizon, interval.point, interval.low, interval.high))
                    lines += lines_through(name, points)
                panels.append(Panel(f"{budget:g} ms per decision", "horizon H", "return", lines))
            path = folder / f"horizon-{number}-{loaded.folder.name}.png"
            line_panels(path, panels, f"{loaded.spec.name}: {loaded.folder.name}", log="x")


Returns = Mapping[tuple[str, int], Sequence[float]]  # by planner and horizon, one per start


def returns(rows: Rows) -> Returns:
    """The returns of one run and budget."""
    return {
        (row["cell"]["planner"], row["cell"]["horizon"]): row["result"]["returns"]
        for row in rows
        if "returns" in row["result"]
    }


def late(rows: Rows) -> set[tuple[str, int]]:
    """Which planners take longer than the budget at which horizons."""
    return {
        (row["cell"]["planner"], row["cell"]["horizon"])
        for row in rows
        if not row["result"].get("calibration", {"fits": True})["fits"]
    }


def horizon_targets(label: str, found: Returns, slow: set[tuple[str, int]]) -> list[Target]:
    """What shall hold for GRASP on one run and budget, with what was measured.

    Nothing is met where GRASP itself takes longer than the budget.
    """
    texts = (
        f"{label}: {OURS} keeps {100 * KEPT:g} % of its best return at every horizon to {LONGEST}",
        f"{label}: {OURS} beats every other planner significantly at H >= {LONG}",
        f"{label}: {OURS} is nowhere more than {100 * BEHIND:g} % behind the best other planner "
        "at that one's best horizon",
    )
    mean = {at: float(np.mean(values)) for at, values in found.items()}
    ours = {h: value for (name, h), value in mean.items() if name == OURS}
    others = {at: value for at, value in mean.items() if at[0] != OURS}
    cheats = sorted(h for name, h in slow if name == OURS)
    note = f"; over the budget at H = {', '.join(map(str, cheats))}" if cheats else ""
    kept = {h: value for h, value in ours.items() if h <= LONGEST}
    targets = []
    if len(kept) > 1:
        best, worst = max(kept, key=kept.__getitem__), min(kept, key=kept.__getitem__)
        measured = f"{kept[worst]:.1f} at H = {worst} against {kept[best]:.1f} at H = {best}{note}"
        met = kept[worst] >= kept[best] - (1 - KEPT) * abs(kept[best]) and not cheats
        targets.append(Target(texts[0], measured, met))
    else:
        targets.append(Target(texts[0], "–", None))
    gaps = {
        at: paired_difference(found[OURS, at[1]], found[at], np.random.default_rng(0))
        for at in others
        if at[1] >= LONG and at[1] in ours
    }
    if gaps:
        lost = [
            f"{name} at H = {h} by {span(gap, '+.1f')}"
            for (name, h), gap in gaps.items()
            if not gap.low > 0
        ]
        measured = f"{len(gaps) - len(lost)} of {len(gaps)} comparisons"
        measured += f", not {'; '.join(lost)}" * bool(lost) + note
        long = any(h >= LONG for h in cheats)
        targets.append(Target(texts[1], measured, not lost and not long))
    else:
        targets.append(Target(texts[1], "–", None))
    if ours and others:
        rival = max(others, key=others.__getitem__)
        worst = min(ours, key=ours.__getitem__)
        measured = (
            f"{ours[worst]:.1f} at H = {worst}, {max(ours.values()):.1f} at best, against "
            f"{others[rival]:.1f} of {rival[0]} at H = {rival[1]}{note}"
        )
        met = ours[worst] >= others[rival] - BEHIND * abs(others[rival]) and not cheats
        targets.append(Target(texts[2], measured, met))
    else:
        targets.append(Target(texts[2], "–", None))
    return targets


def _difference(values: Sequence[float], ours: Sequence[float]) -> str:
    return span(paired_difference(values, ours, np.random.default_rng(0)), "+.1f")


def _size(result: Mapping[str, Any]) -> str:
    """Iterations, samples, model calls and time of a plan."""
    options, ms = result["calibration"]["options"], result["latency_ms"]
    calls = f"{result['forward_calls']} ({result['backward_calls']}) calls"
    made = [f"{options['iterations']} it."] if "iterations" in options else []
    made += [f"{options[size]} {size}" for size in SIZES if size in options]
    if result["replan_every"] > 1:
        made.append(f"every {result['replan_every']} steps")
    return ", ".join([*made, calls, f"{np.median(ms):.1f} ({np.quantile(ms, 0.95):.1f})"])
