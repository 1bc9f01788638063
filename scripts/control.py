"""`telic control`: watch a trained agent control: return, latency, pictures of a plan, video."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from rich.console import Console

from envs import RenderingUnavailable, select_gl_backend
from mpc.checks import require_at_least
from scripts.control_episodes import AnyRun, Trace, control_episode, episodes_of
from scripts.control_pictures import draw_episode, draw_plan, film_episode, film_plan
from scripts.loading import CHANGES, MORE, PlannerChoice, goal_rows, open_any_run
from scripts.option_help import layout, option_rows
from scripts.options import split_groups
from scripts.settings import build, prepare_torch, read_training_options, require_seed
from scripts.terminal import console as make_console
from scripts.usage import UsageError, require_writable, usage_errors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ControlSettings:
    """Options of `telic control`, beside `planner`, `env` and `agent`."""

    run: str = "???"  # run folder of the training
    checkpoint: str | None = None  # folder of one checkpoint; null: the newest of the run
    episodes: int = 1
    seed: int = 30_000_000  # of the first episode
    horizon: int | None = None  # of the plans, control steps; null: the planner's
    video: bool = False  # an mp4 of every episode
    plan_plot: bool = True  # pictures of one plan (with video=true also a video of it)
    plan_step: int | None = None  # control step whose plan is drawn; null: a lively one
    device: str = "auto"  # auto, cpu, cuda, mps
    threads: int = 1  # of torch on the CPU

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "episodes", "threads")
        require_seed(self.seed)
        if self.plan_step is not None:
            require_at_least(self, 0, "plan_step")
        if self.horizon is not None:
            require_at_least(self, 1, "horizon")


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    planner = ("planner", "(as trained)", "which planner; planner.OPTION=value")
    return layout([planner, *option_rows(ControlSettings()), *MORE, *goal_rows()])


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    raw = read_training_options(files, overrides, ControlSettings)
    changes, raw = split_groups(raw, (*CHANGES, "planner"))
    settings = build(ControlSettings, raw)
    prepare_torch(settings.threads)
    video = _can_draw(settings.video)
    loaded = open_any_run(settings.run, settings.checkpoint, settings.device, changes)
    choice = PlannerChoice.read(changes, loaded.settings.planner.name)
    if len(choice.names) > 1:
        raise UsageError("control takes one planner; telic evaluate compares several")
    name, options = choice.names[0], dict(choice.options)
    if settings.horizon is not None:
        options["horizon"] = settings.horizon
    with usage_errors():
        episodes = episodes_of(loaded, name, options)
    for folder in (loaded.folder.plots, *([loaded.folder.videos] if video else [])):
        require_writable(folder)
    console, spec = make_console(), loaded.spec
    env, rendered = _environment(loaded, video)
    horizon = episodes.planner.config.horizon
    console.print(
        f"{spec.name} with {name}, horizon {horizon} ({horizon * spec.control_period:.2f} s), "
        f"model of {episodes.training}"
    )
    try:
        for seed in range(settings.seed, settings.seed + settings.episodes):
            start = episodes.begin(env, seed)
            trace = control_episode(start, env, rendered, loaded.device, console)
            console.print(f"{episodes.outcome(trace)}; {_latency(trace, spec.control_period)}")
            _report_deadline(trace, episodes.planner.config.deadline_ms, console)
            stem = f"{name}-seed{seed}"
            loaded.folder.plots.mkdir(exist_ok=True)
            paths = draw_episode(trace, start, loaded, stem)
            step = trace.plan_step(settings.plan_step)
            if settings.plan_plot:
                paths += draw_plan(trace, start, loaded, stem, step)
            if rendered:
                paths += film_episode(trace, loaded, stem)
                if settings.plan_plot:
                    paths += film_plan(trace, start, env, step, loaded, stem)
            for path in paths:
                console.print(f"  {path}")
    finally:
        env.close()
    return 0


def _can_draw(video: bool) -> bool:
    """Whether videos are asked for and not ruled out by a MUJOCO_GL that does not work here."""
    if video and os.environ.get("MUJOCO_GL"):
        try:
            select_gl_backend()
        except RenderingUnavailable as error:
            logger.warning("no video: %s", error)
            # Simulators refuse to be imported under a setting that they cannot use.
            os.environ["MUJOCO_GL"] = "disable"
            return False
    return video


def _environment(loaded: AnyRun, video: bool) -> tuple[gymnasium.Env[Any, Any], bool]:
    """The environment, and whether it renders: without OpenGL a line says so and that is all."""
    if video:
        try:
            return loaded.make_env(render=True), True
        except RenderingUnavailable as error:
            logger.warning("no video: %s", error)
    return loaded.make_env(), False


def _latency(trace: Trace, control_period: float) -> str:
    # The first decision is cold in every cache.
    latency = np.array(trace.decisions[1:] or trace.decisions)
    which = " after the first" if len(trace.decisions) > 1 else ""
    period = 1000 * control_period
    high, highest = np.quantile(latency, [0.95, 0.99])
    return (
        f"{np.median(latency):.1f} ms per decision{which} (95 % below {high:.1f}, "
        f"99 % below {highest:.1f}, longest {latency.max():.1f}), "
        f"{(latency > period).sum()} over the control period of {period:.0f} ms; "
        f"{trace.fallbacks} fallbacks"
    )


def _report_deadline(trace: Trace, deadline_ms: float | None, console: Console) -> None:
    if deadline_ms is not None:
        iterations = [plan.diagnostics.iterations for plan in trace.plans]
        console.print(
            f"{np.median(iterations):.0f} iterations per plan, {trace.overruns} plans over the "
            f"deadline of {deadline_ms:g} ms"
        )
