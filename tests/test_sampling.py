"""Sampling planners: their two hooks against formulas, and what broken predictions may do."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mpc import (
    GoalDistance,
    Plan,
    Problem,
    Reward,
    WarmStart,
    make_planner,
    shift,
    trajectory_cost,
)
from mpc.actions import Gaussian
from mpc.noise import coloured
from world_models import PointMass, double_integrator

ELITE = ("cem", "mppi", "icem")


@pytest.fixture
def scored() -> tuple[Tensor, Tensor]:
    """Candidates (2, 12, 3, 1) and costs (2, 12), all different."""
    rng = torch.Generator().manual_seed(0)
    candidates = torch.rand(2, 12, 3, 1, generator=rng, dtype=torch.float64) * 2 - 1
    return candidates, torch.randn(2, 12, generator=rng, dtype=torch.float64)


def standard(candidates: Tensor) -> Gaussian:
    shape = (candidates.shape[0], *candidates.shape[2:])
    return Gaussian(candidates.new_zeros(shape), candidates.new_ones(shape))


@pytest.mark.parametrize("name", ["cem", "icem"])
def test_cem_refits_to_mean_and_spread_of_the_cheapest(
    name: str, scored: tuple[Tensor, Tensor]
) -> None:
    candidates, cost = scored
    cem = make_planner(name, elites=4, min_std=1e-6, momentum=0.0)
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
    options = {"elites": 12, "samples": 24, "policy_samples": 0, "momentum": 0.0}
    planner = make_planner(name, **options, min_std=0.2, max_std=0.9)
    found = planner.refit(standard(candidates), candidates, cost)
    torch.testing.assert_close(found.std[0, 0], torch.tensor([0.2]).double())
    torch.testing.assert_close(found.std[1, 0], torch.tensor([0.9]).double())
    inside = make_planner(name, **options, min_std=1e-9, max_std=1e9)
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
    options |= {"noise_beta": 0.0}
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
@pytest.mark.parametrize(
    ("name", "elites"), [("random_shooting", 0), ("cem", 8), ("mppi", 8), ("icem", 8)]
)
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
    planner = make_planner(name, samples=8, elites=4, policy_samples=0, momentum=0.0)
    found = planner.refit(standard(candidates), candidates, cost)
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
        ("cem", "noise_beta", -0.5),
        ("cem", "keep_elites", 1.5),
        ("cem", "keep_elites", -0.1),
        ("cem", "momentum", 1.0),
        ("cem", "momentum", -0.1),
        ("icem", "sample_decay", 0.9),
        ("icem", "elites", 0),
        ("icem", "elites", 65),
        ("icem", "policy_samples", 65),
        ("mppi", "temperature", 0.0),
        ("random_shooting", "samples", 0),
    ],
)
def test_nonsense_is_refused_by_name(name: str, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"planner '{name}': {option} must be .*, got {value!r}"):
        make_planner(name, **{option: value})


def test_kept_elites_must_leave_room_for_the_policys() -> None:
    """16 samples are 1 mean, 8 of the policy and 7 drawn ones, whose place the elites take."""
    options = {"samples": 16, "policy_samples": 8, "elites": 8}
    assert make_planner("cem", **options, keep_elites=0.9).kept == 7
    with pytest.raises(ValueError, match="keep_elites must be a share of elites = 8 that fits"):
        make_planner("cem", **options, keep_elites=1.0)


def test_random_shooting_has_no_options_of_distributions() -> None:
    known = set(make_planner("random_shooting").config.options())
    assert not known & {"elites", "keep_elites", "momentum", "max_std", "min_std"}
    assert "noise_beta" in known


# ---- coloured noise


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [64, 65])
def test_the_power_of_noise_falls_with_the_frequency(beta: float, steps: int, rng: Any) -> None:
    white = torch.randn(4000, steps, 2, generator=rng(0), dtype=torch.float64)
    power = torch.fft.rfft(coloured(white, beta), dim=1).abs().square().mean((0, 2)).numpy()
    frequency = np.fft.rfftfreq(steps)
    slope = np.polyfit(np.log(frequency[1:]), np.log(power[1:]), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.02)
    # The constant part is as strong as the lowest frequency.
    assert power[0] == pytest.approx(power[1], rel=0.1)


@pytest.mark.parametrize("beta", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("steps", [2, 3, 5, 8])
def test_noise_has_variance_one_at_every_step_and_its_covariance(beta: float, steps: int) -> None:
    """The filter is linear, so its matrix tells the covariance exactly, without a sample."""
    matrix = coloured(torch.eye(steps, dtype=torch.float64).unsqueeze(-1), beta)[..., 0].T
    found = (matrix @ matrix.T).numpy()
    frequency = np.abs(np.fft.fftfreq(steps))
    frequency[0] = frequency[1]
    spectrum = frequency**-beta / (frequency**-beta).sum()
    lag = np.subtract.outer(np.arange(steps), np.arange(steps))
    turns = np.multiply.outer(np.fft.fftfreq(steps), lag)
    expected = (spectrum[:, None, None] * np.cos(2 * np.pi * turns)).sum(0)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(np.diag(found), 1.0)


def test_beta_zero_is_the_white_noise_itself(rng: Any) -> None:
    white = torch.randn(3, 7, 2, generator=rng(0))
    assert coloured(white, 0.0) is white
    assert torch.equal(coloured(white[:, :1], 2.0), white[:, :1])
    assert coloured(white, 2.0).dtype == white.dtype


@pytest.mark.parametrize("name", ["random_shooting", *ELITE])
def test_coloured_noise_reaches_farther(
    name: str, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    """White pushes cancel over a long horizon; a slow one carries the point to a far goal."""
    start = torch.tensor([[0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    goal = torch.tensor([[12.0, -16.0, 0.0, 0.0]], dtype=torch.float64)
    problem = problem_of(PointMass(), start, 60, GoalDistance(goal))
    options = {"samples": 64, "iterations": 1}
    options |= {"elites": 8} if name in ELITE else {}

    def reached(beta: float) -> float:
        plans = [plan(name, problem, seed=s, noise_beta=beta, **options) for s in range(10)]
        ends = torch.cat([p.states[:, -1, :2] for p in plans])
        return float((ends @ goal[0, :2] / goal.norm()).mean())

    assert reached(2.0) > 2.0 * reached(0.0) > 0.0


# ---- elites, momentum, sizes


def recorded(planner: Any, problem: Problem, warm: Any = None, seed: int = 0) -> list[Any]:
    """(distribution, candidates, cost) of every refit of a plan."""
    seen, refit = [], planner.refit

    def spy(dist: Gaussian, candidates: Tensor, cost: Tensor) -> Gaussian:
        seen.append((dist, candidates, cost))
        return refit(dist, candidates, cost)

    planner.refit = spy
    planner.plan(problem, warm, torch.Generator().manual_seed(seed))
    planner.refit = refit
    return seen


@pytest.mark.parametrize("name", ELITE)
def test_kept_elites_compete_again_and_the_best_never_gets_worse(
    name: str, goal_task: Problem
) -> None:
    options = {"samples": 20, "elites": 8, "policy_samples": 0, "iterations": 12}
    steps = recorded(make_planner(name, horizon=5, **options, keep_elites=0.5), goal_task)
    for (_, before, cost), (_, after, _) in pairwise(steps):
        for b in range(goal_task.batch):
            # The four best of before are among the candidates of after.
            best = before[b, np.argsort(cost[b].numpy(), kind="stable")[:4]]
            apart = (after[b].unsqueeze(0) - best.unsqueeze(1)).abs().amax((2, 3))
            assert (apart.min(1).values == 0).all()
    least = torch.stack([cost.min(1).values for _, _, cost in steps])
    # Rounding differs between the places in a batch.
    assert (least.diff(dim=0) <= 1e-9).all() and (least[-1] < least[0]).all()
    without = recorded(make_planner(name, horizon=5, **options, keep_elites=0.0), goal_task)
    least = torch.stack([cost.min(1).values for _, _, cost in without])
    assert (least.diff(dim=0) > 1e-9).any(), "nothing to keep them for"


@pytest.mark.parametrize("name", ELITE)
@pytest.mark.parametrize("momentum", [0.25, 0.9])
def test_momentum_slows_the_change_by_its_factor(
    name: str, momentum: float, scored: tuple[Tensor, Tensor]
) -> None:
    candidates, cost = scored
    before = Gaussian(0.3 * torch.ones(2, 3, 1).double(), 0.7 * torch.ones(2, 3, 1).double())
    fast, slow = (
        make_planner(name, elites=4, momentum=m).refit(before, candidates, cost)
        for m in (0.0, momentum)
    )
    share = 1.0 - momentum
    torch.testing.assert_close(slow.mean - before.mean, share * (fast.mean - before.mean))
    torch.testing.assert_close(slow.std - before.std, share * (fast.std - before.std))


def test_icem_draws_ever_fewer_samples(integrator: Problem) -> None:
    """max(60 / 1.5^i, 2 * 7), rounded down."""
    options = {"samples": 60, "elites": 7, "policy_samples": 3, "iterations": 6}
    steps = recorded(make_planner("icem", horizon=5, **options, sample_decay=1.5), integrator)
    assert [cost.shape[1] for _, _, cost in steps] == [60, 40, 26, 17, 14, 14]
    level = recorded(make_planner("icem", horizon=5, **options, sample_decay=1.0), integrator)
    assert [cost.shape[1] for _, _, cost in level] == [60] * 6


def test_icem_executes_the_best_it_has_seen(goal_task: Problem, plan: Callable[..., Plan]) -> None:
    options = {"samples": 20, "elites": 8, "policy_samples": 0, "iterations": 3}
    steps = recorded(make_planner("icem", horizon=5, **options), goal_task)
    seen = torch.cat([cost for _, _, cost in steps], 1).min(1).values
    found = plan("icem", goal_task, **options)
    assert (found.cost <= seen + 1e-9).all()
    # CEM, which executes the mean, makes no such promise; with so few samples it pays.
    assert found.cost.sum() < plan("cem", goal_task, **options).cost.sum()


@pytest.mark.parametrize("name", ELITE)
def test_elites_are_handed_to_the_next_plan(name: str, goal_task: Problem) -> None:
    options = {"samples": 20, "elites": 8, "policy_samples": 0, "keep_elites": 0.5}
    planner = make_planner(name, horizon=5, **options)
    plan = planner.plan(goal_task, None, torch.Generator().manual_seed(0))
    elites = plan.warm_start.elites
    assert elites.shape == (3, 5, 4, 1)
    moved = shift(plan.warm_start)
    torch.testing.assert_close(moved.elites[:, :4], elites[:, 1:])
    torch.testing.assert_close(moved.elites[:, 4], elites[:, 4])
    first = recorded(planner, goal_task, moved, seed=1)[0][1]  # (B, N, H, A)
    for b in range(3):
        apart = (first[b].unsqueeze(1) - moved.elites[b].transpose(0, 1)).abs().amax((2, 3))
        assert (apart.min(0).values == 0).all()
    # A planner that keeps fewer takes the best of them; one that keeps none hands none on.
    fewer = make_planner(name, horizon=5, **options | {"keep_elites": 0.25})
    assert fewer.plan(goal_task, moved, torch.Generator()).warm_start.elites.shape[2] == 2
    none = make_planner(name, horizon=5, **options | {"keep_elites": 0.0})
    assert none.plan(goal_task, moved, torch.Generator()).warm_start.elites is None


def test_elites_of_another_size_are_refused(goal_task: Problem) -> None:
    planner = make_planner("icem", horizon=5)
    warm = planner.plan(goal_task, None, torch.Generator()).warm_start
    wrong = replace(warm, elites=warm.elites[:, 1:])
    with pytest.raises(ValueError, match=r"warm start elites: expected shape \(3, 5, None, 1\)"):
        planner.plan(goal_task, wrong, torch.Generator())


@pytest.mark.parametrize("name", ELITE)
def test_a_warm_start_with_elites_needs_fewer_iterations(
    name: str, problem_of: Callable[..., Problem]
) -> None:
    """Iterations until the mean is within 1 % of the Riccati optimum, over ten seeds."""
    model = double_integrator()
    start = torch.tensor([[1.0, -0.5], [-0.6, 0.3]], dtype=torch.float64)
    options = {"samples": 48, "elites": 12, "policy_samples": 0, "keep_elites": 0.75}
    planner = make_planner(name, **options, min_std=0.01, horizon=10, iterations=15)
    done = planner.plan(problem_of(model, start, 10), None, torch.Generator().manual_seed(99))
    after = problem_of(model, done.states[:, 1], 10)
    least = -model.value(after.state)

    def needed(warm: WarmStart) -> float:
        counts = []
        for seed in range(10):
            of = (model, Reward(), 1.0, after.state)
            means = [dist.mean for dist, _, _ in recorded(planner, after, warm, seed)[1:]]
            near = [bool((trajectory_cost(*of, mean)[0] < 1.01 * least).all()) for mean in means]
            counts.append([*near, True].index(True) + 1)
        return float(np.mean(counts))

    warm = shift(done.warm_start)
    with_elites, without = needed(warm), needed(replace(warm, elites=None))
    assert with_elites < without - 0.5
