"""`suite=dmc`: training on dm_control from states, beside the published returns."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.console import Console

from mpc.checks import require_at_least
from scripts.benchmarks.earlier import EarlierResults
from scripts.benchmarks.store import Row
from scripts.benchmarks.suite import (
    Cell,
    Report,
    Rows,
    Suite,
    SuiteSettings,
    Target,
    select,
    skipped,
    table,
)
from scripts.engines import LocalEngine
from scripts.evaluate import NO_DEADLINE, EvaluateSettings, evaluate_planner, make_protocol
from scripts.loading import PlannerChoice, open_run
from scripts.metrics import read_column
from scripts.options import Options, word
from scripts.plots import Line, Panel, line_panels
from scripts.reference import published_return, reference_curves
from scripts.run_folder import RunFolder
from scripts.run_results import PER_RUN, flat
from scripts.settings import DEFAULT_PLANNER, require_seed
from scripts.statistics import Interval, mean_interval, span
from scripts.stopwatch import COMPONENTS, WHOLE
from scripts.sweep import ELSEWHERE, Member, options_of, plan, slots, sweep
from scripts.terminal import counted
from scripts.usage import UsageError
from world_models import CheckpointError, latest_checkpoint, load_checkpoint

TASKS = (
    "cartpole-balance",
    "cartpole-swingup",
    "pendulum-swingup",
    "ball_in_cup-catch",
    "reacher-easy",
    "reacher-hard",
    "finger-spin",
    "finger-turn_easy",
    "walker-stand",
    "walker-walk",
    "cheetah-run",
    "acrobot-swingup",
)
REACHED = 0.97  # share of the published mean that counts as reaching it
MISSES = {100_000: 1, 50_000: 4}  # tasks that may miss it, by env frames
MINUTES = {100_000: 15.0, 50_000: 8.0}  # that a training may take up to there


@dataclass(frozen=True)
class DmcSettings(SuiteSettings):
    """Options of `telic benchmark suite=dmc`."""

    seed: int = 40_000_000  # of the first evaluation episode; far from those of trainings
    tasks: list[str] = field(default_factory=lambda: list(TASKS))  # of dm_control
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])  # of the trainings
    frames: int = 100_000  # env frames of a training
    episodes: int = 20  # per evaluation
    runs: str = "runs/dmc"  # folder of the trainings; those that are finished are not repeated
    workers: int | None = None  # trainings side by side; null: as many as there are cores
    # dmc.json of the same options, such as from other machines: what they hold is not repeated
    results: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        require_at_least(self, 1, "frames", "episodes")
        self.require_list("seeds", 0)
        for seed in self.seeds:
            require_seed(seed)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must list different tasks, got {self.tasks}")


class Dmc(Suite):
    """What training reaches in a fixed number of env frames."""

    name = "dmc"
    summary = "training on dm_control from states, beside the published returns"
    Settings = DmcSettings
    GROUPS = ("env", "agent", "model", "loss", "train", "replay", "wandb")
    FIXED: ClassVar = {
        "env.name": "tasks=reacher-easy",
        "planner.deadline_ms": NO_DEADLINE,
        "train.frames": "frames=50000",
        "train.eval_episodes": "episodes=20",
    }
    MORE = (("GROUP.OPTION", "", f"any of telic train in {', '.join(GROUPS)}: loss.lr=0.0005"),)

    def __init__(self, settings: DmcSettings, choice: PlannerChoice, changes: Options) -> None:
        super().__init__(settings, choice, changes)
        common: dict[str, Any] = {
            "runs": settings.runs,
            "env": ",".join(f"dmc/{task}" for task in settings.tasks),
            "planner": ",".join(choice.names),
            "seed": ",".join(map(str, settings.seeds)),
            "threads": settings.threads,
            "train.frames": settings.frames,
            "train.eval_episodes": settings.episodes,
        }
        common |= flat({"planner": choice.options, **changes})
        words = [f"{key}={word(value)}" for key, value in common.items()]
        self.members = plan([], words, exact=True)
        if len(self.members) > len(choice.names) * len(settings.tasks) * len(settings.seeds):
            raise UsageError("list values of tasks, seeds and planner only; others have one")
        self.earlier = EarlierResults(settings.results, self.name)
        rows = self.earlier.rows(self.facts()["terms"])
        self._given = [row for row in rows if any(row["cell"] == _key(m) for m in self.members)]

    @classmethod
    def default_planners(cls) -> list[str]:
        """The planner that trains unless `planner` names others."""
        return [DEFAULT_PLANNER]

    def facts(self) -> dict[str, Any]:
        """By which options every planner's agents are trained and evaluated, and earlier results.

        Options of the tasks, seeds and places of the trainings are left out.
        """
        settings, terms = self.settings, {}
        own = {name: getattr(settings, name) for name in ("seed", "episodes", "threads")}
        for member in self.members:
            options = dict(flat(options_of(member.settings)))
            same = {k: v for k, v in options.items() if k.partition(".")[0] not in PER_RUN}
            del same["env.name"]
            terms[member.settings.planner.name] = own | same
        return {"terms": terms, "results": self.earlier.digests}

    def given(self) -> Rows:
        """The trainings that are in the earlier results."""
        return self._given

    def outdated(self, row: Row) -> bool:
        """Whether another agent lies where the one lay that was evaluated."""
        folder = next(RunFolder(m.folder) for m in self.members if _key(m) == row["cell"])
        try:
            newest = load_checkpoint(latest_checkpoint(folder.checkpoints), [])
        except CheckpointError:
            return True
        return _identity(newest.meta) != row["result"]["agent"]

    def prepare(self, console: Console) -> int:
        """Train what has not been trained."""
        known = [row["cell"] for row in self._given]
        members = [member for member in self.members if _key(member) not in known]
        if len(members) < len(self.members):
            count = len(self.members) - len(members)
            console.print(f"{count} of {len(self.members)} trainings are in the results given")
        if not members:
            return 0
        return sweep(members, LocalEngine(slots(members, self.settings.workers)), console)

    def cells(self) -> list[Cell]:
        """The evaluation of every training."""
        return [Cell(_key(member), partial(self._measure, member)) for member in self.members]

    def _measure(self, member: Member) -> dict[str, Any]:
        """Fresh episodes of the last agent, and what its training wrote down."""
        if member.state == ELSEWHERE:
            return {"skipped": f"another telic process writes {member.folder}"}
        if member.state not in ("finished", "skipped"):
            return {"skipped": f"its training has not finished, see {member.log}"}
        loaded = open_run(str(member.folder), None, "auto", {})
        meta = loaded.trained.checkpoint.meta
        metrics = member.folder / "metrics.csv"
        frames, returns = read_column(metrics, "eval/return")
        if not frames:
            return {"skipped": f"its training ended before anything was learned, see {member.log}"}
        agent = loaded.make_agent(member.settings.planner.name, {})
        same = EvaluateSettings(run="", episodes=self.settings.episodes, seed=self.settings.seed)
        score = evaluate_planner(loaded, agent, make_protocol(loaded, same), decisions=20)
        names = {part: f"time/{part}_ms" for part in (*COMPONENTS, WHOLE)}
        spent = {part: read_column(metrics, name)[1] for part, name in names.items()}
        return {
            "returns": score.returns,
            "frames": frames,  # of the evaluations during the training
            "curve": returns,
            "seconds": read_column(metrics, "time/training_s")[1],
            "ms": {part: values[-1] for part, values in spent.items() if values},
            "version": meta["version"],
            "agent": _identity(meta),
            "made_by": meta.get("made_by", []),
        }

    def report(self, rows: Rows) -> Report:
        """Returns beside the published ones, time, and the targets, for every planner."""
        settings = self.settings
        protocol = (
            "One configuration for all tasks, training seeds: "
            f"{', '.join(map(str, settings.seeds))}; {settings.frames} env frames each without "
            "early stop. The last agent is evaluated without exploration noise on "
            f"{settings.episodes} fresh starts, from seed {settings.seed} on; the agent at half of "
            f"the frames, and the curves, on {settings.episodes} other starts, in which nothing "
            "was chosen or stopped. Intervals at 95 %: over the means of the training seeds, or "
            "with a single one over its episodes. A start fails below half of the published "
            "mean. Published: TD-MPC2, mean at 100k env frames. Minutes are those of a training "
            "without evaluations."
        )
        if self.changes or self.choice.options:
            options = flat({"planner": self.choice.options, **self.changes})
            protocol += f" Options: `{' '.join(f'{k}={word(v)}' for k, v in options)}`."
        trained = [row["result"] for row in rows if "returns" in row["result"]]
        versions = sorted({_version(result) for result in trained})
        protocol += f" Trained by telic {', '.join(versions)}." if trained else ""
        protocol += f" Trained on: {_machines(trained)}." if trained else ""
        sections, targets = [], []
        for planner in self.choice.names:
            found = {task: self._results(rows, planner, task) for task in self._tasks()}
            sections.append(f"## Trained with {planner}\n\n{self._table(found)}")
            counts = [count for count in MISSES if count <= settings.frames]
            targets += [target for count in counts for target in targets_at(count, planner, found)]
        sections += self._at_equal_time(rows) if len(self.choice.names) > 1 else []
        sections += skipped(rows)
        return Report("Training on dm_control", protocol, sections, targets)

    def _tasks(self) -> list[str]:
        return [f"dmc/{task}" for task in self.settings.tasks]

    def _results(self, rows: Rows, planner: str, task: str) -> list[Mapping[str, Any]]:
        chosen = select(rows, planner=planner, task=task)
        return [row["result"] for row in chosen if "returns" in row["result"]]

    def _table(self, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
        half = self.settings.frames // 2
        heading = [
            *("task", "published", f"at {half}", f"at {self.settings.frames}", "of published"),
            *("starts failed", "minutes", "ms per control step (decide, environment, update)"),
        ]
        lines = []
        for task, results in found.items():
            if not results:
                continue
            goal, final = published_return(task), final_interval(results)
            beside = ["–"] * 3
            if goal is not None:
                episodes = np.concatenate([one["returns"] for one in results])
                failed = f"{(episodes < goal / 2).sum()} of {episodes.size}"
                beside = [f"{goal:.0f}", f"{100 * final.point / goal:.0f} %", failed]
            middle = [there[0] for one in results if (there := after(one, half)) is not None]
            nothing = math.nan  # from a training too short to have been timed
            ms = [np.mean([r["ms"].get(p, nothing) for r in results]) for p in (WHOLE, *COMPONENTS)]
            name = task.removeprefix("dmc/")
            parts = f"{ms[0]:.1f} ({', '.join(f'{part:.1f}' for part in ms[1:])})"
            values = [
                f"{np.mean(middle):.1f}" if middle else "–",
                span(final),
                *beside[1:],
                f"{minutes(results)[-1]:.1f}",
                parts,
            ]
            lines.append([name, beside[0], *values])
        return table(heading, lines)

    def _at_equal_time(self, rows: Rows) -> list[str]:
        """A section on what every planner's trainings had reached when the first one ended."""
        lines = []
        for task in self._tasks():
            found = {name: self._results(rows, name, task) for name in self.choice.names}
            if all(found.values()):
                least = min(one["seconds"][-1] for results in found.values() for one in results)
                values = [f"{at_time(results, least):.1f}" for results in found.values()]
                lines.append([task.removeprefix("dmc/"), f"{least / 60:.1f}", *values])
        if not lines:
            return []
        text = (
            "Returns when the quickest training of a task had ended, read from the curves of the "
            "others between their evaluations; means over training seeds."
        )
        heading = ["task", "minutes", *self.choice.names]
        return [f"## At equal time\n\n{text}\n\n{table(heading, lines)}"]

    def draw(self, rows: Rows, folder: Path) -> None:
        """Learning curves, one panel per task: over env frames, with the published ones.

        Of several planners another picture has them over minutes of training.
        """
        seeds = ", ".join(map(str, self.settings.seeds))
        title = f"dm_control from states, training seeds: {seeds}"
        by_frames, by_time = [], []
        for task in self._tasks():
            name = task.removeprefix("dmc/")
            found = {p: r for p in self.choice.names if (r := self._results(rows, p, task))}
            lines = [curve(f"telic, {p}", results) for p, results in found.items()]
            timed = [
                replace(line, x=minutes(r)) for line, r in zip(lines, found.values(), strict=True)
            ]
            lines += published_lines(task, self.settings.frames)
            by_frames.append(Panel(name, "1,000 env frames", "return", lines))
            by_time.append(Panel(name, "minutes of training", "return", timed))
        line_panels(folder / f"{self.name}.png", by_frames, title, inches=2.2, columns=3)
        if len(self.choice.names) > 1:
            line_panels(folder / f"{self.name}-time.png", by_time, title, inches=2.2, columns=3)


