"""Objectives: costs over predicted paths that work for sampling, gradient and lifted planners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mpc.contracts import Objective, Transition, WorldModel


def beside(goal: Tensor, z: Tensor) -> Tensor:
    """`goal` (B, Z) with room for the candidate, restart and time axes of z (B, ..., Z)."""
    return goal.view(goal.shape[0], *(1,) * (z.dim() - 2), goal.shape[-1])


@dataclass(frozen=True)
class Reward(Objective):
    """Minus the predicted return: stage -r(z, a), terminal -V(z) where the model has a value."""

    def stage(self, transition: Transition) -> Tensor:
        """-r, (...). ValueError if the model predicts no reward."""
        if transition.reward is None:
            raise ValueError("objective 'reward' needs a model that predicts rewards")
        return -transition.reward

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        """-V(z), (...)."""
        return -model.value(z) if self.judges(model) else torch.zeros_like(z[..., 0])

    def judges(self, model: WorldModel) -> bool:
        """Whether the model has a value."""
        return model.supports("value")


@dataclass(frozen=True)
class GoalDistance(Objective):
    """Squared latent distance to a goal (B, Z), summed over latent numbers.

    The distance counts at the end of the horizon, and with weight `stage_weight` on the way.
    """

    target: Tensor  # (B, Z)
    stage_weight: float = 0.0

    @classmethod
    def seen(cls, model: WorldModel, obs: Tensor, stage_weight: float = 0.0) -> GoalDistance:
        """The goal to see `obs` (B, O). No gradient reaches the encoder."""
        with torch.no_grad():
            return cls(model.encode(obs), stage_weight)

    def stage(self, transition: Transition) -> Tensor:
        """stage_weight * |z' - goal|^2, (B, ...)."""
        return self.stage_weight * self._distance(transition.next)

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        """|z - goal|^2, (B, ...)."""
        return self._distance(z)

    def goal(self) -> Tensor:
        """The target latent, (B, Z)."""
        return self.target

    def terminal_only(self) -> bool:
        """Whether nothing counts on the way."""
        return self.stage_weight == 0

    def _distance(self, z: Tensor) -> Tensor:
        return (z - beside(self.target, z)).square().sum(-1)


@dataclass(frozen=True)
class TemporalDistance(Objective):
    """How many control steps the model says it takes to a goal (B, Z).

    It counts at the end of the horizon. A plan need not reach the goal within its horizon: the
    distance judges what is left.
    """

    target: Tensor  # (B, Z)

    def stage(self, transition: Transition) -> Tensor:
        """Zero, (B, ...)."""
        return torch.zeros_like(transition.next[..., 0])

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        """Control steps from z to the goal, (B, ...)."""
        return model.distance(z, beside(self.target, z))

    def judges(self, model: WorldModel) -> bool:
        """True."""
        return True

    def terminal_only(self) -> bool:
        """True."""
        return True


@dataclass(frozen=True)
class Effort(Objective):
    """Squared actions, summed over action numbers; no terminal cost."""

    def stage(self, transition: Transition) -> Tensor:
        """|a|^2, (...)."""
        return transition.action.square().sum(-1)

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        """Zero, (...)."""
        return torch.zeros_like(z[..., 0])


@dataclass(frozen=True)
class Disagreement(Objective):
    """How unsure a model that is an ensemble is of the way; no terminal cost.

    It keeps plans to what the data covered. Elsewhere a model says what it likes, and the best
    plan is the one that finds where it errs in its favour.
    """

    def stage(self, transition: Transition) -> Tensor:
        """Disagreement of the members, (...). ValueError if the model is no ensemble."""
        if transition.disagreement is None:
            raise ValueError("objective 'disagreement' needs a model that is an ensemble")
        return transition.disagreement

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        """Zero, (...)."""
        return torch.zeros_like(z[..., 0])


@dataclass(frozen=True)
class Weighted(Objective):
    """Weighted sum of named objectives: `Weighted({"goal": (1.0, ...), "effort": (0.01, ...)})`."""

    parts: Mapping[str, tuple[float, Objective]]

    def __post_init__(self) -> None:
        """Refuse an empty sum."""
        if not self.parts:
            raise ValueError("a weighted objective needs at least one part")

    def stage(self, transition: Transition) -> Tensor:
        """Sum over parts of weight * stage, (...)."""
        return self._sum({k: o.stage(transition) for k, (_, o) in self.parts.items()})

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        """Sum over parts of weight * terminal, (...)."""
        return self._sum({k: o.terminal(model, z) for k, (_, o) in self.parts.items()})

    def shaping(self, model: WorldModel, transition: Transition, discount: float) -> Tensor:
        """Sum over parts of weight * shaping, (...)."""
        parts = self.parts.items()
        return self._sum({k: o.shaping(model, transition, discount) for k, (_, o) in parts})

    def goal(self) -> Tensor | None:
        """The goal of the first part that has one."""
        goals = (objective.goal() for _, objective in self.parts.values())
        return next((goal for goal in goals if goal is not None), None)

    def judges(self, model: WorldModel) -> bool:
        """Whether any part does."""
        return any(objective.judges(model) for _, objective in self.parts.values())

    def terminal_only(self) -> bool:
        """Whether any part counts where a plan ends alone: effort on the way decides little."""
        return any(objective.terminal_only() for _, objective in self.parts.values())

    def _sum(self, costs: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.parts[k][0] * c for k, c in costs.items()]).sum(0)
