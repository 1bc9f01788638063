"""The lifted loss: what moves the actions and virtual states of a path, and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc.contracts import Objective, Transition, WorldModel
from mpc.descent import RestartConfig
from mpc.history import push, windows
from mpc.rollout import after

DISTANCES = ("mse", "huber", "cosine")


@dataclass(frozen=True)
class LiftedConfig(RestartConfig):
    """What the lifted loss is made of."""

    distance: str = "mse"  # of a prediction to the next virtual state: mse, huber, cosine
    defect: float = 1.0  # weight of that distance
    shaping: float = 1.0  # weight of the cost of a short lookahead from every virtual state
    lookahead: int = 1  # control steps of it, one model call each
    lookahead_span: int = 8  # first virtual states that look so far ahead; later ones look one step
    path_cost: float = 0.0  # weight of the objective along the virtual states
    stop_gradient: bool = True  # no gradient into the virtual states that enter the model

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.one_of("distance", DISTANCES)
        for option in ("defect", "shaping", "path_cost"):
            self.require(option, getattr(self, option) >= 0, "at least 0")
        for option in ("lookahead", "lookahead_span"):
            self.require(option, getattr(self, option) >= 1, "at least 1")


class Lifted(NamedTuple):
    """The lifted loss and its parts, (B, K) each, summed over time and not yet weighted."""

    loss: Tensor
    distance: Tensor  # of predictions to the next virtual states
    shaping: Tensor
    path_cost: Tensor


def lifted_loss(
    model: WorldModel,
    objective: Objective,
    discount: float,
    cfg: LiftedConfig,
    window: Tensor,
    states: Tensor,
    actions: Tensor,
) -> Lifted:
    """L = defect sum_t d(f(s_t, a_t), s_{t+1}) + shaping sum_t l_n(s_t, a_t..) + path_cost J(s, a).

    l_n is `lookahead_cost`; with n = 1 and a stop-gradient on every s_t that enters the model this
    is the loss of Psenka et al. 2026, arXiv:2602.00475. J is the cost that the path promises.
    window (B, h * Z), states (B, K, H + 1, Z), actions (B, K, H, A) -> (B, K) each.
    One batched model call, and one more for every further step of the lookahead.
    """
    inputs = windows(model, window, states)
    transition = model.predict(inputs.detach() if cfg.stop_gradient else inputs, actions)
    gap = distance(cfg.distance, transition.next, states[..., 1:, :]).sum(-1)
    shaping = promised = torch.zeros_like(gap)
    if cfg.shaping:
        steps = cfg.lookahead, cfg.lookahead_span
        ahead = lookahead_cost(model, objective, discount, *steps, transition, actions)
        shaping = ahead.sum(-1)
    if cfg.path_cost:
        promised = path_cost(model, objective, discount, transition, states)
    loss = cfg.defect * gap + cfg.shaping * shaping + cfg.path_cost * promised
    return Lifted(loss, gap, shaping, promised)


def distance(kind: str, predicted: Tensor, states: Tensor) -> Tensor:
    """How far predictions (..., Z) are from virtual states (..., Z): (...).

    "mse" is half a sum of squares, so that a gradient step of length 1 closes the gap.
    """
    if kind == "cosine":
        return 1.0 - F.cosine_similarity(predicted, states, dim=-1)
    if kind == "huber":
        return F.huber_loss(predicted, states, reduction="none").sum(-1)
    return 0.5 * (predicted - states).square().sum(-1)


def lookahead_cost(
    model: WorldModel,
    objective: Objective,
    discount: float,
    steps: int,
    span: int,
    first: Transition,
    actions: Tensor,
) -> Tensor:
    """Cost of following the plan for some control steps from every virtual state, then stopping.

    `steps` from the first `span` virtual states and one from the later ones, whose actions will be
    improved again before they are executed. All lookaheads run side by side, so this is steps - 1
    model calls whatever the horizon; those that reach the end of the plan stop there. `first`
    (B, K, H, ...) is the first step of each, actions (B, K, H, A) -> (B, K, H).
    """
    if steps == 1:
        return objective.shaping(model, first, discount)
    cost, weight = objective.stage(first), torch.full_like(actions[..., 0], discount)
    if first.continues is not None:
        weight = weight * first.continues
    ends, window = first.next, push(model, first.state, first.next)
    for i in range(1, min(steps, actions.shape[-2])):
        count = min(actions.shape[-2] - i, span)  # lookaheads that have another step to go
        window = window[..., :count, :]
        transition = model.predict(window, actions[..., i : i + count, :])
        going = weight[..., :count]
        stage = going * objective.stage(transition)
        cost = torch.cat([cost[..., :count] + stage, cost[..., count:]], -1)
        weight = torch.cat([going * after(transition, discount), weight[..., count:]], -1)
        ends = torch.cat([transition.next, ends[..., count:, :]], -2)
        window = push(model, window, transition.next)
    return cost + weight * objective.terminal(model, ends)


def path_cost(
    model: WorldModel, objective: Objective, discount: float, move: Transition, states: Tensor
) -> Tensor:
    """What a path promises: its cost along the virtual states, `trajectory_cost` if it is feasible.

    `move` (B, K, H, ...) are the predictions made on the way, states (B, K, H + 1, Z) -> (B, K).
    """
    along = move._replace(next=states[..., 1:, :])
    weight = torch.full_like(states[..., 1:, 0], discount)
    if move.continues is not None:
        weight = weight * move.continues
    # What a step counts depends on the steps before it.
    weight = torch.cat([torch.ones_like(weight[..., :1]), weight.cumprod(-1)], -1)
    stages = (weight[..., :-1] * objective.stage(along)).sum(-1)
    return stages + weight[..., -1] * objective.terminal(model, states[..., -1, :])


def lifted_cost(
    model: WorldModel,
    objective: Objective,
    discount: float,
    cfg: LiftedConfig,
    window: Tensor,
    states: Tensor,
    actions: Tensor,
) -> Tensor:
    """What a path promises plus how much of it is made up (its weighted distance): (B, K).

    window (B, h * Z), states (B, K, H + 1, Z), actions (B, K, H, A). One batched model call.
    """
    move = model.predict(windows(model, window, states), actions)
    gap = distance(cfg.distance, move.next, states[..., 1:, :]).sum(-1)
    return path_cost(model, objective, discount, move, states) + cfg.defect * gap
