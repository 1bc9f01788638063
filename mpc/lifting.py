"""Lifted paths: where virtual states start, how they are noised, and the loss that moves them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc.contracts import Objective, Problem, Transition, WarmStart, WorldModel
from mpc.descent import Start
from mpc.rollout import Rollouts, policy_rollout, repeat
from mpc.warm_start import fill, known_rows

DISTANCES = ("mse", "huber", "cosine")
SCHEDULES = ("constant", "linear", "cosine", "exponential")
STATE_STARTS = ("rollout", "random", "interpolate", "noise")


class Lifted(NamedTuple):
    """The lifted loss and its parts, (B, K) each."""

    loss: Tensor
    distance: Tensor  # of predictions to the next virtual states, summed over time
    shaping: Tensor  # summed over time


def distance(kind: str, predicted: Tensor, states: Tensor) -> Tensor:
    """How far predictions (..., Z) are from virtual states (..., Z): (...).

    "mse" is half a sum of squares, so that a gradient step of length 1 closes the gap.
    """
    if kind == "cosine":
        return 1.0 - F.cosine_similarity(predicted, states, dim=-1)
    if kind == "huber":
        return F.huber_loss(predicted, states, reduction="none").sum(-1)
    return 0.5 * (predicted - states).square().sum(-1)


def lifted_loss(
    model: WorldModel,
    objective: Objective,
    discount: float,
    states: Tensor,
    actions: Tensor,
    weight: float,
    kind: str,
    stop_gradient: bool,
) -> Lifted:
    """L = sum_t d(f(s_t, a_t), s_{t+1}) + weight * sum_t shaping(s_t, a_t, f(s_t, a_t)).

    With `stop_gradient` every s_t that enters the model is a constant. states (B, K, H + 1, Z),
    actions (B, K, H, A) -> (B, K) each. One batched model call.
    Psenka et al. 2026, arXiv:2602.00475.
    """
    inputs = states[..., :-1, :]
    transition: Transition = model.predict(inputs.detach() if stop_gradient else inputs, actions)
    gap = distance(kind, transition.next, states[..., 1:, :]).sum(-1)
    shaping = objective.shaping(model, transition, discount).sum(-1)
    return Lifted(gap + weight * shaping, gap, shaping)


def lifted_cost(
    model: WorldModel,
    objective: Objective,
    discount: float,
    states: Tensor,
    actions: Tensor,
    kind: str,
) -> Tensor:
    """What a path promises plus how much of it is made up: its cost along the virtual states and
    the summed distance of its predictions to them.

    states (B, K, H + 1, Z), actions (B, K, H, A) -> (B, K). One batched model call.
    """
    transition = model.predict(states[..., :-1, :], actions)
    weight = torch.full_like(actions[..., 0], discount)
    if transition.continues is not None:
        weight = weight * transition.continues
    # What a step counts depends on the steps before it.
    weight = torch.cat([torch.ones_like(weight[..., :1]), weight.cumprod(-1)], -1)
    promised = (weight[..., :-1] * objective.stage(transition)).sum(-1)
    promised = promised + weight[..., -1] * objective.terminal(model, transition.next[..., -1, :])
    return promised + distance(kind, transition.next, states[..., 1:, :]).sum(-1)


def defect(model: WorldModel, states: Tensor, actions: Tensor) -> Tensor:
    """How far a path is from feasible: root mean square of f(s_t, a_t) - s_{t+1} over the spread.

    states (..., H + 1, Z), actions (..., H, A) -> (...). One batched model call.
    """
    gap = model.step(states[..., :-1, :], actions) - states[..., 1:, :]
    return gap.square().mean((-2, -1)).sqrt() / model.latent_spread()


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


def pin(states: Tensor, goal: Tensor | None) -> Tensor:
    """States (B, K, H + 1, Z) that end in the goal (B, Z), where there is one."""
    if goal is None:
        return states
    last = goal[:, None, None].expand(*states.shape[:2], 1, -1)
    return torch.cat([states[..., :-1, :], last], -2)


def renew(problem: Problem, warm_start: WarmStart, blend: int) -> tuple[WarmStart, int]:
    """A shifted warm start made to fit the new observation, and the model calls that took.

    The surprise (encoded state minus the state that was expected) is spread, falling linearly,
    over the first `blend` virtual states instead of being left as a jump; steps that the shift
    made up are filled by the policy prior where the model has one.
    """
    if warm_start.states is None:
        return warm_start, 0
    surprise = problem.state - warm_start.states[:, 0]
    steps = torch.arange(problem.horizon + 1, device=surprise.device)
    share = (1.0 - steps / blend).clamp_min(0.0).to(surprise.dtype)
    states = warm_start.states + share[:, None] * surprise.unsqueeze(1)
    actions, filled = warm_start.actions, warm_start.filled
    if not filled or not problem.model.supports("policy"):
        return replace(warm_start, states=states), 0
    kept = problem.horizon - filled
    # The rollout's last action, one past the horizon, is not needed; its states are.
    tail = policy_rollout(problem.model, states[:, kept], filled + 1)
    actions = torch.cat([actions[:, :kept], problem.actions.project(tail[0][:, :-1])], 1)
    states = torch.cat([states[:, :kept], tail[1]], 1)
    return replace(warm_start, actions=actions, states=states), filled


def initial_states(
    problem: Problem,
    warm_start: WarmStart | None,
    start: Start,
    kind: str,
    rollouts: Rollouts,
    rng: torch.Generator,
) -> tuple[Tensor, int]:
    """Virtual states (B, K, H + 1, Z) to start from, and the model calls that took.

    Cold rows and further restarts by `kind`: "rollout" of their actions, "random" (rollout of
    uniform actions), "interpolate" (a straight line to the goal, noised), "noise" around s_0.
    The first restart of warm rows takes the renewed virtual states of the warm start.
    """
    batch, count, horizon = start.actions.shape[:3]
    known = known_rows(warm_start, batch, problem.state.device)
    state = repeat(problem.state, count)
    calls = 0
    if warm_start is not None and warm_start.states is not None and known.all() and count == 1:
        return warm_start.states.unsqueeze(1), 0
    if kind == "rollout" and start.states is not None:
        # The last virtual state enters no prediction; it may start where its predecessor is.
        states = torch.cat([start.states, start.states[..., -1:, :]], -2)
    elif kind in ("rollout", "random"):
        actions = start.actions
        if kind == "random":
            actions = problem.actions.sample((count, horizon), rng, state).expand_as(actions)
        arguments = (problem.model, problem.objective, problem.discount)
        _, states = rollouts.cost(*arguments, state, actions)
        calls = horizon
    else:
        line = state.unsqueeze(2).expand(-1, -1, horizon + 1, -1)
        goal = problem.objective.goal()
        if kind == "interpolate":
            if goal is None:
                raise ValueError("states_init 'interpolate' needs an objective with a goal")
            share = torch.linspace(0, 1, horizon + 1, device=line.device, dtype=line.dtype)
            line = line + share[:, None] * (goal[:, None, None] - line)
        noise = problem.normal((count, horizon, line.shape[-1]), rng)
        free = line[..., 1:, :] + problem.model.latent_spread() * noise
        states = torch.cat([line[..., :1, :], free], -2)
    if warm_start is not None and warm_start.states is not None:
        first = fill(known, warm_start.states, states[:, 0])
        states = torch.cat([first.unsqueeze(1), states[:, 1:]], 1)
    return states, calls
