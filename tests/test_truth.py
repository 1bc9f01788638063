"""Closed forms: planners, models and optimiser steps against what mathematics says."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from mpc import Effort, GoalDistance, Plan, Problem, Reward, Weighted, trajectory_cost
from mpc.optim import Adam, annealed, clip_norm
from mpc.rollout import cheapest_of, onward_costs
from world_models import LinearQuadratic, Pendulum, PointMass, double_integrator


@pytest.fixture
def regulator(problem_of: Callable[..., Problem]) -> Problem:
    """The double integrator near the origin, where the optimal push stays within the bounds."""
    state = torch.tensor([[0.3, 0.0], [-0.2, 0.1], [0.1, -0.2]], dtype=torch.float64)
    problem = problem_of(double_integrator(), state, 10)
    _, path = optimum(problem)
    assert (path @ problem.model.gain.T).abs().max() < 0.9
    return problem


def optimum(problem: Problem) -> tuple[Tensor, Tensor]:
    """Actions (B, H, A) of a = -K s and the states s_0..s_{H-1} at which they are taken."""
    state, actions, states = problem.state, [], []
    for _ in range(problem.horizon):
        states.append(state)
        actions.append(-state @ problem.model.gain.T)
        state = problem.model.step(state, actions[-1])
    return torch.stack(actions, 1), torch.stack(states, 1)


def random_system(seed: int, dtype: torch.dtype = torch.float64) -> LinearQuadratic:
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(4, 4)) / 2, rng.normal(size=(4, 2))
    root, effort = rng.normal(size=(4, 4)), rng.normal(size=(2, 2))
    Q, R = root @ root.T, effort @ effort.T + np.eye(2)
    return LinearQuadratic(*(torch.from_numpy(x).to(dtype) for x in (A, B, Q, R)))


@pytest.mark.parametrize("model", [double_integrator(), random_system(0), random_system(1)])
def test_the_value_is_the_riccati_solution(model: LinearQuadratic) -> None:
    A, B, Q, R = (x.numpy() for x in (model.A, model.B, model.Q, model.R))
    P = scipy.linalg.solve_discrete_are(A, B, Q, R)
    np.testing.assert_allclose(model.P.numpy(), P, rtol=1e-6, atol=1e-9)
    gain = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    np.testing.assert_allclose(model.gain.numpy(), gain, rtol=1e-6, atol=1e-9)


def test_the_riccati_solution_in_float32_is_the_same_but_for_rounding() -> None:
    single, double = (random_system(0, dtype) for dtype in (torch.float32, torch.float64))
    for name in ("P", "gain"):
        found = getattr(single, name)
        assert found.dtype == torch.float32
        scale = float(getattr(double, name).abs().max())
        torch.testing.assert_close(found.double(), getattr(double, name), rtol=0, atol=1e-5 * scale)


def test_a_system_that_no_action_can_stabilise_is_refused() -> None:
    A, B = torch.eye(2) * 1.5, torch.tensor([[1.0], [0.0]])
    with pytest.raises(ValueError, match="not stabilisable"):
        LinearQuadratic(A.double(), B.double(), torch.eye(2).double(), torch.eye(1).double())


def test_the_optimal_actions_cost_what_the_value_says(regulator: Problem) -> None:
    actions, states = optimum(regulator)
    of = (regulator.model, regulator.objective, 1.0, regulator.state)
    cost, path = trajectory_cost(*of, actions)
    torch.testing.assert_close(cost, -regulator.model.value(regulator.state))
    torch.testing.assert_close(path[:, :-1], states)
    assert (trajectory_cost(*of, actions + 0.01)[0] > cost).all()


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("gradient", {"iterations": 100, "action_lr": 0.1, "restarts": 1}, 1e-2),
        (
            "grasp",
            {"iterations": 100, "action_lr": 0.1, "sync_every": 20, "sync_steps": 10},
            1e-2,
        ),
        ("cem", {"iterations": 12, "samples": 400, "elites": 40, "min_std": 0.01}, 2e-2),
        ("mppi", {"iterations": 12, "samples": 400, "elites": 40, "min_std": 0.01}, 2e-2),
        ("icem", {"iterations": 12, "samples": 400, "sample_decay": 1.0, "min_std": 0.01}, 2e-2),
    ],
    ids=["gradient", "grasp", "cem", "mppi", "icem"],
)
def test_planners_reach_the_riccati_cost(
    name: str,
    options: dict[str, Any],
    tolerance: float,
    regulator: Problem,
    plan: Callable[..., Plan],
) -> None:
    found = plan(name, regulator, **options)
    least = -regulator.model.value(regulator.state)
    # Nothing beats the optimum, so a cost below it would be a wrong cost.
    assert (found.cost >= least * (1 - 1e-9)).all()
    torch.testing.assert_close(found.cost, least, rtol=tolerance, atol=0.0)
    # The first action is what an agent executes.
    best = -regulator.state @ regulator.model.gain.T
    torch.testing.assert_close(found.actions[:, 0], best, rtol=0.0, atol=0.1)


SEARCHING = [
    ("gradient", {"iterations": 40}),
    ("grasp", {"iterations": 40, "sync_every": 8, "sync_steps": 5}),
    ("cem", {"iterations": 10, "samples": 200}),
    ("mppi", {"iterations": 10, "samples": 200}),
    ("icem", {"iterations": 10, "samples": 200}),
]
searching = pytest.mark.parametrize(("name", "options"), SEARCHING, ids=[n for n, _ in SEARCHING])


@searching
def test_pendulum_is_swung_up_far_better_than_by_doing_nothing(
    name: str, options: dict[str, Any], problem_of: Callable[..., Problem], plan: Any
) -> None:
    """Hanging still costs pi^2 per step; the torque cannot lift the pendulum straight up."""
    down = torch.tensor([[math.pi - 1e-3, 0.0]], dtype=torch.float64)
    problem = problem_of(Pendulum(), down, 40)
    still = plan("zero", problem).cost
    torch.testing.assert_close(still, torch.full_like(still, 40 * math.pi**2), rtol=1e-2, atol=0)
    found = plan(name, problem, **options)
    assert (found.cost < 0.8 * still).all()
    # Without swinging, the torque holds 6 / 15 of gravity: cos = -0.92. Swinging lifts it higher.
    _, path = trajectory_cost(problem.model, problem.objective, 1.0, down, found.actions)
    assert path[..., 0].cos().max() > -0.5


@searching
def test_point_mass_goes_around_the_obstacle(
    name: str, options: dict[str, Any], problem_of: Callable[..., Problem], plan: Any
) -> None:
    """The straight line to the goal leads through the obstacle."""
    start = torch.tensor([[-1.0, 0.05, 0.0, 0.0], [0.05, -1.2, 0.0, 0.0]], dtype=torch.float64)
    parts = {"goal": (10.0, GoalDistance(-start)), "obstacle": (1.0, Reward())}
    problem = problem_of(PointMass(), start, 20, Weighted(parts | {"effort": (0.01, Effort())}))
    found = plan(name, problem, **options)
    assert (found.cost < 0.8 * plan("zero", problem).cost).all()
    _, path = trajectory_cost(problem.model, problem.objective, 1.0, start, found.actions)
    towards = (path[:, -1, :2] + start[:, :2]).norm(dim=-1)
    assert (towards < 0.75 * 2 * start[:, :2].norm(dim=-1)).all()
    # The straight line passes the top of the obstacle at a tenth of its radius or less.
    assert (path[..., :2].norm(dim=-1).min(1).values > 0.8 * problem.model.radius).all()


def test_rollout_cost_is_discounted_and_weighted_by_survival(drift: Callable[..., Any]) -> None:
    """J = r_0 + g c_0 r_1 + g^2 c_0 c_1 V with hand-made rewards and chances to go on."""

    class Mortal(type(drift())):
        def reward(self, z: Tensor, a: Tensor) -> Tensor:
            return z[..., 0]

        def value(self, z: Tensor) -> Tensor:
            return 100.0 * z[..., 0]

        def predict(self, z: Tensor, a: Tensor) -> Any:
            chance = torch.where(z[..., 0] > 1.5, 0.5, 0.8)
            return super().predict(z, a)._replace(continues=chance)

    actions = torch.tensor([[[1.0], [2.0]]])
    cost, states = trajectory_cost(Mortal(1), Reward(), 0.9, torch.tensor([[1.0]]), actions)
    torch.testing.assert_close(states, torch.tensor([[[1.0], [2.0], [4.0]]]))
    expected = -(1.0 + 0.9 * 0.8 * 2.0 + 0.9**2 * 0.8 * 0.5 * 400.0)
    torch.testing.assert_close(cost, torch.tensor([expected]))


def test_costs_go_on_with_the_policy(drift: Callable[..., Any]) -> None:
    class Halving(type(drift())):
        def reward(self, z: Tensor, a: Tensor) -> Tensor:
            return z[..., 0]

        def value(self, z: Tensor) -> Tensor:
            return 10.0 + z[..., 0] ** 2

        def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
            return -0.5 * z

        def predict(self, z: Tensor, a: Tensor) -> Any:
            return super().predict(z, a)._replace(continues=torch.full_like(z[..., 0], 0.8))

    actions, start = torch.tensor([[[7.0]], [[3.0]]]), torch.ones(2, 1)
    costs = onward_costs(Halving(1), Reward(), 0.9, start, actions, 2)
    expected = []
    for z in (8.0, 4.0):  # after the action; then half, then a quarter of it
        one, two, three = 0.72, 0.72**2, 0.72**3
        returns = [
            1.0 + one * (10.0 + z**2),
            1.0 + one * z + two * (10.0 + (z / 2) ** 2),
            1.0 + one * z + two * z / 2 + three * (10.0 + (z / 4) ** 2),
        ]
        expected.append(returns)
    torch.testing.assert_close(costs, -torch.tensor(expected))


def test_adam_steps_like_torchs() -> None:
    variable = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adam([variable], lr=0.03)
    ours, optimiser = torch.zeros(3, 2, dtype=torch.float64), Adam.zeros(variable.detach())
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradient = torch.randn(3, 2, generator=rng, dtype=torch.float64)
        variable.grad = gradient
        theirs.step()
        before = gradient.clone()
        step, optimiser = optimiser.step(gradient, 0.03)
        assert torch.equal(gradient, before)
        ours = ours - step
        # Epsilon enters at another place, which matters to gradients near zero only.
        torch.testing.assert_close(ours, variable.detach(), rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_per_control_step() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = torch.tensor([[1.2, 1.6], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(clip_norm(gradient, 2.0), expected)


def test_the_learning_rate_falls_from_all_to_its_share() -> None:
    rates = [annealed(0.2, i / 20, 0.1) for i in range(21)]
    assert rates[0] == pytest.approx(0.2) and rates[-1] == pytest.approx(0.02)
    assert rates[10] == pytest.approx(0.11)
    assert all(a > b for a, b in pairwise(rates))


@pytest.mark.parametrize("final", [1.0, 0.1])
@pytest.mark.parametrize("name", ["gradient", "grasp"])
def test_actions_travel_the_sum_of_the_learning_rates(
    name: str,
    final: float,
    drift: Callable[..., Any],
    problem_of: Callable[..., Problem],
    plan: Any,
) -> None:
    """A reward equal to the action has the gradient 1 everywhere, which is one rate per step."""

    class Pushing(drift):
        def reward(self, z: Tensor, a: Tensor) -> Tensor:
            return a[..., 0]

    problem = problem_of(Pushing(1), torch.zeros(2, 1, dtype=torch.float64), 1)
    options = {"iterations": 20, "restarts": 1, "action_lr": 0.02, "final_lr": final}
    quiet = {"noise": 0.0, "sync_every": 0} if name == "grasp" else {}
    found = plan(name, problem, **options, **quiet)
    travel = sum(annealed(0.02, i / 20, final) for i in range(20))
    torch.testing.assert_close(
        found.actions, torch.full_like(found.actions, travel), rtol=0.02, atol=0
    )


def test_rounding_does_not_decide_between_plans_that_cost_the_same() -> None:
    """Which sum is larger by the last bit depends on the machine and on the batch."""
    rows = [[2.0, 1.0 + 1e-15, 1.0, 3.0], [torch.inf, torch.nan, 5.0, 4.9]]
    cost = torch.tensor(rows, dtype=torch.float64)
    assert cheapest_of(cost).tolist() == [1, 3]
    assert cheapest_of(torch.full((1, 3), torch.nan)).tolist() == [0]
