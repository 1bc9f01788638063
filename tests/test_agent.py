"""The agent: explicit memory, replanning on time, fallbacks, and whole episodes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from agents import AgentConfig, Memory, MPCAgent, run_episodes, run_goal_episodes
from mpc import (
    Diagnostics,
    Effort,
    GoalDistance,
    Plan,
    Planner,
    PlannerConfig,
    Problem,
    Reward,
    WarmStart,
    make_planner,
)
from scripts.evaluate import time_plans
from world_models import double_integrator

OBS = np.array([[1.0, 0.0], [-0.5, 0.4], [0.2, -1.0]])


class Scripted(Planner[PlannerConfig]):
    """Plans that tell which call they are from: step t of call n is n / 10 + t / 100.

    `broken[n]` lists the rows of call n that come out as `poison`.
    """

    def __init__(self, horizon: int = 4, broken: dict[int, list[int]] | None = None) -> None:
        super().__init__(PlannerConfig(horizon=horizon))
        self.broken, self.poison = broken or {}, "actions"
        self.given: list[tuple[Tensor, WarmStart | None]] = []  # state and warm start of each call

    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        self.given.append((problem.state, warm_start))
        n = len(self.given)
        steps = n / 10 + torch.arange(problem.horizon, dtype=problem.state.dtype) / 100
        shape = (problem.batch, problem.horizon, problem.actions.dim)
        actions = steps.view(1, -1, 1).expand(shape).clone()
        states = problem.state.unsqueeze(1).repeat(1, problem.horizon + 1, 1)
        cost = torch.zeros(problem.batch)
        for b in self.broken.get(n, []):
            states[b] = torch.nan
            if self.poison == "actions":
                actions[b, -1] = torch.nan
            else:
                cost[b] = float(self.poison)
        warm = WarmStart(actions, states, std=torch.full_like(actions, 0.2))
        return Plan(actions, cost, states, warm, Diagnostics(0, 0, 0))


@pytest.fixture
def scripted() -> Callable[..., MPCAgent]:
    """`scripted(model, planner, **config)`: an agent whose plans are known beforehand."""

    def make(model: Any = None, planner: Any = None, **config: Any) -> MPCAgent:
        planner = planner or Scripted()
        model = model or double_integrator()
        return MPCAgent(model, planner, Effort(), 1.0, AgentConfig(**config))

    return make


@pytest.fixture
def searching(latent_model: Any) -> Callable[..., MPCAgent]:
    """`searching(name, options, **config)`: an agent with a real planner on a learned model."""

    def make(name: str, options: dict[str, Any] | None = None, **config: Any) -> MPCAgent:
        planner = make_planner(name, horizon=3, **(options or {}))
        return MPCAgent(latent_model, planner, Reward(), 0.9, AgentConfig(**config))

    return make


def observations(steps: int) -> np.ndarray:
    """(steps, 2, 3), two environments with three observation numbers."""
    return np.random.default_rng(0).normal(size=(steps, 2, 3))


def drive(agent: MPCAgent, memory: Memory, obs: np.ndarray, explore: bool = False) -> Any:
    actions = []
    for now in obs:
        action, memory = agent.act(now, memory, explore)
        actions.append(action)
    return np.array(actions), memory


# ---- memory


@pytest.mark.parametrize("name", ["cem", "icem", "grasp", "gradient", "random", "random_shooting"])
def test_memory_is_all_that_decides(name: str, searching: Callable[..., MPCAgent]) -> None:
    """Two agents that took different paths before act alike from the same memory."""
    obs, agent, other = observations(6), searching(name), searching(name)
    drive(other, other.start(9), obs[::-1])
    _, memory = drive(agent, agent.start(3), obs[:2])
    # The generator is part of the memory, so it must be copied to be used twice.
    copy = Memory.restore({k: v.clone() for k, v in memory.state().items()}, torch.device("cpu"))
    before = torch.get_rng_state()
    first, _ = drive(agent, memory, obs[2:], explore=True)
    again, _ = drive(other, copy, obs[2:], explore=True)
    np.testing.assert_array_equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("name", ["cem", "icem", "grasp"])
@pytest.mark.parametrize("at", range(5))
def test_a_memory_continues_exactly_after_a_round_trip(
    name: str, at: int, explore: bool, searching: Callable[..., MPCAgent]
) -> None:
    """Saved after any number of steps, also between replans and after a forgotten row."""
    agent, obs = searching(name, replan_every=2), observations(9)
    _, memory = drive(agent, agent.start(3), obs[:at], explore)
    if at == 3:
        memory = agent.forget(memory, np.array([False, True]))
    memory = replace(memory, fallbacks=5)
    saved = {k: v.clone() for k, v in memory.state().items()}
    expected, after = drive(agent, memory, obs[at:], explore)
    restored = Memory.restore(saved, torch.device("cpu"))
    found, again = drive(agent, restored, obs[at:], explore)
    np.testing.assert_array_equal(found, expected)
    assert (after.age, after.fallbacks) == (again.age, again.fallbacks)
    assert torch.equal(after.rng.get_state(), again.rng.get_state())


def test_seeds_make_memories_differ(searching: Callable[..., MPCAgent]) -> None:
    agent, obs = searching("random"), observations(2)
    first, again, other = (drive(agent, agent.start(seed), obs)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_an_old_memory_is_not_changed_by_acting(scripted: Callable[..., MPCAgent]) -> None:
    agent = scripted(replan_every=4)
    _, first = agent.act(OBS, agent.start(0))
    kept = first.warm_start.actions.clone()
    _, second = agent.act(OBS, first)
    agent.forget(second, np.array([True, True, True]))
    assert (first.age, second.age) == (1, 2)
    assert second.warm_start.known is None
    assert torch.equal(first.warm_start.actions, kept)


# ---- replanning


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [0.10, 0.20, 0.30, 0.40, 0.50]),
        (2, [0.10, 0.11, 0.20, 0.21, 0.30]),
        (4, [0.10, 0.11, 0.12, 0.13, 0.20]),
    ],
)
def test_plans_are_executed_for_as_long_as_asked(
    every: int, expected: list[float], scripted: Callable[..., MPCAgent]
) -> None:
    agent = scripted(replan_every=every)
    actions, _ = drive(agent, agent.start(0), np.stack([OBS] * 5))
    assert actions.dtype == np.float32
    for b in range(3):
        np.testing.assert_allclose(actions[:, b, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("every", [1, 3])
def test_the_next_plan_gets_the_new_state_and_the_shifted_old_plan(
    every: int, scripted: Callable[..., MPCAgent]
) -> None:
    planner = Scripted()
    agent = scripted(planner=planner, replan_every=every)
    obs = np.stack([OBS + i for i in range(every + 1)])
    drive(agent, agent.start(0), obs)
    (first, nothing), (second, warm) = planner.given
    assert nothing is None
    np.testing.assert_array_equal(first, obs[0])
    np.testing.assert_array_equal(second, obs[every])
    steps = [0.10, 0.11, 0.12, 0.13]
    expected = (steps[every:] + [0.13] * 4)[:4]
    np.testing.assert_allclose(warm.actions[0, :, 0], expected)
    assert warm.filled == every


def test_a_plan_cannot_be_executed_beyond_its_horizon(scripted: Callable[..., MPCAgent]) -> None:
    with pytest.raises(ValueError, match="replan_every must be at most the horizon 4, got 5"):
        scripted(replan_every=5)


@pytest.mark.parametrize(("option", "value"), [("replan_every", 0), ("exploration", -0.1)])
def test_nonsense_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least ., got {value}"):
        AgentConfig(**{option: value})


def test_a_plan_is_handed_as_much_of_the_last_one_as_asked(
    scripted: Callable[..., MPCAgent],
) -> None:
    given = {}
    for kind in ("all", "actions", "nothing"):
        planner = Scripted()
        agent = scripted(planner=planner, warm_start=kind)
        drive(agent, agent.start(0), np.repeat(OBS[None], 2, 0))
        given[kind] = planner.given[1][1]
    assert given["nothing"] is None
    for kind in ("all", "actions"):
        assert given[kind].actions[:, 0, 0].tolist() == pytest.approx([0.11] * 3)
    assert given["all"].states is not None and given["all"].std is not None
    assert given["actions"].states is None and given["actions"].std is None
    with pytest.raises(
        ValueError, match="warm_start must be one of all, actions, nothing, got 'x'"
    ):
        AgentConfig(warm_start="x")


def test_forgotten_rows_start_cold_at_once_and_the_others_go_on(
    scripted: Callable[..., MPCAgent],
) -> None:
    planner = Scripted()
    agent = scripted(planner=planner, replan_every=3)
    _, memory = agent.act(OBS, agent.start(0))
    memory = agent.forget(memory, np.array([False, True, False]))
    _, memory = agent.act(OBS, memory)
    assert len(planner.given) == 2, "a new episode must not go on with the old plan"
    warm = planner.given[1][1]
    assert warm.known.tolist() == [True, False, True]
    np.testing.assert_allclose(warm.actions[0, :, 0], [0.11, 0.12, 0.13, 0.13])
    assert memory.warm_start.known is None, "the new plan knows all rows"


def test_rows_of_a_forgetting_agent_plan_like_fresh_ones(
    searching: Callable[..., MPCAgent],
) -> None:
    """What row 1 does after it was forgotten does not depend on what it did before."""
    # Few steps from one start: a plan that shows where it came from.
    agent = searching("grasp", {"restarts": 1, "iterations": 1, "sync_every": 0})
    obs = observations(4)
    other = obs.copy()
    other[:3, 1] += 5.0
    results = []
    for path in (obs, other):
        _, memory = drive(agent, agent.start(0), path[:3])
        memory = agent.forget(memory, np.array([False, True]))
        results.append(agent.act(path[3], memory)[0])
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
    # Without forgetting it does.
    kept = agent.act(obs[3], drive(agent, agent.start(0), obs[:3])[1])[0]
    assert not np.allclose(kept[1], results[0][1])
    np.testing.assert_allclose(kept[0], results[0][0], rtol=1e-6)


def test_forgetting_before_the_first_plan_is_nothing(scripted: Callable[..., MPCAgent]) -> None:
    agent = scripted()
    memory = agent.start(0)
    assert agent.forget(memory, np.array([True, False, True])) is memory


# ---- fallbacks


@pytest.mark.parametrize("poison", ["actions", "nan", "inf"])
def test_a_broken_plan_is_replaced_by_the_shifted_last_one(
    poison: str, scripted: Callable[..., MPCAgent]
) -> None:
    planner = Scripted(broken={2: [1]})
    planner.poison = poison
    agent = scripted(planner=planner)
    _, memory = agent.act(OBS, agent.start(0))
    actions, memory = agent.act(OBS, memory)
    np.testing.assert_allclose(actions[:, 0], [0.20, 0.11, 0.20], rtol=1e-6)
    assert memory.fallbacks == 1
    # The broken row goes on from the plan before it, which is still a plan.
    actions, memory = agent.act(OBS, memory)
    assert planner.given[2][1].known.tolist() == [True, True, True]
    for x in (planner.given[2][1].actions, planner.given[2][1].states, planner.given[2][1].std):
        assert x.isfinite().all()
    np.testing.assert_allclose(actions[:, 0], [0.3, 0.3, 0.3], rtol=1e-6)
    assert memory.fallbacks == 1


def test_a_broken_first_plan_is_replaced_by_the_policy(
    scripted: Callable[..., MPCAgent], homing: Any
) -> None:
    agent = scripted(homing, Scripted(broken={1: [0, 2]}))
    actions, memory = agent.act(OBS, agent.start(0))
    expected = np.clip(-OBS, -1, 1)
    np.testing.assert_allclose(actions[[0, 2]], expected[[0, 2]], rtol=1e-6)
    np.testing.assert_allclose(actions[1], [0.1, 0.1], rtol=1e-6)
    assert memory.fallbacks == 2


@pytest.mark.parametrize("policy", [None, torch.nan])
def test_without_a_policy_that_works_zeros_are_left(
    policy: float | None, scripted: Callable[..., MPCAgent], drift: Any
) -> None:
    class Broken(drift):
        def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
            return torch.full_like(z, torch.nan)

    model = drift() if policy is None else Broken()
    agent = scripted(model, Scripted(broken={1: [0, 1, 2], 2: [0, 1]}))
    actions, memory = agent.act(OBS, agent.start(0))
    assert not actions.any()
    assert memory.fallbacks == 3
    actions, memory = agent.act(OBS, memory)
    np.testing.assert_allclose(actions[:, 0], [0.0, 0.0, 0.2], rtol=1e-6)
    assert memory.fallbacks == 5


def test_a_forgotten_row_does_not_fall_back_to_the_last_episode(
    scripted: Callable[..., MPCAgent],
) -> None:
    agent = scripted(planner=Scripted(broken={2: [0, 1]}))
    _, memory = agent.act(OBS, agent.start(0))
    memory = agent.forget(memory, np.array([False, True, False]))
    actions, _ = agent.act(OBS, memory)
    np.testing.assert_allclose(actions[:, 0], [0.11, 0.0, 0.20], rtol=1e-6)


@pytest.mark.parametrize("name", ["grasp", "gradient", "cem", "policy"])
def test_a_broken_observation_is_not_explored_from(
    name: str, searching: Callable[..., MPCAgent]
) -> None:
    """The policy's spread is not finite there either; the noise is of the least width then."""
    agent = searching(name)
    _, memory = agent.act(np.zeros((2, 3)), agent.start(0))
    broken = np.array([[np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]])
    calm, after = agent.act(broken, memory)
    bold, _ = agent.act(broken, memory, explore=0.5)
    assert after.fallbacks == 1 and np.isfinite(bold).all()
    assert (bold != calm).all()


