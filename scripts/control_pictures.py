"""Pictures and videos of an episode under control and of one of its plans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from envs import EnvSpec
from envs.pixels import SIZE
from mpc import trajectory_cost
from scripts.control_episodes import AnyRun, Start, Trace
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
from scripts.video import write_video
from world_models import Towards

logger = logging.getLogger(__name__)

FILM = 8  # pictures of a plan that are drawn, at most


def draw_episode(trace: Trace, start: Start, loaded: AnyRun, stem: str) -> list[Path]:
    """Draw what every control step brought, or left to go, and how long it took to decide."""
    spec, path = loaded.spec, loaded.folder.plots / f"episode-{stem}.png"
    values, quantity = trace.rewards, "reward"
    if isinstance(start.agent.model, Towards):
        values, quantity = _steps_left(trace, start.agent.model), "control steps to the goal"
    period = 1000 * spec.control_period
    latency = np.where(trace.planned, trace.milliseconds, np.nan)
    decision_trace(path, values, latency, period, f"{spec.name}, {stem}", quantity)
    return [path]


def film_episode(trace: Trace, loaded: AnyRun, stem: str) -> list[Path]:
    """Write the video of an episode; its path, or nothing and a warning if that fails."""
    fps = 1.0 / loaded.spec.control_period
    return _video(loaded.folder.videos / f"{stem}.mp4", trace.frames, fps)


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


def film_plan(
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


def draw_plan(trace: Trace, start: Start, loaded: AnyRun, stem: str, step: int) -> list[Path]:
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
        elif len(start.task.goal) > 1:
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
