"""The contracts that planners, world models and agents share.

Shape letters, the same in every file: B problems, N candidates, K restarts, H control steps,
A action numbers, Z latent numbers, O observation numbers. "..." stands for any leading axes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpc.actions import ActionSpace, BoxActions


def expect(name: str, x: Tensor, *shape: int | None) -> None:
    """Raise ValueError unless `x` has `shape`; None accepts any size."""
    fits = x.dim() == len(shape) and all(
        s in (None, n) for s, n in zip(shape, x.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(x.shape)}")


class Transition(NamedTuple):
    """One predicted control step, on any leading axes."""

    state: Tensor  # (..., Z), or the window of a model with a history
    action: Tensor  # (..., A)
    next: Tensor  # (..., Z)
    reward: Tensor | None = None  # (...), None for a model that predicts no reward
    continues: Tensor | None = None  # (...), probability that the episode goes on; None: always
    disagreement: Tensor | None = None  # (...), of members about `next`; None: no ensemble


class WorldModel(nn.Module):
    """What a planner may ask of a model. Only `step` is required; the rest says what it lacks.

    All verbs take any leading axes, so planners may add candidate, restart and time axes. A model
    with a history of h > 1 latents is given windows (..., h * Z), oldest latent first, where the
    signatures of step, reward and predict say (..., Z); value and policy see the newest alone.
    """

    latent_dim: int
    action_dim: int
    history: int = 1  # h, how many of the last latents a step depends on
    policy_has_spread: bool = True  # whether samples of the policy prior differ as it is unsure

    @property
    def action_space(self) -> ActionSpace:
        """What actions it takes; continuous ones unless a model says otherwise."""
        return BoxActions(self.action_dim)

    def encode(self, obs: Tensor) -> Tensor:
        """Latent of an observation: (..., O) -> (..., Z)."""
        raise self._lacks("encode")

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """Next latent: (..., Z), (..., A) -> (..., Z)."""
        raise self._lacks("step")

    def reward(self, z: Tensor, a: Tensor) -> Tensor:
        """Reward of a control step: (..., Z), (..., A) -> (...)."""
        raise self._lacks("reward")

    def value(self, z: Tensor) -> Tensor:
        """Discounted return of the policy prior from `z`: (..., Z) -> (...)."""
        raise self._lacks("value")

    def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Action of the policy prior, to be executed: (..., Z) -> (..., A).

        `noise` (..., A), standard normal, draws a sample; without it the mode is returned.
        """
        raise self._lacks("policy")

    def decode(self, z: Tensor) -> Tensor:
        """Observation of a latent: (..., Z) -> (..., O)."""
        raise self._lacks("decode")

    def distance(self, z: Tensor, goal: Tensor) -> Tensor:
        """Control steps that it takes from `z` to `goal`: (..., Z) both -> (...)."""
        raise self._lacks("distance")

    def for_problems(self, index: Tensor) -> WorldModel:
        """The model whose axis B is the problems `index` (N,) int of this one's.

        Itself, unless a model holds something for each of the B problems.
        """
        return self

    def predict(self, z: Tensor, a: Tensor) -> Transition:
        """Everything about one control step in one call; override it to share computation."""
        reward = self.reward(z, a) if self.supports("reward") else None
        return Transition(z, a, self.step(z, a), reward)

    def latent_spread(self) -> float:
        """Typical standard deviation of a latent number over the data; noise is scaled by it."""
        return 1.0

    def supports(self, verb: str) -> bool:
        """Whether this model implements an optional verb, such as "policy" or "value"."""
        return getattr(type(self), verb) is not getattr(WorldModel, verb)

    def _lacks(self, verb: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} has no {verb}()")


