"""Losses of the goal-conditioned model, and the trainer that takes one optimisation step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mpc.checks import require_at_least, require_positive
from mpc.compilation import compiled
from mpc.history import push
from world_models.goal import GoalModel, effective_rank, gaps
from world_models.optimisation import (
    adam,
    follow,
    optimiser_state,
    rate_share,
    restore_optimiser,
)
from world_models.trajectories import GoalBatch, Trajectories

GOAL_METRICS = (
    "loss",
    "prediction",
    "variance",
    "covariance",
    "reconstruction",
    "inverse",
    "distance",
    "policy",
    "mean_distance",
)


@dataclass(frozen=True)
class GoalLossConfig:
    """Weights and optimisation of the goal-conditioned model's training."""

    horizon: int = 5  # control steps that the model is unrolled over
    batch_size: int = 128  # windows per update
    lr: float = 1e-3  # of Adam
    final_lr: float = 0.05  # share of lr left at the end of a run
    lr_falls_after: float = 0.4  # share of a run after which lr begins to fall
    max_gradient_norm: float = 10.0
    prediction: float = 1.0  # weight of the latent prediction error
    variance: float = 1.0  # weight against latents whose variance is below 1
    covariance: float = 0.05  # weight against latents that say the same
    reconstruction: float = 1.0  # weight of the decoder's error
    inverse: float = 0.1  # weight of the error in the action between two latents
    distance: float = 1.0  # weight of the temporal distance's error
    policy: float = 1.0  # weight of the policy's error
    discount: float = 0.99  # per control step, of the temporal distance
    expectile: float = 0.9  # above 0.5, distances are those of the better recorded ways
    target_rate: float = 0.01  # of the exponential moving average of the distances
    temperature: float = 1.0  # control steps that an action saves, by which it counts e times more
    goals_here: float = 0.1  # share of goals that are the present state
    goals_ahead: float = 0.5  # share of goals that are a later state of the episode
    compile: bool = True  # needs a C++ compiler; without one training runs eagerly

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "horizon", "batch_size")
        require_positive(self, "lr", "max_gradient_norm", "temperature")
        weights = ("prediction", "variance", "covariance", "reconstruction", "inverse")
        require_at_least(self, 0, *weights, "distance", "policy", "final_lr")
        for option in ("discount", "expectile", "target_rate"):
            if not 0 < getattr(self, option) < 1:
                raise ValueError(f"{option} must be above 0 and below 1")
        if not 0 <= self.lr_falls_after < 1:
            raise ValueError(f"lr_falls_after must be in [0, 1), got {self.lr_falls_after}")
        if min(self.goals_here, self.goals_ahead) < 0 or self.goals_here + self.goals_ahead > 1:
            raise ValueError("goals_here and goals_ahead must be shares that add up to at most 1")