def test_what_is_done_to_actions_does_not_reach_the_plan(homing: Any) -> None:
    agent = MPCAgent(homing, make_planner("policy"), Effort(), 1.0)
    actions, memory = agent.act(np.ones((1, 2), np.float32), agent.start(0))
    actions *= 0.0
    assert memory.plan is not None and memory.plan.actions[:, 0].tolist() == [[-1.0, -1.0]]


@pytest.mark.parametrize("name", ["cem", "mppi", "icem", "random_shooting", "gradient", "grasp"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_planner_gets_a_broken_model_executed(
    name: str, value: float, drift: Any, scripted: Callable[..., MPCAgent]
) -> None:
    """A model whose every reward is broken: zeros are executed, and counted as fallbacks."""

    class Broken(drift):
        def reward(self, z: Tensor, a: Tensor) -> Tensor:
            return value + 0.0 * a.sum(-1)

    agent = MPCAgent(Broken(), make_planner(name), Reward(), 1.0)
    actions, memory = agent.act(OBS, agent.start(0))
    assert not actions.any()
    assert memory.fallbacks == 3


def test_elites_of_a_broken_plan_are_replaced_too(scripted: Callable[..., MPCAgent]) -> None:
    """Row 1 breaks at the first plan, when there are none to go on with, and at the third."""

    class Elite(Scripted):
        def search(
            self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator
        ) -> Plan:
            plan = super().search(problem, warm_start, rng)
            warm = plan.warm_start
            elites = warm.actions.unsqueeze(2).repeat(1, 1, 2, 1)
            broken = self.broken.get(len(self.given), [])
            elites[broken] = torch.nan
            return replace(plan, warm_start=replace(warm, elites=elites))

    planner = Elite(broken={1: [1], 3: [1]})
    agent = scripted(planner=planner)
    drive(agent, agent.start(0), np.stack([OBS] * 4))
    _, second, _, fourth = (warm and warm.elites for _, warm in planner.given)
    assert not second[1].any() and second.isfinite().all()
    # Twice shifted, while the other rows have those of the third plan.
    np.testing.assert_allclose(fourth[1, :, 0, 0], [0.22, 0.23, 0.23, 0.23])
    np.testing.assert_allclose(fourth[0, :, 1, 0], [0.31, 0.32, 0.33, 0.33])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_choices_fall_back_to_the_first(value: float, switched: Problem) -> None:
    """Of discrete actions, zeros are none that could be executed."""
    model = switched.model
    model.reward = lambda z, a: value + 0.0 * a.sum(-1)
    agent = MPCAgent(model, make_planner("gradient"), Reward(), 1.0)
    actions, memory = agent.act(OBS, agent.start(0))
    assert actions.tolist() == [[1.0, 0.0, 0.0]] * 3
    assert memory.fallbacks == 3


# ---- exploration


def test_exploration_adds_the_spread_of_the_planner(scripted: Callable[..., MPCAgent]) -> None:
    """Scripted plans have a spread of 0.2, whatever `exploration` says."""
    agent = scripted(exploration=5.0)
    many = np.repeat(OBS, 2000, axis=0)
    calm, _ = agent.act(many, agent.start(0))
    agent = scripted(exploration=5.0)
    bold, _ = agent.act(many, agent.start(0), explore=True)
    noise = bold - calm
    assert noise.std() == pytest.approx(0.2, rel=0.05) and abs(noise.mean()) < 0.02
    assert np.unique(noise).size > 5000, "every environment gets noise of its own"


@pytest.mark.parametrize("exploration", [0.0, 0.3, 50.0])
def test_exploration_without_a_spread_is_an_option_and_keeps_the_bounds(
    exploration: float, scripted: Callable[..., MPCAgent]
) -> None:
    agent, obs = scripted(None, make_planner("zero"), exploration=exploration), np.zeros((4000, 2))
    bold, _ = agent.act(obs, agent.start(0), explore=True)
    assert np.abs(bold).max() <= 1.0
    if exploration == 0.3:
        assert bold.std() == pytest.approx(0.3, rel=0.05)
    elif exploration == 0.0:
        assert not bold.any()
    else:
        assert np.mean(np.abs(bold) == 1.0) > 0.9
    calm, _ = agent.act(obs, agent.start(0))
    assert not calm.any()


@pytest.mark.parametrize("planner", [None, "zero"])
def test_every_row_explores_by_its_own_share(
    planner: str | None, scripted: Callable[..., MPCAgent]
) -> None:
    many, share = np.repeat(OBS[:1], 3000, axis=0), np.repeat([0.0, 0.5, 1.0], 1000)
    agents = [
        scripted() if planner is None else scripted(None, make_planner(planner)) for _ in "ab"
    ]
    calm, bold = (
        agent.act(many, agent.start(0), explore)[0]
        for agent, explore in zip(agents, (0.0, share), strict=True)
    )
    none, half, whole = (bold - calm).reshape(3, 1000, -1)
    assert not none.any()
    assert half.std() == pytest.approx(0.5 * whole.std(), rel=0.1) and half.std() > 0.05


def test_exploration_is_as_wide_as_an_unsure_policy(
    homing: Any, scripted: Callable[..., MPCAgent]
) -> None:
    """That policy has a standard deviation of 1 at the origin and is sure of itself at 2."""
    agent = scripted(homing, make_planner("zero"), exploration=0.1)
    place = np.repeat([[0.0, 2.0]], 4000, axis=0)
    bold, _ = agent.act(place, agent.start(0), explore=0.5)
    unsure, sure = bold.T
    assert unsure.std() == pytest.approx(0.72, rel=0.05), "a normal distribution cut off at 1"
    assert sure.std() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_policy_with_a_goal_for_each_problem_explores_around_each(batch: int, drift: Any) -> None:
    """Its deviation is 0.6 where the goal is ahead, 0.1 where it is behind."""

    class To(drift):
        goal = torch.tensor([1.0, -1.0, 1.0])[:batch]

        def for_problems(self, index: Tensor) -> Any:
            part = To()
            part.goal = self.goal[index]
            return part

        def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
            goal = self.goal.view(-1, *(1,) * (z.dim() - 1)).expand_as(z)
            wide = 0.1 + 0.5 * (goal > 0)
            return 0.0 * z if noise is None else wide * noise

    agent = MPCAgent(To(), make_planner("zero"), Effort(), 1.0, AgentConfig(exploration=0.0))
    draws = [agent.act(np.zeros((batch, 2)), agent.start(k), explore=1.0)[0] for k in range(300)]
    assert np.std(draws, (0, 2))[:2] == pytest.approx([0.55, 0.1], rel=0.1)  # cut off at 1


@pytest.mark.parametrize("name", ["zero", "cem", "gradient"])
def test_exploration_replaces_choices_with_its_chance(name: str, switched: Problem) -> None:
    """explore * exploration = 0.5 * 0.6 of the choices are drawn anew, one of three stays."""
    agent = MPCAgent(switched.model, make_planner(name), Reward(), 0.9, AgentConfig(1, 0.6))
    obs = np.tile([[1.0, 0.0]], (4000, 1))
    calm, _ = agent.act(obs, agent.start(0))
    bold, memory = agent.act(obs, agent.start(0), 0.5)
    assert (np.sort(bold, 1) == [0.0, 0.0, 1.0]).all()
    assert np.mean((calm != bold).any(1)) == pytest.approx(0.2, abs=0.03)
    # The plan itself stays: without exploration the next control step goes on from it.
    assert torch.equal(
        memory.warm_start.actions, agent.act(obs, agent.start(0))[1].warm_start.actions
    )


def test_exploration_does_not_leak_into_the_plan(searching: Callable[..., MPCAgent]) -> None:
    agent, obs = searching("grasp"), observations(1)
    _, calm = drive(agent, agent.start(0), obs)
    _, bold = drive(agent, agent.start(0), obs, explore=True)
    assert torch.equal(calm.warm_start.actions, bold.warm_start.actions)


# ---- episodes


class Walk(gymnasium.Env[np.ndarray, np.ndarray]):
    """Counts its steps; ends itself after `ends`, is cut off after `limit`; reward is the seed."""

    def __init__(self, ends: int | None = None, limit: int = 100) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.ends, self.limit = ends, limit
        self.actions: list[np.ndarray] = []
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.actions = []
        return self._obs(), {}

    def step(self, action: np.ndarray) -> Any:
        assert len(self.actions) < min(self.limit, self.ends or self.limit), "stepped after the end"
        self.actions.append(action)
        count = len(self.actions)
        return self._obs(), float(self.seeds[-1]), count == self.ends, count == self.limit, {}

    def _obs(self) -> np.ndarray:
        return self.np_random.normal(size=3).astype(np.float32)


@pytest.fixture
def walks() -> list[Walk]:
    return [Walk(ends=4), Walk(limit=7), Walk(ends=2), Walk(ends=3, limit=3)]


@pytest.fixture
def walker(latent_model: Any) -> MPCAgent:
    return MPCAgent(latent_model.float(), make_planner("cem", samples=30, elites=8), Reward(), 0.9)


def test_episodes_add_up(walker: MPCAgent, walks: list[Walk]) -> None:
    records = run_episodes(walker, walks, [1, 2, 3, 4])
    assert [len(r.rewards) for r in records] == [4, 7, 2, 3]
    assert [r.score for r in records] == [4.0, 14.0, 6.0, 12.0]
    assert [r.seed for r in records] == [1, 2, 3, 4]
    assert [env.seeds for env in walks] == [[1], [2], [3], [4]]
    # An end of its own counts as one, also where the time is up at the same step.
    assert [r.terminated for r in records] == [True, False, True, True]
    assert [r.fallbacks for r in records] == [0, 0, 0, 0]


def test_episodes_repeat_by_their_seeds(walker: MPCAgent) -> None:
    paths = []
    for seeds, agent_seed in (([1, 2], 0), ([1, 2], 0), ([1, 3], 0), ([1, 2], 5)):
        envs = [Walk(limit=5), Walk(limit=5)]
        run_episodes(walker, envs, seeds, agent_seed)
        paths.append(np.stack([np.stack(env.actions) for env in envs]))
    np.testing.assert_array_equal(paths[0], paths[1])
    np.testing.assert_allclose(paths[0][0], paths[2][0], atol=1e-4)
    assert not np.allclose(paths[0][1], paths[2][1])
    assert not np.allclose(paths[0], paths[3])


def test_episodes_run_without_exploration(latent_model: Any, walks: list[Walk]) -> None:
    planner = make_planner("zero")
    agent = MPCAgent(latent_model.float(), planner, Reward(), 0.9, AgentConfig(exploration=1.0))
    run_episodes(agent, walks, [1, 2, 3, 4])
    assert not any(np.any(env.actions) for env in walks)


def test_every_decision_is_shown(walker: MPCAgent, walks: list[Walk]) -> None:
    seen: list[tuple[Any, Any, list[bool]]] = []

    def watch(obs: Any, actions: Any, memory: Memory, running: Any) -> None:
        seen.append((obs.copy(), actions, list(running)))
        assert memory.plan is not None

    run_episodes(walker, walks, [1, 2, 3, 4], watch=watch)
    assert len(seen) == 7
    assert [sum(running) for _, _, running in seen] == [4, 4, 3, 2, 1, 1, 1]
    for t, (_, actions, running) in enumerate(seen):
        for i, env in enumerate(walks):
            if running[i]:
                np.testing.assert_array_equal(env.actions[t], actions[i])
    # Finished environments no longer change what is seen of them.
    np.testing.assert_array_equal(seen[3][0][2], seen[6][0][2])
    assert not np.array_equal(seen[3][0][1], seen[6][0][1])


def test_seeds_and_environments_must_match(walker: MPCAgent, walks: list[Walk]) -> None:
    with pytest.raises(ValueError):
        run_episodes(walker, walks, [1, 2, 3])


def test_what_is_seen_last_is_not_planned_from(walker: MPCAgent) -> None:
    class Breaking(Walk):
        def step(self, action: np.ndarray) -> Any:
            obs, reward, terminated, *rest = super().step(action)
            return np.full_like(obs, np.nan) if terminated else obs, reward, terminated, *rest

    records = run_episodes(walker, [Breaking(ends=1), Walk(limit=3)], [1, 2])
    assert [r.fallbacks for r in records] == [0, 0]


def test_fallbacks_are_reported(scripted: Callable[..., MPCAgent], drift: Any) -> None:
    class Wide(drift):
        def __init__(self) -> None:
            super().__init__(3)

    agent = scripted(Wide(), Scripted(broken={2: [0]}))
    agent.model.action_dim = 3
    records = run_episodes(agent, [Walk(limit=4), Walk(limit=4)], [1, 2])
    assert [r.fallbacks for r in records] == [1, 1]


# ---- episodes towards goals


class Ways(gymnasium.Env[np.ndarray, np.ndarray]):
    """A place in the plane that actions move; a success within 0.5 of the goal."""

    def __init__(self, goal: tuple[float, float]) -> None:
        self.goal, self.at, self.steps = np.array(goal), np.zeros(2), 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.at, self.steps = np.array(options["at"], dtype=np.float64), 0
        return self.at.copy(), {"goal": self.goal, "success": self._near()}

    def step(self, action: np.ndarray) -> Any:
        assert not self._near(), "stepped after the end"
        self.at, self.steps = self.at + action, self.steps + 1
        return self.at.copy(), 0.0, False, False, {"success": self._near()}

    def _near(self) -> bool:
        return bool(np.linalg.norm(self.at - self.goal) < 0.5)


GOALS = [(0.0, 0.0), (2.5, 0.0), (0.0, -1.5), (50.0, 0.0), (0.0, 5.5)]


@pytest.mark.parametrize("name", ["grasp", "cem", "gradient"])
def test_goals_are_planned_for_until_they_are_reached(name: str, homing: Any) -> None:
    """Each as if it were alone, and no row is planned for that has arrived."""
    rows: list[int] = []
    first: list[Memory] = []
    planner = make_planner(name, horizon=2)

    def make(goals: np.ndarray) -> MPCAgent:
        agent = MPCAgent(homing, planner, GoalDistance(torch.tensor(goals)), 1.0)
        plan = agent.act

        def act(obs: np.ndarray, memory: Memory, explore: np.ndarray) -> Any:
            rows.append(len(obs))
            return plan(obs, memory, explore)

        agent.act = act  # type: ignore[method-assign, assignment]
        return agent

    def watch(agent: MPCAgent, memory: Memory) -> None:
        first.append(memory)

    def run(goals: list[tuple[float, float]], **options: Any) -> tuple[list[Any], list[np.ndarray]]:
        envs = [Ways(goal) for goal in goals]
        starts = [{"at": (0.0, 0.0)} for _ in goals]
        reached = run_goal_episodes(make, envs, range(len(goals)), starts, 20, **options)
        return reached, [env.at for env in envs]

    reached, places = run(GOALS, watch=watch)
    assert reached[0] == 0 and reached[3] is None
    assert all(isinstance(one, int) and 2 <= one <= 20 for one in (*reached[1:3], reached[4]))
    assert len(first) == 1 and first[0].plan is not None and len(first[0].plan.actions) == 5
    steps = [one if one is not None else 20 for one in reached]
    assert rows == [5] + [sum(one >= t for one in steps) for t in range(2, 21)]
    for goal, alone, place in zip(GOALS, reached, places, strict=True):
        again, at = run([goal])
        assert again == [alone]
        np.testing.assert_allclose(at[0], place, atol=1e-6)


@pytest.mark.parametrize("cold", [False, True])
def test_decisions_that_carry_out_an_old_plan_are_not_timed(
    cold: bool, latent_model: Any, scripted: Callable[..., MPCAgent]
) -> None:
    planner = Scripted()
    agent, env = scripted(latent_model.float(), planner, replan_every=3), Walk()
    obs, _ = env.reset(seed=1)
    seconds, _ = time_plans(agent, env, obs, 0, 4, "cpu", cold)
    assert len(seconds) == len(planner.given) == 4
    assert len(env.actions) == (3 if cold else 9)
    assert [warm is None for _, warm in planner.given] == [True, cold, cold, cold]
