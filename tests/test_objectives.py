"""Objectives: their formulas, their sums, and any leading axes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mpc import (
    Disagreement,
    Effort,
    GoalDistance,
    Objective,
    Reward,
    TemporalDistance,
    Transition,
    Weighted,
    WorldModel,
)
from world_models import LatentModel, double_integrator

LEADING = [(2,), (2, 5), (2, 3, 4)]


def transition(shape: tuple[int, ...], reward: bool = True, ends: bool = False) -> Transition:
    """Random transitions (*shape) of the double integrator."""
    rng = torch.Generator().manual_seed(0)
    state = torch.randn(*shape, 2, generator=rng, dtype=torch.float64)
    action = torch.randn(*shape, 1, generator=rng, dtype=torch.float64)
    move = double_integrator().predict(state, action)
    chance = torch.rand(shape, generator=rng, dtype=torch.float64) if ends else None
    return move._replace(reward=move.reward if reward else None, continues=chance)


@pytest.fixture
def goal() -> GoalDistance:
    return GoalDistance(torch.tensor([[1.0, 0.0], [-2.0, 0.5]], dtype=torch.float64), 0.3)


@pytest.mark.parametrize("shape", LEADING)
def test_goal_distance_measures_each_problem_to_its_own_goal(
    shape: tuple[int, ...], goal: GoalDistance
) -> None:
    move = transition(shape)
    found = goal.terminal(double_integrator(), move.next)
    assert found.shape == shape
    for b in range(2):
        expected = ((move.next[b] - goal.target[b]) ** 2).sum(-1)
        torch.testing.assert_close(found[b], expected)
    torch.testing.assert_close(goal.stage(move), 0.3 * found)
    assert goal.goal() is goal.target


@pytest.mark.parametrize("shape", LEADING)
def test_reward_is_its_negative_with_the_value_at_the_end(shape: tuple[int, ...]) -> None:
    move, model = transition(shape), double_integrator()
    torch.testing.assert_close(Reward().stage(move), -model.reward(move.state, move.action))
    torch.testing.assert_close(Reward().terminal(model, move.next), -model.value(move.next))


def test_reward_needs_rewards_but_no_value(drift: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="needs a model that predicts rewards"):
        Reward().stage(transition((2,), reward=False))
    end = Reward().terminal(drift(), torch.randn(2, 5, 2, generator=torch.Generator()))
    assert torch.equal(end, torch.zeros(2, 5))


def test_effort_counts_actions_only() -> None:
    move = transition((2, 3))
    torch.testing.assert_close(Effort().stage(move), (move.action**2).sum(-1))
    assert not Effort().terminal(double_integrator(), move.next).any()


def test_a_goal_may_be_an_observation(latent_model: LatentModel) -> None:
    obs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = GoalDistance.seen(latent_model, obs, 0.2)
    assert torch.equal(found.target, latent_model.encode(obs).detach())
    assert not found.target.requires_grad and found.stage_weight == 0.2


@pytest.mark.parametrize("shape", LEADING)
def test_weighted_is_the_sum_of_its_parts(shape: tuple[int, ...], goal: GoalDistance) -> None:
    move, model = transition(shape), double_integrator()
    total = Weighted({"goal": (2.0, goal), "reward": (0.5, Reward()), "effort": (0.1, Effort())})
    stage = 2.0 * goal.stage(move) - 0.5 * move.reward + 0.1 * (move.action**2).sum(-1)
    torch.testing.assert_close(total.stage(move), stage)
    terminal = 2.0 * goal.terminal(model, move.next) - 0.5 * model.value(move.next)
    torch.testing.assert_close(total.terminal(model, move.next), terminal)


@pytest.mark.parametrize("ends", [False, True])
def test_shaping_looks_one_step_ahead(ends: bool, goal: GoalDistance) -> None:
    """stage + discount * terminal of the next state, weighted by the chance to get there."""
    move, model = transition((2, 3), ends=ends), double_integrator()
    for objective in (Reward(), goal, Effort(), Weighted({"a": (2.0, goal), "b": (1.0, Reward())})):
        ahead = 0.9 * objective.terminal(model, move.next)
        expected = objective.stage(move) + ahead * (move.continues if ends else 1.0)
        torch.testing.assert_close(objective.shaping(model, move, 0.9), expected)


@dataclass(frozen=True)
class Beacon(Objective):
    """An objective with a dense signal of its own."""

    def stage(self, transition: Transition) -> Tensor:
        return torch.zeros_like(transition.next[..., 0])

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        return torch.zeros_like(z[..., 0])

    def shaping(self, model: WorldModel, transition: Transition, discount: float) -> Tensor:
        return torch.full_like(transition.next[..., 0], 7.0)


def test_a_sum_keeps_the_shaping_of_its_parts() -> None:
    move, model = transition((2, 3)), double_integrator()
    total = Weighted({"beacon": (0.5, Beacon()), "effort": (2.0, Effort())})
    expected = 0.5 * 7.0 + 2.0 * (move.action**2).sum(-1)
    torch.testing.assert_close(total.shaping(model, move, 0.9), expected)


def test_the_goal_of_a_sum_is_that_of_its_part(goal: GoalDistance) -> None:
    assert Weighted({"effort": (1.0, Effort()), "goal": (1.0, goal)}).goal() is goal.target
    assert Weighted({"effort": (1.0, Effort()), "reward": (1.0, Reward())}).goal() is None


def test_what_counts_at_the_end_alone_is_told(goal: GoalDistance) -> None:
    distance = TemporalDistance(goal.target)
    assert distance.terminal_only() and replace(goal, stage_weight=0.0).terminal_only()
    assert not goal.terminal_only()
    assert not Reward().terminal_only() and not Effort().terminal_only()
    assert Weighted({"effort": (0.1, Effort()), "goal": (1.0, distance)}).terminal_only()
    assert not Weighted({"effort": (0.1, Effort()), "reward": (1.0, Reward())}).terminal_only()


def test_objectives_work_on_a_learned_model(latent_model: LatentModel) -> None:
    z = latent_model.encode(torch.zeros(2, 5, 3, dtype=torch.float64))
    move = latent_model.predict(z, torch.zeros(2, 5, 2, dtype=torch.float64))
    goals = GoalDistance(z[:, 0])
    for objective in (Reward(), goals, Weighted({"r": (1.0, Reward()), "g": (1.0, goals)})):
        shaped = objective.shaping(latent_model, move, 0.99)
        ahead = objective.terminal(latent_model, move.next)
        torch.testing.assert_close(shaped, objective.stage(move) + 0.99 * move.continues * ahead)


def test_disagreement_is_that_of_an_ensemble() -> None:
    move, apart = transition((2, 3)), torch.rand(2, 3, generator=torch.Generator())
    assert torch.equal(Disagreement().stage(move._replace(disagreement=apart)), apart)
    assert not Disagreement().terminal(double_integrator(), move.next).any()
    with pytest.raises(ValueError, match="needs a model that is an ensemble"):
        Disagreement().stage(move)
