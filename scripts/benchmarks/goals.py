"""`suite=goals`: success of trained goal-conditioned models, at equal time per decision."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING

from agents import GoalProtocol, Memory, MPCAgent, run_goal_episodes
from mpc import Planner, trajectory_cost
from mpc.checks import require_at_least
from scripts.benchmarks.calibration import calibrate, yardstick
from scripts.benchmarks.suite import (
    Cell,
    Report,
    Rows,
    Suite,
    Target,
    TrainedSettings,
    select,
    skipped,
    table,
)
from scripts.evaluate import time_plans
from scripts.goal_tasks import draw_goals, goal_agent, goal_task
from scripts.loading import CHANGES, MORE, LoadedGoalRun, PlannerChoice, goal_rows, open_goal_run
from scripts.options import Options, split_groups, stack, word
from scripts.plots import Line, Panel, line_panels, lines_through
from scripts.run_results import flat
from scripts.statistics import Interval, wilson
from scripts.usage import usage_errors

OURS = "grasp"
Starts = Sequence[Options | None]  # what environments are reset with
BATCH = 25  # problems that are planned side by side
# Least success in closed loop, by environment: what published or earlier work makes a goal of.
CLOSED = {
    "goal/pointmaze-medium": 0.95,
    "goal/pointmaze-large": 0.85,
    "goal/two-rooms": 0.95,
    "goal/reacher": 0.85,
}
OPEN = {"goal/pointmaze-umaze": (80, 0.95)}  # horizon, least success in open loop
LADDER = (15.0, 30.0, 60.0, 125.0, 250.0, 500.0, 1000.0)  # ms: each about twice the last
LEAD = {"goal/push-t": 0.10}  # by which GRASP shall be above the others in closed loop
RIVALS = ("cem", "gradient", "latco")  # the others that are meant
ABLATIONS: dict[str, Options] = {  # what each changes of the default options
    "as it is": {},
    "latent distance": {"goal": {"distance": "latent"}},
    "warm actions alone": {"agent": {"warm_start": "actions"}},
    "cold starts": {"agent": {"warm_start": "nothing"}},
    "full gradient": {"planner": {"stop_gradient": False}},
    "no noise": {"planner": {"noise": 0.0}},
    "lookahead of 1": {"planner": {"lookahead": 1}},
    "chosen by a lookahead": {"planner": {"select": "lookahead"}},
    "sync by gradient": {"planner": {"sync_every": 1}},
    "sync by CEM": {"planner": {"sync_every": 1, "sync_planner": "cem"}},
}


@dataclass(frozen=True)
class GoalsSettings(TrainedSettings):
    """Options of `telic benchmark suite=goals`."""

    seed: int = 40_000_000  # of the first pair of start and goal; far from those of trainings
    runs: list[str] = MISSING  # run folders of trainings with train.objective=goal
    pairs: int = 100  # starts and goals per cell, the same for all planners
    closed: list[float] = field(default_factory=lambda: [50.0])  # ms of a decision, closed loop
    horizons: list[int] = field(default_factory=lambda: [8])  # control steps, closed loop
    open: list[float] = field(default_factory=lambda: list(LADDER))  # ms of a plan, open loop
    spans: list[int] = field(default_factory=lambda: [20, 40, 80])  # control steps, open loop
    spans_ahead: bool = False  # open loop: recorded goals as far ahead as the plan is long
    trials: int = 5  # single decisions timed for each number of iterations that is tried
    ablations: bool = False  # whether grasp is also measured, in closed loop, without its parts

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        require_at_least(self, 1, "pairs")
        for option in ("horizons", "spans"):
            if getattr(self, option):
                self.require_list(option, 1)
        if self.spans_ahead and not (self.open and self.spans):
            raise ValueError("open and spans must not be empty for spans_ahead=true")
        if self.ablations and not self.closed:
            raise ValueError("closed must name a budget for ablations=true, which is closed loop")
        if not self.closed and not self.open:
            raise ValueError("closed or open must name a budget, in milliseconds per decision")
        for option in ("closed", "open"):
            if any(ms <= 0 for ms in getattr(self, option)):
                raise ValueError(f"{option} must be above 0 ms, got {getattr(self, option)}")


class Task(NamedTuple):
    """A trained model, and the pairs of start and goal that it is asked for."""

    loaded: LoadedGoalRun
    starts: Starts


class Goals(Suite):
    """How many goals are reached, open loop and closed loop."""

    name = "goals"
    summary = "success of models trained for goals, at equal time per decision"
    Settings = GoalsSettings
    GROUPS = CHANGES
    MORE = (*MORE, *goal_rows())
    FIXED: ClassVar = {
        "planner.horizon": "horizons=8 (closed loop) and spans=20,80 (open loop)",
        "planner.iterations": "closed=50 and open=60,250: as many as fit",
        "planner.deadline_ms": "closed=50 and open=60,250",
    }

    def __init__(self, settings: GoalsSettings, choice: PlannerChoice, changes: Options) -> None:
        super().__init__(settings, choice, changes)
        self.tasks = {run: self._task(run, {}) for run in settings.runs}
        spans = settings.spans if settings.spans_ahead else []
        self.ahead = {  # by run and span
            (run, span): self._task(run, {"goal": {"source": "ahead", "ahead": span}})
            for run, span in product(settings.runs, spans)
        }

    def _task(self, run: str, changes: Options) -> Task:
        settings, loaded = self.settings, self.opened(run, changes)
        goal = loaded.settings.goal
        with usage_errors():
            starts = draw_goals(goal, loaded.held_out(), settings.pairs, settings.seed)
        return Task(loaded, starts)

    def opened(self, run: str, changes: Options) -> LoadedGoalRun:
        """A run with `changes` to its options, beside those of the command line."""
        own, _ = split_groups(changes, CHANGES)
        return open_goal_run(run, None, self.settings.device, stack(self.changes, own))

    @classmethod
    def default_planners(cls) -> list[str]:
        """Those that are compared in the literature, and two that do not search."""
        return [OURS, "latco", "gradient", "cem", "mppi", "policy", "random"]

    def facts(self) -> dict[str, Any]:
        """The trained models and what they are evaluated on."""
        return {
            run: {
                "updates": one.trained.updates,
                "data": one.trained.data["hash"],
                "self_test": one.trained.checkpoint.meta["self_test"],
                "device": str(one.device),
                "protocol": self._protocol(one).hash,
                "planner": one.options.get("planner", {}),
            }
            for run, (one, _) in self.tasks.items()
        }

    def _protocol(self, loaded: LoadedGoalRun) -> GoalProtocol:
        spec, settings = loaded.spec, self.settings
        assert spec.episode_steps is not None
        return GoalProtocol(
            spec.name,
            spec.frames,
            spec.episode_steps,
            tuple(settings.seed + i for i in range(settings.pairs)),
            asdict(loaded.settings.goal),
            loaded.settings.agent.replan_every,
        )

    def cells(self) -> list[Cell]:
        """Every planner at every horizon and budget on every run."""
        settings, cells = self.settings, []
        kinds = (
            ("closed", settings.closed, settings.horizons),
            ("open", settings.open, settings.spans),
        )
        for run, (kind, budgets, horizons) in product(self.tasks, kinds):
            for budget, horizon, name in product(budgets, horizons, self.choice.names):
                key = {"kind": kind, "run": run, "planner": name, "horizon": horizon, "ms": budget}
                task = self.tasks[run]
                if kind == "open":
                    task = self.ahead.get((run, horizon), task)
                cells.append(self._cell(key, task, {}))
        if settings.ablations:
            for run, (change, options) in product(self.tasks, ABLATIONS.items()):
                task = Task(self.opened(run, options), self.tasks[run].starts)
                for budget, horizon in product(settings.closed, settings.horizons):
                    key = {"kind": "ablation", "run": run, "planner": OURS}
                    key |= {"horizon": horizon, "ms": budget, "change": change}
                    cells.append(self._cell(key, task, options.get("planner", {})))
        return cells

    def _cell(self, key: dict[str, Any], task: Task, options: Options) -> Cell:
        options = {**self.choice.without_deadline, "horizon": key["horizon"], **options}
        # Refuses wrong options before the work begins.
        task.loaded.make_planner(key["planner"], options)
        return Cell(key, partial(self._measure, key, task, options))

    def _measure(self, key: Mapping[str, Any], task: Task, options: Options) -> dict[str, Any]:
        """Calibrate on single decisions, then run the episodes with what fits."""
        settings, name, (loaded, starts) = self.settings, key["planner"], task
        span = key["horizon"] if key["kind"] == "open" else None

        def decisions(found: Options) -> list[float]:
            planner = loaded.make_planner(name, options | found)
            return self._decisions(loaded, planner, starts[0], span)

        def decision(found: Options) -> float:
            return yardstick().measure(lambda: min(decisions(found)))

        try:
            found = calibrate(
                decision, key["ms"], loaded.make_planner(name, options).config, settings.most
            )
        except ValueError as error:  # such as a planner that needs a goal to end in
            return {"skipped": str(error)}
        milliseconds = decisions(found.options)
        planner = loaded.make_planner(name, options | found.options)
        protocol = self._protocol(loaded)
        reached: list[int | None] = []
        promised: list[bool] = []
        for first in range(0, settings.pairs, BATCH):
            part = slice(first, first + BATCH)
            one, told = self._episodes(loaded, planner, protocol.seeds[part], starts[part], span)
            reached, promised = reached + one, promised + told
        return {
            "calibration": asdict(found),
            "reached": reached,
            "promised": promised,
            "latency_ms": milliseconds,
        }

    def _decisions(
        self,
        loaded: LoadedGoalRun,
        planner: Planner[Any],
        start: Mapping[str, Any] | None,
        span: int | None,
    ) -> list[float]:
        """Milliseconds of single decisions: warm ones along an episode.

        With `span` cold ones, of plans that are executed for so many control steps. The first
        decision is cold in every cache and does not count.
        """
        with closing(loaded.make_env()) as env:
            given = None if start is None else dict(start)
            obs, info = env.reset(seed=self.settings.seed, options=given)
            agent = self._agent(loaded, planner, info["goal"][None], span)
            count, device = self.settings.trials + 1, str(loaded.device)
            seconds, _ = time_plans(agent, env, obs, 0, count, device, cold=span is not None)
        return [1000.0 * one for one in seconds[1:]]

    def _agent(
        self,
        loaded: LoadedGoalRun,
        planner: Planner[Any],
        goals: NDArray[np.float32],
        span: int | None,
    ) -> MPCAgent:
        """One that replans as the run's options say, or after `span` control steps."""
        settings = loaded.settings
        config = replace(settings.agent, replan_every=span or settings.agent.replan_every)
        return goal_agent(loaded.trained.model, planner, config, settings.goal, goals)

    def _episodes(
        self,
        loaded: LoadedGoalRun,
        planner: Planner[Any],
        seeds: Sequence[int],
        starts: Starts,
        span: int | None,
    ) -> tuple[list[int | None], list[bool]]:
        """When goals were reached, and of plans of `span` whether the model said they would be.

        Closed loop if `span` is None.
        """
        spec = loaded.spec
        envs = [loaded.make_env() for _ in seeds]
        promised: list[bool] = []

        def make(goals: NDArray[np.float32]) -> MPCAgent:
            return self._agent(loaded, planner, goals, span)

        def watch(agent: MPCAgent, memory: Memory) -> None:
            if span is not None:
                promised[:] = reached_in_model(loaded, agent, memory, envs)

        assert spec.episode_steps is not None
        steps = spec.episode_steps if span is None else span
        try:
            reached = run_goal_episodes(
                make, envs, seeds, starts, steps, device=str(loaded.device), watch=watch
            )
        finally:
            for env in envs:
                env.close()
        return reached, promised

    def report(self, rows: Rows) -> Report:
        """By run: success and times; the targets."""
        settings = self.settings
        agents = [one.settings.agent for one, _ in self.tasks.values()]
        every = " or ".join(sorted({f"{agent.replan_every}" for agent in agents}))
        steps = "control step" if every == "1" else f"{every} control steps"
        warm = " or ".join(sorted({agent.warm_start for agent in agents}))
        protocol = (
            f"{settings.pairs} pairs of start and goal, the same for every planner; an episode is "
            "a success if the task's rule is met at any control step. For each planner, horizon "
            "and budget the number of iterations is the largest whose fastest single decision "
            f"(B = 1, {settings.trials} of them) takes at most that long, up to {settings.most}. "
            f"Closed loop: replanned every {steps} with warm_start={warm}, up to the time "
            "limit of the task. Open loop: one plan, executed to its end; 'in the model' is the "
            "share of plans that the model says would reach the goal. A star: one iteration takes "
            "longer than the budget. Other options are those of the training for the planner that "
            "its evaluations had, else the defaults. Wilson intervals at 95 % for ONE trained "
            "model each."
        )
        if settings.spans_ahead:
            protocol += " Goals of open loops were recorded H control steps after their starts."
        if self.changes or self.choice.options:
            options = flat({"planner": self.choice.options, **self.changes})
            protocol += f" Options: `{' '.join(f'{k}={word(v)}' for k, v in options)}`."
        sections: list[str] = []
        targets: list[Target] = []
        for run, (loaded, _) in self.tasks.items():
            name = loaded.spec.name
            about = (
                f"{loaded.trained.updates} updates on {loaded.trained.data['path']} (data "
                f"`{loaded.trained.data['hash']}`), goals {loaded.settings.goal}, protocol "
                f"`{self._protocol(loaded).hash}`"
            )
            sections.append(f"## {name}: {run}\n\n{about}")
            for kind in ("closed", "open"):
                sections += list(self._tables(select(rows, run=run, kind=kind), kind))
            sections += list(_ablation_tables(select(rows, run=run, kind="ablation")))
            judged = select(rows, run=run)
            if settings.spans_ahead:  # targets of open loops are about far pairs
                judged = select(judged, kind="closed")
            targets += goal_targets(name, judged)
        sections += skipped(rows)
        return Report("Goals", protocol, sections, targets)

    def _tables(self, rows: Rows, kind: str) -> Iterator[str]:
        """Success of one run, by budget."""
        for ms in sorted({row["cell"]["ms"] for row in rows}):
            at = [row for row in select(rows, ms=ms) if "reached" in row["result"]]
            horizons = sorted({row["cell"]["horizon"] for row in at})
            heading = ["", *(f"H = {h}" for h in horizons)]
            lines = []
            for name in self.choice.names:
                line = [name]
                for horizon in horizons:
                    found = select(at, planner=name, horizon=horizon)
                    line.append(_words(found[0]["result"]) if found else "–")
                lines.append(line)
            word = "closed loop" if kind == "closed" else "open loop"
            yield f"### {word}, {ms:g} ms per decision\n\n{table(heading, lines)}"
        if kind == "open" and rows:
            yield from self._times(rows)

    def _times(self, rows: Rows) -> Iterator[str]:
        """Seconds of the quickest plan that reached a goal, median over the pairs."""
        horizons = sorted({row["cell"]["horizon"] for row in rows})
        lines = []
        for name in self.choice.names:
            line = [name]
            for horizon in horizons:
                times = times_to_success(select(rows, planner=name, horizon=horizon))
                line.append(_seconds(times))
            lines.append(line)
        heading = ["", *(f"H = {h}" for h in horizons)]
        title = "### open loop: seconds of planning to success, median over the pairs that succeed"
        yield f"{title}\n\n{table(heading, lines)}"

    def draw(self, rows: Rows, folder: Path) -> None:
        """A picture per run: goals reached within so many steps, and over the horizon of plans."""
        settings = self.settings
        for number, (run, (loaded, _)) in enumerate(self.tasks.items(), 1):
            limit = loaded.spec.episode_steps
            assert limit is not None
            found = [row for row in select(rows, run=run) if "reached" in row["result"]]
            panels = [
                self._within(
                    select(found, kind="closed", ms=ms, horizon=h), f"closed loop, {at}", limit
                )
                for ms in settings.closed
                for h in settings.horizons
                for at in [f"{ms:g} ms per decision, H = {h}"]
            ]
            if len(settings.closed) > 1:
                for h in settings.horizons:
                    chosen = select(found, kind="closed", horizon=h)
                    panels.append(self._over("ms", chosen, f"closed loop, H = {h}"))
            for ms in settings.open:
                chosen, title = select(found, kind="open", ms=ms), f"open loop, {ms:g} ms per plan"
                if len(settings.spans) > 1:
                    panels.append(self._over("horizon", chosen, title))
                else:
                    panels += [
                        self._within(chosen, f"{title}, H = {span}", span)
                        for span in settings.spans
                    ]
            path = folder / f"goals-{number}-{loaded.folder.name}.png"
            line_panels(path, panels, f"{loaded.spec.name}: {loaded.folder.name}")

    def _within(self, rows: Rows, title: str, limit: int) -> Panel:
        """Share of the goals reached within so many control steps, up to `limit`."""
        lines = []
        for row in rows:
            reached = [one for one in row["result"]["reached"] if one is not None]
            count = len(row["result"]["reached"])
            steps = sorted({0, *reached, limit})
            shares = [sum(one <= step for one in reached) / count for step in steps]
            lines.append(Line(row["cell"]["planner"], steps, shares))
        return Panel(title, "control steps", "goals reached", lines)

    def _over(self, axis: str, rows: Rows, title: str) -> Panel:
        """Success with its interval over a number of the cells: horizon, or ms of a decision."""
        lines: list[Line] = []
        for name in self.choice.names:
            points = [
                (row["cell"][axis], *_tuple(rate(row["result"])))
                for row in select(rows, planner=name)
            ]
            lines += lines_through(name, sorted(points))
        words = {"horizon": "horizon H", "ms": "milliseconds per decision"}
        return Panel(title, words[axis], "goals reached", lines)


