"""Rolling actions through a model, one sequential model call per control step."""

from __future__ import annotations

import torch
from torch import Tensor

from mpc.contracts import Objective, Transition, WorldModel


def trajectory_cost(
    model: WorldModel, objective: Objective, discount: float, state: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    """Cost and states of following `actions` from `state`.

    J = sum_t w_t stage_t + w_H terminal(s_H), with w_t = discount^t times the predicted
    probability that the episode has not ended before step t.
    state (B, ..., Z), actions (B, ..., H, A) -> cost (B, ...), states (B, ..., H + 1, Z).
    """
    states = [state]
    weight: Tensor | float = 1.0
    cost: Tensor | float = 0.0
    for action in actions.unbind(-2):
        transition = model.predict(state, action)
        cost = cost + weight * objective.stage(transition)
        weight = weight * after(transition, discount)
        state = transition.next
        states.append(state)
    return cost + weight * objective.terminal(model, state), torch.stack(states, -2)


def after(transition: Transition, discount: float) -> Tensor | float:
    """Weight of what follows a transition: discount times the chance that the episode goes on."""
    if transition.continues is None:
        return discount
    return discount * transition.continues


def policy_rollout(
    model: WorldModel, state: Tensor, horizon: int, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Actions that the policy prior takes over `horizon` predicted steps, and where it takes them.

    state (..., Z), noise (..., H, A) standard normal or None for the mode
    -> actions (..., H, A), states s_0..s_{H-1} (..., H, Z).
    The last action needs no prediction, so this is H - 1 model calls.
    """
    actions: list[Tensor] = []
    states = [state]
    for t in range(horizon):
        if t:
            states.append(model.step(states[-1], actions[-1]))
        actions.append(model.policy(states[-1], None if noise is None else noise[..., t, :]))
    return torch.stack(actions, -2), torch.stack(states, -2)


def repeat(x: Tensor, n: int) -> Tensor:
    """A view with a candidate axis of size n behind B: (B, ...) -> (B, n, ...)."""
    return x.unsqueeze(1).expand(x.shape[0], n, *x.shape[1:])


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Row `index` (B,) of the candidate axis: (B, N, ...) -> (B, ...)."""
    return x[torch.arange(x.shape[0], device=x.device), index]


def defect(states: Tensor, actions: Tensor, model: WorldModel) -> Tensor:
    """Dynamics gap of a lifted path: root mean square of f(s_t, a_t) - s_{t+1} over the spread.

    states (..., H + 1, Z), actions (..., H, A) -> (...). One batched model call.
    """
    gap = model.step(states[..., :-1, :], actions) - states[..., 1:, :]
    return gap.square().mean((-2, -1)).sqrt() / model.latent_spread()
