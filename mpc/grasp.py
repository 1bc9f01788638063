"""GRASP: gradient-based planning over lifted ("virtual") states, parallel over time.

Psenka, Rabbat, Krishnapriyan, LeCun and Bar 2026, arXiv:2602.00475. The states s_1..s_H of a plan
are free variables beside its actions, so that all B * K * H one-step predictions of an iteration
are one batched model call. No gradient flows into the state input of the model: a state moves
only because the prediction before it pulls, an action because of its own step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpc.compilation import compiled
from mpc.contracts import Diagnostics, Plan, Planner, Problem, WarmStart
from mpc.descent import RestartConfig, descend, restarts
from mpc.lifting import (
    DISTANCES,
    SCHEDULES,
    STATE_STARTS,
    Lifted,
    initial_states,
    lifted_loss,
    noise_scale,
    pin,
    renew,
)
from mpc.optim import Adam, annealed, clip_norm
from mpc.registry import register
from mpc.rollout import defect, pick, repeat, trajectory_cost


@dataclass(frozen=True)
class GraspConfig(RestartConfig):
    """Options of GRASP beyond those of restarts and actions."""

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
    sync_every: int = 0  # iterations between synchronisations with the true rollout; 0: never
    sync_steps: int = 1  # descent steps through the rollout at each synchronisation
    blend: int = 5  # first states over which a warm start spreads the surprise in s_0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.one_of("states_init", STATE_STARTS)
        self.one_of("distance", DISTANCES)
        self.one_of("state_optimizer", ("sgd", "adam"))
        self.one_of("noise_schedule", SCHEDULES)
        for option in ("shaping", "noise", "sync_every"):
            self.require(option, getattr(self, option) >= 0, "at least 0")
        for option in ("state_lr", "state_clip"):
            self.require(option, getattr(self, option) > 0, "above 0")
        for option in ("noise_every", "sync_steps", "blend"):
            self.require(option, getattr(self, option) >= 1, "at least 1")
        self.require("noise_until", 0 <= self.noise_until <= 1, "in [0, 1]")


@register("grasp")
class Grasp(Planner[GraspConfig]):
    """Virtual states and actions optimised together, one batched model call per iteration."""

    Config = GraspConfig

    def __init__(self, config: GraspConfig) -> None:
        super().__init__(config)
        self._loss = compiled(lifted_loss, config.compile)
        self._score = compiled(trajectory_cost, config.compile)

    @torch.no_grad()
    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Iterate on states and actions; the best restart by its true rollout is the plan."""
        cfg, horizon = self.config, problem.horizon
        forward = backward = 0
        if warm_start is not None:
            warm_start, forward = renew(problem, warm_start, cfg.blend)
        start = restarts(problem, warm_start, cfg, rng)
        states, calls = initial_states(
            problem, warm_start, start, cfg.states_init, self._score, rng
        )
        forward += start.calls + calls
        actions, goal = start.actions, problem.objective.goal()
        states = pin(states, goal)
        action_adam, state_adam = Adam.zeros(actions), Adam.zeros(states[..., 1:, :])
        trace: dict[str, list[Tensor]] = {}
        held = states.new_zeros(())
        for i in range(cfg.iterations):
            lifted, action_gradient, state_gradient = self._gradients(problem, states, actions)
            forward, backward = forward + 1, backward + 1
            sigma = cfg.noise * problem.model.latent_spread()
            sigma *= noise_scale(
                cfg.noise_schedule, i / max(cfg.noise_until * cfg.iterations, 1e-9)
            )
            record(trace, lifted, action_gradient, state_gradient, sigma)

            lr = annealed(cfg.action_lr, i / cfg.iterations, cfg.final_lr)
            gradient = clip_norm(action_gradient, cfg.action_clip)
            step, action_adam = action_adam.step(gradient, lr)
            actions = problem.actions.project(actions - step)

            lr = annealed(cfg.state_lr, i / cfg.iterations, cfg.final_lr)
            gradient = clip_norm(state_gradient, cfg.state_clip)
            if cfg.state_optimizer == "adam":
                step, state_adam = state_adam.step(gradient, lr)
            else:
                # A step towards a prediction is no less right late in the plan: no annealing.
                lr = cfg.state_lr
                step = lr * gradient
            free = states[..., 1:, :] - step
            if sigma:
                if i % cfg.noise_every == 0:
                    held = problem.normal(free.shape[1:], rng)
                free = free + lr * sigma * held
            states = pin(torch.cat([states[..., :1, :], free], -2), goal)

            if cfg.sync_every and (i + 1) % cfg.sync_every == 0:
                found = descend(self._score, problem, actions, cfg, cfg.sync_steps)
                actions, states = found.actions, pin(found.states, goal)
                forward += (cfg.sync_steps + 1) * horizon
                backward += cfg.sync_steps * horizon

        state = repeat(problem.state, cfg.restarts)
        cost, _ = self._score(problem.model, problem.objective, problem.discount, state, actions)
        best = cost.nan_to_num(nan=torch.inf).argmin(1)
        actions, states = pick(actions, best), pick(states, best)
        diagnostics = Diagnostics(
            iterations=cfg.iterations,
            forward_calls=forward + horizon + 1,
            backward_calls=backward,
            defect=defect(states, actions, problem.model),
            trace={name: torch.stack(values) for name, values in trace.items()},
        )
        return Plan(actions, pick(cost, best), states, WarmStart(actions, states), diagnostics)

    def _gradients(
        self, problem: Problem, states: Tensor, actions: Tensor
    ) -> tuple[Lifted, Tensor, Tensor]:
        """The loss, and its gradients with respect to actions and s_1..s_H."""
        cfg = self.config
        with torch.enable_grad():
            actions = actions.detach().requires_grad_()
            free = states[..., 1:, :].detach().requires_grad_()
            lifted = self._loss(
                problem.model,
                problem.objective,
                problem.discount,
                torch.cat([states[..., :1, :], free], -2),
                actions,
                cfg.shaping,
                cfg.distance,
                cfg.stop_gradient,
            )
            gradients = torch.autograd.grad(lifted.loss.sum(), (actions, free))
        return lifted, gradients[0], gradients[1]


def record(
    trace: dict[str, list[Tensor]],
    lifted: Lifted,
    action_gradient: Tensor,
    state_gradient: Tensor,
    sigma: float,
) -> None:
    """Append the means over B and K of one iteration to `trace`."""
    values = {
        "loss": lifted.loss,
        "defect": lifted.defect,
        "shaping": lifted.shaping,
        "action_gradient": action_gradient.flatten(2).norm(dim=-1),
        "state_gradient": state_gradient.flatten(2).norm(dim=-1),
        "noise": torch.as_tensor(sigma),
    }
    for name, value in values.items():
        trace.setdefault(name, []).append(value.detach().mean())
