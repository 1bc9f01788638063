"""Sampling planners: one trunk, and two hooks (`sample`, `refit`) in which they differ."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from mpc.contracts import Diagnostics, Plan, Planner, PlannerConfig, Problem, WarmStart
from mpc.registry import register
from mpc.rollout import finite_or_worst, pick, repeat, rollouts_for
from mpc.warm_start import fill, known_rows


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distribution over action sequences."""

    mean: Tensor  # (B, H, A)
    std: Tensor  # (B, H, A)


@dataclass(frozen=True)
class SamplingConfig(PlannerConfig):
    """Options of all sampling planners."""

    samples: int = 128  # candidates per iteration, policy samples included
    policy_samples: int = 24  # of these, drawn from the policy prior where the model has one
    iterations: int = 4  # times that the distribution is refitted
    max_std: float = 2.0  # where the spread starts; actions lie in [-1, 1]
    min_std: float = 0.05  # below which it does not shrink

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.require("samples", self.samples >= 2, "at least 2")
        self.require("iterations", self.iterations >= 1, "at least 1")
        self.require(
            "policy_samples",
            0 <= self.policy_samples < self.samples,
            f"at least 0 and below samples = {self.samples}",
        )
        self.require("min_std", 0 < self.min_std <= self.max_std, "above 0 and at most max_std")


S = TypeVar("S", bound=SamplingConfig)