def _ablation_tables(rows: Rows) -> Iterator[str]:
    """Success of GRASP with one option changed, by budget."""
    for ms in sorted({row["cell"]["ms"] for row in rows}):
        at = [row for row in select(rows, ms=ms) if "reached" in row["result"]]
        horizons = sorted({row["cell"]["horizon"] for row in at})
        lines = [
            [change, *(_words(select(at, change=change, horizon=h)[0]["result"]) for h in horizons)]
            for change in dict.fromkeys(row["cell"]["change"] for row in at)
        ]
        title = f"### {OURS} with one thing changed, closed loop, {ms:g} ms per decision"
        yield f"{title}\n\n{table(['', *(f'H = {h}' for h in horizons)], lines)}"


def reached_in_model(
    loaded: LoadedGoalRun, agent: MPCAgent, memory: Memory, envs: Sequence[Any]
) -> list[bool]:
    """Whether the model says that the plans in `memory` reach the goals of `envs`.

    Of models of pictures, from which no state can be read, nothing is known: an empty list.
    """
    if loaded.spec.pictures:
        return []
    plan = memory.plan
    assert plan is not None
    model = loaded.trained.model
    with torch.no_grad():
        window = plan.states[:, 0].repeat(1, model.history)
        _, states = trajectory_cost(
            agent.model, agent.objective, agent.discount, window, plan.actions
        )
        seen = model.decode(states).cpu().numpy()
    found = []
    for env, path in zip(envs, seen, strict=True):
        task = goal_task(env)
        found.append(any(task.reached(task.state_of(obs), task.goal) for obs in path))
    return found


