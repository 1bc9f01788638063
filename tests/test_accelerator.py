"""What runs on a CPU runs on an accelerator, and comes to the same. Skipped where there is none."""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_helpers import DEBUG, telic
from conftest import random_latent_model
from test_goal_model import walks
from test_planners import every_case, every_planner, executable, options_of, tensors
from torch import Tensor

from agents import AgentConfig, Memory, MPCAgent
from mpc import (
    GoalDistance,
    Objective,
    Plan,
    Problem,
    Reward,
    WarmStart,
    Weighted,
    forget,
    make_planner,
    shift,
)
from scripts.agent_files import self_test
from world_models import (
    Episode,
    GoalLossConfig,
    GoalModel,
    GoalModelConfig,
    GoalTrainer,
    LatentModel,
    LossConfig,
    ModelConfig,
    Replay,
    Trainer,
    Trajectories,
    window_length,
)

slow = pytest.mark.skipif(
    os.environ.get("TELIC_TEST_COMPILE") != "1", reason="takes minutes: set TELIC_TEST_COMPILE=1"
)


@pytest.fixture(scope="module")
def device() -> torch.device:
    """The accelerator of this machine, if it has one that calculates in double precision."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type == "mps":
        pytest.skip("needs an accelerator with double precision, such as a CUDA GPU")
    return torch.device(found.type, 0)


@dataclass(frozen=True)
class SameNumbers(Problem):
    """A problem whose random numbers come from a CPU, so that they are the same everywhere."""

    def normal(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        drawn = torch.randn(shape, generator=rng, dtype=self.state.dtype)
        return drawn.to(self.state.device)


def objective_on(device: torch.device, objective: Objective) -> Objective:
    if isinstance(objective, Weighted):
        parts = {k: (w, objective_on(device, part)) for k, (w, part) in objective.parts.items()}
        return Weighted(parts)
    if isinstance(objective, GoalDistance):
        return replace(objective, target=objective.target.to(device))
    return objective


def problem_on(device: torch.device, problem: Problem, kind: type[Problem] = Problem) -> Problem:
    """The same problem there."""
    model = copy.deepcopy(problem.model).to(device)
    objective, state = objective_on(device, problem.objective), problem.state.to(device)
    rest = problem.horizon, problem.actions, problem.discount, problem.executed
    return kind(model, objective, state, *rest)


def warm_on(device: torch.device, warm: WarmStart) -> WarmStart:
    known = None if warm.known is None else warm.known.to(device)
    return replace(warm.map(lambda x: x.to(device)), known=known)


def rng_on(device: torch.device, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def assert_there(device: torch.device, plan: Plan) -> None:
    """All of a plan is on the device but its trace, of which the schedules never leave the CPU."""
    for name, x in tensors(plan).items():
        assert name in plan.diagnostics.trace or x.device == device, name
        assert x.isfinite().all(), name


@every_case
def test_plans_are_those_of_a_cpu(
    case: tuple[str, dict[str, Any]], problem: Problem, device: torch.device
) -> None:
    """Cold, warm, and warm in some rows, from the same random numbers."""
    name, options = case
    if name == "policy" and not problem.model.supports("policy"):
        pytest.skip("the analytic models have no policy")
    if name == "random" or options.get("states_init") == "random":
        pytest.skip("its numbers are drawn on the device")
    if name == "grasp" and problem.model.supports("policy") and not problem.actions.averages:
        pytest.skip("which of two leads of the same choices is taken, rounding decides")
    planner = make_planner(name, horizon=problem.horizon, **options_of(name, **options))
    cpu = torch.device("cpu")
    here, there = (problem_on(where, problem, SameNumbers) for where in (cpu, device))
    cold = planner.plan(here, None, rng_on(cpu, 1))
    warm = shift(cold.warm_start)
    for start in (None, warm, forget(warm, torch.tensor([False, True, False]))):
        expected = planner.plan(here, start, rng_on(cpu, 2))
        moved = None if start is None else warm_on(device, start)
        found = planner.plan(there, moved, rng_on(cpu, 2))
        assert_there(device, found)
        theirs, ours = tensors(found), tensors(expected)
        assert theirs.keys() == ours.keys()
        for part, x in ours.items():
            torch.testing.assert_close(theirs[part].cpu(), x, msg=lambda m, p=part: f"{p}: {m}")
        assert found.diagnostics.forward_calls == expected.diagnostics.forward_calls


@every_case
def test_a_generator_of_the_device_decides(
    case: tuple[str, dict[str, Any]], problem: Problem, device: torch.device
) -> None:
    name, options = case
    if name == "policy" and not problem.model.supports("policy"):
        pytest.skip("the analytic models have no policy")
    planner = make_planner(name, horizon=problem.horizon, **options_of(name, **options))
    there = problem_on(device, problem)
    first = planner.plan(there, None, rng_on(device))
    start = forget(shift(first.warm_start, 2), torch.tensor([True, False, False], device=device))
    for warm in (None, start):
        one, same = (planner.plan(there, warm, rng_on(device, 1)) for _ in range(2))
        assert_there(device, one)
        assert executable(problem.actions, one.actions)
        torch.testing.assert_close(one.actions, same.actions)
    single = replace(there, state=there.state[:1])
    if problem.objective.goal() is None:
        assert_there(device, planner.plan(single, None, rng_on(device)))


@every_planner
@pytest.mark.parametrize(
    "bound", [{"chunk": 3, "overlap": 1}, {"max_batch": 7}, {"deadline_ms": 0.05}]
)
def test_bounds_hold_there_too(
    name: str, bound: dict[str, Any], latent_task: Problem, device: torch.device
) -> None:
    planner = make_planner(name, horizon=latent_task.horizon, **options_of(name, **bound))
    there = problem_on(device, latent_task)
    first = planner.plan(there, None, rng_on(device))
    again = planner.plan(there, shift(first.warm_start), rng_on(device))
    for found in (first, again):
        assert_there(device, found)
        assert executable(latent_task.actions, found.actions)
    if bound.get("deadline_ms"):
        # So short a deadline leaves the one iteration that there always is.
        assert again.diagnostics.iterations <= 1
        assert again.diagnostics.overrun == (again.diagnostics.seconds > 5e-5)


@pytest.mark.parametrize("task", ["latent_task", "choosing"])
@pytest.mark.parametrize("name", ["grasp", "cem", "gradient"])
def test_an_agent_acts_and_remembers(
    name: str, task: str, device: torch.device, request: pytest.FixtureRequest
) -> None:
    """With exploration, forgotten rows, and a memory that went through a checkpoint."""
    model = copy.deepcopy(request.getfixturevalue(task).model).to(device)
    planner = make_planner(name, horizon=3, **options_of(name))
    agent = MPCAgent(model, planner, Reward(), 0.95, AgentConfig())
    obs = np.random.default_rng(0).normal(size=(3, 3))
    memory = agent.start(1, device)
    for step in range(3):
        actions, memory = agent.act(obs, memory, [0.0, 0.5, 1.0])
        assert actions.dtype == np.float32 and executable(model.action_space, torch.tensor(actions))
        memory = agent.forget(memory, np.array([step == 1, False, False]))
    saved = {name: x.cpu().clone() for name, x in memory.state().items()}
    expected, _ = agent.act(obs, memory, 0.5)
    found, _ = agent.act(obs, Memory.restore(saved, device), 0.5)
    assert np.allclose(found, expected, atol=1e-6)
    kept = memory.rows([0, 2])
    assert agent.act(obs[[0, 2]], kept)[0].shape == (2, model.action_dim)


def experience(model: LatentModel) -> Replay:
    """A few random episodes for a model."""
    rng = torch.Generator().manual_seed(0)
    replay = Replay(400, model.obs_dim, model.action_dim, 3, 0, model.pictures)
    newest = model.obs_dim // max(1, model.pictures)
    for i in range(4):
        obs = torch.randn(21, newest, generator=rng)
        if model.pictures:
            obs = (40 * obs + 128).clamp(0, 255).to(torch.uint8)
        actions = model.action_space.sample((20,), rng, torch.zeros(()))
        replay.add(Episode(obs, actions, torch.rand(20, generator=rng), i % 2 == 0))
    return replay


KINDS: dict[str, dict[str, Any]] = {
    "vector": {"obs_dim": 3, "action_dim": 2},
    "choices": {"obs_dim": 3, "action_dim": 5, "choices": (3, 2)},
    "pictures": {"obs_dim": 9 * 64 * 64, "action_dim": 1, "pictures": 3},
}


def latent_model(kind: str) -> LatentModel:
    torch.manual_seed(0)
    config = ModelConfig(latent_dim=16, hidden_dim=32, bins=21)
    return LatentModel(config=config, **KINDS[kind])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_losses_are_those_of_a_cpu(kind: str, device: torch.device) -> None:
    """Of the same batch with the same noise, and so is what a model says after it was moved."""
    model = latent_model(kind)
    batch = experience(model).sample(16)
    noise = torch.randn(2, 16, model.action_dim, generator=torch.Generator().manual_seed(1))
    found = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(1)
        trainer = Trainer(copy.deepcopy(model).to(where), LossConfig(compile=False), 0.9)
        moved = (x.to(where) for x in (*batch, noise, trainer.scale, batch.obs[0]))
        loss, metrics, *_ = trainer._compute(*moved)
        loss.backward()
        norms = torch.stack([p.grad.norm() for p in trainer.model.parameters()])
        found.append(torch.cat([metrics, norms]).cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-2, atol=1e-3)
    ours = self_test(model)
    torch.testing.assert_close(self_test(model.to(device)), ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_training_goes_on_where_it_was_saved(kind: str, device: torch.device) -> None:
    config = LossConfig(compile=False, batch_size=16)
    model = latent_model(kind).to(device)
    replay, trainer = experience(model), Trainer(model, config, 0.9, seed=3)
    for _ in range(3):
        trainer.update(replay.sample(16), 0.5)
    assert {x.device for x in model.state_dict().values()} == {device}
    saved = {name: x.cpu().clone() for name, x in trainer.state().items()}
    other = Trainer(copy.deepcopy(model), config, 0.9, seed=4)
    other.restore(saved)
    batch = replay.sample(16)
    first, second = trainer.update(batch, 0.6), other.update(batch, 0.6)
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", [{}, {"history": 3}, {"ensemble": 3}, {"pictures": 3}], ids=str)
def test_goal_training_is_that_of_a_cpu(config: dict[str, int], device: torch.device) -> None:
    """The course of the losses over some updates, and the fit of what observations look like."""
    pictures = config.get("pictures", 0)
    sizes = {k: v for k, v in config.items() if k != "pictures"}
    episodes, obs_dim = walks(5, 20), 1
    if pictures:
        shown = torch.linspace(0, 3, 3 * 64 * 64)
        episodes = [
            replace(e, obs=(128 + 100 * (e.obs + shown).sin()).to(torch.uint8)) for e in episodes
        ]
        obs_dim = pictures * len(shown)
    loss = GoalLossConfig(compile=False, batch_size=16, horizon=2)
    courses = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        model = GoalModel(
            obs_dim, 1, GoalModelConfig(latent_dim=8, hidden_dim=16, **sizes), pictures
        )
        data = Trajectories(episodes, window_length(model, loss), 0, pictures)
        trainer = GoalTrainer(model.to(where), loss)
        model.fit(data.obs[:60].repeat(1, max(1, pictures)).to(where))
        course = torch.stack([trainer.update(trainer.draw(data)) for _ in range(4)])
        assert trainer.rank(data) > 0
        courses.append(course.cpu())
    torch.testing.assert_close(courses[1], courses[0], rtol=2e-2, atol=2e-3)


@pytest.fixture(scope="module")
def run(device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A debug training on the device that has been stopped and gone on with."""
    runs = tmp_path_factory.mktemp("runs")
    words = (f"device={device.type}", f"runs={runs}", "name=here", "train.frames=300")
    first = telic("train", *DEBUG, *words)
    assert first.code == 0 and "Traceback" not in first.err, first
    second = telic("train", f"resume={runs / 'here'}", "train.frames=400")
    assert second.code == 0, second
    yield runs / "here"