def final_interval(results: Sequence[Mapping[str, Any]]) -> Interval:
    """Mean return of the last agents: over training seeds, or over episodes of a single one."""
    several = [float(np.mean(one["returns"])) for one in results]
    values = several if len(several) > 1 else results[0]["returns"]
    return mean_interval(values, np.random.default_rng(0))


def after(result: Mapping[str, Any], frames: int) -> tuple[float, float] | None:
    """Mean return and seconds of a training after so many env frames, give or take a tenth.

    On fresh starts where the training ended there; None if it was not evaluated there.
    """
    away = np.abs(np.array(result["frames"]) - frames)
    index = int(away.argmin())
    if away[index] > frames / 10:
        return None
    last = index == len(away) - 1
    value = np.mean(result["returns"]) if last else result["curve"][index]
    return float(value), float(result["seconds"][index])


def curve(label: str, results: Sequence[Mapping[str, Any]]) -> Line:
    """Mean over training seeds with their range, over 1,000 env frames of the evaluations."""
    returns = np.array([one["curve"] for one in results])
    line = Line(label, _thousands(results[0]["frames"]), returns.mean(0).tolist())
    if len(results) == 1:
        return line
    low, high = returns.min(0).tolist(), returns.max(0).tolist()
    return Line(label, line.x, line.y, low, high, band="range of seeds")