class Objective(ABC):
    """A cost over predicted paths; lower is better. Objectives are values that add up."""

    @abstractmethod
    def stage(self, transition: Transition) -> Tensor:
        """Cost of one control step: (...)."""

    @abstractmethod
    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        """Cost of stopping at `z` (..., Z) after the horizon: (...)."""

    def shaping(self, model: WorldModel, transition: Transition, discount: float) -> Tensor:
        """Dense one-step signal of lifted planners: stage + discounted terminal of z'. (...).

        A lookahead over more than one control step adds up stages instead.
        """
        ahead = discount * self.terminal(model, transition.next)
        if transition.continues is not None:
            ahead = ahead * transition.continues
        return self.stage(transition) + ahead

    def goal(self) -> Tensor | None:
        """Latent (B, Z) that a path should end in, if the objective has one."""
        return None

    def judges(self, model: WorldModel) -> bool:
        """Whether the terminal cost stands for all that would come after the horizon."""
        return False

    def terminal_only(self) -> bool:
        """Whether it mainly counts where a plan ends, and not the way there."""
        return False


@dataclass(frozen=True)
class Problem:
    """B planning problems that share a model: from `state`, minimise `objective` over H steps."""

    model: WorldModel
    objective: Objective
    state: Tensor  # (B, h * Z), the latest latents, oldest first; h = 1 but for history models
    horizon: int  # control steps
    actions: ActionSpace
    discount: float = 1.0  # per control step, of the stage and terminal costs
    executed: int = 1  # control steps of the plan that will be taken before the next one is made

    def __post_init__(self) -> None:
        """Check the shapes once, where user code meets ours."""
        expect("state", self.state, None, self.model.history * self.model.latent_dim)
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least 1 control step, got {self.horizon}")

    @property
    def judged(self) -> bool:
        """Whether the terminal cost stands for all that would come after the horizon."""
        return self.objective.judges(self.model)

    @property
    def batch(self) -> int:
        """B, how many problems there are."""
        return self.state.shape[0]

    def normal(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Standard normal numbers that all B problems share.

        Common random numbers make a batch of B plan exactly as B single problems would.
        """
        return torch.randn(shape, generator=rng, device=self.state.device, dtype=self.state.dtype)


@dataclass(frozen=True)
class WarmStart:
    """What one plan hands to the next; time is axis 1 of every tensor and is shifted."""

    actions: Tensor  # (B, H, A), relaxed: rounded they are the plan's
    states: Tensor | None = None  # (B, H + 1, Z), after a shift states[:, 0] is what was expected
    std: Tensor | None = None  # (B, H, A), spread of a sampling planner
    elites: Tensor | None = None  # (B, H, E, A), best candidates of a sampling planner
    moments: Mapping[str, Tensor] = field(default_factory=dict)  # of optimisers, (B, H, ...) each
    known: Tensor | None = None  # (B,) bool, rows that hold a plan; None: all of them
    filled: int = 0  # trailing steps that a shift made up

    def map(self, change: Callable[[Tensor], Tensor]) -> WarmStart:
        """The same record with `change` applied to each tensor that has a time axis."""
        return replace(
            self,
            actions=change(self.actions),
            states=None if self.states is None else change(self.states),
            std=None if self.std is None else change(self.std),
            elites=None if self.elites is None else change(self.elites),
            moments={name: change(x) for name, x in self.moments.items()},
        )

    def rows(self, index: Tensor) -> WarmStart:
        """The record of the problems `index` (N,) int alone."""
        kept = self.map(lambda x: x[index])
        return replace(kept, known=None if self.known is None else self.known[index])


@dataclass(frozen=True)
class Diagnostics:
    """What a plan cost and how it went."""

    iterations: int
    forward_calls: int  # batched calls of the model
    backward_calls: int  # batched calls that were differentiated
    seconds: float = 0.0
    overrun: bool = False  # whether that was more than the deadline
    # (B,), root mean square of f(s_t, a_t) - s_{t+1} over the latent spread; None: there is none
    defect: Tensor | None = None
    # By iteration, means over B, (iterations,) each; a cost may have one more, of what they led to.
    # Of a plan in chunks one chunk after the other.
    trace: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What planning returns, for B problems, horizon H, A action numbers, Z latent numbers."""

    actions: Tensor  # (B, H, A), can be executed as they are
    # (B,), predicted cost of `actions`; of their first `lead_steps` where GRASP chooses by those.
    cost: Tensor
    states: Tensor  # (B, H + 1, Z), states[:, 0] is the current latent
    warm_start: WarmStart
    diagnostics: Diagnostics
