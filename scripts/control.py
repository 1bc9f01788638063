"""`telic control`: watch a trained agent control: return, latency, pictures of a plan, video."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.text import Text

from agents import Memory, MPCAgent
from envs import EnvSpec, RenderingUnavailable, select_gl_backend
from envs.goals import GoalTask
from envs.pixels import SIZE
from mpc import Plan, trajectory_cost
from mpc.checks import require_at_least
from scripts.goal_tasks import draw_goals, goal_agent, goal_task
from scripts.loading import (
    CHANGES,
    MORE,
    LoadedGoalRun,
    LoadedRun,
    PlannerChoice,
    goal_rows,
    open_any_run,
)
from scripts.option_help import layout, option_rows
from scripts.options import Options, read_options, split_groups
from scripts.plan_video import carry_out, side_by_side
from scripts.plots import (
    Line,
    Panel,
    decision_trace,
    film_strip,
    line_panels,
    path_picture,
    plan_picture,
)
from scripts.readout import fit_readout, principal_readout
from scripts.settings import build, prepare_torch, require_seed
from scripts.terminal import console as make_console
from scripts.usage import UsageError, usage_errors
from scripts.video import write_video
from world_models import Towards

logger = logging.getLogger(__name__)

AnyRun = LoadedRun | LoadedGoalRun
FILM = 8  # pictures of a plan that are drawn, at most


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


@dataclass
class Trace:
    """What was seen in one controlled episode."""

    obs: list[NDArray[np.float32]] = field(default_factory=list)  # (O,), one more than rewards
    actions: list[NDArray[np.float32]] = field(default_factory=list)  # (A,)
    rewards: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    fallbacks: int = 0
    overruns: int = 0
    reached: bool = False  # the goal, of goal tasks

    @property
    def score(self) -> float:
        """Undiscounted return."""
        return float(sum(self.rewards))

    def add(
        self,
        action: NDArray[np.float32],
        obs: NDArray[np.float32],
        reward: float,
        memory: Memory,
    ) -> None:
        """Append a control step and what it led to."""
        assert memory.plan is not None
        self.actions.append(action)
        self.obs.append(obs)
        self.rewards.append(reward)
        self.milliseconds.append(1000.0 * memory.seconds)
        self.plans.append(memory.plan)

    def plan_step(self, wanted: int | None) -> int:
        """The control step whose plan is shown: `wanted`, or where the observation changes most."""
        if wanted is not None:
            return min(wanted, len(self.plans) - 1)
        seen = np.stack(self.obs).astype(np.float32)
        change = np.abs(np.diff(seen, axis=0)) / (seen.std(0) + 1e-6)
        # Not so late that what happened cannot be drawn beside the plan.
        last = max(1, len(change) - self.plans[0].actions.shape[1])
        return int(change.sum(1)[:last].argmax())


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    planner = ("planner", "(as trained)", "which planner; planner.OPTION=value")
    return layout([planner, *option_rows(ControlSettings()), *MORE, *goal_rows()])


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    changes, raw = split_groups(read_options(files, overrides), (*CHANGES, "planner"))
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
            trace = _episode(start, env, rendered, loaded.device, console)
            console.print(f"{episodes.outcome(trace)}; {_latency(trace, spec.control_period)}")
            _report_deadline(trace, episodes.planner.config.deadline_ms, console)
            stem = f"{name}-seed{seed}"
            paths = _files(trace, start, loaded, stem, settings)
            if rendered and settings.plan_plot:
                step = trace.plan_step(settings.plan_step)
                paths += _plan_video(trace, start, env, step, loaded, stem)
            for path in paths:
                console.print(f"  {path}")
    finally:
        env.close()
    return 0


@dataclass(frozen=True)
class Start:
    """An episode that has begun."""

    seed: int
    obs: NDArray[np.float32]  # (O,)
    agent: MPCAgent
    options: dict[str, Any] | None = None  # of the reset
    task: GoalTask | None = None  # which holds the goal, of goal tasks
    goal: NDArray[np.float32] | None = None  # how the goal looks, (O,), of goal tasks


class RewardEpisodes:
    """Episodes of a run that was trained for reward."""

    def __init__(self, loaded: LoadedRun, name: str, options: Options) -> None:
        self._agent = loaded.make_agent(name, options)
        self.planner = self._agent.planner
        self.training = f"{loaded.trained.frames} env frames"

    def begin(self, env: gymnasium.Env[Any, Any], seed: int) -> Start:
        """Reset the environment."""
        return Start(seed, env.reset(seed=seed)[0], self._agent)

    def outcome(self, trace: Trace) -> str:
        """How it went, in words."""
        return f"return {trace.score:.1f} in {len(trace.rewards)} control steps"


class GoalEpisodes:
    """Episodes of a run that was trained for goals; each has a goal of its own."""

    def __init__(self, loaded: LoadedGoalRun, name: str, options: Options) -> None:
        """Raises ValueError if goals are to come from data that is not there."""
        self._loaded, self.planner = loaded, loaded.make_planner(name, options)
        self.training = f"{loaded.trained.updates} updates on {loaded.settings.data}"
        self._recorded = loaded.held_out()

    def begin(self, env: gymnasium.Env[Any, Any], seed: int) -> Start:
        """Reset the environment to a start, with a goal."""
        settings, model = self._loaded.settings, self._loaded.trained.model
        options = draw_goals(settings.goal, self._recorded, 1, seed)[0]
        obs, info = env.reset(seed=seed, options=options)
        agent = goal_agent(
            model, self.planner, settings.agent, settings.goal.distance, info["goal"][None]
        )
        return Start(seed, obs, agent, options, goal_task(env), info["goal"])

    def outcome(self, trace: Trace) -> str:
        """How it went, in words."""
        steps = len(trace.rewards)
        seconds = steps * self._loaded.spec.control_period
        word = "reached after" if trace.reached else "NOT reached in"
        return f"goal {word} {steps} control steps ({seconds:.2f} s)"


def episodes_of(loaded: AnyRun, name: str, options: Options) -> RewardEpisodes | GoalEpisodes:
    """Episodes of a run, planned by planner `name`."""
    if isinstance(loaded, LoadedGoalRun):
        return GoalEpisodes(loaded, name, options)
    return RewardEpisodes(loaded, name, options)


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


def _episode(
    start: Start,
    env: gymnasium.Env[Any, Any],
    rendered: bool,
    device: torch.device,
    console: Console,
) -> Trace:
    """Control an episode to its end or its goal, under a line that shows return and latency."""
    trace, obs, over = Trace(), start.obs, False
    memory = start.agent.start(start.seed, device)
    trace.obs.append(obs)
    with Live(console=console, transient=True, refresh_per_second=4) as live:
        while not over:
            actions, memory = start.agent.act(obs[None], memory)
            obs, reward, terminated, truncated, info = env.step(actions[0])
            trace.reached = start.task is not None and bool(info["success"])
            over = terminated or truncated or trace.reached
            trace.add(actions[0], obs, float(reward), memory)
            if rendered:
                trace.frames.append(env.render())  # type: ignore[arg-type]
            live.update(
                Text(
                    f"step {len(trace.rewards)}  return {trace.score:.1f}  "
                    f"{trace.milliseconds[-1]:.1f} ms per decision"
                )
            )
    trace.fallbacks, trace.overruns = memory.fallbacks, memory.overruns
    return trace


def _latency(trace: Trace, control_period: float) -> str:
    # The first decision is cold in every cache.
    latency = np.array(trace.milliseconds[1:] or trace.milliseconds)
    late = int((latency > 1000 * control_period).sum())
    return (
        f"{np.median(latency):.1f} ms per decision (95 % below {np.quantile(latency, 0.95):.1f}, "
        f"99 % below {np.quantile(latency, 0.99):.1f}, longest {latency.max():.1f}), "
        f"{late} over the control period of {1000 * control_period:.0f} ms; "
        f"{trace.fallbacks} fallbacks"
    )


def _report_deadline(trace: Trace, deadline_ms: float | None, console: Console) -> None:
    if deadline_ms is not None:
        iterations = [plan.diagnostics.iterations for plan in trace.plans]
        console.print(
            f"{np.median(iterations):.0f} iterations per plan, {trace.overruns} plans over the "
            f"deadline of {deadline_ms:g} ms"
        )


def _files(
    trace: Trace, start: Start, loaded: AnyRun, stem: str, settings: ControlSettings
) -> list[Path]:
    """Write the pictures, and the video where there are frames; returns their paths."""
    plots, spec = loaded.folder.plots, loaded.spec
    plots.mkdir(exist_ok=True)
    paths = [plots / f"episode-{stem}.png"]
    values, quantity = trace.rewards, "reward"
    if isinstance(start.agent.model, Towards):
        values, quantity = _steps_left(trace, start.agent.model), "control steps to the goal"
    period = 1000 * spec.control_period
    title = f"{spec.name}, {stem}"
    decision_trace(paths[0], values, trace.milliseconds, period, title, quantity)
    if settings.plan_plot:
        paths += _draw_plan(trace, start, loaded, stem, trace.plan_step(settings.plan_step))
    if trace.frames:
        path = loaded.folder.videos / f"{stem}.mp4"
        paths += _video(path, trace.frames, 1.0 / spec.control_period)
    return paths


def _steps_left(trace: Trace, model: Towards) -> list[float]:
    """The control steps to the goal, as the model has them, before every action."""
    obs = torch.from_numpy(np.stack(trace.obs[:-1])).to(model.goal.device)
    with torch.no_grad():
        left: list[float] = model.distance(model.encode(obs), model.goal).tolist()
    return left


def _video(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> list[Path]:
    """Write a video; its path, or nothing and a warning if that fails."""
    try:
        write_video(path, frames, fps)
    except (OSError, RuntimeError) as error:
        logger.warning("no video: %s", " ".join(str(error).split()))
        return []
    return [path]


def _plan_video(
    trace: Trace,
    start: Start,
    env: gymnasium.Env[Any, Any],
    step: int,
    loaded: AnyRun,
    stem: str,
) -> list[Path]:
    """Film the plan made at `step`, carried out to its end, beside what happened.

    Slowed down to last two seconds.
    """
    planned = list(trace.plans[step].actions[0].cpu().numpy())
    try:
        executed = trace.actions[:step]
        plan = carry_out(env, start.seed, executed, trace.obs[step], planned, start.options)
    except RuntimeError as error:
        logger.warning("no video of the plan: %s", error)
        return []
    happened = [plan[0], *trace.frames[step:]]
    frames = side_by_side(plan, happened, (f"planned at step {step}", "what happened"))
    fps = min(1.0 / loaded.spec.control_period, 0.5 * len(frames))
    return _video(loaded.folder.videos / f"plan-{stem}.mp4", frames, fps)


def _draw_plan(trace: Trace, start: Start, loaded: AnyRun, stem: str, step: int) -> list[Path]:
    """Draw the plan made at `step`: its states, the model's rollout of its actions, what happened.

    And what its iterations went through, for planners that have any. Returns the pictures.
    """
    model, spec = loaded.trained.model, loaded.spec
    path = loaded.folder.plots / f"plan-{stem}.png"
    obs = torch.from_numpy(np.stack(trace.obs)).to(loaded.device)
    if spec.pictures:
        readout = principal_readout(model, obs)
    else:
        names = spec.obs_names or [f"observation[{i}]" for i in range(spec.obs_dim)]
        readout = fit_readout(model, obs, names)
    plan, agent = trace.plans[step], start.agent
    horizon = plan.actions.shape[1]
    with torch.no_grad():
        # Before the first observation it repeats, as the agent had it.
        window = [obs[max(0, step - ago)] for ago in range(model.history - 1, -1, -1)]
        _, rolled = trajectory_cost(
            agent.model,
            agent.objective,
            agent.discount,
            model.encode(torch.stack(window)).view(1, -1),
            plan.actions,
        )
        virtual, rollout = readout(plan.states[0]).cpu(), readout(rolled[0]).cpu()
    happened = readout.happened(model, obs[step : step + horizon + 1]).cpu()
    title = f"{spec.name}, {stem}: plan at control step {step}"
    plan_picture(path, virtual, rollout, happened, plan.actions[0].cpu(), readout.labels, title)
    paths = [path]
    if start.task is not None:
        shown = {"what happened": obs, "virtual states": plan.states[0], "model": rolled[0]}
        if spec.pictures:
            shown["what happened"] = obs[step : step + horizon + 1]
            paths.append(loaded.folder.plots / f"film-{stem}.png")
            _draw_film(paths[-1], shown, start, spec, title)
        else:
            paths.append(loaded.folder.plots / f"path-{stem}.png")
            _draw_path(paths[-1], shown, start, spec, title)
    if not plan.diagnostics.trace:
        return paths
    beside = loaded.folder.plots / f"iterations-{stem}.png"
    panels = [
        Panel(name.replace("_", " "), "iteration", "", [Line("plan", *enumerated(x))])
        for name, x in plan.diagnostics.trace.items()
        if x.any()  # what is zero throughout is no part of this plan
    ]
    line_panels(beside, panels, title, inches=1.6)
    return [*paths, beside]


def _draw_path(
    path: Path,
    shown: dict[str, torch.Tensor],
    start: Start,
    spec: EnvSpec,
    title: str,
) -> None:
    """Draw observations (T, O) and latents (T, Z) by the first two numbers of the task's state."""
    model, task, places = start.agent.model, start.task, {}
    assert task is not None
    for name, x in shown.items():
        with torch.no_grad():
            obs = x if name == "what happened" else model.decode(x)
        places[name] = np.stack([task.state_of(one) for one in obs.cpu().numpy()])[:, :2]
    names = spec.obs_names or ("first", "second")
    path_picture(path, places, task.goal[:2], task.outline(), (names[0], names[1]), title)