def minutes(results: Sequence[Mapping[str, Any]]) -> list[float]:
    """Minutes of training at the evaluations, means over training seeds."""
    return (np.mean([one["seconds"] for one in results], 0) / 60).tolist()


def at_time(results: Sequence[Mapping[str, Any]], seconds: float) -> float:
    """Mean return after so many seconds of training, linear between evaluations."""
    return float(np.mean([np.interp(seconds, one["seconds"], one["curve"]) for one in results]))


def published_lines(task: str, frames: int) -> list[Line]:
    """Published curves over 1,000 env frames, up to about `frames`."""
    lines = []
    for method, name in (("tdmpc2", "TD-MPC2"), ("dreamerv3", "DreamerV3")):
        known = reference_curves(task).get(method)
        count = sum(f <= 1.05 * frames for f in known.frames) if known is not None else 0
        if known is not None and count:
            x = _thousands(known.frames[:count])
            lines.append(Line(f"{name}, published", x, list(known.mean[:count])))
    return lines


def targets_at(
    frames: int, planner: str, found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Target]:
    """What shall hold after so many env frames: returns and minutes.

    Of those of TASKS that were evaluated there.
    """
    known = {}  # shares of the published return, and seconds
    for task, results in found.items():
        goal, there = published_return(task), [after(one, frames) for one in results]
        name = task.removeprefix("dmc/")
        if name in TASKS and goal is not None and there and None not in there:
            values, seconds = np.array(there, float).T
            known[name] = values.mean() / goal, seconds.max()
    needed = len(TASKS) - MISSES[frames]
    share = f"{100 * REACHED:g} % of the published mean"
    texts = (
        f"{planner}: {share} at {frames} frames on {needed} of the {len(TASKS)} tasks",
        f"{planner}: every training to {frames} frames within {MINUTES[frames]:g} minutes",
    )
    if not known:
        return [Target(text, "–", None) for text in texts]
    missed = [f"{task} {100 * part:.1f} %" for task, (part, _) in known.items() if part < REACHED]
    reached = len(known) - len(missed)
    met = reached >= needed
    decided = met or len(missed) > MISSES[frames]  # a few of the tasks may leave it open
    measured = f"{reached} of {len(found)}" + f", not {'; '.join(missed)}" * bool(missed)
    slowest = float(max(seconds for _, seconds in known.values())) / 60
    return [
        Target(texts[0], measured, met if decided else None),
        Target(texts[1], f"{slowest:.1f} at most", slowest <= MINUTES[frames]),
    ]


