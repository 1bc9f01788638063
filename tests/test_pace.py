"""Deadlines, on a clock that only model calls move forward."""

from typing import Any

import numpy as np
import pytest
import torch

from agents import MPCAgent
from mpc import PLANNERS, Problem, Reward, make_planner, shift
from world_models import double_integrator

MODEL_CALL = 0.001  # seconds


class Clock:
    """Stands in for the wall-clock of the planners."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("mpc.pace.time", found)
    return found


@pytest.fixture
def slow(integrator: Problem, clock: Clock) -> Problem:
    """The integrator, each of whose model calls takes a millisecond."""
    model: Any = integrator.model
    original = model.predict

    def predict(z: torch.Tensor, a: torch.Tensor) -> Any:
        clock.now += MODEL_CALL
        return original(z, a)

    model.predict = predict
    return integrator


ITERATIVE = [name for name in PLANNERS.names() if "iterations" in PLANNERS[name].Config.options()]


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("deadline", [30.0, 75.0])
def test_plans_end_before_their_deadline(name: str, deadline: float, slow: Problem) -> None:
    """The first plan may learn how long things take; from then on the deadline is kept."""
    planner = make_planner(name, horizon=5, iterations=1000, deadline_ms=deadline)
    rng, warm = torch.Generator().manual_seed(0), None
    for _ in range(5):
        plan = planner.plan(slow, warm, rng)
        found = plan.diagnostics
        assert found.overrun == (found.seconds > deadline / 1000)
        warm = shift(plan.warm_start)
    # What is left of the time is too short for another iteration of at most 12 model calls.
    assert deadline - 13 <= 1000 * found.seconds <= deadline + 1e-6
    assert not found.overrun
    assert 1 <= found.iterations < 1000
    assert all(len(values) <= found.iterations + 1 for values in found.trace.values())


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_plan_cut_short_is_the_plan_of_fewer_iterations_begun(name: str, slow: Problem) -> None:
    """At least one iteration is made, however short the time; the plan is whole and bounded."""
    planner = make_planner(name, horizon=5, iterations=50, deadline_ms=0.5)
    plan = planner.plan(slow, None, torch.Generator().manual_seed(0))
    assert plan.diagnostics.iterations == 1
    assert plan.diagnostics.overrun
    assert plan.actions.shape == (3, 5, 1) and plan.actions.abs().max() <= 1.0
    assert plan.cost.isfinite().all()


@pytest.mark.parametrize("name", ITERATIVE)
def test_a_deadline_that_is_far_away_changes_nothing(name: str, slow: Problem) -> None:
    plans = [
        make_planner(name, horizon=5, deadline_ms=ms).plan(
            slow, None, torch.Generator().manual_seed(0)
        )
        for ms in (None, 1e6)
    ]
    assert torch.equal(plans[0].actions, plans[1].actions)
    assert plans[0].diagnostics.iterations == plans[1].diagnostics.iterations


def test_a_slow_iteration_is_remembered_and_fades(clock: Clock) -> None:
    """After a hiccup the planner is careful, for a while."""
    planner: Any = make_planner("cem", deadline_ms=20.5)

    def run(first: float) -> int:
        planner._pace.begin(torch.device("cpu"))
        done = 0
        for done, _ in enumerate(planner.iterations(100), 1):
            clock.now += first if done == 1 else 0.001
        planner._pace.end()
        return done

    assert run(0.001) == 20
    assert run(0.010) < 11  # fewer than the eleven that would just have fitted
    assert run(0.001) == 20


def test_the_agent_counts_overruns(slow: Problem) -> None:
    model: Any = double_integrator()
    model.encode = lambda obs: obs.double()
    model.predict = slow.model.predict

    def agent(deadline: float) -> MPCAgent:
        planner = make_planner("zero", horizon=5, deadline_ms=deadline)
        return MPCAgent(model, planner, Reward(), 1.0)

    obs = np.zeros((1, 2), dtype=np.float32)
    for deadline, late in ((4.0, 3), (6.0, 0)):
        memory = agent(deadline).start(0)
        for _ in range(3):
            _, memory = agent(deadline).act(obs, memory)
        assert memory.overruns == late


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_deadline_must_be_positive(value: float) -> None:
    with pytest.raises(ValueError, match="deadline_ms must be above 0 ms, or null"):
        make_planner("cem", deadline_ms=value)