def test_a_run_controls_on_the_device_and_on_a_cpu(run: Path, device: torch.device) -> None:
    for where in (device.type, "cpu"):
        words = (f"run={run}", f"device={where}", "env.episode_frames=20")
        controlled = telic("control", *words, "planner=grasp")
        assert controlled.code == 0, controlled
        evaluated = telic("evaluate", *words, "planner=grasp,cem,policy", "episodes=2")
        assert evaluated.code == 0, evaluated


@slow
@pytest.mark.parametrize("name", ["cem", "gradient", "grasp"])
def test_compiled_plans_are_eager_ones(
    name: str, latent_task: Problem, device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_latent_model().float()
    task = replace(latent_task, model=model, state=latent_task.state.float(), horizon=3)
    there, start, kept = problem_on(device, task), None, []
    planners = [make_planner(name, horizon=3, compile=fast) for fast in (False, True)]
    for _ in range(4):  # on CUDA graphs are recorded by the second and replayed by the third
        plans = [planner.plan(there, start, rng_on(device)) for planner in planners]
        start = shift(plans[0].warm_start)
        kept.append(plans)
    for eager, fast in kept:  # in the end: what was found must last
        torch.testing.assert_close(fast.actions, eager.actions, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fast.cost, eager.cost, rtol=1e-3, atol=1e-4)
    assert not [r for r in caplog.records if r.name.startswith("mpc")]


@slow
def test_compiled_losses_are_eager_ones(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    courses = []
    for fast in (False, True):
        model = latent_model("vector").to(device)
        replay = experience(model)
        trainer = Trainer(model, LossConfig(compile=fast), 0.9, seed=3)
        # On CUDA graphs are recorded by the second update and replayed by the third.
        courses.append(torch.stack([trainer.update(replay.sample(16)) for _ in range(6)]))
    torch.testing.assert_close(courses[1], courses[0], rtol=1e-3, atol=1e-4)
    assert not [r for r in caplog.records if r.name.startswith("mpc")]
