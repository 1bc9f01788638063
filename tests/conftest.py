"""Fixtures that the unit tests share: exact models, problems over them, and a counter of calls."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mpc import (
    ActionSpace,
    CategoricalActions,
    Effort,
    GoalDistance,
    Objective,
    Plan,
    Problem,
    Reward,
    Weighted,
    WorldModel,
    make_planner,
)
from scripts.benchmarks.calibration import Yardstick
from world_models import LatentModel, ModelConfig, double_integrator

# Jobs in the background of a shell ignore Ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Sums of floats repeat bit for bit on one thread only, and more threads do not help tiny models.
torch.set_num_threads(1)


class Generators:
    """Seeded generators: `rng(3)`. A fixture, so that no test touches the global generator."""

    def __call__(self, seed: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def no_wait_for_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks take times as they come: tests do not look at them, and share their machine."""
    monkeypatch.setattr(Yardstick, "PATIENCE", 0.0)
    monkeypatch.setattr(Yardstick, "PAUSE", 0.0)


@pytest.fixture(scope="session")
def rng() -> Callable[[int], torch.Generator]:
    return Generators()


class Drift(WorldModel):
    """s' = s + a: the model in which every effect of a planner can be computed in the head."""

    def __init__(self, dim: int = 2, spread: float = 1.0) -> None:
        super().__init__()
        self.latent_dim = self.action_dim = dim
        self.spread = spread

    def encode(self, obs: Tensor) -> Tensor:
        return obs

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        return z + a

    def latent_spread(self) -> float:
        return self.spread


class Homing(Drift):
    """A drift with a policy that goes straight to the origin."""

    def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        return (-z if noise is None else noise - z).clamp(-1.0, 1.0)


class Switched(WorldModel):
    """A model of continuous actions driven by choices: their sum of rows of `effects` (A, A')."""

    def __init__(self, model: WorldModel, choices: tuple[int, ...], effects: Tensor) -> None:
        super().__init__()
        self.model, self.choices = model, choices
        self.register_buffer("effects", effects)
        self.latent_dim, self.action_dim = model.latent_dim, effects.shape[0]

    @property
    def action_space(self) -> ActionSpace:
        return CategoricalActions(self.choices)

    def encode(self, obs: Tensor) -> Tensor:
        return self.model.encode(obs)

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        return self.model.step(z, a @ self.effects)

    def reward(self, z: Tensor, a: Tensor) -> Tensor:
        return self.model.reward(z, a @ self.effects)

    def value(self, z: Tensor) -> Tensor:
        return self.model.value(z)


@pytest.fixture
def drift() -> Callable[..., Drift]:
    return Drift


@pytest.fixture
def homing() -> Homing:
    return Homing()


class Calls:
    """Counts what a model is really asked, from outside: wraps its `predict` and `step`.

    A `step` that `predict` makes itself belongs to the same call.
    """

    def __init__(self, model: WorldModel) -> None:
        self.rows: list[int] = []  # how many predictions each call asked for
        self.differentiated: list[bool] = []
        self._inside = False
        for verb in ("predict", "step"):
            setattr(model, verb, self._spy(getattr(model, verb)))

    def _spy(self, verb: Callable[..., Any]) -> Callable[..., Any]:
        def call(z: Tensor, a: Tensor) -> Any:
            if self._inside:
                return verb(z, a)
            self.rows.append(z.shape[:-1].numel())
            self.differentiated.append(torch.is_grad_enabled())
            self._inside = True
            try:
                return verb(z, a)
            finally:
                self._inside = False

        return call


@pytest.fixture
def count_calls() -> type[Calls]:
    return Calls


def make_problem(
    model: WorldModel,
    state: Tensor,
    horizon: int,
    objective: Objective | None = None,
    discount: float = 1.0,
) -> Problem:
    actions = model.action_space
    return Problem(model, objective or Reward(), state, horizon, actions, discount)


def path_defect(model: WorldModel, states: Tensor, actions: Tensor) -> Tensor:
    """Root mean square of f(s_t, a_t) - s_{t+1} over the spread, one step at a time.

    states (..., H + 1, Z), actions (..., H, A) -> (...).
    """
    gaps = [
        model.step(states[..., t, :], actions[..., t, :]) - states[..., t + 1, :]
        for t in range(actions.shape[-2])
    ]
    square = torch.stack(gaps).detach().square()
    return square.mean((0, -1)).sqrt() / model.latent_spread()


