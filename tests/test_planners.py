"""Conformance: what every registered planner owes its callers. A new one is tested by itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mpc import (
    PLANNERS,
    ActionSpace,
    CategoricalActions,
    Plan,
    Problem,
    WarmStart,
    forget,
    make_planner,
    shift,
)
from mpc.actions import Distribution
from mpc.rollout import pick
from mpc.sampling import SamplingConfig, SamplingPlanner
from mpc.warm_start import fill
from world_models import PointMass

# Small sizes for whatever options a planner has.
TINY = {
    "iterations": 3,
    "samples": 24,
    "policy_samples": 4,
    "elites": 6,
    "restarts": 3,
}
# Ways through a planner that its default options do not take.
VARIANTS = [
    ("grasp", {"restarts": 1, "sync_every": 0}),
    ("grasp", {"sync_every": 0}),
    ("grasp", {"sync_every": 2, "sync_steps": 2}),
    ("grasp", {"sync_every": 0, "states_init": "random", "distance": "huber", "noise_every": 2}),
    ("grasp", {"sync_every": 0, "states_init": "noise", "distance": "cosine", "noise_until": 1.0}),
    (
        "grasp",
        {"sync_every": 0, "state_optimizer": "adam", "state_lr": 0.01, "noise_schedule": "cosine"},
    ),
    ("grasp", {"sync_every": 0, "stop_gradient": False, "shaping": 0.1, "noise": 0.0}),
    ("grasp", {"keep_moments": True, "state_optimizer": "adam", "lookahead": 2}),
    ("grasp", {"lookahead": 1, "path_cost": 0.5, "select": "rollout", "tail": "zero"}),
    ("grasp", {"sync_every": 2, "sync_planner": "cem"}),
    ("gradient", {"restarts": 1}),
    ("cem", {"policy_samples": 0}),
    ("cem", {"keep_elites": 0.5, "momentum": 0.3, "noise_beta": 1.0}),
    ("mppi", {"temperature": 5.0, "min_std": 0.5}),
    ("mppi", {"keep_elites": 1.0, "policy_samples": 0}),
    ("random_shooting", {"noise_beta": 2.0}),
    ("icem", {"keep_elites": 0.0, "sample_decay": 1.0}),
]
CASES = [(name, {}) for name in PLANNERS.names()] + VARIANTS
IDS = ["-".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in CASES]

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)
every_planner = pytest.mark.parametrize("name", PLANNERS.names())


def options_of(name: str, **options: Any) -> dict[str, Any]:
    known = PLANNERS[name].Config.options()
    return {**{k: v for k, v in TINY.items() if k in known}, **options}


@pytest.fixture
def solve(
    case: tuple[str, dict[str, Any]], problem: Problem, plan: Callable[..., Plan]
) -> Callable[..., Plan]:
    """`solve(problem, warm_start, seed)` with the planner of the case, tiny."""
    name, options = case
    if name == "policy" and not problem.model.supports("policy"):
        pytest.skip("the analytic models have no policy; the refusal is tested below")

    def call(of: Problem = problem, warm_start: WarmStart | None = None, seed: int = 0) -> Plan:
        return plan(name, of, warm_start, seed, **options_of(name, **options))

    return call


def rollout_cost(problem: Problem, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Cost (B,) and states of actions (B, H, A), one problem and one step at a time."""
    costs, paths = [], []
    for b in range(problem.batch):
        state = problem.state[b : b + 1]
        of = row(problem, b).objective
        cost, weight, path = state.new_zeros(1), state.new_ones(1), [state]
        for t in range(problem.horizon):
            move = problem.model.predict(state, actions[b : b + 1, t])
            cost = cost + weight * of.stage(move)
            going_on = 1.0 if move.continues is None else move.continues
            weight = weight * problem.discount * going_on
            state = move.next
            path.append(state)
        costs.append(cost + weight * of.terminal(problem.model, state))
        paths.append(torch.stack(path, 1))
    return torch.cat(costs).detach(), torch.cat(paths).detach()


def row(problem: Problem, b: int) -> Problem:
    """Problem number b alone."""
    objective = problem.objective
    if objective.goal() is not None:
        parts = dict(objective.parts)
        weight, goal = parts["goal"]
        parts["goal"] = (weight, replace(goal, target=goal.target[b : b + 1]))
        objective = replace(objective, parts=parts)
    return replace(problem, state=problem.state[b : b + 1], objective=objective)


