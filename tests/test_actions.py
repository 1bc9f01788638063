"""Action spaces against formulas, and every planner of choices against all there are."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mpc import BoxActions, CategoricalActions, Plan, Problem, action_space, trajectory_cost

GROUPS = [(2,), (5,), (3, 2), (1, 4, 2)]
every_space = pytest.mark.parametrize("choices", GROUPS, ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def corners(choices: tuple[int, ...]) -> Tensor:
    """Every action there is, (product of the choices, A)."""
    groups = [torch.eye(n, dtype=torch.float64) for n in choices]
    return torch.stack([torch.cat(rows) for rows in itertools.product(*groups)])


def test_a_space_is_discrete_where_there_are_choices() -> None:
    assert action_space(3) == BoxActions(3)
    assert action_space(5, (3, 2)) == CategoricalActions((3, 2))
    assert CategoricalActions((3, 2)).dim == 5
    for wrong in ((), (3, 0)):
        with pytest.raises(ValueError, match="every group needs at least 1 choice"):
            CategoricalActions(wrong)


@every_space
def test_projections_are_the_nearest_points_of_the_simplex(choices: tuple[int, ...]) -> None:
    """p is nearest to x in a convex set if and only if (x - p)(q - p) <= 0 for all corners q."""
    space = CategoricalActions(choices)
    x = 2.0 * normal(200, space.dim)
    p = space.project(x)
    assert (p >= 0).all()
    for group in p.split(choices, -1):
        torch.testing.assert_close(group.sum(-1), torch.ones(200).double())
    slope = ((x - p).unsqueeze(1) * (corners(choices) - p.unsqueeze(1))).sum(-1)
    assert slope.max() < 1e-12
    torch.testing.assert_close(space.project(p), p)


@every_space
def test_rounding_chooses_the_nearest_corner(choices: tuple[int, ...]) -> None:
    space = CategoricalActions(choices)
    x = normal(200, space.dim)
    nearest = (x.unsqueeze(1) - corners(choices)).norm(dim=-1).argmin(1)
    torch.testing.assert_close(space.round(x), corners(choices)[nearest])
    torch.testing.assert_close(space.round(space.project(x)), space.round(x))
    ones = torch.ones(1, space.dim).double()
    assert torch.equal(space.round(ones), corners(choices)[:1])  # the first of equals
    torch.testing.assert_close(space.centre((1,), ones), space.project(ones))


@every_space
def test_gradients_pass_straight_through_within_the_simplex(choices: tuple[int, ...]) -> None:
    """The value is the rounded one; the gradient is that at the corner, less its group's mean."""
    space, slope = CategoricalActions(choices), normal(sum(choices), seed=1)
    x = space.project(normal(7, space.dim)).requires_grad_()
    executed = space.execute(x)
    assert torch.equal(executed, space.round(x))
    (gradient,) = torch.autograd.grad((executed**3 @ slope).sum(), x)
    at_corner = 3 * executed.detach() ** 2 * slope
    expected = torch.cat([g - g.mean(-1, keepdim=True) for g in at_corner.split(choices, -1)], -1)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dim", [1, 3])
def test_boxes_execute_what_is_inside(dim: int) -> None:
    box, x = BoxActions(dim), 2.0 * normal(50, dim)
    assert torch.equal(box.project(x), x.clamp(-1, 1))
    assert torch.equal(box.round(x), x.clamp(-1, 1))
    assert box.execute(x) is x
    assert torch.equal(box.centre((2,), x), torch.zeros(2, dim).double())


def test_samples_have_their_probabilities() -> None:
    """Gumbel-max against the softmax of each group, even draws against 1 / n."""
    space, logits = CategoricalActions((3, 2)), torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5]).double()
    drawn = space.choose(logits, normal(40_000, 5))
    assert torch.equal(drawn, space.round(drawn))
    expected = torch.cat([logits[:3].softmax(0), logits[3:].softmax(0)])
    # Five standard deviations of a share of 40,000 draws are at most 0.0125.
    torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=0.0125)
    torch.testing.assert_close(space.log_probabilities(logits).exp(), expected)
    assert torch.equal(space.choose(logits), torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0]).double())
    even = torch.tensor([1 / 3] * 3 + [1 / 2] * 2).double()
    uniform = space.sample((40_000,), torch.Generator().manual_seed(0), logits)
    torch.testing.assert_close(uniform.mean(0), even, rtol=0, atol=0.0125)
    assert torch.equal(uniform, space.round(uniform)) and uniform.dtype == torch.float64
    noise = normal(40_000, 1, 5)
    alike = space.distribution(logits.view(1, 1, 5), logits.view(1, 1, 5)).uniform(noise)
    torch.testing.assert_close(alike.mean((0, 1, 2)), even, rtol=0, atol=0.0125)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0, 2.0])
