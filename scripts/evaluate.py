"""`telic evaluate`: planners side by side on one model, the same starts, at measured cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.table import Table

from agents import MPCAgent, Protocol, run_episodes
from mpc import Planner
from scripts.loading import LoadedRun, PlannerChoice, open_run
from scripts.plots import PlannerScore, planner_table_plot
from scripts.reference import published_return
from scripts.settings import load, usage_errors
from scripts.statistics import Interval, mean_interval, paired_difference
from scripts.terminal import console as make_console


@dataclass(frozen=True)
class EvaluateSettings:
    """Options of `telic evaluate`."""

    run: str = "???"  # run folder
    checkpoint: str | None = None  # folder of one checkpoint; None: the newest of the run
    planners: str = "grasp,gradient,cem,mppi,random_shooting,policy,random"  # planner=a,b
    episodes: int = 10
    seed: int = 20_000_000  # of the first episode; far from training and in-run evaluation
    decisions: int = 100  # single decisions timed per planner
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for option in ("episodes", "decisions", "threads"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1, got {getattr(self, option)}")


@dataclass(frozen=True)
class Score:
    """How one planner did."""

    planner: str
    returns: list[float]  # one per episode
    interval: Interval  # of the mean, 95 %
    forward_calls: int  # model calls per decision
    backward_calls: int
    latency_ms: list[float]  # of single decisions, one environment at a time
    late: float  # share of them that took longer than the control period
    fallbacks: int  # plans that were not finite and not executed
    difference: Interval | None = None  # to the first planner, paired by start


def defaults_text() -> str:
    """All options with their defaults, for the help."""
    return OmegaConf.to_yaml(OmegaConf.structured(EvaluateSettings)).replace(
        "planners:", "planner:"
    )


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    choice = PlannerChoice.split(overrides, EvaluateSettings.planners)
    choice.check(choice.names)
    settings = load(EvaluateSettings, files, choice.rest)
    torch.set_num_threads(settings.threads)
    loaded = open_run(settings.run, settings.checkpoint, settings.device, choice.env)
    console = make_console()
    spec = loaded.trained.spec
    console.print(
        f"[bold]{spec.name}[/]: model of {loaded.trained.frames} env frames, "
        f"{settings.episodes} episodes from the same starts for every planner"
    )
    seeds = tuple(settings.seed + i for i in range(settings.episodes))
    protocol = Protocol(
        spec.name,
        spec.action_repeat,
        spec.episode_steps,
        seeds,
        agent_seed=settings.seed,
        replan_every=loaded.settings.agent.replan_every,
    )
    scores: list[Score] = []
    with console.status("") as status:
        for name in choice.names:
            status.update(f"{name} ...")
            planner = choice.make(name, loaded.settings.planner)
            score = evaluate_planner(loaded, planner, name, protocol, settings.decisions)
            if scores:
                rng = np.random.default_rng(0)
                gap = paired_difference(score.returns, scores[0].returns, rng)
                score = replace(score, difference=gap)
            scores.append(score)
            console.print(f"  {name}: return {score.interval.point:.1f}")
    console.print(score_table(scores, spec.control_period))
    published = published_return(spec.name)
    if published is not None:
        console.print(f"published TD-MPC2 mean at 100k env frames: {published:.0f}")
    console.print(f"protocol {protocol.hash}; written to {write(loaded, protocol, scores)}")
    return 0


def evaluate_planner(
    loaded: LoadedRun, planner: Planner[Any], name: str, protocol: Protocol, decisions: int
) -> Score:
    """All episodes of the protocol with batched decisions, then single decisions timed."""
    device = str(loaded.trained.model.bins.device)
    with usage_errors():
        agent = loaded.trained.agent(planner, loaded.settings.agent)
    envs = [loaded.make_env() for _ in protocol.seeds]
    try:
        records = run_episodes(agent, envs, protocol.seeds, protocol.agent_seed, device)
        seconds, calls = time_decisions(agent, loaded, protocol, decisions, device)
    finally:
        for env in envs:
            env.close()
    returns = [record.score for record in records]
    period = loaded.trained.spec.control_period
    return Score(
        planner=name,
        returns=returns,
        interval=mean_interval(returns, np.random.default_rng(0)),
        forward_calls=calls[0],
        backward_calls=calls[1],
        latency_ms=[1000.0 * s for s in seconds],
        late=float(np.mean(np.array(seconds) > period)),
        fallbacks=max(record.fallbacks for record in records),
    )


def time_decisions(
    agent: MPCAgent, loaded: LoadedRun, protocol: Protocol, decisions: int, device: str
) -> tuple[list[float], tuple[int, int]]:
    """Seconds of warm single decisions along one episode, and the model calls of the last one."""
    env = loaded.make_env()
    obs, _ = env.reset(seed=protocol.seeds[0])
    memory = agent.start(protocol.agent_seed, device)
    seconds = []
    # The first decisions are cold in every cache and do not count.
    for i in range(decisions + 5):
        actions, memory = agent.act(obs[None], memory)
        if i >= 5:
            seconds.append(memory.seconds)
        obs, _, terminated, truncated, _ = env.step(actions[0])
        if terminated or truncated:
            obs, _ = env.reset()
            memory = agent.forget(memory, np.array([True]))
    env.close()
    assert memory.plan is not None
    diagnostics = memory.plan.diagnostics
    return seconds, (diagnostics.forward_calls, diagnostics.backward_calls)


def score_table(scores: Sequence[Score], control_period: float) -> Table:
    """The table that `telic evaluate` prints."""
    table = Table(title="planners, same model and starts")
    table.add_column("planner")
    for heading in (
        "return",
        "95 % interval",
        f"minus {scores[0].planner}, paired",
        "model calls\n(differentiated)",
        "ms per decision\nmedian (95th)",
        f"over the control\nperiod of {1000 * control_period:.0f} ms",
    ):
        table.add_column(heading, justify="right")
    for score in scores:
        gap = score.difference
        table.add_row(
            score.planner,
            f"{score.interval.point:.1f}",
            f"{score.interval.low:.1f} to {score.interval.high:.1f}",
            "" if gap is None else f"{gap.point:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})",
            f"{score.forward_calls} ({score.backward_calls})",
            f"{np.median(score.latency_ms):.1f} ({np.quantile(score.latency_ms, 0.95):.1f})",
            f"{100 * score.late:.0f} %",
        )
    return table


def write(loaded: LoadedRun, protocol: Protocol, scores: Sequence[Score]) -> Path:
    """Store protocol and scores in the run folder, with a plot; returns the JSON file."""
    folder = loaded.folder.path / "evaluations"
    folder.mkdir(exist_ok=True)
    stem = f"{loaded.trained.frames:09d}-{protocol.hash}"
    result = {
        "protocol": asdict(protocol),
        "protocol_hash": protocol.hash,
        "frames": loaded.trained.frames,
        "scores": [asdict(score) for score in scores],
    }
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    rows = [PlannerScore(s.planner, s.interval, float(np.median(s.latency_ms))) for s in scores]
    planner_table_plot(loaded.folder.plots / f"planners-{stem}.png", rows, loaded.trained.spec.name)
    return path
