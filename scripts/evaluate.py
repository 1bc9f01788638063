"""`telic evaluate`: planners side by side on one model, the same starts, at measured cost."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from agents import EpisodeRecord, MPCAgent, Protocol, run_episodes
from mpc import Diagnostics
from mpc.checks import require_at_least
from scripts.loading import CHANGES, MORE, LoadedRun, PlannerChoice, open_run
from scripts.option_help import layout, option_rows
from scripts.options import split_groups
from scripts.plots import PlannerScore, planner_table_plot
from scripts.reference import published_return
from scripts.settings import build, prepare_torch, read_training_options, require_seed
from scripts.statistics import Interval, mean_interval, paired_difference
from scripts.terminal import console as make_console
from scripts.usage import UsageError, require_writable

# Instead of `planner.deadline_ms`, under which batches and single decisions are different planners.
NO_DEADLINE = "telic control, which decides one by one, to see what a deadline does"
DEFAULT_PLANNERS = "grasp,gradient,cem,mppi,random_shooting,policy,random"


@dataclass(frozen=True)
class EvaluateSettings:
    """Options of `telic evaluate`, beside `planner`, `env` and `agent`."""

    run: str = "???"  # run folder of the training
    checkpoint: str | None = None  # folder of one checkpoint; null: the newest of the run
    episodes: int = 10  # per planner, all from the same starts
    seed: int = 20_000_000  # of the first episode; far from that of evaluations during training
    decisions: int = 100  # single decisions timed per planner
    device: str = "auto"  # auto, cpu, cuda, mps
    threads: int = 1  # of torch on the CPU

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "episodes", "decisions", "threads")
        require_seed(self.seed)


@dataclass(frozen=True)
class Score:
    """How one planner did."""

    planner: str
    options: dict[str, Any]  # of the planner
    returns: list[float]  # one per episode
    interval: Interval  # of the mean, 95 %; nan for a single episode
    forward_calls: int  # model calls per decision
    backward_calls: int
    latency_ms: list[float]  # of single decisions, one environment at a time
    late: float  # share of them that took longer than the control period
    fallbacks: int  # plans that were not finite and not executed
    difference: Interval | None = None  # to the first planner, paired by start


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    note = "which planners; planner.OPTION=value"
    return layout([("planner", DEFAULT_PLANNERS, note), *option_rows(EvaluateSettings()), *MORE])


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    raw = read_training_options(files, overrides, EvaluateSettings)
    changes, raw = split_groups(raw, (*CHANGES, "planner"))
    settings = build(EvaluateSettings, raw)
    choice = PlannerChoice.read(changes, DEFAULT_PLANNERS)
    if "deadline_ms" in choice.options:
        raise UsageError(f"planner.deadline_ms is not for telic evaluate; use {NO_DEADLINE}")
    prepare_torch(settings.threads)
    loaded = open_run(settings.run, settings.checkpoint, settings.device, changes)
    agents = {name: loaded.make_agent(name, choice.without_deadline) for name in choice.names}
    for folder in (loaded.folder.evaluations, loaded.folder.plots):
        require_writable(folder)
    console, spec = make_console(), loaded.spec
    console.print(
        f"{spec.name}: model of {loaded.trained.frames} env frames, "
        f"{settings.episodes} episodes from the same starts for every planner"
    )
    protocol = make_protocol(loaded, settings)
    scores: list[Score] = []
    with console.status("") as status:
        for name, agent in agents.items():
            status.update(f"{name} ...")
            score = evaluate_planner(loaded, agent, protocol, settings.decisions)
            if scores:
                rng = np.random.default_rng(0)
                gap = paired_difference(score.returns, scores[0].returns, rng)
                score = replace(score, difference=gap)
            scores.append(score)
            console.print(f"  {name}: return {score.interval.point:.1f}")
    console.print(score_table(scores, spec.control_period))
    published = published_return(spec.name)
    if published is not None:
        console.print(f"published TD-MPC2 mean at 100k env frames, from states: {published:.0f}")
    console.print(f"protocol {protocol.hash}; written to {write(loaded, protocol, scores)}")
    return 0


def make_protocol(loaded: LoadedRun, settings: EvaluateSettings) -> Protocol:
    """The frozen description of this evaluation."""
    spec = loaded.spec
    return Protocol(
        spec.name,
        spec.frames,
        spec.episode_steps,
        seeds=tuple(settings.seed + i for i in range(settings.episodes)),
        agent_seed=settings.seed,
        replan_every=loaded.settings.agent.replan_every,
        warm_start=loaded.settings.agent.warm_start,
    )


def evaluate_planner(
    loaded: LoadedRun, agent: MPCAgent, protocol: Protocol, decisions: int
) -> Score:
    """All episodes of the protocol with batched decisions, then single decisions timed."""
    records = run_protocol(loaded, agent, protocol)
    with closing(loaded.make_env()) as env:
        seconds, calls = time_decisions(agent, env, protocol, decisions, str(loaded.device))
    returns = [record.score for record in records]
    return Score(
        planner=agent.planner.name,
        options=planner_options(agent),
        returns=returns,
        interval=mean_interval(returns, np.random.default_rng(0)),
        forward_calls=calls[0],
        backward_calls=calls[1],
        latency_ms=[1000.0 * s for s in seconds],
        late=float(np.mean(np.array(seconds) > loaded.spec.control_period)),
        fallbacks=max(record.fallbacks for record in records),
    )


def run_protocol(loaded: LoadedRun, agent: MPCAgent, protocol: Protocol) -> list[EpisodeRecord]:
    """All episodes of the protocol, side by side with batched decisions."""
    envs = [loaded.make_env() for _ in protocol.seeds]
    try:
        return run_episodes(agent, envs, protocol.seeds, protocol.agent_seed, str(loaded.device))
    finally:
        for env in envs:
            env.close()


def planner_options(agent: MPCAgent) -> dict[str, Any]:
    """The options of an agent's planner, without its name."""
    return {key: value for key, value in asdict(agent.planner.config).items() if key != "name"}