def _key(member: Member) -> dict[str, Any]:
    """What tells a training's cell from the others."""
    settings = member.settings
    key = {"kind": "return", "task": settings.env.name}
    return key | {"planner": settings.planner.name, "seed": settings.seed}


def _identity(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What tells an agent from others, also from one that was trained alike."""
    return {"self_test": meta["self_test"], "seconds": meta["seconds"]}


def _makers(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The code and machines that trained in turn; what was not noted is left out."""
    earlier = [result["machine"]] if "machine" in result else []
    return result.get("made_by", earlier) or [{}]


def _version(result: Mapping[str, Any]) -> str:
    """Of the code that trained."""
    codes = dict.fromkeys(one.get("code", "not noted") for one in _makers(result))
    return f"{result['version']} (code {', then '.join(codes)})"


def _machines(results: Sequence[Mapping[str, Any]]) -> str:
    """The machines that trained, how many of the agents each, and in how many minutes."""
    took: dict[str, list[float]] = defaultdict(list)
    for result in results:
        names = dict.fromkeys(
            f"{one['cpu']}, {one['cores']} cores, torch {one['torch']}, {one['precision']}, "
            f"{one['at_once']} at a time"
            if "cpu" in one
            else "not noted"
            for one in _makers(result)
        )
        took[", then ".join(names)].append(result["seconds"][-1] / 60)
    return "; ".join(
        f"{name} ({counted(len(times), 'training')}, {min(times):.1f} to {max(times):.1f} minutes)"
        for name, times in took.items()
    )


def _thousands(frames: Sequence[int]) -> list[float]:
    return [f / 1000 for f in frames]
