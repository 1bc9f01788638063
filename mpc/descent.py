"""What the gradient planner and GRASP share: restarts, and descent through the rollout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mpc.contracts import Problem, WarmStart
from mpc.optim import Adam, annealed
from mpc.planner import PlannerConfig
from mpc.rollout import Rollouts, finite_or_worst, repeat, rounding
from mpc.warm_start import fill, first_actions, known_rows


@dataclass(frozen=True)
class RestartConfig(PlannerConfig):
    """Options of planners that improve a few action sequences by gradients."""

    iterations: int = 5  # gradient steps
    restarts: int = 4  # sequences that are improved side by side; the best is the plan
    init_std: float = 0.5  # spread of the other restarts around the first
    action_lr: float = 0.2  # of Adam on the actions
    final_lr: float = 0.1  # share of the learning rate left at the end of a cosine
    action_clip: float = 1.0  # largest gradient norm of one control step's action

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.require("iterations", self.iterations >= 1, "at least 1")
        self.require("restarts", self.restarts >= 1, "at least 1")
        self.require("init_std", self.init_std >= 0, "at least 0")
        self.require("action_lr", self.action_lr > 0, "above 0")
        self.require("final_lr", 0 <= self.final_lr <= 1, "in [0, 1]")
        self.require("action_clip", self.action_clip > 0, "above 0")


class Start(NamedTuple):
    """Where K restarts begin."""

    actions: Tensor  # (B, K, H, A)
    states: Tensor | None  # (B, K, H, Z), s_0..s_{H-1} of the policy rollouts, if there were any
    calls: int  # model calls that it took


def restarts(
    problem: Problem,
    warm_start: WarmStart | None,
    cfg: RestartConfig,
    rollouts: Rollouts,
    noise: Tensor,
) -> Start:
    """First the warm start, or for rows without one the mode of the policy prior, else the middle.

    The other restarts follow the policy prior with noise of `init_std` on every action, or are the
    first plus such noise where there is no policy. `noise` (K - 1, H, A) is standard normal.
    """
    batch, horizon, dim = problem.batch, problem.horizon, problem.actions.dim
    known = known_rows(warm_start, batch, problem.state.device)
    states, calls = None, 0
    # Noise for the first restart too: none.
    noise = torch.cat([noise.new_zeros(1, horizon, dim), noise])
    if problem.model.supports("policy") and (cfg.restarts > 1 or not known.all()):
        # A sample without noise is the mode, so the cold start shares the batched rollout.
        noise = noise.expand(batch, *noise.shape)
        state = repeat(problem.state, cfg.restarts)
        of = (problem.model, problem.actions, state, horizon)
        actions, states = rollouts.policy(*of, noise, cfg.init_std)
        calls = horizon - 1
        if warm_start is not None:
            first = fill(known, warm_start.actions, actions[:, 0])
            actions = torch.cat([first.unsqueeze(1), actions[:, 1:]], 1)
    else:
        actions = first_actions(problem, warm_start).unsqueeze(1) + cfg.init_std * noise
    return Start(problem.actions.project(actions), states, calls)


@dataclass(frozen=True)
class Descent:
    """Where descent through the rollout ended."""

    actions: Tensor  # (B, K, H, A), the relaxed actions of the cheapest met from each restart
    cost: Tensor  # (B, K), of executing them
    states: Tensor  # (B, K, H + 1, Z)
    # Means over B: (iterations + 1,) the cost of the best restart, (iterations,) gradient norms.
    trace: dict[str, Tensor]


def descend(
    rollouts: Rollouts,
    problem: Problem,
    actions: Tensor,
    cfg: RestartConfig,
    iterations: Iterable[int],
) -> Descent:
    """Adam on actions (B, K, H, A) by backpropagation through the rollout.

    n iterations take (n + 1) * H model calls, of which n * H are differentiated.
    """
    model = (problem.model, problem.objective, problem.discount)
    space, state = problem.actions, repeat(problem.state, actions.shape[1])
    moments = Adam.zeros(actions)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    costs, norms = [], []
    for i in iterations:
        rate = rate_at(cfg, i, cfg.iterations, actions.device)
        step = rollouts.descend(*model, space, state, actions, moments, rate, cfg.action_clip)
        found = actions, finite_or_worst(step.cost), step.states
        best = found if best is None else cheapest(best, found)
        costs.append(found[1].min(1).values.mean())
        norms.append(step.norm)
        actions, moments = space.project(step.actions), step.moments
    cost, states = rollouts.cost(*model, state, space.execute(actions))
    found = actions, finite_or_worst(cost), states
    best = found if best is None else cheapest(best, found)
    costs.append(found[1].min(1).values.mean())
    trace = {"cost": torch.stack(costs), "action_gradient": torch.stack(norms)}
    return Descent(*best, trace)


def rate_at(cfg: RestartConfig, iteration: int, iterations: int, device: torch.device) -> Tensor:
    """Learning rate at an iteration of an annealed descent, as a tensor: no recompilation."""
    rate = annealed(cfg.action_lr, iteration / iterations, cfg.final_lr)
    return torch.tensor(rate, device=device)


def cheapest(
    a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Per restart, the cheaper of two (actions, cost, states), the first of equals."""
    better = b[1] < a[1] - rounding(b[1])
    return (
        torch.where(better[..., None, None], b[0], a[0]),
        torch.where(better, b[1], a[1]),
        torch.where(better[..., None, None], b[2], a[2]),
    )
