"""Rolling actions through a model, one sequential model call per control step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mpc.actions import ActionSpace
from mpc.compilation import compiled
from mpc.contracts import Objective, Transition, WorldModel
from mpc.history import newest, push, windows
from mpc.optim import Adam, clip_norm, gradients


def follow(
    model: WorldModel,
    objective: Objective,
    discount: float,
    state: Tensor,
    horizon: int,
    choose: Callable[[int, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Cost and states of executing `choose(t, s_t)` from `state` on, for `horizon` control steps.

    J = sum_t w_t stage_t + w_H terminal(s_H), with w_t = discount^t times the predicted
    probability that the episode has not ended before step t.
    state (B, ..., h * Z) -> cost (B, ...), states (B, ..., H + 1, Z).
    """
    states = [newest(model, state)]
    weight: Tensor | float = 1.0
    cost: Tensor | float = 0.0
    for t in range(horizon):
        transition = model.predict(state, choose(t, states[-1]))
        cost = cost + weight * objective.stage(transition)
        weight = weight * after(transition, discount)
        states.append(transition.next)
        state = push(model, state, transition.next)
    return cost + weight * objective.terminal(model, states[-1]), torch.stack(states, -2)


def trajectory_cost(
    model: WorldModel, objective: Objective, discount: float, state: Tensor, actions: Tensor
) -> tuple[Tensor, Tensor]:
    """Cost and states (`follow`) of `actions` (B, ..., H, A) from state (B, ..., h * Z)."""
    horizon = actions.shape[-2]
    return follow(model, objective, discount, state, horizon, lambda t, _: actions[..., t, :])


def onward_costs(
    model: WorldModel,
    objective: Objective,
    discount: float,
    state: Tensor,
    actions: Tensor,
    steps: int,
) -> Tensor:
    """Costs of `actions` and 0, 1, .. `steps` control steps of the policy prior after them.

    state (B, ..., h * Z), actions (B, ..., H, A) -> (B, ..., steps + 1), of which the first is the
    `trajectory_cost`. H + steps model calls.
    """
    horizon = actions.shape[-2]
    here, weight = newest(model, state), torch.ones_like(actions[..., 0, 0])
    cost = torch.zeros_like(weight)
    costs, weights, ends = [], [], []
    for t in range(horizon + steps):
        action = actions[..., t, :] if t < horizon else model.policy(here)
        transition = model.predict(state, action)
        cost = cost + weight * objective.stage(transition)
        weight = weight * after(transition, discount)
        here = transition.next
        state = push(model, state, here)
        if t >= horizon - 1:
            costs.append(cost)
            weights.append(weight)
            ends.append(here)
    terminal = objective.terminal(model, torch.stack(ends, -2))
    return torch.stack(costs, -1) + torch.stack(weights, -1) * terminal


