"""Models that see more than the current latent: planners, lifted paths, and the agent."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import MPCAgent
from agents.agent import Memory
from mpc import PLANNERS, Effort, GoalDistance, Objective, Plan, Problem, Weighted, WorldModel
from mpc.history import newest, push, windows
from mpc.lifting import LiftedConfig, lifted_loss


class Coasting(WorldModel):
    """Positions alone, so that speed shows in two of them only: z' = z + (z - before) + a / 4."""

    latent_dim = action_dim = 2
    history = 2

    def encode(self, obs: Tensor) -> Tensor:
        return obs.double()

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        before, now = z.chunk(2, -1)
        return now + (now - before) + 0.25 * a


class Twin(Coasting):
    """The same world with both positions in its latent."""

    latent_dim, action_dim, history = 4, 2, 1

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        return torch.cat([z[..., 2:], super().step(z, a)], -1)


class Newest(Objective):
    """An objective of the twin that sees the current position only."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def stage(self, transition: Any) -> Tensor:
        return self.objective.stage(transition._replace(next=transition.next[..., 2:]))

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        return self.objective.terminal(model, z[..., 2:])


@pytest.fixture
def pair(problem_of: Callable[..., Problem]) -> tuple[Problem, Problem]:
    """The same two problems for the model with a history and for its twin without one."""
    rng = torch.Generator().manual_seed(0)
    place, drift = 0.5 * torch.randn(2, 2, 2, generator=rng, dtype=torch.float64)
    window, goal = torch.cat([place, place + 0.1 * drift], -1), -place
    parts = {"goal": (1.0, GoalDistance(goal, 0.1)), "effort": (0.01, Effort())}
    objective = Weighted(parts)
    return (
        problem_of(Coasting(), window, 6, objective),
        problem_of(Twin(), window, 6, Newest(objective)),
    )


def test_windows_are_what_the_model_sees_along_a_path() -> None:
    class Long(Coasting):
        latent_dim, history = 1, 3

    window = torch.tensor([[1.0, 2.0, 3.0]])
    states = torch.tensor([3.0, 4.0, 5.0, 6.0]).view(1, 1, 4, 1).expand(1, 2, 4, 1)
    seen = windows(Long(), window, states)
    expected = torch.tensor([[1.0, 2, 3], [2, 3, 4], [3, 4, 5]])
    assert torch.equal(seen, expected.expand(1, 2, 3, 3))
    assert torch.equal(newest(Long(), window), window[:, 2:])
    assert torch.equal(push(Long(), window, torch.tensor([[9.0]])), torch.tensor([[2.0, 3.0, 9.0]]))


ROLLOUT = [n for n in PLANNERS.names() if n not in ("policy", "grasp", "latco")]


@pytest.mark.parametrize("name", ROLLOUT)
def test_planners_that_roll_out_plan_as_for_the_markov_twin(
    name: str, pair: tuple[Problem, Problem], plan: Callable[..., Plan]
) -> None:
    ours, twin = (plan(name, problem) for problem in pair)
    torch.testing.assert_close(ours.actions, twin.actions)
    torch.testing.assert_close(ours.cost, twin.cost)
    torch.testing.assert_close(ours.states, twin.states[..., 2:])


def test_the_lifted_loss_has_one_virtual_state_per_step(pair: tuple[Problem, Problem]) -> None:
    problem, rng = pair[0], torch.Generator().manual_seed(1)
    states = torch.randn(2, 1, 7, 2, generator=rng, dtype=torch.float64)
    states[:, :, 0] = problem.state[:, None, 2:]
    actions = torch.randn(2, 1, 6, 2, generator=rng, dtype=torch.float64)
    found = lifted_loss(
        problem.model,
        problem.objective,
        1.0,
        LiftedConfig(shaping=0.0),
        problem.state,
        states,
        actions,
    )
    path = torch.cat([problem.state[:, None, None, :2], states], -2)
    expected = 0.0
    for t in range(6):
        step = 2 * path[:, :, t + 1] - path[:, :, t] + 0.25 * actions[:, :, t]
        expected = expected + 0.5 * (step - path[:, :, t + 2]).square().sum(-1)
    torch.testing.assert_close(found.distance, expected)


@pytest.mark.parametrize("name", ["grasp", "latco"])
def test_lifted_planners_come_near_the_best_rollout(
    name: str, pair: tuple[Problem, Problem], plan: Callable[..., Plan]
) -> None:
    problem = pair[0]
    best, idle = plan("gradient", problem, iterations=400, restarts=1), plan("zero", problem)
    options = {"defect": 30.0, "state_lr": 0.02}
    if name == "grasp":  # whose syncs, in long steps, would not let 300 iterations settle
        options = {"lookahead": 6, "sync_every": 0}
    cold = plan(name, problem, iterations=300, select="rollout", **options)
    assert (cold.cost - best.cost < 0.1 * (idle.cost - best.cost)).all()
    assert cold.states.shape == (2, 7, 2)
    # What a warm plan is handed fits: it is no worse, and feasible but for small gaps.
    warm = plan(name, problem, cold.warm_start, select="rollout", **options)
    assert (warm.cost <= cold.cost + 1e-9).all()
    assert (warm.diagnostics.defect < 0.1).all()


def test_the_agent_shows_its_model_the_latest_observations(
    pair: tuple[Problem, Problem],
) -> None:
    """Windows begin with the first observation repeated, per row, and survive a checkpoint."""
    from mpc import make_planner

    agent = MPCAgent(pair[0].model, make_planner("zero"), Effort(), 1.0)
    rng = np.random.default_rng(0)
    first, second, third = rng.normal(size=(3, 2, 2)).astype(np.float32)
    memory = agent.start(0)
    _, memory = agent.act(first, memory)
    seen = [memory.window]
    _, memory = agent.act(second, memory)
    seen.append(memory.window)
    memory = agent.forget(memory, np.array([False, True]))
    memory = Memory.restore(memory.state(), torch.device("cpu"))
    _, memory = agent.act(third, memory)
    seen.append(memory.window)
    twice = [np.concatenate([x, x], 1) for x in (first, third)]
    expected = [twice[0], np.concatenate([first, second], 1)]
    last = np.concatenate([second, third], 1)
    last[1] = twice[1][1]
    for found, wanted in zip(seen, [*expected, last], strict=True):
        assert found is not None
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)
    # The plan is made for that window: coasting on, by as much again.
    assert memory.plan is not None
    step = 2 * third[0] - second[0]
    np.testing.assert_allclose(memory.plan.states[0, 1].numpy(), step, rtol=1e-5)
