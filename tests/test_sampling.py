"""Sampling planners: their two hooks against formulas, and what broken predictions may do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mpc import Plan, Problem, Reward, WarmStart, make_planner, trajectory_cost
from mpc.sampling import Gaussian

ELITE = ("cem", "mppi")


@pytest.fixture
def scored() -> tuple[Tensor, Tensor]:
    """Candidates (2, 12, 3, 1) and costs (2, 12), all different."""
    rng = torch.Generator().manual_seed(0)
    candidates = torch.rand(2, 12, 3, 1, generator=rng, dtype=torch.float64) * 2 - 1
    return candidates, torch.randn(2, 12, generator=rng, dtype=torch.float64)


def standard(candidates: Tensor) -> Gaussian:
    shape = (candidates.shape[0], *candidates.shape[2:])
    return Gaussian(candidates.new_zeros(shape), candidates.new_ones(shape))


def test_cem_refits_to_mean_and_spread_of_the_cheapest(scored: tuple[Tensor, Tensor]) -> None:
    candidates, cost = scored
    cem = make_planner("cem", elites=4, min_std=1e-6)
    found = cem.refit(standard(candidates), candidates, cost)
    for b in range(2):
        order = np.argsort(cost[b].numpy())[:4]
        elites = candidates[b].numpy()[order]
        np.testing.assert_allclose(found.mean[b].numpy(), elites.mean(0))
        np.testing.assert_allclose(found.std[b].numpy(), elites.std(0))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 10.0])
def test_mppi_weighs_by_the_exponential_of_the_cost(
    temperature: float, scored: tuple[Tensor, Tensor]
) -> None:
    candidates, cost = scored
    mppi = make_planner("mppi", elites=4, temperature=temperature, min_std=1e-6)
    found = mppi.refit(standard(candidates), candidates, cost)
    for b in range(2):
        order = np.argsort(cost[b].numpy())[:4]
        elites, least = candidates[b].numpy()[order], cost[b].numpy()[order]
        weight = np.exp(-temperature * least) / np.exp(-temperature * least).sum()
        mean = np.average(elites, axis=0, weights=weight)
        spread = np.sqrt(np.average((elites - mean) ** 2, axis=0, weights=weight))
        np.testing.assert_allclose(found.mean[b].numpy(), mean)
        np.testing.assert_allclose(found.std[b].numpy(), spread)


@pytest.mark.parametrize("name", ELITE)
@pytest.mark.parametrize("offset", [0.0, -1e4, 1e4])
def test_weights_sum_to_one_and_ignore_the_level_of_the_cost(name: str, offset: float) -> None:
    planner = make_planner(name, elites=5)
    cost = torch.tensor([[0.0, 0.1, 1.0, 5.0, 900.0], [-3.0, -2.0, -2.0, 0.0, 0.0]]).double()
    weight = planner.weigh(cost + offset)
    torch.testing.assert_close(weight.sum(1), torch.ones(2).double())
    torch.testing.assert_close(weight, planner.weigh(cost), rtol=1e-6, atol=1e-9)
    # Cheaper never counts less.
    assert (weight.diff(dim=1) <= 1e-12).all()


@pytest.mark.parametrize("name", ELITE)
def test_the_spread_stays_between_its_limits(name: str, scored: tuple[Tensor, Tensor]) -> None:
    candidates, cost = scored
    candidates[0, :, 0] = 0.25  # all agree: no spread
    candidates[1, :, 0] = 50.0 * candidates[1, :, 1]  # far apart
    planner = make_planner(name, elites=12, samples=12, policy_samples=0, min_std=0.2, max_std=0.9)
    found = planner.refit(standard(candidates), candidates, cost)
    torch.testing.assert_close(found.std[0, 0], torch.tensor([0.2]).double())
    torch.testing.assert_close(found.std[1, 0], torch.tensor([0.9]).double())
    inside = make_planner(name, elites=12, samples=12, policy_samples=0, min_std=1e-9, max_std=1e9)
    free = inside.refit(standard(candidates), candidates, cost).std
    torch.testing.assert_close(found.std, free.clamp(0.2, 0.9))


@pytest.mark.parametrize("name", ELITE)
def test_samples_have_the_mean_and_spread_of_the_distribution(name: str, rng: Any) -> None:
    mean = torch.tensor([[[0.3], [-2.0]]])
    std = torch.tensor([[[0.1], [1.5]]])
    drawn = make_planner(name).sample(
        Gaussian(mean, std), torch.randn(20_000, 2, 1, generator=rng(0))
    )
    assert drawn.shape == (1, 20_000, 2, 1)
    torch.testing.assert_close(drawn.mean(1), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.std(1), std, rtol=0.03, atol=0)


def test_random_shooting_draws_uniformly_whatever_the_distribution(rng: Any) -> None:
    shooting = make_planner("random_shooting")
    dist = Gaussian(torch.full((2, 1, 1), 0.9), torch.full((2, 1, 1), 0.01))
    drawn = shooting.sample(dist, torch.randn(40_000, 1, 1, generator=rng(0)))
    counts = torch.histc(drawn[1], bins=10, min=-1, max=1)
    assert counts.sum() == 40_000
    # Five standard deviations of a count with mean 4000.
    assert (counts - 4000).abs().max() < 5 * 60


@pytest.mark.parametrize("iterations", [1, 3])
def test_random_shooting_is_never_worse_than_its_warm_start(
    iterations: int, integrator: Problem, plan: Callable[..., Plan]
) -> None:
    good = plan("gradient", integrator, iterations=60)
    warm = WarmStart(good.actions)
    options = {"samples": 16, "policy_samples": 0, "iterations": iterations}
    found = plan("random_shooting", integrator, warm, **options)
    # Rounding differs between one candidate and many.
    assert (found.cost <= good.cost * (1 + 1e-12)).all()
    # So much so that a near optimal plan comes back as it is.
    torch.testing.assert_close(found.actions, good.actions)
    poor = WarmStart(torch.ones_like(good.actions))
    ones = trajectory_cost(integrator.model, Reward(), 1.0, integrator.state, poor.actions)[0]
    assert (plan("random_shooting", integrator, poor, **options).cost < ones).any()


def test_more_iterations_of_random_shooting_never_raise_the_cost(
    integrator: Problem, plan: Callable[..., Plan]
) -> None:
    options = {"samples": 16, "policy_samples": 0}
    few = plan("random_shooting", integrator, iterations=2, **options)
    many = plan("random_shooting", integrator, iterations=20, **options)
    assert (many.cost <= few.cost).all() and (many.cost < few.cost).any()


@pytest.mark.parametrize("name", ["random_shooting", *ELITE])
def test_the_policys_candidates_compete(
    name: str, homing: Any, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    """One policy sample among few candidates solves a task that random ones hardly touch."""

    class Sure(type(homing)):
        def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
            return super().policy(z)

        def reward(self, z: Tensor, a: Tensor) -> Tensor:
            return -(z + a).square().sum(-1)

    problem = problem_of(Sure(), torch.tensor([[2.5, -3.5]]), 6)
    ideal = plan("policy", problem).cost
    options = {"samples": 8, "iterations": 1} | ({"elites": 1} if name in ELITE else {})
    helped = plan(name, problem, policy_samples=1, **options)
    alone = plan(name, problem, policy_samples=0, **options)
    assert (helped.cost <= ideal).all() and (alone.cost > ideal).all()


# ---- candidates that break the model


class Cliff:
    """Wraps a drift so that any positive push yields a broken reward; the best push is -1."""

    def __new__(cls, base: type[Any], broken: float) -> Any:
        class Model(base):
            def reward(self, z: Tensor, a: Tensor) -> Tensor:
                good = -(a[..., 0] + 1.0).square()
                return torch.where(a[..., 0] > 0.0, broken, good)

        return Model(1)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("name", "elites"), [("random_shooting", 0), ("cem", 8), ("mppi", 8)])
def test_broken_candidates_are_never_chosen(
    name: str, elites: int, broken: float, drift: Any, problem_of: Any, plan: Callable[..., Plan]
) -> None:
    """Half of the candidates break; whole ones suffice for the elites."""
    problem = problem_of(Cliff(drift, broken), torch.zeros(2, 1), 1)
    options = {"samples": 64, "iterations": 4} | ({"elites": elites} if elites else {})
    found = plan(name, problem, **options)
    assert (found.actions <= 0.0).all()
    assert found.cost.isfinite().all()
    assert (found.cost < 0.2).all()


@pytest.mark.parametrize("name", ELITE)
def test_broken_candidates_are_no_elites_even_if_whole_ones_are_few(name: str) -> None:
    """With fewer whole candidates than elites, the whole ones alone decide."""
    candidates = torch.tensor([-0.5, -0.3, 0.9, 1.0]).view(1, 4, 1, 1)
    inf = torch.inf
    cost = torch.tensor([[1.0, 1.0, inf, inf]])
    found = make_planner(name, samples=4, elites=4, policy_samples=0).refit(
        standard(candidates), candidates, cost
    )
    torch.testing.assert_close(found.mean.flatten(), torch.tensor([-0.4]))
    torch.testing.assert_close(found.std.flatten(), torch.tensor([0.1]))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["gradient", "grasp"])
def test_a_broken_restart_is_never_chosen(
    name: str, broken: float, drift: Any, problem_of: Any, plan: Callable[..., Plan]
) -> None:
    """Restarts begin on both sides of the cliff; those beyond it have no finite cost."""
    problem = problem_of(Cliff(drift, broken), torch.zeros(2, 1), 1)
    found = plan(name, problem, restarts=8, init_std=1.0, iterations=3, action_lr=0.01)
    assert found.cost.isfinite().all()
    assert (found.cost < 1.1).all()
    assert (found.actions <= 0.0).all()


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["random_shooting", *ELITE, "gradient", "grasp"])
def test_a_plan_that_cannot_be_finite_says_so(
    name: str, broken: float, drift: Any, problem_of: Any, plan: Callable[..., Plan]
) -> None:
    """An agent goes by the cost: it must not look finite when every prediction is broken."""

    class Broken(drift):
        def reward(self, z: Tensor, a: Tensor) -> Tensor:
            return broken + 0.0 * a.sum(-1)

    found = plan(name, problem_of(Broken(1), torch.zeros(2, 1), 2))
    assert not (found.actions.isfinite().all() and found.cost.isfinite().any())


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("cem", "samples", 1),
        ("cem", "iterations", 0),
        ("cem", "policy_samples", 128),
        ("cem", "policy_samples", -1),
        ("cem", "min_std", 0.0),
        ("cem", "min_std", 3.0),
        ("cem", "elites", 0),
        ("cem", "elites", 129),
        ("mppi", "temperature", 0.0),
        ("random_shooting", "samples", 0),
    ],
)
def test_nonsense_is_refused_by_name(name: str, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"planner '{name}': {option} must be .*, got {value!r}"):
        make_planner(name, **{option: value})