class SamplingPlanner(Planner[S]):
    """Draw candidates around a distribution, score them in the model, refit, repeat."""

    narrows = True  # whether the spread of the distribution says how sure the planner is

    def __init__(self, config: S) -> None:
        super().__init__(config)
        self._rollouts = rollouts_for(config)

    @abstractmethod
    def sample(self, dist: Gaussian, noise: Tensor) -> Tensor:
        """Candidates (B, N, H, A), before projection, from standard normal noise (N, H, A)."""

    @abstractmethod
    def refit(self, dist: Gaussian, candidates: Tensor, cost: Tensor) -> Gaussian:
        """Next distribution from candidates (B, N, H, A) and their cost (B, N)."""

    @torch.no_grad()
    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Iterate sample and refit; the plan is the mean of the last distribution."""
        cfg, horizon = self.config, problem.horizon
        dist = self._start(problem, warm_start)
        fixed = self._policy_candidates(problem, rng)
        state = repeat(problem.state, cfg.samples)
        drawn = cfg.samples - 1 - (0 if fixed is None else fixed.shape[1])
        best = []
        for _ in self.iterations(cfg.iterations):
            noise = problem.normal((drawn, horizon, problem.actions.dim), rng)
            groups = [dist.mean.unsqueeze(1), self.sample(dist, noise)]
            groups += [] if fixed is None else [fixed]
            candidates = problem.actions.project(torch.cat(groups, 1))
            cost, _ = self._rollouts.cost(
                problem.model, problem.objective, problem.discount, state, candidates
            )
            cost = finite_or_worst(cost)
            dist = self.refit(dist, candidates, cost)
            best.append(cost.min(1).values.mean())
        cost, states = self._rollouts.cost(
            problem.model, problem.objective, problem.discount, problem.state, dist.mean
        )
        prior_calls = 0 if fixed is None else horizon - 1
        diagnostics = Diagnostics(
            iterations=len(best),
            forward_calls=(len(best) + 1) * horizon + prior_calls,
            backward_calls=0,
            trace={"cost": torch.stack(best)},
        )
        warm = WarmStart(dist.mean, states, std=dist.std if self.narrows else None)
        return Plan(dist.mean, cost, states, warm, diagnostics)

    def _start(self, problem: Problem, warm_start: WarmStart | None) -> Gaussian:
        mean = problem.state.new_zeros(problem.batch, problem.horizon, problem.actions.dim)
        if warm_start is not None:
            known = known_rows(warm_start, problem.batch, problem.state.device)
            mean = fill(known, warm_start.actions, mean)
        return Gaussian(mean, torch.full_like(mean, self.config.max_std))

    def _policy_candidates(self, problem: Problem, rng: torch.Generator) -> Tensor | None:
        count = self.config.policy_samples
        if not count or not problem.model.supports("policy"):
            return None
        noise = problem.normal((count, problem.horizon, problem.actions.dim), rng)
        state = repeat(problem.state, count)
        noise = noise.expand(problem.batch, *noise.shape)
        return self._rollouts.policy(problem.model, state, problem.horizon, noise)[0]

    def _bounded(self, std: Tensor) -> Tensor:
        return std.clamp(self.config.min_std, self.config.max_std)


@dataclass(frozen=True)
class ShootingConfig(SamplingConfig):
    """Options of random shooting."""

    samples: int = 512  # candidates per iteration, policy samples included
    iterations: int = 1  # each draws afresh; the best of all is the plan


@register("random_shooting")
class RandomShooting(SamplingPlanner[ShootingConfig]):
    """Uniform random sequences; the best of all iterations is the plan."""

    Config = ShootingConfig
    narrows = False

    def sample(self, dist: Gaussian, noise: Tensor) -> Tensor:
        """Uniform in [-1, 1], whatever the distribution, (B, N, H, A)."""
        # The normal distribution function turns normal noise into uniform noise.
        uniform = 2.0 * torch.special.ndtr(noise) - 1.0
        return uniform.expand(dist.mean.shape[0], *noise.shape)

    def refit(self, dist: Gaussian, candidates: Tensor, cost: Tensor) -> Gaussian:
        """Move to the best candidate; the mean itself is one, so the cost never rises."""
        return Gaussian(pick(candidates, cost.argmin(1)), dist.std)


@dataclass(frozen=True)
class EliteConfig(SamplingConfig):
    """Options of planners that refit to the best candidates."""

    elites: int = 32  # best candidates, to which the distribution is refitted

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.require("elites", 0 < self.elites <= self.samples, f"1 to samples = {self.samples}")


E = TypeVar("E", bound=EliteConfig)


class ElitePlanner(SamplingPlanner[E]):
    """Normal candidates; the distribution moves to the weighted mean and spread of the elites."""

    Config = EliteConfig

    def sample(self, dist: Gaussian, noise: Tensor) -> Tensor:
        """mean + std * noise, (B, N, H, A)."""
        return dist.mean.unsqueeze(1) + dist.std.unsqueeze(1) * noise

    def refit(self, dist: Gaussian, candidates: Tensor, cost: Tensor) -> Gaussian:
        """Weighted mean and standard deviation of the elites."""
        best = cost.topk(self.config.elites, largest=False)
        rows = torch.arange(cost.shape[0], device=cost.device).unsqueeze(1)
        elites = candidates[rows, best.indices]
        weight = self.weigh(best.values)[..., None, None]
        mean = (weight * elites).sum(1)
        variance = (weight * (elites - mean.unsqueeze(1)).square()).sum(1)
        return Gaussian(mean, self._bounded(variance.sqrt()))

    @abstractmethod
    def weigh(self, cost: Tensor) -> Tensor:
        """Weights (B, E) that sum to 1 from elite costs (B, E) in ascending order."""


@register("cem")
class CEM(ElitePlanner[EliteConfig]):
    """Cross-entropy method: all elites count alike (Rubinstein 1999)."""

    def weigh(self, cost: Tensor) -> Tensor:
        """The same for all, but nothing for a candidate that broke the model."""
        counts = cost.isfinite().to(cost.dtype)
        return counts / counts.sum(1, keepdim=True)


@dataclass(frozen=True)
class MPPIConfig(EliteConfig):
    """Options of MPPI."""

    temperature: float = 0.5  # weights are softmax(-temperature * cost)

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.require("temperature", self.temperature > 0, "above 0")


@register("mppi")
class MPPI(ElitePlanner[MPPIConfig]):
    """Model-predictive path integral control over elites (Williams 2015; TD-MPC2, Hansen 2024)."""

    Config = MPPIConfig

    def weigh(self, cost: Tensor) -> Tensor:
        """softmax(-temperature * (cost - best)), the exponent of TD-MPC2."""
        return torch.softmax(-self.config.temperature * (cost - cost[:, :1]), dim=1)