def test_a_share_of_the_draws_ignores_the_probabilities(share: float) -> None:
    """So that a choice which no elite made does not die."""
    space = CategoricalActions((4,))
    mean = torch.tensor([[[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.5, 0.5, 0.0]]]).double()
    drawn = space.distribution(mean, torch.full_like(mean, share)).draw(normal(40_000, 1, 4))
    assert drawn.shape == (2, 40_000, 1, 4)
    even = min(share, 1.0)
    torch.testing.assert_close(drawn.mean(1), (1 - even) * mean + even / 4, rtol=0, atol=0.0125)


def test_the_fit_to_elites_has_the_largest_likelihood() -> None:
    """Weighted log-likelihood of the elites, against many other probabilities."""
    space = CategoricalActions((3, 2))
    elites = space.round(normal(1, 30, 1, 5))
    weight = normal(1, 30).softmax(1)
    dist = space.distribution(*torch.full((2, 1, 1, 5), 0.5).double())
    mean, share = dist.fit(elites, weight)
    assert not share.any()

    def likelihood(probability: Tensor) -> Tensor:
        logs = (elites * (probability + 1e-300).log()).sum((-2, -1))
        return (weight * logs).sum(1)

    for seed in range(100):
        other = space.log_probabilities(mean.log() + 0.2 * normal(1, 1, 5, seed=seed)).exp()
        assert likelihood(other) < likelihood(mean)


def test_exploring_replaces_choices_as_often_as_asked() -> None:
    space = CategoricalActions((4, 2))
    actions = space.round(torch.zeros(40_000, 6))
    bold = space.explore(actions, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(bold, space.round(bold))
    expected = torch.tensor([0.7 + 0.3 / 4] + [0.3 / 4] * 3 + [0.85, 0.15])
    torch.testing.assert_close(bold.mean(0), expected, rtol=0, atol=0.0125)
    # Groups are replaced independently of each other.
    both = ((bold[:, 0] == 0) & (bold[:, 4] == 0)).float().mean()
    assert float(both) == pytest.approx(0.225 * 0.15, abs=0.005)
    assert torch.equal(space.explore(actions, 0.0, torch.Generator()), actions)


def test_alternatives_make_one_other_choice() -> None:
    space = CategoricalActions((3, 2))
    found = space.alternatives(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]))
    assert found.int().tolist() == [
        [1, 0, 0, 0, 1],
        [0, 1, 0, 0, 1],
        [0, 0, 1, 0, 1],
        [0, 1, 0, 1, 0],
        [0, 1, 0, 0, 1],
    ]


# ---- planners


def all_costs(problem: Problem) -> Tensor:
    """Cost of every sequence of choices there is, (B, sequences)."""
    assert isinstance(problem.actions, CategoricalActions)
    single = corners(problem.actions.choices)
    steps = itertools.product(range(len(single)), repeat=problem.horizon)
    sequences = single[torch.tensor(list(steps))].expand(problem.batch, -1, -1, -1)
    state = problem.state.unsqueeze(1).expand(-1, sequences.shape[1], -1)
    of = (problem.model, problem.objective, problem.discount)
    return trajectory_cost(*of, state, sequences)[0].detach()


# How much of the way from the average sequence to the best a planner may leave, in percent: on the
# exact model, and on the model with random weights, which is rough and misled by its policy.
DESCENT = {"iterations": 20, "restarts": 16, "init_std": 1.0, "action_lr": 0.3}
SEARCHING = [
    ("cem", {"samples": 256}, (0.5, 0.5)),
    ("mppi", {"samples": 256}, (0.5, 0.5)),
    ("random_shooting", {}, (5.0, 5.0)),
    ("gradient", DESCENT, (5.0, 25.0)),
    ("grasp", DESCENT, (5.0, 35.0)),
]


@pytest.mark.parametrize(
    ("name", "options", "percents"), SEARCHING, ids=[name for name, *_ in SEARCHING]
)
def test_planners_come_close_to_the_best_of_all_sequences(
    name: str,
    options: dict[str, Any],
    percents: tuple[float, float],
    switched: Problem,
    choosing: Problem,
    plan: Callable[..., Plan],
) -> None:
    """Brute force over 3^5 pushes of an exact model, and over 6^4 choices of a learned one."""
    problems = (switched, replace(choosing, horizon=4))
    for problem, percent in zip(problems, percents, strict=True):
        costs, gaps = all_costs(problem), []
        best, average = costs.amin(1), costs.mean(1)
        for seed in range(3):
            found = plan(name, problem, seed=seed, **options)
            assert (found.cost >= best - 1e-9).all(), "nothing is better than the best"
            gaps.append((found.cost - best) / (average - best))
        assert 100 * float(torch.cat(gaps).mean()) < percent


def test_all_sequences_tried_are_brute_force(switched: Problem, plan: Callable[..., Plan]) -> None:
    """Enough draws meet every one of 3^3 sequences: the plan is the optimum exactly."""
    short = replace(switched, horizon=3)
    best = all_costs(short).amin(1)
    for name in ("random_shooting", "cem", "mppi"):
        torch.testing.assert_close(plan(name, short, samples=400).cost, best)