def rate(result: Mapping[str, Any]) -> Interval:
    """Share of pairs that succeeded, with its interval."""
    reached = result["reached"]
    return wilson(sum(one is not None for one in reached), len(reached))


def times_to_success(rows: Rows) -> list[float | None]:
    """Seconds of the quickest kind of plan with which each pair succeeded; None: with none.

    Seconds that were measured, not the budget: a planner may leave a part of it, and one whose
    single iteration takes longer goes beyond it.
    """
    taken = [
        (float(np.median(row["result"]["latency_ms"])) / 1000.0, row["result"]["reached"])
        for row in rows
        if "reached" in row["result"]
    ]
    if not taken:
        return []
    return [
        min((seconds for seconds, reached in taken if reached[pair] is not None), default=None)
        for pair in range(len(taken[0][1]))
    ]


def goal_targets(env: str, rows: Rows) -> list[Target]:
    """What shall hold for GRASP in this environment, with what was measured."""
    targets = []
    closed = select(rows, kind="closed")
    for ms in sorted({row["cell"]["ms"] for row in closed}):
        if env in CLOSED:
            targets.append(_closed_target(env, ms, select(closed, ms=ms)))
        if env in LEAD:
            targets.append(_lead_target(env, ms, select(closed, ms=ms)))
    if env in OPEN:
        horizon, least = OPEN[env]
        cells = select(rows, kind="open", horizon=horizon)
        times = {
            name: times_to_success(select(cells, planner=name))
            for name in {row["cell"]["planner"] for row in cells}
        }
        text = f"{env}, open loop, H = {horizon}: {OURS} reaches {100 * least:.0f} % of far goals"
        found = [r for r in select(cells, planner=OURS) if "reached" in r["result"]]
        rates = {r["cell"]["ms"]: rate(r["result"]) for r in found}
        if rates:  # by the longest plan: the best of several budgets would be as many chances
            measured = ", ".join(f"{_percent(one)} in {ms:g} ms" for ms, one in rates.items())
            met = rates[max(rates)].point >= least
            targets.append(Target(text, measured, met))
        text = f"{env}, open loop, H = {horizon}: in half of the time of the next best planner"
        medians = {
            name: statistics.median(known)
            for name, found_times in times.items()
            if (known := [one for one in found_times if one is not None])
            and len(known) >= least * len(found_times)
        }
        if OURS in medians and len(medians) > 1:
            rival = min((n for n in medians if n != OURS), key=medians.__getitem__)
            measured = f"{medians[OURS]:.3f} s against {medians[rival]:.3f} s of {rival}"
            targets.append(Target(text, measured, medians[OURS] <= 0.5 * medians[rival]))
        else:
            measured = f"no two planners reach {100 * least:.0f} %"
            targets.append(Target(text, measured, None))
    return targets