@pytest.fixture(scope="session")
def defect() -> Callable[..., Tensor]:
    return path_defect


@pytest.fixture(scope="session")
def problem_of() -> Callable[..., Problem]:
    """`problem_of(model, state, horizon, objective, discount)`."""
    return make_problem


@pytest.fixture(scope="session")
def plan() -> Callable[..., Plan]:
    """`plan(name, problem, warm_start, seed, **options)`: one call of a planner by name."""

    def call(
        name: str, problem: Problem, warm_start: Any = None, seed: int = 0, **options: Any
    ) -> Plan:
        planner = make_planner(name, horizon=problem.horizon, **options)
        return planner.plan(problem, warm_start, Generators()(seed))

    return call


def random_latent_model(
    obs_dim: int = 3, action_dim: int = 2, seed: int = 0, choices: tuple[int, ...] = ()
) -> LatentModel:
    """A small latent model in float64 with random weights everywhere, zero layers included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = ModelConfig(latent_dim=8, hidden_dim=16, simplex=4, bins=11, bin_limit=3.0)
        model = LatentModel(obs_dim, action_dim, config, choices).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture
def latent_model() -> LatentModel:
    return random_latent_model()


def integrator_problem() -> Problem:
    """Reward of the double integrator, from three starts."""
    state = torch.tensor([[1.0, 0.0], [-0.5, 0.4], [0.2, -1.0]], dtype=torch.float64)
    return make_problem(double_integrator(), state, 5)


def goal_problem() -> Problem:
    """A goal and effort for the double integrator: an objective with parts and a discount."""
    state = integrator_problem().state
    parts = {"goal": (1.0, GoalDistance(-0.5 * state, 0.1)), "effort": (0.05, Effort())}
    return make_problem(double_integrator(), state, 5, Weighted(parts), 0.9)


def switched_problem() -> Problem:
    """Reward of the double integrator under three possible pushes, from three starts."""
    pushes = torch.tensor([[-1.0], [0.0], [0.6]], dtype=torch.float64)
    model = Switched(double_integrator(), (3,), pushes)
    return make_problem(model, integrator_problem().state, 5, discount=0.9)


def choosing_problem() -> Problem:
    """A learned model of two choices out of three and two, with random weights."""
    return latent_problem(random_latent_model(action_dim=5, choices=(3, 2)))


def latent_problem(model: LatentModel | None = None) -> Problem:
    """A learned model, with a policy, a value and ends of episodes, and random weights."""
    model = model or random_latent_model()
    obs = torch.randn(3, 3, generator=Generators()(7), dtype=torch.float64)
    return make_problem(model, model.encode(obs).detach(), 5, discount=0.95)


PROBLEMS = {
    "integrator": integrator_problem,
    "goal": goal_problem,
    "latent": latent_problem,
    "switched": switched_problem,
    "choosing": choosing_problem,
}


@pytest.fixture(params=sorted(PROBLEMS))
def problem(request: pytest.FixtureRequest) -> Problem:
    """Three problems at once (B = 3), over each kind of model, objective and action in turn."""
    return PROBLEMS[request.param]()


@pytest.fixture
def integrator() -> Problem:
    return integrator_problem()


@pytest.fixture
def goal_task() -> Problem:
    return goal_problem()


@pytest.fixture
def switched() -> Problem:
    return switched_problem()


@pytest.fixture
def choosing() -> Problem:
    return choosing_problem()


@pytest.fixture
def latent_task() -> Problem:
    return latent_problem()


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished debug training by the real command; copy it before changing it."""
    import wandb
    from cli_helpers import telic

    runs = tmp_path_factory.mktemp("session")
    words = ("--config", "debug", "wandb.mode=offline", f"runs={runs}", "name=debug")
    result = telic("train", *words)
    assert result.code == 0, result
    wandb.teardown()  # its process writes on when a run has ended
    (runs / "stdout.txt").write_text(result.out)
    return runs / "debug"
