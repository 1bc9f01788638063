"""Action spaces: what a planner may choose from, as vectors of A numbers.

A discrete action with n choices is a one-hot vector of n numbers, several of them are concatenated.
Between these corners lie relaxed actions, a probability for every choice, on which gradients walk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Distribution(ABC):
    """Independent distribution over action sequences, from which sampling planners draw."""

    mean: Tensor  # (B, H, A), relaxed actions
    std: Tensor  # (B, H, A), spread

    @abstractmethod
    def draw(self, noise: Tensor) -> Tensor:
        """Candidates (B, N, H, A), before projection, from standard normal noise (N, H, A)."""

    @abstractmethod
    def uniform(self, noise: Tensor) -> Tensor:
        """Candidates (B, N, H, A), any allowed action alike, from the same noise."""

    @abstractmethod
    def fit(self, elites: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and spread (B, H, A) of candidates (B, E, H, A) with weights (B, E) of sum 1."""

    @property
    def noise_std(self) -> Tensor | None:
        """Standard deviation (B, H, A) that suits exploration; None if `std` is none."""
        return None


@dataclass(frozen=True)
class Gaussian(Distribution):
    """Normal distribution of mean and standard deviation."""

    def draw(self, noise: Tensor) -> Tensor:
        """mean + std * noise, (B, N, H, A)."""
        return self.mean.unsqueeze(1) + self.std.unsqueeze(1) * noise

    def uniform(self, noise: Tensor) -> Tensor:
        """Uniform in [-1, 1], (B, N, H, A)."""
        # The normal distribution function turns normal noise into uniform noise.
        uniform = 2.0 * torch.special.ndtr(noise) - 1.0
        return uniform.expand(self.mean.shape[0], *noise.shape)

    def fit(self, elites: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted mean and standard deviation, (B, H, A)."""
        weight = weight[..., None, None]
        mean = (weight * elites).sum(1)
        return mean, (weight * (elites - mean.unsqueeze(1)).square()).sum(1).sqrt()

    @property
    def noise_std(self) -> Tensor:
        """The standard deviation, (B, H, A)."""
        return self.std


@dataclass(frozen=True)
class Categorical(Distribution):
    """Choices with the probabilities `mean`, but a share `std` of them with equal ones.

    So a share that is never zero keeps every choice alive.
    """

    actions: CategoricalActions

    def draw(self, noise: Tensor) -> Tensor:
        """One-hot choices, (B, N, H, A)."""
        share = self.std.clamp_max(1.0)
        even = self.actions.centre((), self.mean)
        probability = (1.0 - share) * self.mean + share * even
        return self.actions.choose(probability.log().unsqueeze(1), noise)

    def uniform(self, noise: Tensor) -> Tensor:
        """All choices alike, (B, N, H, A)."""
        return self.actions.round(noise).expand(self.mean.shape[0], *noise.shape)

    def fit(self, elites: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """How often each choice was made, the maximum-likelihood fit, and no equal share."""
        mean = (weight[..., None, None] * elites).sum(1)
        return mean, torch.zeros_like(mean)


class ActionSpace(ABC):
    """The actions of a control step. "Relaxed" are those that an optimiser may pass through."""

    dim: int  # A, numbers of an action
    averages: bool  # whether the mean of good actions is a good one

    @abstractmethod
    def project(self, actions: Tensor) -> Tensor:
        """Nearest relaxed actions, (..., A): the one projection that every planner uses."""

    @abstractmethod
    def round(self, actions: Tensor) -> Tensor:
        """Actions that can be executed, (..., A), for any numbers (..., A)."""

    @abstractmethod
    def execute(self, actions: Tensor) -> Tensor:
        """What is executed for relaxed actions, (..., A); gradients pass straight through."""

    @abstractmethod
    def centre(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The relaxed action in the middle, (*shape, A) on the device and in the type of `like`."""

    @abstractmethod
    def sample(self, shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
        """Uniform actions (*shape, A) on the device and in the type of `like`."""

    @abstractmethod
    def explore(self, actions: Tensor, amount: Tensor | float, rng: torch.Generator) -> Tensor:
        """Actions (..., A) made uncertain by `amount`, a number or (..., A)."""

    @abstractmethod
    def distribution(self, mean: Tensor, std: Tensor) -> Distribution:
        """Distribution over action sequences around `mean` (B, H, A)."""


@dataclass(frozen=True)
class BoxActions(ActionSpace):
    """`dim` real actions, each in [-1, 1]; environments rescale to their own bounds."""

    dim: int
    averages = True

    def project(self, actions: Tensor) -> Tensor:
        """Clamped to [-1, 1]."""
        return actions.clamp(-1.0, 1.0)

    def round(self, actions: Tensor) -> Tensor:
        """The same: every action inside the bounds can be executed."""
        return self.project(actions)

    def execute(self, actions: Tensor) -> Tensor:
        """Themselves."""
        return actions

    def centre(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Zeros, (*shape, A)."""
        return like.new_zeros(*shape, self.dim)

    def sample(self, shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
        """Uniform in [-1, 1], (*shape, A)."""
        draw = torch.rand(*shape, self.dim, generator=rng, device=like.device, dtype=like.dtype)
        return 2.0 * draw - 1.0

    def explore(self, actions: Tensor, amount: Tensor | float, rng: torch.Generator) -> Tensor:
        """With normal noise of standard deviation `amount`, (..., A)."""
        noise = torch.randn(actions.shape, generator=rng, device=actions.device)
        return self.project(actions + amount * noise)

    def distribution(self, mean: Tensor, std: Tensor) -> Gaussian:
        """Normal around `mean`."""
        return Gaussian(mean, std)


@dataclass(frozen=True)
class CategoricalActions(ActionSpace):
    """Discrete actions: one choice out of n, or several such choices, as one-hot groups.

    Relaxed actions are a point on the probability simplex of each group.
    """

    choices: tuple[int, ...]  # n of each group; A is their sum
    averages = False

    def __post_init__(self) -> None:
        """Refuse groups that hold no choice."""
        if not self.choices or min(self.choices) < 1:
            raise ValueError(f"every group needs at least 1 choice, got {self.choices}")

    @property
    def dim(self) -> int:  # type: ignore[override]
        """A, the sum of the choices."""
        return sum(self.choices)

    def project(self, actions: Tensor) -> Tensor:
        """Each group onto its simplex, by the least Euclidean distance."""
        return self._by_group(_onto_simplex, actions)

    def round(self, actions: Tensor) -> Tensor:
        """One-hot of the largest number of each group, the first of equals."""
        return self._by_group(_one_hot, actions)

    def execute(self, actions: Tensor) -> Tensor:
        """One-hot choices, whose gradient reaches the relaxed actions within the simplex."""
        # A gradient along (1, ..., 1) would be undone by the projection, but not before Adam has
        # let it drown what tells the choices apart.
        inside = self._by_group(lambda x: x - x.mean(-1, keepdim=True), actions)
        return self.round(actions) + (inside - inside.detach())

    def centre(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """All choices of a group alike, (*shape, A)."""
        return self._by_group(lambda x: x / x.shape[-1], like.new_ones(*shape, self.dim))

    def sample(self, shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
        """One-hot, all choices alike, (*shape, A)."""
        draw = torch.rand(*shape, self.dim, generator=rng, device=like.device, dtype=like.dtype)
        return self.round(draw)

    def explore(self, actions: Tensor, amount: Tensor | float, rng: torch.Generator) -> Tensor:
        """With a chance of `amount`, a group's choice is replaced by any, (..., A)."""
        other = self.sample(actions.shape[:-1], rng, actions)
        shape = (*actions.shape[:-1], len(self.choices))
        draw = torch.rand(shape, generator=rng, device=actions.device)
        sizes = torch.tensor(self.choices, device=actions.device)
        replaced = draw.repeat_interleave(sizes, -1, output_size=self.dim) < amount
        return torch.where(replaced, other, actions)

    def distribution(self, mean: Tensor, std: Tensor) -> Categorical:
        """Probabilities `mean`, and a share `std` of even ones."""
        return Categorical(mean, std, self)

    def choose(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """One-hot choices (..., A) by unnormalised log-probabilities (..., A).

        The most probable, or a sample by the Gumbel-max trick from standard normal noise (..., A).
        """
        if noise is None:
            return self.round(logits)
        return self.round(logits - (-torch.special.log_ndtr(noise)).log())

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Logits (..., A) normalised within each group, (..., A)."""
        return self._by_group(lambda x: x.log_softmax(-1), logits)

    def sums(self, x: Tensor) -> Tensor:
        """For every number of `x` (..., A) the sum of its group, (..., A)."""
        return self._by_group(lambda g: g.sum(-1, keepdim=True).expand_as(g), x)

    def alternatives(self, actions: Tensor) -> Tensor:
        """Row j is `actions` (..., A) with choice j made in its group: (..., A, A)."""
        one = torch.eye(self.dim, device=actions.device, dtype=actions.dtype)
        blocks = torch.block_diag(*(one.new_ones(n, n) for n in self.choices))
        return actions.unsqueeze(-2) * (1.0 - blocks) + one

    def _by_group(self, change: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([change(group) for group in x.split(self.choices, -1)], -1)


def action_space(dim: int, choices: tuple[int, ...] = ()) -> ActionSpace:
    """Discrete actions where there are groups of choices, else `dim` continuous ones."""
    return CategoricalActions(choices) if choices else BoxActions(dim)


def _one_hot(x: Tensor) -> Tensor:
    """1 at the largest number of the last axis, 0 elsewhere, (..., n)."""
    return torch.zeros_like(x).scatter(-1, x.argmax(-1, keepdim=True), 1.0)


def _onto_simplex(x: Tensor) -> Tensor:
    """max(x - t, 0) with the t that makes the sum 1, (..., n).

    t is the largest of (sum of the j largest - 1) / j (Held, Wolfe and Crowder 1974).
    """
    sums = x.sort(-1, descending=True).values.cumsum(-1)
    counts = torch.arange(1, x.shape[-1] + 1, device=x.device)
    return (x - ((sums - 1.0) / counts).amax(-1, keepdim=True)).clamp_min(0.0)