def time_decisions(
    agent: MPCAgent,
    env: gymnasium.Env[Any, Any],
    protocol: Protocol,
    decisions: int,
    device: str,
) -> tuple[list[float], tuple[int, int]]:
    """Seconds of warm single plans along episodes, and the model calls of the last one."""
    obs, _ = env.reset(seed=protocol.seeds[0])
    # The first plans are cold in every cache and do not count.
    seconds, last = time_plans(agent, env, obs, protocol.agent_seed, decisions + 5, device)
    return seconds[5:], (last.forward_calls, last.backward_calls)


def time_plans(
    agent: MPCAgent,
    env: gymnasium.Env[Any, Any],
    obs: NDArray[np.float32],
    seed: int,
    plans: int,
    device: str,
    cold: bool = False,
) -> tuple[list[float], Diagnostics]:
    """Seconds of so many decisions that made a plan, and what the last plan cost.

    They follow each other along episodes from `obs` on. Control steps that carry out a plan made
    before take next to nothing and do not count. With `cold` the agent remembers nothing from one
    control step to the next.
    """
    memory, seconds = agent.start(seed, device), list[float]()
    while True:
        actions, memory = agent.act(obs[None], memory)
        if memory.age == 1:  # the first control step of a plan
            assert memory.plan is not None
            seconds.append(memory.seconds)
            if len(seconds) == plans:
                return seconds, memory.plan.diagnostics
        obs, _, terminated, truncated, _ = env.step(actions[0])
        if terminated or truncated:
            obs, _ = env.reset()
            memory = agent.forget(memory, np.array([True]))
        if cold:
            memory = agent.start(seed, device)


def score_table(scores: Sequence[Score], control_period: float) -> Table:
    """The table that `telic evaluate` prints."""
    table = Table(title="planners, same model and starts")
    table.add_column("planner", no_wrap=True)
    for heading in (
        "return",
        "95 % interval",
        f"minus {scores[0].planner},\npaired by start",
        "model calls\n(differentiated)",
        "ms per decision\nmedian (95th)",
        f"over the control\nperiod of {1000 * control_period:.0f} ms",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for score in scores:
        gap = score.difference
        table.add_row(
            score.planner,
            f"{score.interval.point:.1f}",
            _range(score.interval, ".1f"),
            "" if gap is None else f"{gap.point:+.1f} ({_range(gap, '+.1f')})",
            f"{score.forward_calls} ({score.backward_calls})",
            f"{np.median(score.latency_ms):.1f} ({np.quantile(score.latency_ms, 0.95):.1f})",
            f"{100 * score.late:.0f} %",
        )
    return table


def write(loaded: LoadedRun, protocol: Protocol, scores: Sequence[Score]) -> Path:
    """Store protocol and scores in the run folder, with a plot; returns the JSON file.

    Earlier evaluations stay: files of the same protocol are numbered.
    """
    folder = loaded.folder.evaluations
    folder.mkdir(exist_ok=True)
    base = f"{loaded.trained.frames:09d}-{protocol.hash}"
    number = next(n for n in itertools.count(1) if not (folder / f"{base}-{n}.json").exists())
    stem = f"{base}-{number}"
    result = {
        "protocol": asdict(protocol),
        "protocol_hash": protocol.hash,
        "date": datetime.now(UTC).isoformat(),
        "frames": loaded.trained.frames,
        "control_period": loaded.spec.control_period,
        "scores": [without_nan(asdict(score)) for score in scores],
    }
    path = folder / f"{stem}.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(result, indent=1, allow_nan=False), encoding="utf-8")
    draft.rename(path)
    rows = [PlannerScore(s.planner, s.interval, float(np.median(s.latency_ms))) for s in scores]
    planner_table_plot(loaded.folder.plots / f"planners-{stem}.png", rows, loaded.spec.name)
    return path


def _range(interval: Interval, form: str) -> str:
    """The bounds of an interval; a single episode has none."""
    if math.isnan(interval.low):
        return "unknown"
    return f"{interval.low:{form}} to {interval.high:{form}}"


def without_nan(value: Any) -> Any:
    """`value` with null, which JSON has, for numbers that are not finite, which it has not."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