class GoalTrainer:
    """One-step trainer: holds the optimiser and the target distances."""

    def __init__(self, model: GoalModel, config: GoalLossConfig) -> None:
        self.model, self.config = model, config
        self.target = copy.deepcopy(model.places).requires_grad_(False)
        self.optimizer = adam([{"params": list(model.parameters())}], config.lr)
        self._losses = compiled(self._compute, config.compile)

    def draw(self, data: Trajectories) -> GoalBatch:
        """A batch of `data`, whose windows must be `window_length` long."""
        cfg = self.config
        shares = cfg.goals_here, cfg.goals_ahead, cfg.discount
        return data.sample(cfg.batch_size, cfg.horizon, *shares)

    def update(self, batch: GoalBatch, progress: float = 0.0) -> Tensor:
        """One optimisation step; returns the values named by GOAL_METRICS.

        `progress` is the share of the training that is over; the learning rate depends on it.
        """
        device = self.model.spread.device
        self.optimizer.zero_grad(set_to_none=True)
        loss, metrics, spread = self._losses(*(x.to(device) for x in batch))
        loss.backward()
        limit = self.config.max_gradient_norm
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        share = rate_share(progress, self.config.lr_falls_after, self.config.final_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * share
        self.optimizer.step()
        follow(self.target, self.model.places, self.config.target_rate)
        with torch.no_grad():
            self.model.spread.lerp_(spread, self.config.target_rate)
        return metrics

    @torch.no_grad()
    def rank(self, data: Trajectories) -> float:
        """Effective rank of the latents of some recorded observations, always the same ones."""
        device = self.model.spread.device
        return float(effective_rank(self.model.encode(data.spaced(512).to(device))))

    def state(self) -> dict[str, Tensor]:
        """Optimiser moments and target distances, for a checkpoint."""
        return optimiser_state(self.optimizer, {"target": self.target})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        restore_optimiser(self.optimizer, {"target": self.target}, tensors)

    def _compute(
        self, obs: Tensor, actions: Tensor, goals: Tensor, ahead: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Total loss, metrics and latent spread of a batch (shapes as in `GoalBatch`)."""
        model, cfg = self.model, self.config
        z = model.encode(obs)  # (h + H, B, Z)
        first = model.history - 1
        present = z[first:]  # from the first step that is predicted on, (H + 1, B, Z)
        prediction = self._prediction(z, actions[first:])
        flat = z.flatten(0, 1)
        centred = flat - flat.mean(0)
        own = centred.square().sum(0) / (len(flat) - 1)
        variance = F.relu(1.0 - torch.sqrt(own + 1e-4)).mean()
        shared = centred.T @ centred / (len(flat) - 1)
        covariance = (shared.square().sum() - own.square().sum()) / flat.shape[1]
        reconstruction = (model.decoder(z[0]) - model.normalised(obs[0])).square().mean()
        move = torch.cat([present[0], present[1]], -1)
        inverse = (model.inverse(move) - actions[first]).square().mean()

        here, there = present[0].detach(), present[1].detach()
        with torch.no_grad():
            goal = model.encode_goal(goals)
        # The places of all three in one call; no gradient comes back through those of `there`.
        place, there_place, goal_place = model.places(torch.stack([here, there, goal])).unbind(1)
        distance = self._distance(between(place, goal_place), there, goal, ahead)
        left = gaps(place, goal_place).detach()
        gain = (left - gaps(there_place, goal_place)).mean(0).detach()
        policy = self._policy(gain, here, goal, actions[first])
        loss = (
            cfg.prediction * prediction
            + cfg.variance * variance
            + cfg.covariance * covariance
            + cfg.reconstruction * reconstruction
            + cfg.inverse * inverse
            + cfg.distance * distance
            + cfg.policy * policy
        )
        parts = (loss, prediction, variance, covariance, reconstruction, inverse, distance, policy)
        return loss, torch.stack([*parts, left.mean()]).detach(), own.detach().sqrt().mean()

    def _prediction(self, z: Tensor, actions: Tensor) -> Tensor:
        """Mean squared error of latents predicted H steps on, from encoded z (h + H, B, Z).

        Every member of the ensemble is unrolled from its own predictions.
        """
        model, first = self.model, self.model.history - 1
        window = z[: first + 1].movedim(0, -2).flatten(-2)
        window = window.expand(model.config.ensemble, *window.shape)
        error = torch.zeros_like(z[0, 0, 0])
        for t, action in enumerate(actions.unbind(0), first + 1):
            predicted = model.step_each(window, action)
            error = error + (predicted - z[t]).square().mean()
            window = push(model, window, predicted)
        return error / len(actions)

    def _distance(self, left: Tensor, there: Tensor, goal: Tensor, ahead: Tensor) -> Tensor:
        """Expectile regression of distances `left` (members, B, B) onto one more than from `there`.

        Latents (B, Z). From every state to the goals of all: those of others are goals from
        anywhere, and cost next to nothing, because a distance is that of two places. With
        V = -distance this is the goal-conditioned value of implicit Q-learning (Kostrikov et al.
        2021, arXiv:2110.06169; Park et al. 2023, arXiv:2307.11949) for a reward of -1 per control
        step.
        """
        cfg = self.config
        with torch.no_grad():
            on = between(*self.target(torch.stack([there, goal])).unbind(1))
            on = discounted(on, cfg.discount).amax(0)
            own = torch.eye(len(on), device=on.device)
            arrived = own * (ahead == 0), own * (ahead == 1)
            target = (1.0 - arrived[0]) * (1.0 + cfg.discount * (1.0 - arrived[1]) * on)
        gap = target - discounted(left, cfg.discount)
        weight = torch.where(gap < 0, cfg.expectile, 1.0 - cfg.expectile)
        error = (weight * gap.square()).sum(0)
        # The own goal of a state weighs as much as those of all others together.
        share = (own + (1.0 - own) / max(1, len(own) - 1)) / len(own)
        scale = (1.0 - cfg.discount) ** 2  # so that what is compared are numbers up to 1
        return scale * (share * error).sum()

    def _policy(self, gain: Tensor, here: Tensor, goal: Tensor, action: Tensor) -> Tensor:
        """Recorded actions (B, A), those by which the goal comes nearer, by `gain` (B,), the more.

        Advantage-weighted regression (Peng et al. 2019, arXiv:1910.00177).
        """
        weight = torch.exp(gain / self.config.temperature).clamp_max(20.0)
        chosen = torch.tanh(self.model.actor(torch.cat([here, goal], -1)))
        return (weight.unsqueeze(-1) * (chosen - action).square()).mean()


def between(here: Tensor, there: Tensor) -> Tensor:
    """Distances from all places (..., B, P) to all others (..., B, P): (..., B, B)."""
    return gaps(here.unsqueeze(-2), there.unsqueeze(-3))


def discounted(steps: Tensor, discount: float) -> Tensor:
    """What `steps` control steps count when later ones count less: 1 + discount + ... ."""
    return (1.0 - discount**steps) / (1.0 - discount)


def window_length(model: GoalModel, config: GoalLossConfig) -> int:
    """Control steps of a window of data: h - 1 that fill the history, then H."""
    return model.history - 1 + config.horizon
