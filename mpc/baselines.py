"""Planners that do not search: the policy prior alone, zeros, and random actions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from mpc.contracts import Diagnostics, Plan, Problem, WarmStart
from mpc.planner import Planner, PlannerConfig
from mpc.registry import register
from mpc.rollout import policy_rollout, trajectory_cost


class Baseline(Planner[PlannerConfig]):
    """Actions that need no search; their cost and states are still predicted."""

    calls: int = 0  # model calls per control step of the horizon, the final rollout not counted

    @abstractmethod
    def choose(self, problem: Problem, rng: torch.Generator) -> Tensor:
        """Actions (B, H, A) that can be executed."""

    @torch.no_grad()
    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Choose, then roll out once."""
        actions = self.choose(problem, rng)
        cost, states = trajectory_cost(
            problem.model, problem.objective, problem.discount, problem.state, actions
        )
        calls = problem.horizon + self.calls * (problem.horizon - 1)
        diagnostics = Diagnostics(iterations=0, forward_calls=calls, backward_calls=0)
        return Plan(actions, cost, states, WarmStart(actions, states), diagnostics)


@register("policy")
class PolicyPrior(Baseline):
    """The model's policy prior, rolled out in the model."""

    calls = 1

    def choose(self, problem: Problem, rng: torch.Generator) -> Tensor:
        """Mode of the policy at every predicted state. ValueError if the model has none."""
        if not problem.model.supports("policy"):
            raise ValueError(
                f"planner 'policy' needs a model with a policy; "
                f"{type(problem.model).__name__} has none"
            )
        actions, _ = policy_rollout(problem.model, problem.actions, problem.state, problem.horizon)
        return actions


@register("zero")
class Zero(Baseline):
    """Zero actions; of discrete ones the first choice."""

    def choose(self, problem: Problem, rng: torch.Generator) -> Tensor:
        """The middle of the action space, rounded, (B, H, A)."""
        middle = problem.actions.centre((problem.batch, problem.horizon), problem.state)
        return problem.actions.round(middle)


@register("random")
class Random(Baseline):
    """Uniform random actions; a baseline over several starts is not to be one lucky sequence."""

    def choose(self, problem: Problem, rng: torch.Generator) -> Tensor:
        """Uniform, another draw for each of the B problems, (B, H, A)."""
        return problem.actions.sample((problem.batch, problem.horizon), rng, problem.state)
