"""Sampling planners: one trunk, and two hooks (`sample`, `refit`) in which they differ."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from mpc.actions import Distribution
from mpc.contracts import Diagnostics, Plan, Problem, WarmStart
from mpc.noise import coloured
from mpc.planner import Planner, PlannerConfig
from mpc.registry import register
from mpc.rollout import cheapest_of, finite_or_worst, pick, repeat, rollouts_for
from mpc.warm_start import fill, first_actions, known_rows


@dataclass(frozen=True)
class SamplingConfig(PlannerConfig):
    """Options of all sampling planners."""

    samples: int = 128  # candidates per iteration, policy samples included
    policy_samples: int = 24  # of these, drawn from the policy prior where the model has one
    iterations: int = 4  # times that the distribution is refitted
    noise_beta: float = 0.0  # power of the noise falls as 1 / frequency^beta; 0: white, 2: slow

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.require("samples", self.samples >= 2, "at least 2")
        self.require("iterations", self.iterations >= 1, "at least 1")
        self.require("noise_beta", self.noise_beta >= 0, "at least 0")
        self.require(
            "policy_samples",
            0 <= self.policy_samples < self.fewest(),
            f"at least 0 and below {self.fewest()}, the samples of the last iteration",
        )

    def count(self, iteration: int) -> int:
        """How many candidates iteration 0, 1, ... has; never more than the one before."""
        return self.samples

    def fewest(self) -> int:
        """Candidates of the last iteration."""
        return self.count(self.iterations - 1)


S = TypeVar("S", bound=SamplingConfig)


class SamplingPlanner(Planner[S]):
    """Draw candidates around a distribution, score them in the model, refit, repeat."""

    Config = SamplingConfig
    narrows = True  # whether the spread of the distribution says how sure the planner is
    first_std = 1.0  # spread that a plan begins with; actions lie in [-1, 1]
    kept = 0  # best candidates that compete again in the next iteration

    def __init__(self, config: S) -> None:
        super().__init__(config)
        self._rollouts = rollouts_for(config.compiles, config.horizon)

    @abstractmethod
    def sample(self, dist: Distribution, noise: Tensor) -> Tensor:
        """Candidates (B, N, H, A), before rounding, from standard normal noise (N, H, A)."""

    @abstractmethod
    def refit(self, dist: Distribution, candidates: Tensor, cost: Tensor) -> Distribution:
        """Next distribution from candidates (B, N, H, A) and their cost (B, N)."""

    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Iterate sample and refit, then `finish`.

        Of discrete actions, whose mean is none, the plan is the cheapest candidate of all.
        """
        cfg, horizon = self.config, problem.horizon
        dist = self._start(problem, warm_start)
        fixed = self._policy_candidates(problem, rng)
        elites, known = self._handed_over(problem, warm_start)
        # Coloured noise is periodic: in half of a period the last step need not be like the first.
        period = 2 * horizon if cfg.noise_beta else horizon
        met, least = dist.mean, problem.state.new_full((problem.batch,), torch.inf)
        best = []
        for i in self.iterations(cfg.iterations):
            drawn = cfg.count(i) - 1 - (0 if fixed is None else fixed.shape[1])
            noise = problem.normal((drawn, period, problem.actions.dim), rng)
            sampled = self.sample(dist, coloured(noise, cfg.noise_beta)[:, :horizon])
            if elites is not None:
                sampled = _replace_last(sampled, elites, known)
            groups = [dist.mean.unsqueeze(1), sampled]
            groups += [] if fixed is None else [fixed]
            candidates = problem.actions.round(torch.cat(groups, 1))
            cost, _ = self._roll_out(problem, candidates)
            cost = finite_or_worst(cost)
            dist = self.refit(dist, candidates, cost)
            if self.kept:
                elites, known = cheapest(candidates, cost, self.kept)[0], torch.ones_like(known)
            low, index = cost.min(1)
            best.append(low.mean())
            if not problem.actions.averages:
                met, least = fill(low < least, pick(candidates, index), met), low.minimum(least)
        if problem.actions.averages:
            actions, cost, states = self.finish(problem, dist, candidates, cost)
        else:
            actions = problem.actions.round(met)
            cost, states = self._roll_out(problem, actions)
        prior_calls = 0 if fixed is None else horizon - 1
        diagnostics = Diagnostics(
            iterations=len(best),
            forward_calls=(len(best) + 1) * horizon + prior_calls,
            backward_calls=0,
            trace={"cost": torch.stack(best)},
        )
        warm = WarmStart(
            actions,
            states,
            std=dist.noise_std if self.narrows else None,
            elites=None if elites is None else elites.transpose(1, 2),
        )
        return Plan(actions, cost, states, warm, diagnostics)

    def finish(
        self, problem: Problem, dist: Distribution, candidates: Tensor, cost: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The plan, its cost and states: the mean of the last distribution, rolled out once.

        `candidates` (B, N, H, A) and their `cost` (B, N) are those of the last iteration.
        """
        mean = problem.actions.round(dist.mean)
        return mean, *self._roll_out(problem, mean)

    def _roll_out(self, problem: Problem, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Cost and states of one sequence (B, H, A) or N of them (B, N, H, A) per problem."""
        state = problem.state
        if actions.dim() == 4:
            state = repeat(state, actions.shape[1])
        of = (problem.model, problem.objective, problem.discount)
        return self._rollouts.cost(*of, state, actions)

    def _handed_over(
        self, problem: Problem, warm_start: WarmStart | None
    ) -> tuple[Tensor | None, Tensor]:
        """Elites (B, E, H, A) of the plan before, if there are any, and which rows have some."""
        known = known_rows(warm_start, problem.batch, problem.state.device)
        if not self.kept or warm_start is None or warm_start.elites is None:
            return None, known
        return warm_start.elites.transpose(1, 2)[:, : self.kept], known

    def _start(self, problem: Problem, warm_start: WarmStart | None) -> Distribution:
        mean = first_actions(problem, warm_start)
        std = torch.full_like(mean, self.first_std)
        return problem.actions.distribution(mean, std)

    def _policy_candidates(self, problem: Problem, rng: torch.Generator) -> Tensor | None:
        count = self.config.policy_samples
        if not count or not problem.model.supports("policy"):
            return None
        noise = problem.normal((count, problem.horizon, problem.actions.dim), rng)
        state = repeat(problem.state, count)
        noise = noise.expand(problem.batch, *noise.shape)
        of = (problem.model, problem.actions, state, problem.horizon)
        return self._rollouts.policy(*of, noise)[0]


def cheapest(candidates: Tensor, cost: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best of candidates (B, N, H, A), (B, count, H, A), and their cost, ascending."""
    best = cost.topk(count, largest=False)
    rows = torch.arange(cost.shape[0], device=cost.device).unsqueeze(1)
    return candidates[rows, best.indices], best.values


def _replace_last(sampled: Tensor, elites: Tensor, known: Tensor) -> Tensor:
    """Samples (B, N, H, A) whose last ones make room for elites (B, E, H, A) where `known` (B,).

    Rows without elites keep all of their samples, so that they plan as if the others were not.
    """
    free = sampled.shape[1] - elites.shape[1]
    return torch.cat([sampled[:, :free], fill(known, elites, sampled[:, free:])], 1)


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

    def sample(self, dist: Distribution, noise: Tensor) -> Tensor:
        """Uniform, whatever the distribution, (B, N, H, A)."""
        return dist.uniform(noise)

    def refit(self, dist: Distribution, candidates: Tensor, cost: Tensor) -> Distribution:
        """Move to the best candidate; the mean itself is one, so the cost never rises."""
        return replace(dist, mean=pick(candidates, cheapest_of(cost)))


@dataclass(frozen=True)
class EliteConfig(SamplingConfig):
    """Options of planners that refit to the best candidates."""

    elites: int = 32  # best candidates, to which the distribution is refitted
    keep_elites: float = 0.0  # share of them that competes again, also in the next plan
    momentum: float = 0.0  # share of the old distribution in the next one
    # The spread is a standard deviation; of discrete actions, the share of even chances.
    max_std: float = 2.0  # where the spread starts; actions lie in [-1, 1]
    min_std: float = 0.05  # below which it does not shrink

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.require("elites", 0 < self.elites <= self.samples, f"1 to samples = {self.samples}")
        self.require("momentum", 0 <= self.momentum < 1, "at least 0 and below 1")
        self.require("min_std", 0 < self.min_std <= self.max_std, "above 0 and at most max_std")
        self.require("keep_elites", 0 <= self.keep_elites <= 1, "from 0 to 1")
        room = self.fewest() - 1 - self.policy_samples
        self.require(
            "keep_elites",
            self.kept() <= room,
            f"a share of elites = {self.elites} that fits among {room} drawn samples",
        )

    def kept(self) -> int:
        """How many elites compete again."""
        return round(self.keep_elites * self.elites)


E = TypeVar("E", bound=EliteConfig)


class ElitePlanner(SamplingPlanner[E]):
    """The distribution that is drawn from moves to the weighted mean and spread of the elites."""

    Config = EliteConfig

    def __init__(self, config: E) -> None:
        super().__init__(config)
        self.first_std, self.kept = config.max_std, config.kept()

    def sample(self, dist: Distribution, noise: Tensor) -> Tensor:
        """Draws from the distribution, (B, N, H, A)."""
        return dist.draw(noise)

    def refit(self, dist: Distribution, candidates: Tensor, cost: Tensor) -> Distribution:
        """Fit to the weighted elites, blended with the distribution of before."""
        cfg = self.config
        elites, least = cheapest(candidates, cost, cfg.elites)
        mean, std = dist.fit(elites, self.weigh(least))
        std = std.clamp(cfg.min_std, cfg.max_std)
        # Without momentum exactly the new values.
        return replace(
            dist,
            mean=torch.lerp(mean, dist.mean, cfg.momentum),
            std=torch.lerp(std, dist.std, cfg.momentum),
        )

    @abstractmethod
    def weigh(self, cost: Tensor) -> Tensor:
        """Weights (B, E) that sum to 1 from elite costs (B, E) in ascending order."""


@register("cem")
class CEM(ElitePlanner[EliteConfig]):
    """Cross-entropy method: all elites count alike (Rubinstein 1999)."""

    def weigh(self, cost: Tensor) -> Tensor:
        """The same for all, but nothing for candidates that broke the model."""
        counts = cost.isfinite().to(cost.dtype)
        return counts / counts.sum(1, keepdim=True).clamp(min=1.0)


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