def _closed_target(env: str, ms: float, rows: Rows) -> Target:
    """Which share of the goals GRASP reaches with so much time, at every horizon."""
    text = f"{env}, closed loop, {ms:g} ms: {OURS} reaches {100 * CLOSED[env]:.0f} % of far goals"
    found = [row for row in select(rows, planner=OURS) if "reached" in row["result"]]
    rates = {row["cell"]["horizon"]: rate(row["result"]) for row in found}
    measured = ", ".join(f"{_percent(one)} at H = {h}" for h, one in rates.items()) or "–"
    met = min(one.point for one in rates.values()) >= CLOSED[env] if rates else None
    return Target(text, measured, met)


def _lead_target(env: str, ms: float, rows: Rows) -> Target:
    """By how much GRASP is above its rivals with so much time, each at its best horizon."""
    best: dict[str, float] = {}
    for row in rows:
        if "reached" in row["result"]:
            name = row["cell"]["planner"]
            best[name] = max(best.get(name, 0.0), rate(row["result"]).point)
    lead = f"{OURS} is {100 * LEAD[env]:.0f} points above {', '.join(RIVALS)}"
    text = f"{env}, closed loop, {ms:g} ms: {lead}"
    known = [name for name in (OURS, *RIVALS) if name in best]
    measured = ", ".join(f"{name} {100 * best[name]:.0f} %" for name in known) or "–"
    # Rounded, because shares of 100 pairs are no binary numbers.
    leads = [round(best[OURS] - best[name], 6) for name in known if name != OURS and OURS in best]
    met = None
    if any(lead < LEAD[env] for lead in leads):
        met = False
    elif len(leads) == len(RIVALS):
        met = True
    return Target(text, measured, met)


def _words(result: Mapping[str, Any]) -> str:
    """Success, steps, what the model said, and the time of a decision."""
    times = [one for one in result["reached"] if one is not None]
    parts = [_percent(rate(result))]
    if times:
        parts.append(f"{statistics.median(times):.0f} steps")
    if result["promised"]:
        parts.append(f"{100 * float(np.mean(result['promised'])):.0f} % in the model")
    options = result["calibration"]["options"]
    parts += [f"{options['iterations']} it."] if "iterations" in options else []
    star = "" if result["calibration"]["fits"] else " *"
    return ", ".join([*parts, f"{np.median(result['latency_ms']):.0f} ms{star}"])


def _percent(one: Interval) -> str:
    return f"{100 * one.point:.0f} % ({100 * one.low:.0f} to {100 * one.high:.0f})"


def _tuple(one: Interval) -> tuple[float, float, float]:
    return one.point, one.low, one.high


def _seconds(times: Sequence[float | None]) -> str:
    known = [one for one in times if one is not None]
    if not known:
        return "–"
    return f"{statistics.median(known):.3f} s ({len(known)} of {len(times)})"
