"""Leads of the policy prior, by which restarts of GRASP begin, against rollouts made by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mpc import GoalDistance, Plan, Problem, WarmStart, trajectory_cost
from mpc.leads import best_leads, led_restarts, restarts_along
from mpc.rollout import EAGER, repeat


@pytest.fixture
def reach(homing: Any, problem_of: Callable[..., Problem]) -> Problem:
    """To zero with s' = s + a and a policy that goes there."""
    state = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    return problem_of(homing, state, 4, GoalDistance(torch.zeros(2, 2)))


def draws(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Noise, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_restarts_along_a_warm_plan_lead_and_then_follow_the_policy_at_its_states(
    reach: Problem,
) -> None:
    noise = 0.1 * draws(2, 4, 2)
    warm = WarmStart(torch.full((2, 4, 2), 0.25).double(), 0.3 * draws(2, 5, 2))
    assert warm.states is not None
    alike = restarts_along(reach, warm, noise, None)
    first = warm.actions.unsqueeze(1)
    assert torch.equal(alike[0], torch.cat([first, (first + noise).clamp(-1, 1)], 1))
    leads = draws(2, 2, 1, 2).clamp(-1, 1), draws(2, 2, 2, 2)
    actions, states = restarts_along(reach, warm, noise, leads)
    assert torch.equal(actions[:, 0], warm.actions)
    assert torch.equal(states[:, 0], warm.states)
    assert torch.equal(actions[:, 1:, :1], leads[0])
    assert torch.equal(states[:, 1:, :2], leads[1])
    rest = repeat(warm.states, 2)
    assert torch.equal(states[:, 1:, 2:], rest[:, :, 2:])
    policy = (-rest[:, :, 1:-1]).clamp(-1, 1) + noise[:, 1:]
    torch.testing.assert_close(actions[:, 1:, 1:], policy.clamp(-1, 1))


def test_leads_are_the_cheapest_policy_rollouts(reach: Problem) -> None:
    """By the whole cost of the lookahead; the one without noise is the policy's mode."""
    noise = draws(6, 3, 2)
    noise[4] = 0.0
    actions, states = best_leads(reach, EAGER, noise, 2)
    tried = []
    for draw in noise:
        z, taken = reach.state, []
        for step in draw:
            taken.append(((-z).clamp(-1, 1) + step).clamp(-1, 1))
            z = z + taken[-1]
        tried.append(torch.stack(taken, 1))
    every = torch.stack(tried, 1)
    arguments = (reach.model, reach.objective, reach.discount, repeat(reach.state, 6))
    cost, rolled = trajectory_cost(*arguments, every)
    for row in range(reach.batch):
        best = cost[row].argsort()[:2]
        torch.testing.assert_close(actions[row], every[row, best])
        torch.testing.assert_close(states[row], rolled[row, best])
    # With elites their mean comes first, or, where that is asked for, the first of all.
    averaged = best_leads(reach, EAGER, noise, 2, elites=2)
    bound = best_leads(reach, EAGER, noise, 3, elites=2, mode_first=True)
    for found, before in zip(averaged, (actions, states), strict=True):
        torch.testing.assert_close(found, torch.stack([before.mean(1), before[:, 0]], 1))
    for found, tried in zip(bound, (every, rolled), strict=True):
        torch.testing.assert_close(found[:, 0], tried[:, 0])


@pytest.mark.parametrize("mode_first", [False, True])
def test_no_lead_that_breaks_the_model_is_averaged(
    mode_first: bool, drift: Any, problem_of: Callable[..., Problem]
) -> None:
    class Cliff(type(drift())):
        def step(self, z: Tensor, a: Tensor) -> Tensor:
            return torch.where(a > 0.5, torch.nan, z + a)

        def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
            return torch.zeros_like(z)

    problem = problem_of(Cliff(1), torch.ones(2, 1).double(), 2, GoalDistance(torch.zeros(2, 1)))
    noise = torch.tensor([0.0, -0.2, 0.9, -0.6, 0.8]).double()[:, None, None].expand(5, 2, 1)
    actions, states = best_leads(problem, EAGER, noise, 3, elites=5, mode_first=mode_first)
    assert states.isfinite().all()
    mean = (0.0 - 0.2 - 0.6 - 0.6 - 0.6) / 5  # the best stands for those that broke
    expected = torch.full((2, 2, 1), mean).double()
    torch.testing.assert_close(actions[:, int(mode_first)], expected)


def test_leads_over_the_horizon_make_room_for_a_warm_start(
    latent_task: Problem, plan: Callable[..., Plan]
) -> None:
    noise = draws(6, 5, 1, dtype=torch.float32)
    best, states = best_leads(latent_task, EAGER, noise, 3)
    cold = led_restarts(latent_task, None, EAGER, noise, 3)
    assert torch.equal(cold.actions, best)
    assert torch.equal(cold.states, states[..., :-1, :])
    known = torch.tensor([True, False, True])
    before = replace(plan("grasp", latent_task).warm_start, known=known)
    warm = led_restarts(latent_task, before, EAGER, noise, 3)
    assert torch.equal(warm.actions[known, 0], before.actions[known])
    assert torch.equal(warm.actions[known, 1:], best[known, :2])
    assert torch.equal(warm.states[known, 1:], states[known, :2, :-1])
    assert torch.equal(warm.actions[1], best[1])