def executable(space: ActionSpace, actions: Tensor) -> bool:
    """Whether actions (..., A) are inside the bounds, or exactly one choice of each group."""
    if not isinstance(space, CategoricalActions):
        return bool(actions.abs().max() <= 1.0)
    groups = actions.split(space.choices, -1)
    whole = bool(((actions == 0.0) | (actions == 1.0)).all())
    return whole and all(bool((group.sum(-1) == 1.0).all()) for group in groups)


def tensors(plan: Plan) -> dict[str, Tensor]:
    """Every tensor of a plan that is a result, by name."""
    warm = plan.warm_start
    found = {"actions": plan.actions, "cost": plan.cost, "states": plan.states}
    found |= {"warm actions": warm.actions, "warm states": warm.states, "std": warm.std}
    found["elites"] = warm.elites
    found |= {"defect": plan.diagnostics.defect, **plan.diagnostics.trace}
    return {name: x for name, x in found.items() if x is not None}


def assert_same(a: Plan, b: Plan) -> None:
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


@every_case
def test_a_plan_has_its_shapes_bounds_and_numbers(
    solve: Callable[..., Plan], problem: Problem
) -> None:
    # Starts far outside push planners against the bounds.
    far = problem if problem.model.supports("policy") else replace(problem, state=9 * problem.state)
    plan = solve(far)
    batch, horizon, dim = problem.batch, problem.horizon, problem.model.action_dim
    assert plan.actions.shape == (batch, horizon, dim)
    assert plan.cost.shape == (batch,)
    assert plan.states.shape == (batch, horizon + 1, problem.model.latent_dim)
    assert torch.equal(plan.states[:, 0], far.state)
    assert executable(problem.actions, plan.actions)
    # An agent goes by the warm start, which must round to the plan.
    assert torch.equal(problem.actions.round(plan.warm_start.actions), plan.actions)
    warm = plan.warm_start
    assert warm.actions.shape == plan.actions.shape
    assert warm.states is None or warm.states.shape == plan.states.shape
    assert warm.std is None or warm.std.shape == plan.actions.shape
    if warm.elites is not None:
        assert warm.elites.shape == (batch, horizon, warm.elites.shape[2], dim)
        assert warm.elites.abs().max() <= 1.0
    assert warm.filled == 0 and warm.known is None
    for name, x in tensors(plan).items():
        assert x.isfinite().all(), name
        assert not x.requires_grad, name
        assert name in plan.diagnostics.trace or x.dtype == problem.state.dtype, name


@every_case
def test_the_cost_is_that_of_rolling_the_actions_out(
    solve: Callable[..., Plan], problem: Problem
) -> None:
    found = solve()
    cost, _ = rollout_cost(problem, found.actions)
    torch.testing.assert_close(found.cost, cost)


@every_case
def test_the_defect_is_that_of_the_states(
    solve: Callable[..., Plan], problem: Problem, defect: Callable[..., Tensor]
) -> None:
    """A planner that reports no defect must return states that its actions really visit."""
    found = solve()
    measured = defect(problem.model, found.states, found.actions)
    reported = found.diagnostics.defect
    expected = torch.zeros_like(measured) if reported is None else reported
    torch.testing.assert_close(measured, expected)


@every_case
def test_the_model_calls_are_counted_right(
    solve: Callable[..., Plan], problem: Problem, count_calls: Callable[..., Any]
) -> None:
    calls = count_calls(problem.model)
    cold = solve()
    assert cold.diagnostics.forward_calls == len(calls.rows)
    assert cold.diagnostics.backward_calls == sum(calls.differentiated)
    assert cold.diagnostics.seconds > 0
    for warm_start in (shift(cold.warm_start, 2), forget(shift(cold.warm_start), rows(0, 1))):
        calls.rows.clear()
        calls.differentiated.clear()
        warm = solve(warm_start=warm_start)
        assert warm.diagnostics.forward_calls == len(calls.rows)
        assert warm.diagnostics.backward_calls == sum(calls.differentiated)