def noisy_policy_cost(
    model: WorldModel,
    objective: Objective,
    discount: float,
    space: ActionSpace,
    state: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cost and states (`follow`) of the policy prior's modes plus `noise`, and those actions.

    The noise (..., H, A) is added to the relaxed actions.
    state (..., h * Z) -> cost (...), relaxed actions (..., H, A), states (..., H + 1, Z).
    """
    relaxed: list[Tensor] = []

    def choose(t: int, z: Tensor) -> Tensor:
        relaxed.append(space.project(model.policy(z) + noise[..., t, :]))
        return space.execute(relaxed[-1])

    cost, states = follow(model, objective, discount, state, noise.shape[-2], choose)
    return cost, torch.stack(relaxed, -2), states


def after(transition: Transition, discount: float) -> Tensor | float:
    """Weight of what follows a transition: discount times the chance that the episode goes on."""
    if transition.continues is None:
        return discount
    return discount * transition.continues


def policy_rollout(
    model: WorldModel,
    space: ActionSpace,
    state: Tensor,
    horizon: int,
    noise: Tensor | None = None,
    std: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Actions that the policy prior takes over `horizon` predicted steps, and where it takes them.

    Without `noise` the mode of the policy; with it a sample, of the policy's own spread or, in the
    relaxed actions, of `std` around the mode. state (..., h * Z), noise (..., H, A) standard
    normal -> actions (..., H, A), states s_0..s_{H-1} (..., H, Z).
    The last action needs no prediction, so this is H - 1 model calls.
    """
    actions: list[Tensor] = []
    states = [newest(model, state)]
    for t in range(horizon):
        if t:
            states.append(model.step(state, space.execute(actions[-1])))
            state = push(model, state, states[-1])
        draw = None if noise is None else noise[..., t, :]
        if draw is None or std is None:
            actions.append(model.policy(states[-1], draw))
        else:
            actions.append(space.project(model.policy(states[-1]) + std * draw))
    return torch.stack(actions, -2), torch.stack(states, -2)


def defect(model: WorldModel, window: Tensor, states: Tensor, actions: Tensor) -> Tensor:
    """How far a path is from feasible: root mean square of f(s_t, a_t) - s_{t+1} over the spread.

    window (B, h * Z), states (B, ..., H + 1, Z), actions (B, ..., H, A) -> (B, ...).
    One batched model call.
    """
    gap = model.step(windows(model, window, states), actions) - states[..., 1:, :]
    return gap.square().mean((-2, -1)).sqrt() / model.latent_spread()


class Step(NamedTuple):
    """One step of gradient descent through the rollout."""

    actions: Tensor  # (B, K, H, A) after the step, not yet projected
    moments: Adam
    cost: Tensor  # (B, K) of the actions before the step
    states: Tensor  # (B, K, H + 1, Z) of the actions before the step
    norm: Tensor  # (), mean gradient norm over B and K


def descent_step(
    model: WorldModel,
    objective: Objective,
    discount: float,
    space: ActionSpace,
    state: Tensor,
    actions: Tensor,
    moments: Adam,
    rate: Tensor,
    clip: float,
) -> Step:
    """An Adam step on actions (B, K, H, A) by backpropagation through H sequential model calls."""

    def loss(actions: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        executed = space.execute(actions)
        cost, states = trajectory_cost(model, objective, discount, state, executed)
        # The second term is for objectives that no action has an influence on.
        return cost.sum() + 0.0 * actions.sum(), (cost, states)

    (gradient,), (cost, states) = gradients(loss, actions)
    change, moments = moments.step(clip_norm(gradient, clip), rate)
    return Step(actions - change, moments, cost, states, gradient.flatten(2).norm(dim=-1).mean())


class Rollouts(NamedTuple):
    """What planners do with a model in sequence, compiled or not."""

    cost: Callable[..., tuple[Tensor, Tensor]]  # trajectory_cost
    policy: Callable[..., tuple[Tensor, Tensor]]  # policy_rollout
    onward: Callable[..., Tensor]  # onward_costs
    noisy: Callable[..., tuple[Tensor, Tensor, Tensor]]  # noisy_policy_cost
    descend: Callable[..., Step]  # descent_step


EAGER = Rollouts(trajectory_cost, policy_rollout, onward_costs, noisy_policy_cost, descent_step)
LONGEST_COMPILED = 8  # control steps; a longer rollout takes minutes to compile, as it is unrolled


def rollouts_for(compile: bool, horizon: int) -> Rollouts:
    """Rollouts for a planner with these options."""
    if not compile or horizon > LONGEST_COMPILED:
        return EAGER
    return Rollouts(
        compiled(trajectory_cost),
        compiled(policy_rollout),
        compiled(onward_costs),
        compiled(noisy_policy_cost),
        compiled(descent_step),
    )


def finite_or_worst(cost: Tensor) -> Tensor:
    """Costs, infinite for whatever broke the model, so that it is never the best choice."""
    return torch.where(cost.isfinite(), cost, torch.inf)


def rounding(cost: Tensor) -> Tensor:
    """By how much costs that are the same may differ, because of their size: (...)."""
    return 32 * torch.finfo(cost.dtype).eps * (1.0 + cost.abs())


def cheapest_of(cost: Tensor) -> Tensor:
    """Index (B,) of the least cost (B, N), the first of those that only rounding tells apart.

    Relaxed actions that are executed alike cost the same, and how sums are rounded differs between
    machines and batch sizes: it must not decide.
    """
    cost = finite_or_worst(cost)
    least = cost.amin(1, keepdim=True)
    return (cost <= least + rounding(least)).to(torch.uint8).argmax(1)


def repeat(x: Tensor, n: int) -> Tensor:
    """A view with a candidate axis of size n behind B: (B, ...) -> (B, n, ...)."""
    return x.unsqueeze(1).expand(x.shape[0], n, *x.shape[1:])


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, ...) of the candidate axis: (B, N, *rest) -> (B, ..., *rest)."""
    batch = torch.arange(x.shape[0], device=x.device)
    return x[batch.view(-1, *(1,) * (index.dim() - 1)), index]
