"""GRASP: gradient-based planning over lifted ("virtual") states, parallel over time.

Psenka, Rabbat, Krishnapriyan, LeCun and Bar 2026, arXiv:2602.00475. The states s_1..s_H of a plan
are free variables beside its actions, so that all B * K * H one-step predictions of an iteration
are one batched model call. No gradient flows into the state input of the model: a state moves
only because the prediction before it pulls, an action because of its own step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mpc.compilation import compiled
from mpc.contracts import (
    Diagnostics,
    Objective,
    Plan,
    Planner,
    Problem,
    WarmStart,
    WorldModel,
)
from mpc.descent import RestartConfig, rate_at, restarts
from mpc.lifting import (
    DISTANCES,
    SCHEDULES,
    STATE_STARTS,
    Lifted,
    defect,
    initial_states,
    lifted_cost,
    lifted_loss,
    noise_scale,
    pin,
    renew,
)
from mpc.optim import Adam, adam_rate, annealed, clip_norm, gradients
from mpc.registry import register
from mpc.rollout import finite_or_worst, pick, repeat, rollouts_for


@dataclass(frozen=True)
class GraspConfig(RestartConfig):
    """Options of GRASP. The defaults suit warm plans of a few control steps; docs/decisions.md."""

    iterations: int = 2  # steps on states and actions
    restarts: int = 4  # paths that are improved side by side; the best is the plan
    init_std: float = 1.0  # spread of the other restarts around the first
    states_init: str = "rollout"  # cold virtual states: rollout, random, interpolate, noise
    distance: str = "mse"  # of a prediction to the next virtual state: mse, huber, cosine
    shaping: float = 1.0  # weight of the dense one-step signal against the defect
    stop_gradient: bool = True  # no gradient into the state input of the model
    state_optimizer: str = "sgd"  # sgd or adam
    state_lr: float = 1.0  # with sgd and mse, 1 moves a state onto its prediction
    state_clip: float = 1.0  # largest gradient norm of one virtual state
    noise: float = 0.1  # standard deviation of the state noise over the spread of latents
    noise_schedule: str = "linear"  # how it falls: constant, linear, cosine, exponential
    noise_until: float = 0.5  # share of the iterations after which there is no noise
    noise_every: int = 1  # iterations for which one draw of the noise is held
    sync_every: int = 2  # iterations between synchronisations with the true rollout; 0: never
    sync_steps: int = 1  # descent steps through the rollout at each synchronisation
    select: str = "rollout"  # cost by which a restart is the plan: rollout, or lifted (parallel)
    blend: int = 5  # first states over which a warm start spreads the surprise in s_0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.one_of("states_init", STATE_STARTS)
        self.one_of("distance", DISTANCES)
        self.one_of("state_optimizer", ("sgd", "adam"))
        self.one_of("noise_schedule", SCHEDULES)
        self.one_of("select", ("rollout", "lifted"))
        for option in ("shaping", "noise", "sync_every"):
            self.require(option, getattr(self, option) >= 0, "at least 0")
        for option in ("state_lr", "state_clip"):
            self.require(option, getattr(self, option) > 0, "above 0")
        for option in ("noise_every", "sync_steps", "blend"):
            self.require(option, getattr(self, option) >= 1, "at least 1")
        self.require("noise_until", 0 <= self.noise_until <= 1, "in [0, 1]")


class Path(NamedTuple):
    """What GRASP iterates on."""

    actions: Tensor  # (B, K, H, A)
    states: Tensor  # (B, K, H + 1, Z)
    action_moments: Adam
    state_moments: Adam  # of states[..., 1:, :]


class Rates(NamedTuple):
    """Step lengths of one iteration; tensors, so that compiled code is made once for all."""

    action: Tensor
    state: Tensor
    noise: Tensor  # standard deviation, relative to the spread of latents


def schedule(cfg: GraspConfig) -> list[Rates]:
    """The rates of all iterations."""
    rates = []
    noisy = cfg.noise_until * cfg.iterations  # iterations that add noise
    for i in range(cfg.iterations):
        progress = i / cfg.iterations
        action = adam_rate(annealed(cfg.action_lr, progress, cfg.final_lr), i + 1)
        # A step onto a prediction is no less right late in a plan, so SGD is not annealed.
        state = cfg.state_lr
        if cfg.state_optimizer == "adam":
            state = adam_rate(annealed(cfg.state_lr, progress, cfg.final_lr), i + 1)
        share = noise_scale(cfg.noise_schedule, i / noisy) if i < noisy else 0.0
        noise = cfg.noise * cfg.state_lr * share
        rates.append(Rates(*torch.tensor([action, state, noise])))
    return rates


def iterate(
    model: WorldModel,
    objective: Objective,
    discount: float,
    cfg: GraspConfig,
    path: Path,
    rates: Rates,
    noise: Tensor,
) -> tuple[Path, Lifted, Tensor]:
    """One iteration: a batched model call, a step on actions and states, noise on the states.

    `noise` (K, H, Z) is scaled to the spread of latents. Also returns the loss at the old path
    and the mean gradient norms of actions and states, (2,).
    """
    start = path.states[..., :1, :]

    def loss(actions: Tensor, free: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        states = torch.cat([start, free], -2)
        lifted = lifted_loss(
            model,
            objective,
            discount,
            states,
            actions,
            cfg.shaping,
            cfg.distance,
            cfg.stop_gradient,
        )
        return lifted.loss.sum(), lifted

    free = path.states[..., 1:, :]
    found, lifted = gradients(loss, path.actions, free)
    norms = torch.stack([gradient.flatten(2).norm(dim=-1).mean() for gradient in found])
    action_gradient, state_gradient = found
    step, action_moments = path.action_moments.step(
        clip_norm(action_gradient, cfg.action_clip), rates.action
    )
    actions = path.actions - step
    state_gradient, state_moments = clip_norm(state_gradient, cfg.state_clip), path.state_moments
    if cfg.state_optimizer == "adam":
        step, state_moments = state_moments.step(state_gradient, rates.state)
    else:
        step = rates.state * state_gradient
    states = torch.cat([start, free - step + rates.noise * noise], -2)
    after = Path(actions, pin(states, objective.goal()), action_moments, state_moments)
    return after, Lifted(*lifted), norms


@register("grasp")
class Grasp(Planner[GraspConfig]):
    """Virtual states and actions optimised together, one batched model call per iteration."""

    Config = GraspConfig

    def __init__(self, config: GraspConfig) -> None:
        super().__init__(config)
        self._rollouts = rollouts_for(config)
        self._iterate = compiled(iterate, bool(config.compile))
        self._schedule = schedule(config)

    @torch.no_grad()
    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Iterate on states and actions; the cheapest restart is the plan."""
        cfg, horizon = self.config, problem.horizon
        model = (problem.model, problem.objective, problem.discount)
        spread = problem.model.latent_spread()
        path, forward = self._start(problem, warm_start, rng)
        first = path.actions[:, :1]
        backward = 0
        noise = torch.zeros_like(path.states[0, :, 1:])
        losses, norms = [], []
        for i in self.iterations(cfg.iterations):
            rates = self._schedule[i]
            if rates.noise and i % cfg.noise_every == 0:
                noise = spread * problem.normal(noise.shape, rng)
            path, lifted, norm = self._iterate(*model, cfg, path, rates, noise)
            path = path._replace(actions=problem.actions.project(path.actions))
            forward, backward = forward + 1, backward + 1
            losses.append(torch.stack(lifted))
            norms.append(norm)
            if cfg.sync_every and (i + 1) % cfg.sync_every == 0:
                path = self._synchronise(problem, path)
                forward += cfg.sync_steps * horizon
                backward += cfg.sync_steps * horizon
        synced = cfg.sync_every > 0 and len(losses) % cfg.sync_every == 0
        if cfg.select == "rollout":
            candidates, states, cost = self._roll_out(problem, path, first, synced)
            forward += horizon
        else:
            candidates, states = path.actions, path.states
            cost = lifted_cost(*model, states, candidates, cfg.distance)
            forward += 1
        best = finite_or_worst(cost).argmin(1)
        actions, states = pick(candidates, best), pick(states, best)
        diagnostics = Diagnostics(
            iterations=len(losses),
            forward_calls=forward + 1,
            backward_calls=backward,
            defect=defect(problem.model, states, actions),
            trace=self._trace(losses, norms),
        )
        return Plan(actions, pick(cost, best), states, WarmStart(actions, states), diagnostics)

    def _start(
        self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator
    ) -> tuple[Path, int]:
        """Where the iterations begin, and the model calls that took."""
        renewed = 0
        if warm_start is not None:
            warm_start, renewed = renew(problem, warm_start, self.config.blend)
        start = restarts(problem, warm_start, self.config, self._rollouts, rng)
        states, calls = initial_states(
            problem, warm_start, start, self.config.states_init, self._rollouts, rng
        )
        states = pin(states, problem.objective.goal())
        moments = Adam.zeros(start.actions), Adam.zeros(states[..., 1:, :])
        return Path(start.actions, states, *moments), renewed + start.calls + calls

    def _synchronise(self, problem: Problem, path: Path) -> Path:
        """Descent steps through the true rollout, which the virtual states then follow.

        The states are those of the actions before the last step; one iteration brings them up.
        """
        cfg, moments = self.config, Adam.zeros(path.actions)
        state, actions, states = repeat(problem.state, cfg.restarts), path.actions, path.states
        for i in range(cfg.sync_steps):
            step = self._rollouts.descend(
                problem.model,
                problem.objective,
                problem.discount,
                state,
                actions,
                moments,
                rate_at(cfg, i, cfg.sync_steps),
                cfg.action_clip,
            )
            actions, states = problem.actions.project(step.actions), step.states
            moments = step.moments
        return path._replace(actions=actions, states=pin(states, problem.objective.goal()))

    def _roll_out(
        self, problem: Problem, path: Path, first: Tensor, synced: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B, K + 1, H, A) to choose from, their virtual states and true costs (B, K + 1).

        Where the first restart began, `first` (B, 1, H, A), takes part, so that no plan is worse
        than its warm start. With a sync at the end the virtual states are the rollout's.
        """
        actions = torch.cat([path.actions, first], 1)
        cost, rolled = self._rollouts.cost(
            problem.model,
            problem.objective,
            problem.discount,
            repeat(problem.state, actions.shape[1]),
            actions,
        )
        states = pin(rolled, problem.objective.goal())
        if not synced:
            states = torch.cat([path.states, states[:, -1:]], 1)
        return actions, states, cost

    def _trace(self, losses: list[Tensor], norms: list[Tensor]) -> dict[str, Tensor]:
        """Means over B and K by iteration, for the log."""
        parts = dict(zip(Lifted._fields, torch.stack(losses, 1).mean((-2, -1)), strict=True))
        actions, states = torch.stack(norms, 1)
        sigma = torch.stack([rates.noise for rates in self._schedule[: len(losses)]])
        return {**parts, "action_gradient": actions, "state_gradient": states, "noise": sigma}
