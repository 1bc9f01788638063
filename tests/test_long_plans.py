"""Bounds on memory and on the length of a plan: pieces that must add up to the whole."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mpc import PLANNERS, GoalDistance, Plan, Problem, make_planner, shift, trajectory_cost
from mpc.bounded import Bounded
from mpc.chunks import chunks, cut
from mpc.contracts import WarmStart

ALL = [name for name in PLANNERS.names() if PLANNERS[name].__module__.startswith("mpc.")]


@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("name", ALL)
def test_a_bounded_plan_is_the_same_plan(
    name: str, rows: int, latent_task: Problem, plan: Callable[..., Plan]
) -> None:
    options = (
        {"samples": 32, "policy_samples": 4, "elites": 4} if name in ("cem", "mppi", "icem") else {}
    )
    whole = plan(name, latent_task, **options)
    pieces = plan(name, latent_task, max_batch=rows, **options)
    torch.testing.assert_close(pieces.actions, whole.actions)
    torch.testing.assert_close(pieces.cost, whole.cost)
    torch.testing.assert_close(pieces.states, whole.states)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("name", ["grasp", "cem", "gradient", "zero"])
def test_bounded_calls_keep_to_their_problems(
    name: str, rows: int, drift: Any, plan: Callable[..., Plan]
) -> None:
    """Every problem moves by a gain of its own."""

    class Geared(drift):
        def __init__(self, gain: torch.Tensor) -> None:
            super().__init__()
            self.gain = gain

        def for_problems(self, index: torch.Tensor) -> Any:
            return Geared(self.gain[index])

        def step(self, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            return z + self.gain.view(-1, *(1,) * (a.dim() - 1)) * a

    model, goal = Geared(torch.tensor([1.0, 3.0, 0.5]).double()), torch.ones(3, 2).double()
    problem = Problem(model, GoalDistance(goal), 0.0 * goal, 4, model.action_space)
    whole, pieces = plan(name, problem), plan(name, problem, max_batch=rows)
    torch.testing.assert_close(pieces.actions, whole.actions)
    torch.testing.assert_close(pieces.cost, whole.cost)


def test_no_call_is_larger_than_the_bound(
    latent_task: Problem, plan: Callable[..., Plan], count_calls: Any
) -> None:
    calls = count_calls(latent_task.model)
    for name in ("grasp", "cem", "gradient"):
        plan(name, latent_task, max_batch=10)
    assert max(calls.rows) == 10


def test_what_is_held_between_the_passes_does_not_grow_with_hidden_layers(
    latent_task: Problem,
) -> None:
    """Saved for the backward pass: without bound all activations, with it inputs alone."""

    def saved(model: Any) -> int:
        sizes = []
        z = latent_task.state.repeat(100, 1).requires_grad_()
        action = torch.zeros(300, 2, dtype=torch.float64)
        keep = torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, id)
        with keep:
            model.predict(z, action)
        return sum(sizes)

    whole, bounded = saved(latent_task.model), saved(Bounded(latent_task.model, 100))
    assert bounded < whole / 3


def test_chunks_cover_the_horizon_and_overlap() -> None:
    assert list(chunks(10, 10, 3)) == [(0, 10, 10)]
    assert list(chunks(11, 10, 3)) == [(0, 10, 7), (7, 4, 4)]
    assert list(chunks(25, 10, 4)) == [(0, 10, 6), (6, 10, 6), (12, 10, 6), (18, 7, 7)]


def test_a_chunk_is_handed_its_part_of_the_warm_start() -> None:
    steps = torch.arange(8.0).view(1, 8, 1)
    states = torch.arange(9.0).view(1, 9, 1)
    warm = WarmStart(steps, states, std=steps, filled=3)
    part = cut(warm, 4, 3)
    assert part.actions.flatten().tolist() == [4, 5, 6]
    assert part.states is not None and part.states.flatten().tolist() == [4, 5, 6, 7]
    assert part.std is not None and part.std.flatten().tolist() == [4, 5, 6]
    assert part.filled == 2  # steps 5 and 6; the shift made up steps 5, 6 and 7
    assert cut(warm, 0, 4).filled == 0


@pytest.mark.parametrize("name", ALL)
def test_every_planner_plans_in_chunks(
    name: str, integrator: Problem, latent_task: Problem, count_calls: Any
) -> None:
    """A plan of 23 steps out of chunks of 8: whole, bounded, honest about its cost and calls."""
    problem = replace(latent_task if name == "policy" else integrator, horizon=23)
    planner = make_planner(name, horizon=23, chunk=8, overlap=3)
    calls = count_calls(problem.model)
    found = planner.plan(problem, None, torch.Generator().manual_seed(0))
    assert found.diagnostics.forward_calls == len(calls.rows)
    again = planner.plan(problem, shift(found.warm_start), torch.Generator().manual_seed(0))
    for each in (found, again):
        assert not each.cost.requires_grad
        assert each.actions.shape[:2] == (3, 23) and each.states.shape[:2] == (3, 24)
        assert each.actions.abs().max() <= 1.0
        cost, _ = trajectory_cost(
            problem.model, problem.objective, problem.discount, problem.state, each.actions
        )
        torch.testing.assert_close(each.cost, cost)


@pytest.mark.parametrize("overlap", [0, 3])
@pytest.mark.parametrize("name", ["grasp", "latco", "cem"])
def test_a_chunk_begins_where_the_kept_actions_lead(
    name: str, overlap: int, goal_task: Problem
) -> None:
    """Not where the virtual states say, of which the last is the goal itself."""
    planner = make_planner(name, horizon=14, chunk=6, overlap=overlap)
    problem, original, begun = replace(goal_task, horizon=14), planner.search, []

    def search(part: Problem, *arguments: Any) -> Plan:
        begun.append(part.state)
        return original(part, *arguments)

    planner.search = search  # type: ignore[method-assign]
    found = planner.plan(problem, None, torch.Generator().manual_seed(0))
    _, states = trajectory_cost(
        problem.model, problem.objective, problem.discount, problem.state, found.actions
    )
    firsts = [first for first, *_ in chunks(14, 6, overlap)]
    torch.testing.assert_close(torch.stack(begun, 1), states[:, firsts])


@pytest.mark.parametrize("name", ["gradient", "cem", "grasp"])
def test_chunks_tell_of_all_of_them(
    name: str, integrator: Problem, plan: Callable[..., Plan], defect: Callable[..., torch.Tensor]
) -> None:
    problem = replace(integrator, horizon=14)
    found = plan(name, problem, chunk=6, overlap=2, iterations=5)
    assert found.diagnostics.iterations == 15  # three chunks
    assert {len(x) for x in found.diagnostics.trace.values()} <= {15, 18}
    assert (found.warm_start.std is not None) == (name == "cem")
    if name == "grasp":
        assert found.diagnostics.defect is not None
        measured = defect(problem.model, found.states, found.actions)
        torch.testing.assert_close(found.diagnostics.defect, measured)


@pytest.mark.parametrize("name", ["gradient", "cem", "grasp"])
def test_chunks_come_near_the_plan_as_a_whole(
    name: str, integrator: Problem, plan: Callable[..., Plan]
) -> None:
    """The terminal cost is the optimal one, so a chunk is hardly worse for not seeing the end."""
    problem = replace(integrator, horizon=24)
    options = {"iterations": 100, "lookahead": 8} if name == "grasp" else {"iterations": 40}
    whole = plan(name, problem, **options)
    pieces = plan(name, problem, chunk=8, overlap=2, **options)
    idle = plan("zero", problem)
    assert (pieces.cost - whole.cost <= 0.05 * (idle.cost - whole.cost)).all()


def test_chunks_share_the_deadline(
    integrator: Problem, plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last chunk gets as many iterations as the first."""

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr("mpc.pace.time", clock)
    model: Any = integrator.model
    predict, lengths = model.predict, []

    def slow(z: torch.Tensor, a: torch.Tensor) -> Any:
        clock.now += 0.001
        lengths.append(clock.now)
        return predict(z, a)

    model.predict = slow
    planner = make_planner("gradient", horizon=24, chunk=8, overlap=0, deadline_ms=400)
    planner = type(planner)(replace(planner.config, iterations=1000))
    problem = replace(integrator, horizon=24)
    rng, done = torch.Generator().manual_seed(0), []
    original = planner.search

    def search(*arguments: Any) -> Plan:
        part = original(*arguments)
        done.append(part.diagnostics.iterations)
        return part

    planner.search = search  # type: ignore[method-assign]
    for _ in range(3):
        done.clear()
        found = planner.plan(problem, None, rng)
    assert len(done) == 3 and min(done) > 0.5 * max(done)
    assert not found.diagnostics.overrun
