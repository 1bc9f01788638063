"""Planners that do not search: the policy prior alone, zeros, and random actions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mpc.contracts import Diagnostics, Plan, Problem, WarmStart
from mpc.planner import Planner, PlannerConfig
from mpc.registry import register
from mpc.rollout import follow


class Baseline(Planner[PlannerConfig]):
    """Actions that need no search; their cost and states are still predicted."""

    @abstractmethod
    def choose(self, problem: Problem, rng: torch.Generator) -> Callable[[int, Tensor], Tensor]:
        """Function of t and s_t (B, Z) that gives the actions a_t (B, A) to execute."""

    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Choose while rolling out once."""
        choose, taken = self.choose(problem, rng), []

        def act(t: int, z: Tensor) -> Tensor:
            taken.append(choose(t, z))
            return taken[-1]

        cost, states = follow(
            problem.model, problem.objective, problem.discount, problem.state, problem.horizon, act
        )
        actions = torch.stack(taken, 1)
        calls = Diagnostics(iterations=0, forward_calls=problem.horizon, backward_calls=0)
        return Plan(actions, cost, states, WarmStart(actions, states), calls)


@register("policy")
class PolicyPrior(Baseline):
    """The model's policy prior, rolled out in the model."""

    def choose(self, problem: Problem, rng: torch.Generator) -> Callable[[int, Tensor], Tensor]:
        """Mode of the policy at every predicted state. ValueError if the model has none."""
        if not problem.model.supports("policy"):
            raise ValueError(
                f"planner 'policy' needs a model with a policy; "
                f"{type(problem.model).__name__} has none"
            )
        return lambda t, z: problem.model.policy(z)


@register("zero")
class Zero(Baseline):
    """Zero actions; of discrete ones the first choice."""

    def choose(self, problem: Problem, rng: torch.Generator) -> Callable[[int, Tensor], Tensor]:
        """The middle of the action space, rounded."""
        middle = problem.actions.round(problem.actions.centre((problem.batch,), problem.state))
        return lambda t, z: middle


@register("random")
class Random(Baseline):
    """Uniform random actions; a baseline over several starts is not to be one lucky sequence."""

    def choose(self, problem: Problem, rng: torch.Generator) -> Callable[[int, Tensor], Tensor]:
        """Uniform, another draw for each of the B problems."""
        shape = (problem.batch, problem.horizon)
        actions = problem.actions.sample(shape, rng, problem.state)
        return lambda t, z: actions[:, t]