@every_case
def test_the_generator_alone_decides(solve: Callable[..., Plan]) -> None:
    """Same generator state, same plan; the global generator is neither asked nor moved."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = solve()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert_same(first, solve())
        assert_same(
            solve(warm_start=shift(first.warm_start)), solve(warm_start=shift(first.warm_start))
        )


@every_planner
def test_other_seeds_give_other_plans(
    name: str, latent_task: Problem, rng: Callable[..., torch.Generator]
) -> None:
    planner = make_planner(name, horizon=5, **options_of(name))
    plans = []
    for seed in range(3):
        numbers = rng(seed)
        plans.append(planner.plan(latent_task, None, numbers).actions)
        if torch.equal(numbers.get_state(), rng(seed).get_state()):
            pytest.skip("it draws no random numbers")
    assert not torch.equal(plans[0], plans[1])
    assert not torch.equal(plans[1], plans[2])


@every_case
def test_a_batch_plans_like_its_problems_alone(
    case: tuple[str, dict[str, Any]], solve: Callable[..., Plan], problem: Problem
) -> None:
    if case[0] == "random":
        pytest.skip("it draws for every problem by itself")
    together = solve(seed=3)
    again = solve(warm_start=shift(together.warm_start), seed=4)
    for b in range(problem.batch):
        alone = solve(row(problem, b), seed=3)
        torch.testing.assert_close(alone.actions[0], together.actions[b])
        torch.testing.assert_close(alone.states[0], together.states[b])
        torch.testing.assert_close(alone.cost[0], together.cost[b])
        warm = shift(alone.warm_start)
        torch.testing.assert_close(
            solve(row(problem, b), warm, seed=4).actions[0], again.actions[b]
        )


def rows(*done: int) -> Tensor:
    """Flags (3,) of the finished rows."""
    return torch.tensor([b in done for b in range(3)])


@every_case
def test_forgotten_rows_are_planned_cold_and_the_others_warm(
    solve: Callable[..., Plan], problem: Problem
) -> None:
    start = shift(solve(seed=5).warm_start)
    cold, warm = solve(seed=6), solve(warm_start=start, seed=6)
    # What a forgotten row still holds must not matter.
    broken = start.map(lambda x: fill(rows(1), torch.full_like(x, torch.nan), x))
    mixed = solve(warm_start=forget(broken, rows(1)), seed=6)
    torch.testing.assert_close(mixed.actions[1], cold.actions[1])
    torch.testing.assert_close(mixed.states[1], cold.states[1])
    torch.testing.assert_close(mixed.cost[1], cold.cost[1])
    all_cold = solve(warm_start=forget(broken, rows(0, 1, 2)), seed=6)
    torch.testing.assert_close(all_cold.actions, cold.actions)
    for b in (0, 2):
        torch.testing.assert_close(mixed.actions[b], warm.actions[b])
        torch.testing.assert_close(mixed.cost[b], warm.cost[b])


ITERATIVE = [name for name in PLANNERS.names() if "iterations" in PLANNERS[name].Config.options()]


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_warm_start_shortens_the_way(
    name: str, integrator: Problem, plan: Callable[..., Plan]
) -> None:
    """With two iterations, planning from the shifted plan beats planning from nothing.

    In sum over the starts: sampling planners begin each plan with their full spread, so a warm
    start does not help them in each single case.
    """
    far = replace(integrator, horizon=12)
    long = options_of(name) | {"iterations": 60}
    if "samples" in long:
        long["samples"] = 200
    converged = plan(name, far, **long)
    after = replace(far, state=far.model.step(far.state, converged.actions[:, 0]))
    short = options_of(name) | {"iterations": 2}
    cold = plan(name, after, **short)
    warm = plan(name, after, shift(converged.warm_start), **short)
    assert warm.cost.sum() < cold.cost.sum()


@every_planner
def test_a_warm_start_of_another_size_is_refused(
    name: str, latent_task: Problem, plan: Callable[..., Plan]
) -> None:
    of = options_of(name)
    warm = plan(name, replace(latent_task, horizon=4), **of).warm_start
    with pytest.raises(ValueError, match=r"warm start actions: expected shape \(3, 5, 2\)"):
        plan(name, latent_task, warm, **of)
    single = plan(name, row(latent_task, 0), **of).warm_start
    with pytest.raises(ValueError, match=r"got \(1, 5, 2\)"):
        plan(name, latent_task, single, **of)
    fitting = plan(name, latent_task, **of).warm_start
    for part, shape in {"states": (3, 5, 8), "std": (3, 4, 2), "known": (2,)}.items():
        with pytest.raises(ValueError, match=rf"warm start {part}: expected"):
            plan(name, latent_task, replace(fitting, **{part: torch.ones(shape)}), **of)


def test_two_methods_are_a_sampling_planner_and_the_trunk_keeps_bounds(
    integrator: Problem, rng: Callable[[int], torch.Generator]
) -> None:
    class Overshooting(SamplingPlanner[SamplingConfig]):
        def sample(self, dist: Distribution, noise: Tensor) -> Tensor:
            return dist.draw(noise)

        def refit(self, dist: Distribution, candidates: Tensor, cost: Tensor) -> Distribution:
            best = pick(candidates, cost.argmin(1))
            return replace(dist, mean=dist.mean + 2.0 * (best - dist.mean))

    planner = Overshooting(SamplingConfig(horizon=5, samples=40))
    far = replace(integrator, state=9.0 * integrator.state)
    found = planner.plan(far, None, rng(0))
    assert found.actions.abs().max() == 1.0
    torch.testing.assert_close(found.cost, rollout_cost(far, found.actions)[0])
    assert isinstance(Overshooting.Config(), SamplingConfig)


@every_planner
def test_a_horizon_of_one_step_works(
    name: str, latent_task: Problem, plan: Callable[..., Plan]
) -> None:
    short = replace(latent_task, horizon=1)
    first = plan(name, short, **options_of(name))
    again = plan(name, short, shift(first.warm_start), **options_of(name))
    for found in (first, again):
        torch.testing.assert_close(found.cost, rollout_cost(short, found.actions)[0])


@every_case
def test_what_goes_in_is_not_changed(solve: Callable[..., Plan], problem: Problem) -> None:
    warm = shift(solve(seed=1).warm_start)
    model = list(problem.model.state_dict().values())
    handed = (warm.actions, warm.states, warm.std, warm.elites)
    given = [problem.state, *(x for x in handed if x is not None)]
    if problem.objective.goal() is not None:
        given.append(problem.objective.goal())
    copies = [x.clone() for x in given + model]
    solve(warm_start=warm)
    for x, copy in zip(given + model, copies, strict=True):
        assert torch.equal(x, copy)
    assert all(p.grad is None for p in problem.model.parameters())


@every_planner
def test_a_model_without_a_policy_will_do(
    name: str, drift: Callable[..., Any], problem_of: Callable[..., Problem], goal_task: Problem
) -> None:
    """Neither policy, reward nor value: a goal is enough for every planner but the policy."""
    model = drift()
    task = problem_of(model, goal_task.state, 5, goal_task.objective)
    planner = PLANNERS[name](PLANNERS[name].Config(horizon=5))
    if name == "policy":
        with pytest.raises(ValueError, match="needs a model with a policy; Drift has none") as e:
            planner.plan(task, None, torch.Generator())
        assert "\n" not in str(e.value)
    else:
        found = planner.plan(task, None, torch.Generator())
        torch.testing.assert_close(found.cost, rollout_cost(task, found.actions)[0])


def test_the_policy_planner_follows_the_policy(
    homing: Any, problem_of: Callable[..., Problem], goal_task: Problem, plan: Callable[..., Plan]
) -> None:
    state = torch.tensor([[2.5, -0.5]])
    found = plan("policy", problem_of(homing, state, 4, goal_task.objective.parts["effort"][1]))
    expected = torch.tensor([[[-1.0, 0.5], [-1.0, 0.0], [-0.5, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(found.actions, expected)
    torch.testing.assert_close(found.cost, torch.tensor([1.25 + 1.0 + 0.25]))


@pytest.mark.parametrize("name", [n for n in PLANNERS.names() if n != "policy"])
def test_a_task_in_which_actions_do_not_matter_is_no_error(
    name: str, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    """The reward of the point mass depends on its state alone; one step is too short to act."""
    problem = problem_of(PointMass(), torch.zeros(3, 4), 1)
    sync = {"sync_every": 1} if name == "grasp" else {}
    found = plan(name, problem, **options_of(name, **sync))
    torch.testing.assert_close(found.cost, torch.full((3,), 5.0))


def test_a_problem_checks_its_shapes(problem_of: Callable[..., Problem], drift: Any) -> None:
    with pytest.raises(ValueError, match=r"state: expected shape \(None, 2\), got \(3, 4\)"):
        problem_of(drift(), torch.zeros(3, 4), 5)
    with pytest.raises(ValueError, match="horizon must be at least 1 control step, got 0"):
        problem_of(drift(), torch.zeros(3, 2), 0)