def _draw_film(
    path: Path, shown: dict[str, torch.Tensor], start: Start, spec: EnvSpec, title: str
) -> None:
    """Draw pictures (T, O) and decoded latents (T, Z) of a plan in rows, then the goal."""
    model, goal = start.agent.model, start.goal
    assert isinstance(model, Towards) and goal is not None
    length = len(shown["virtual states"])
    steps = sorted({round(i * (length - 1) / (FILM - 1)) for i in range(FILM)})
    rows = {}
    for name, x in shown.items():
        happened = name == "what happened"
        end = torch.from_numpy(goal).to(x.device)[None] if happened else model.goal
        with torch.no_grad():
            # An episode that ended before the plan stays where it ended.
            row = torch.cat([x[[min(step, len(x) - 1) for step in steps]], end])
            row = row[:, -spec.newest_dim :] if happened else model.decode(row)
        pictures = row.view(len(row), 3, SIZE, SIZE).movedim(1, -1)
        rows[name] = pictures.round().to(torch.uint8).cpu().numpy()
    film_strip(path, rows, [*(f"{step}" for step in steps), "goal"], title)


def enumerated(values: torch.Tensor) -> tuple[list[float], list[float]]:
    """The places 0, 1, .. of `values` (iterations,), and the values."""
    return [float(i) for i in range(len(values))], values.tolist()
