"""Virtual states: where they start, how a warm start is renewed, and the noise they get."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mpc.contracts import Problem, WarmStart
from mpc.descent import Start
from mpc.history import newest, windows
from mpc.rollout import Rollouts, repeat
from mpc.warm_start import fill, known_rows

SCHEDULES = ("constant", "linear", "cosine", "exponential")
STATE_STARTS = ("rollout", "random", "interpolate", "noise")
TAILS = ("policy", "repeat", "zero")


def noise_scale(schedule: str, progress: float) -> float:
    """Share of the full noise at `progress` in [0, 1] of its duration; 0 afterwards."""
    if progress >= 1.0:
        return 0.0
    return {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "exponential": math.exp(-5.0 * progress),
    }[schedule]


def warm_rows(problem: Problem, warm_start: WarmStart | None) -> Tensor:
    """Rows (B,) bool that have virtual states to start from."""
    if warm_start is not None and warm_start.states is None:
        warm_start = None
    return known_rows(warm_start, problem.batch, problem.state.device)


def pin(states: Tensor, goal: Tensor | None) -> Tensor:
    """States (B, K, H + 1, Z) that end in the goal (B, Z), where there is one."""
    if goal is None:
        return states
    last = goal[:, None, None].expand(*states.shape[:2], 1, -1)
    return torch.cat([states[..., :-1, :], last], -2)


def renew(
    problem: Problem, warm_start: WarmStart, blend: int, tail: str = "policy"
) -> tuple[WarmStart, int]:
    """A shifted warm start made to fit the new observation, and the model calls that took.

    The surprise (encoded state minus the state that was expected) is spread, falling linearly,
    over the first `blend` virtual states instead of being left as a jump. Steps that the shift
    made up are predicted, one model call each, with actions by `tail`: "policy" (where the model
    has one), "repeat" or "zero".
    """
    if warm_start.states is None:
        return warm_start, 0
    model, horizon = problem.model, problem.horizon
    surprise = newest(model, problem.state) - warm_start.states[:, 0]
    steps = torch.arange(horizon + 1, device=surprise.device)
    share = (1.0 - steps / blend).clamp_min(0.0).to(surprise.dtype)
    states = warm_start.states + share[:, None] * surprise.unsqueeze(1)
    actions = warm_start.actions.clone()
    for t in range(horizon - warm_start.filled, horizon):
        if tail == "policy" and model.supports("policy"):
            actions[:, t] = problem.actions.project(model.policy(states[:, t]))
        elif tail == "zero":
            actions[:, t] = problem.actions.centre((), actions)
        executed = problem.actions.execute(actions[:, t])
        states[:, t + 1] = model.step(windows(model, problem.state, states)[:, t], executed)
    return replace(warm_start, actions=actions, states=states), warm_start.filled


def draw_for(problem: Problem, kind: str, count: int, rng: torch.Generator) -> Tensor | None:
    """The random numbers of `initial_states`, the same for all problems: actions or noise."""
    if kind == "rollout":
        return None
    if kind == "random":
        return problem.actions.sample((count, problem.horizon), rng, problem.state)
    return problem.normal((count, problem.horizon, problem.model.latent_dim), rng)


def initial_states(
    problem: Problem,
    warm_start: WarmStart | None,
    start: Start,
    kind: str,
    rollouts: Rollouts,
    draw: Tensor | None,
) -> tuple[Tensor, int]:
    """Virtual states (B, K, H + 1, Z) to start from, and the model calls that took.

    Cold rows and further restarts by `kind`: "rollout" of their actions, "random" (rollout of
    uniform actions), "interpolate" (a straight line to the goal, noised), "noise" around s_0;
    `draw` is what `draw_for` gives for that kind. The first restart of warm rows takes the renewed
    virtual states of the warm start, or for "rollout" where it has none those of its actions.
    """
    batch, count, horizon = start.actions.shape[:3]
    known = known_rows(warm_start, batch, problem.state.device)
    arguments = (problem.model, problem.objective, problem.discount)
    warm, calls = None if warm_start is None else warm_start.states, 0
    if warm is not None and known.all() and count == 1:
        return warm.unsqueeze(1), 0
    if kind == "rollout" and start.states is not None:
        # The last virtual state enters no prediction; it may start where its predecessor is.
        states = torch.cat([start.states, start.states[..., -1:, :]], -2)
        if warm_start is not None and warm is None:
            executed = problem.actions.execute(start.actions[:, 0])
            _, warm = rollouts.cost(*arguments, problem.state, executed)
            calls = horizon
    elif kind in ("rollout", "random"):
        actions, window = problem.actions.execute(start.actions), repeat(problem.state, count)
        if kind == "random":
            assert draw is not None
            actions = draw.expand_as(actions)
        _, states = rollouts.cost(*arguments, window, actions)
        calls = horizon
    else:
        state = repeat(newest(problem.model, problem.state), count)
        line = state.unsqueeze(2).expand(-1, -1, horizon + 1, -1)
        goal = problem.objective.goal()
        if kind == "interpolate":
            if goal is None:
                raise ValueError("states_init 'interpolate' needs an objective with a goal")
            share = torch.linspace(0, 1, horizon + 1, device=line.device, dtype=line.dtype)
            line = line + share[:, None] * (goal[:, None, None] - line)
        assert draw is not None
        free = line[..., 1:, :] + problem.model.latent_spread() * draw
        states = torch.cat([line[..., :1, :], free], -2)
    if warm is not None:
        first = fill(known, warm, states[:, 0])
        states = torch.cat([first.unsqueeze(1), states[:, 1:]], 1)
    return states, calls
