"""GRASP: its gradients against finite differences, its steps against pencil and paper."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mpc import (
    Effort,
    GoalDistance,
    Objective,
    Plan,
    Problem,
    Reward,
    TemporalDistance,
    Transition,
    WarmStart,
    Weighted,
    WorldModel,
    make_planner,
    shift,
    trajectory_cost,
)
from mpc.descent import Start
from mpc.grasp import GraspConfig
from mpc.lifting import DISTANCES, Lifted, LiftedConfig, distance, lifted_cost, lifted_loss
from mpc.rollout import EAGER
from mpc.virtual_states import (
    SCHEDULES,
    draw_for,
    initial_states,
    noise_scale,
    pin,
    renew,
)
from world_models import PointMass

WEIGHT, DISCOUNT = 0.7, 0.9
# What these tests are about must not move with the defaults.
PLAIN = {
    "iterations": 5,
    "restarts": 4,
    "init_std": 0.5,
    "lookahead": 1,
    "leads": 32,
    "lead_std": 1.0,
    "lead_steps": 1,
    "lead_elites": 1,
    "select_steps": 6,
    "sync_every": 0,
    "select": "lifted",
}


@pytest.fixture
def plan(plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """The shared `plan`, with GRASP's options as above unless given."""

    def call(name: str, problem: Problem, warm_start: Any = None, **options: Any) -> Plan:
        fixed = PLAIN if name == "grasp" else {}
        return plan(name, problem, warm_start, **{**fixed, **options})

    return call


class Lift:
    """A random lifted path of the point mass (nonlinear reward), B = 2, K = 2, H = 3."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.model = PointMass()
        # Steps large enough that Huber's linear part is met too.
        self.states = 0.8 * torch.randn(2, 2, 4, 4, generator=rng, dtype=torch.float64)
        self.actions = torch.rand(2, 2, 3, 2, generator=rng, dtype=torch.float64) - 0.5
        goal = torch.randn(2, 4, generator=rng, dtype=torch.float64)
        parts = {"goal": (1.0, GoalDistance(goal, 0.3)), "reward": (0.5, Reward())}
        self.objective: Objective = Weighted({**parts, "effort": (0.2, Effort())})

    def loss(self, kind: str, stop: bool, states: Tensor, actions: Tensor) -> Tensor:
        cfg = LiftedConfig(distance=kind, shaping=WEIGHT, stop_gradient=stop)
        return self.lifted(cfg, states, actions).loss

    def lifted(self, cfg: LiftedConfig, states: Tensor, actions: Tensor) -> Lifted:
        window = states[:, 0, 0]  # what it holds besides s_0 matters to models with a history only
        return lifted_loss(self.model, self.objective, DISCOUNT, cfg, window, states, actions)

    def expected(self, kind: str, inputs: Tensor, targets: Tensor, actions: Tensor) -> float:
        """The loss from its definition, states as inputs of the model and as targets apart."""
        total = 0.0
        for t in range(actions.shape[2]):
            move = self.model.predict(inputs[:, :, t], actions[:, :, t])
            x, y = move.next, targets[:, :, t + 1]
            if kind == "mse":
                gap = 0.5 * ((x - y) ** 2).sum(-1)
            elif kind == "huber":
                far = (x - y).abs()
                gap = torch.where(far < 1.0, 0.5 * far**2, far - 0.5).sum(-1)
            else:
                gap = 1.0 - (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
            ahead = self.objective.terminal(self.model, move.next)
            total = total + gap + WEIGHT * (self.objective.stage(move) + DISCOUNT * ahead)
        return float(total.sum())


class Fading(PointMass):
    """The point mass, whose episodes end sooner the faster it moves."""

    def predict(self, z: Tensor, a: Tensor) -> Transition:
        return super().predict(z, a)._replace(continues=torch.exp(-z[..., 2:].square().sum(-1)))


def finite_difference(function: Callable[[Tensor], float], x: Tensor) -> Tensor:
    """Central differences of `function` at `x`, one number at a time."""
    slope, size = torch.zeros_like(x), 1e-6
    for i in range(x.numel()):
        bump = torch.zeros_like(x)
        bump.view(-1)[i] = size
        slope.view(-1)[i] = (function(x + bump) - function(x - bump)) / (2 * size)
    return slope


def gradients(lift: Lift, kind: str, stop: bool) -> tuple[Tensor, Tensor]:
    states, actions = lift.states.clone().requires_grad_(), lift.actions.clone().requires_grad_()
    return torch.autograd.grad(lift.loss(kind, stop, states, actions).sum(), (states, actions))


@pytest.mark.parametrize("kind", DISTANCES)
def test_the_lifted_loss_is_its_formula(kind: str) -> None:
    lift = Lift()
    loss = lift.loss(kind, True, lift.states, lift.actions)
    assert loss.shape == (2, 2)
    expected = lift.expected(kind, lift.states, lift.states, lift.actions)
    assert float(loss.sum()) == pytest.approx(expected)
    cfg = LiftedConfig(distance=kind, shaping=WEIGHT)
    parts = lift.lifted(cfg, lift.states, lift.actions)
    torch.testing.assert_close(parts.distance + WEIGHT * parts.shaping, parts.loss)


@pytest.mark.parametrize("kind", DISTANCES)
def test_with_stop_gradient_states_move_as_targets_only(kind: str) -> None:
    lift = Lift()
    moved, _ = gradients(lift, kind, True)
    as_target = finite_difference(
        lambda y: lift.expected(kind, lift.states, y, lift.actions), lift.states
    )
    torch.testing.assert_close(moved, as_target, rtol=1e-5, atol=1e-6)
    full = finite_difference(lambda y: lift.expected(kind, y, y, lift.actions), lift.states)
    assert (full - as_target).abs().max() > 0.1, "the two gradients must differ to be told apart"


@pytest.mark.parametrize("kind", DISTANCES)
def test_without_stop_gradient_states_get_the_full_gradient(kind: str) -> None:
    lift = Lift()
    moved, _ = gradients(lift, kind, False)
    full = finite_difference(lambda y: lift.expected(kind, y, y, lift.actions), lift.states)
    torch.testing.assert_close(moved, full, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("kind", DISTANCES)
def test_actions_get_the_full_gradient(kind: str, stop: bool) -> None:
    lift = Lift()
    _, moved = gradients(lift, kind, stop)
    full = finite_difference(
        lambda a: lift.expected(kind, lift.states, lift.states, a), lift.actions
    )
    torch.testing.assert_close(moved, full, rtol=1e-5, atol=1e-6)


def test_distances_vanish_where_states_meet() -> None:
    x, y = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 4.0])
    assert [float(distance(k, x, x)) for k in DISTANCES] == pytest.approx([0, 0, 0], abs=1e-6)
    assert float(distance("mse", x, y)) == pytest.approx(4.5)
    assert float(distance("huber", x, y)) == pytest.approx(2.5)
    assert float(distance("cosine", x, y)) == pytest.approx(1 - 0.8)


# ---- one iteration, looked at from outside


def drifting(problem_of: Callable[..., Problem], model: Any, horizon: int = 4) -> Problem:
    """A drift s' = s + a that has nothing to do: no reward, no goal, effort costs."""
    state = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    return problem_of(model, state, horizon, Effort())


@pytest.mark.parametrize("restarts", [1, 3])
def test_an_iteration_is_one_batched_call(
    restarts: int,
    latent_task: Problem,
    plan: Callable[..., Plan],
    drift: Any,
    count_calls: Any,
    problem_of: Callable[..., Problem],
) -> None:
    """All B K H predictions of an iteration at once, and all of the choice among restarts."""
    problem = drifting(problem_of, drift(), horizon=7)
    calls = count_calls(problem.model)
    options = {"iterations": 4, "restarts": restarts, "states_init": "noise"}
    plan("grasp", problem, **options)
    # The last, batched over time, measures the defect of the plan.
    assert calls.rows == [2 * restarts * 7] * 5 + [2 * 7]
    assert calls.differentiated == [True] * 4 + [False] * 2
    calls.rows.clear()
    plan("grasp", problem, select="rollout", **options)
    # A rollout of all restarts and of where they began takes the place of one call.
    assert calls.rows == [2 * restarts * 7] * 4 + [2 * 2 * restarts] * 7 + [2 * 7]


def test_a_warm_plan_makes_no_sequential_call_but_those_for_the_tail(
    latent_task: Problem, plan: Callable[..., Plan], count_calls: Any
) -> None:
    warm = shift(plan("grasp", latent_task).warm_start, 2)
    calls = count_calls(latent_task.model)
    found = plan("grasp", latent_task, warm, restarts=1, iterations=5)
    # B = 3, H = 5: two steps to fill the tail, five iterations, the lifted cost, the defect.
    assert calls.rows == [3] * 2 + [15] * 7
    assert found.diagnostics.forward_calls == 9


def one_step(
    problem: Problem, plan: Callable[..., Plan], states: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """States after iterations from given `states` (B, H + 1, Z) and zero actions; s_t + a_t."""
    actions = problem.state.new_zeros(problem.batch, problem.horizon, problem.actions.dim)
    options = {"restarts": 1, "iterations": 1, "noise": 0.0, "state_clip": 1e9} | options
    found = plan("grasp", problem, WarmStart(actions, states), **options)
    return found.states, problem.model.step(states[:, :-1], actions)


def scattered(problem: Problem, size: float) -> Tensor:
    """Virtual states (B, H + 1, Z) all over the place, s_0 in its own."""
    rng = torch.Generator().manual_seed(1)
    shape = (problem.batch, problem.horizon, problem.state.shape[1])
    free = size * torch.randn(shape, generator=rng, dtype=torch.float64)
    return torch.cat([problem.state.unsqueeze(1), free], 1)


def test_a_full_step_of_sgd_moves_every_state_onto_its_prediction(
    integrator: Problem, plan: Callable[..., Plan]
) -> None:
    moved, predictions = one_step(integrator, plan, scattered(integrator, 3.0), state_lr=1.0)
    torch.testing.assert_close(moved[:, 1:], predictions)


def test_half_a_step_moves_half_the_way(integrator: Problem, plan: Callable[..., Plan]) -> None:
    states = scattered(integrator, 3.0)
    moved, predictions = one_step(integrator, plan, states, state_lr=0.5)
    torch.testing.assert_close(moved[:, 1:], 0.5 * (states[:, 1:] + predictions))


def test_the_clip_bounds_the_step_of_each_state_alone(
    drift: Any, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    problem = drifting(problem_of, drift())
    states = problem.state.unsqueeze(1).repeat(1, 5, 1)
    states[:, 2:] += 100.0  # s_2 is far from its prediction, all others sit on theirs
    states[:, 4] += 0.1
    moved, _ = one_step(problem, plan, states, state_clip=0.25)
    steps = (moved - states).norm(dim=-1)
    near = 0.1 * 2**0.5
    torch.testing.assert_close(steps[0], torch.tensor([0, 0, 0.25, 0, near]).double())


def test_actions_are_clipped_apart_from_states(
    drift: Any, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    """Adam hides the length of one step, but not of two: a clipped giant counts like the next."""
    problem = drifting(problem_of, drift())
    states = problem.state.unsqueeze(1).repeat(1, 5, 1)
    states[:, 2] += 100.0
    options = {"restarts": 1, "iterations": 2, "noise": 0.0, "state_clip": 1e9}
    start = WarmStart(states.new_zeros(2, 4, 2), states)
    # The huge gap pulls its action in the first iteration only; the state has closed it then.
    free = plan("grasp", problem, start, action_clip=1e9, **options)
    tame = plan("grasp", problem, start, action_clip=0.01, **options)
    assert not torch.allclose(free.actions, tame.actions, atol=1e-4)
    torch.testing.assert_close(free.states[:, 3], tame.states[:, 3], rtol=0, atol=0.5)


# ---- noise


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_schedules_fall_and_end(schedule: str) -> None:
    scale = [noise_scale(schedule, i / 100) for i in range(130)]
    assert scale[0] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(scale))
    assert scale[100:] == [0.0] * 30
    halfway = {"constant": 1.0, "linear": 0.5, "cosine": 0.5, "exponential": 0.082}
    assert scale[50] == pytest.approx(halfway[schedule], abs=1e-3)


@pytest.mark.parametrize(("lr", "noise", "spread"), [(1.0, 0.1, 2.5), (0.5, 0.1, 2.5), (1, 0.3, 4)])
def test_noise_is_relative_to_the_spread_and_to_the_step(
    lr: float, noise: float, spread: float, drift: Any, problem_of: Any, plan: Callable[..., Plan]
) -> None:
    """In the drift, states that start on their predictions are moved by the noise alone."""
    problem = drifting(problem_of, drift(2, spread), horizon=1000)
    still = problem.state.unsqueeze(1).repeat(1, 1001, 1)
    moved, _ = one_step(problem, plan, still, state_lr=lr, noise=noise, noise_until=1.0)
    measured = (moved - still)[0, 1:]
    assert float(measured.std()) == pytest.approx(lr * noise * spread, rel=0.05)
    assert abs(float(measured.mean())) < 0.1 * lr * noise * spread
    assert torch.equal(moved[:, 0], problem.state)


@pytest.mark.parametrize("until", [0.0, 0.25, 0.5, 1.0])
def test_there_is_no_noise_after_its_share_of_the_iterations(
    until: float, drift: Any, problem_of: Any, plan: Callable[..., Plan]
) -> None:
    problem = drifting(problem_of, drift(2, 3.0))
    found = plan("grasp", problem, iterations=20, noise=0.2, noise_until=until)
    sigma = found.diagnostics.trace["noise"]
    noisy = round(20 * until)
    assert (sigma[:noisy] > 0).all() and not sigma[noisy:].any()


def test_a_plan_of_one_iteration_does_not_end_in_noise(
    drift: Any, problem_of: Any, plan: Callable[..., Plan]
) -> None:
    problem = drifting(problem_of, drift(2, 3.0))
    still = problem.state.unsqueeze(1).repeat(1, 5, 1)
    moved, _ = one_step(problem, plan, still, noise=0.5, noise_until=0.5)
    assert torch.equal(moved, still)


def test_noise_ends_in_effect_too(
    drift: Any, problem_of: Any, plan: Callable[..., Plan], defect: Any
) -> None:
    """What two seeds do differently is noise alone; after it, states settle on predictions."""
    problem = drifting(problem_of, drift(), horizon=3)
    options = {"restarts": 1, "noise": 1.0, "state_clip": 1e9, "action_lr": 1e-12}
    noisy = plan("grasp", problem, iterations=2, noise_until=1.0, **options)
    # In a drift of three steps three quiet iterations carry s_0 through to the end.
    calm = plan("grasp", problem, iterations=8, noise_until=0.5, **options)
    assert (defect(problem.model, noisy.states, noisy.actions) > 0.1).all()
    assert (defect(problem.model, calm.states, calm.actions) < 1e-9).all()


def test_a_draw_of_the_noise_is_held(
    drift: Any, problem_of: Any, plan: Callable[..., Plan]
) -> None:
    """From states at rest, two noises n and m give s_1 = s_0 + m and s_t = s_0 + n_{t-1} + m_t."""
    problem = drifting(problem_of, drift())
    still = problem.state.unsqueeze(1).repeat(1, 5, 1)
    options = {"noise": 0.3, "noise_until": 1.0, "noise_schedule": "constant", "action_lr": 1e-12}
    first = one_step(problem, plan, still, **options)[0] - still
    held = one_step(problem, plan, still, **options, iterations=2, noise_every=2)[0] - still
    fresh = one_step(problem, plan, still, **options, iterations=2, noise_every=1)[0] - still
    torch.testing.assert_close(held[:, 1:], first[:, 1:] + first[:, :-1])
    assert ((fresh[:, 1:] - held[:, 1:]).abs() > 1e-6).all()


# ---- where states begin and end


def test_pin_replaces_the_last_state_only() -> None:
    states = torch.zeros(2, 3, 5, 4)
    goal = torch.tensor([[1.0] * 4, [2.0] * 4])
    pinned = pin(states, goal)
    assert torch.equal(pinned[..., :-1, :], states[..., :-1, :])
    assert torch.equal(pinned[:, :, -1], goal.unsqueeze(1).expand(2, 3, 4))
    assert pin(states, None) is states


@pytest.mark.parametrize("sync", [0, 2])
def test_the_last_state_stays_at_the_goal(
    sync: int, goal_task: Problem, plan: Callable[..., Plan]
) -> None:
    goal = goal_task.objective.goal()
    for i in range(1, 5):
        found = plan("grasp", goal_task, iterations=i, sync_every=sync, noise=0.5)
        assert torch.equal(found.states[:, -1], goal)
        warm = plan("grasp", goal_task, shift(found.warm_start), iterations=i, sync_every=sync)
        assert torch.equal(warm.states[:, -1], goal)


@pytest.mark.parametrize("blend", [1, 3, 5])
def test_the_surprise_is_spread_over_the_first_states(
    blend: int, drift: Any, problem_of: Callable[..., Problem]
) -> None:
    problem = drifting(problem_of, drift(), horizon=6)
    states = scattered(problem, 1.0)
    surprise = torch.tensor([[0.6, -0.3], [0.0, 1.2]], dtype=torch.float64)
    states[:, 0] -= surprise
    warm = WarmStart(torch.zeros(2, 6, 2, dtype=torch.float64), states)
    renewed, calls = renew(problem, warm, blend)
    assert calls == 0
    moved = renewed.states - states
    for t in range(7):
        share = max(0.0, 1 - t / blend)
        torch.testing.assert_close(moved[:, t], share * surprise)
    torch.testing.assert_close(renewed.states[:, 0], problem.state)
    assert torch.equal(renewed.actions, warm.actions)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_the_tail_is_filled_by_the_policy_and_the_model(
    steps: int, homing: Any, problem_of: Callable[..., Problem]
) -> None:
    problem = drifting(problem_of, homing, horizon=4)
    old = WarmStart(torch.full((2, 4, 2), 0.25, dtype=torch.float64), scattered(problem, 3.0))
    warm = shift(old, steps)
    renewed, calls = renew(problem, warm, 1)
    kept = max(0, 4 - steps)
    assert calls == 4 - kept
    assert torch.equal(renewed.actions[:, :kept], warm.actions[:, :kept])
    assert torch.equal(renewed.states[:, 1 : kept + 1], warm.states[:, 1 : kept + 1])
    for t in range(kept, 4):
        state, action = renewed.states[:, t], renewed.actions[:, t]
        torch.testing.assert_close(action, (-state).clamp(-1, 1))
        torch.testing.assert_close(renewed.states[:, t + 1], state + action)


def test_a_warm_start_without_states_is_left_alone(
    drift: Any, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    problem = drifting(problem_of, drift())
    warm = WarmStart(torch.full((2, 4, 2), 0.25, dtype=torch.float64))
    assert renew(problem, warm, 5) == (warm, 0)
    # Its states are then those of rolling its actions out.
    found = plan("grasp", problem, warm, iterations=1, restarts=1, noise=0.0)
    torch.testing.assert_close(found.states[:, 4], problem.state + 1.0)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """The virtual states that plans of GRASP begin with, and the actions beside them."""
    found = []

    def keep(problem: Problem, warm: Any, start: Start, *more: Any) -> Any:
        states, calls = initial_states(problem, warm, start, *more)
        found.append((states, start.actions))
        return states, calls

    monkeypatch.setattr("mpc.grasp.initial_states", keep)
    return found


@pytest.mark.parametrize("leads", [0, 8])
def test_actions_handed_over_alone_begin_with_the_states_of_their_rollout(
    leads: int,
    latent_task: Problem,
    plan: Callable[..., Plan],
    count_calls: Any,
    begun: list[tuple[Tensor, Tensor]],
) -> None:
    """Not with those of a lead or of the policy, whose place they take."""
    options = {"leads": leads, "restarts": 3}
    cold = plan("grasp", latent_task, **options)
    known = torch.tensor([True, False, True])
    warm = WarmStart(-cold.actions, known=known)
    calls = count_calls(latent_task.model)
    found = plan("grasp", latent_task, warm, **options)
    assert found.diagnostics.forward_calls == len(calls.rows)
    torch.testing.assert_close(found.actions[~known], cold.actions[~known])
    arguments = (latent_task.model, latent_task.objective, latent_task.discount)
    _, states = trajectory_cost(*arguments, latent_task.state, warm.actions)
    (from_cold, _), (from_warm, _) = begun
    torch.testing.assert_close(from_warm[known, 0], states[known])
    assert torch.equal(from_warm[~known], from_cold[~known])


def first_states(
    problem: Problem, kind: str, seed: int, warm: WarmStart | None = None
) -> tuple[Tensor, Start, int]:
    """Initial states of K = 3 restarts with random actions, and the calls that they took."""
    rng = torch.Generator().manual_seed(seed)
    shape = (problem.batch, 3, problem.horizon, problem.actions.dim)
    start = Start(torch.rand(shape, generator=rng, dtype=torch.float64) - 0.5, None, 0)
    draw = draw_for(problem, kind, 3, rng)
    states, calls = initial_states(problem, warm, start, kind, EAGER, draw)
    assert states.shape == (*shape[:2], problem.horizon + 1, problem.state.shape[1])
    assert torch.equal(states[:, :, 0], problem.state.unsqueeze(1).expand(-1, 3, -1))
    return states, start, calls


def test_states_from_a_rollout_have_no_defect(integrator: Problem, defect: Any) -> None:
    states, start, calls = first_states(integrator, "rollout", 0)
    assert calls == 5
    assert float(defect(integrator.model, states, start.actions).max()) < 1e-12


def test_states_from_random_actions_are_a_rollout_of_others(
    integrator: Problem, defect: Any
) -> None:
    states, start, _ = first_states(integrator, "random", 0)
    model = integrator.model
    assert (defect(model, states, start.actions) > 1e-3).all()
    # Some actions within the bounds explain them: the push is the change of speed over 0.1 s.
    push = (states[..., 1:, 1:] - states[..., :-1, 1:]) / 0.1
    assert push.abs().max() <= 1.0
    assert float(defect(model, states, push).max()) < 1e-12
    assert not torch.equal(states, first_states(integrator, "random", 1)[0])


def test_states_from_the_policys_rollout_have_no_defect_before_the_last(
    latent_task: Problem,
    plan: Callable[..., Plan],
    defect: Any,
    begun: list[tuple[Tensor, Tensor]],
) -> None:
    plan("grasp", latent_task, restarts=4)
    states, actions = begun[0]
    gaps = defect(latent_task.model, states[..., :-1, :], actions[..., :-1, :])
    assert float(gaps.max()) < 1e-9


def test_interpolated_states_lead_from_the_start_to_the_goal(
    goal_task: Problem, drift: Any, problem_of: Callable[..., Problem]
) -> None:
    quiet = problem_of(drift(2, 0.0), goal_task.state, 5, goal_task.objective)
    states, _, calls = first_states(quiet, "interpolate", 0)
    assert calls == 0
    goal = goal_task.objective.goal()
    for t in range(6):
        on_line = goal_task.state + t / 5 * (goal - goal_task.state)
        torch.testing.assert_close(states[:, 0, t], on_line)
    # With a spread the same line is noised, differently for each restart.
    noised, _, _ = first_states(goal_task, "interpolate", 0)
    assert not torch.allclose(noised[:, 0, 1:], noised[:, 1, 1:])
    centred = (noised - states)[..., 1:, :]
    assert 0.5 < float(centred.std()) < 1.5


def test_interpolation_without_a_goal_is_refused(
    integrator: Problem, plan: Callable[..., Plan]
) -> None:
    with pytest.raises(ValueError, match="'interpolate' needs an objective with a goal"):
        plan("grasp", integrator, states_init="interpolate")


def test_noised_states_lie_around_the_first_by_the_spread(
    drift: Any, problem_of: Callable[..., Problem]
) -> None:
    problem = drifting(problem_of, drift(2, 0.2), horizon=500)
    states, _, calls = first_states(problem, "noise", 0)
    assert calls == 0
    around = states - problem.state[:, None, None]
    assert float(around[0, :, 1:].std()) == pytest.approx(0.2, rel=0.05)
    assert not torch.equal(states, first_states(problem, "noise", 1)[0])


def test_warm_states_go_to_the_first_restart_of_known_rows(integrator: Problem) -> None:
    warm_states = scattered(integrator, 1.0)
    known = torch.tensor([True, False, True])
    warm = WarmStart(torch.zeros(3, 5, 1, dtype=torch.float64), warm_states, known=known)
    states, _, _ = first_states(integrator, "rollout", 0, warm)
    cold, _, _ = first_states(integrator, "rollout", 0)
    assert torch.equal(states[known, 0], warm_states[known])
    assert torch.equal(states[~known], cold[~known])
    assert torch.equal(states[:, 1:], cold[:, 1:])


# ---- sync, restarts, options


def test_sync_puts_the_states_on_the_rollout(
    integrator: Problem, plan: Callable[..., Plan], defect: Any
) -> None:
    """After an iteration that ends in a sync there is no defect; without one there is."""
    options = {"iterations": 4, "noise": 0.5, "noise_until": 1.0}
    synced = plan("grasp", integrator, sync_every=2, select="rollout", **options)
    loose = plan("grasp", integrator, **options)
    assert (defect(integrator.model, synced.states, synced.actions) < 1e-12).all()
    assert (defect(integrator.model, loose.states, loose.actions) > 1e-3).all()


def test_sync_lowers_the_cost(integrator: Problem, plan: Callable[..., Plan]) -> None:
    options = {"iterations": 6, "restarts": 1}
    loose = plan("grasp", integrator, **options)
    synced = plan("grasp", integrator, sync_every=3, sync_steps=10, **options)
    assert (synced.cost < loose.cost).all()


def test_without_values_every_iteration_ends_in_a_sync(
    integrator: Problem, plan: Callable[..., Plan], problem_of: Callable[..., Problem]
) -> None:
    """With them plans are never synchronised, unless told to."""
    state = torch.tensor([[1.0, 0.5, 0.0, 0.0], [-1.0, 0.2, 0.0, 0.0]], dtype=torch.float64)
    around = problem_of(PointMass(), state, 5, GoalDistance(-state))
    for problem, every in ((around, 1), (integrator, 0)):
        assert problem.model.supports("value") == (not every)
        options = {"iterations": 3, "select": "auto"}
        left = plan("grasp", problem, sync_every=None, **options)
        told = plan("grasp", problem, sync_every=every, **options)
        other = plan("grasp", problem, sync_every=1 - every, **options)
        assert torch.equal(left.actions, told.actions)
        assert not torch.equal(left.actions, other.actions)


def test_the_best_restart_by_the_true_rollout_is_returned(
    integrator: Problem, plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    def keep(*arguments: Any) -> Any:
        result = trajectory_cost(*arguments)
        scored.append(result[0])
        return result

    monkeypatch.setattr("mpc.rollout.EAGER", EAGER._replace(cost=keep))
    found = plan("grasp", integrator, restarts=5, states_init="noise", select="rollout")
    assert scored[-1].shape == (3, 10)
    torch.testing.assert_close(found.cost, scored[-1].min(1).values)
    assert not torch.allclose(scored[-1].min(1).values, scored[-1].max(1).values)


@pytest.mark.parametrize("select", ["rollout", "lookahead"])
def test_no_plan_is_worse_than_its_warm_start(
    select: str, integrator: Problem, plan: Callable[..., Plan]
) -> None:
    """Wild steps from a good plan lead away from it; the plan stays."""
    good = plan("gradient", integrator, iterations=200)
    wild = {"action_lr": 3.0, "noise": 1.0, "restarts": 1, "lead_steps": integrator.horizon}
    kept = plan("grasp", integrator, good.warm_start, select=select, **wild)
    torch.testing.assert_close(kept.cost, good.cost)
    torch.testing.assert_close(kept.actions, good.actions)
    # By the lifted cost alone the wild one would have been taken.
    lost = plan("grasp", integrator, good.warm_start, **wild)
    true, _ = trajectory_cost(
        integrator.model, integrator.objective, 1.0, integrator.state, lost.actions
    )
    assert (true > good.cost + 0.1).any() and (true >= good.cost - 1e-9).all()


def test_the_lifted_cost_of_a_rollout_is_its_cost() -> None:
    """And off the rollout it is what the states promise plus the gaps between them."""
    lift = Lift()
    model = Fading()
    arguments, window = (model, lift.objective, DISCOUNT), lift.states[:, 0, 0]
    cost, states = trajectory_cost(*arguments, lift.states[:, :, 0], lift.actions)
    found = lifted_cost(*arguments, LiftedConfig(), window, states, lift.actions)
    torch.testing.assert_close(found, cost)
    promised, gaps, weight = 0.0, 0.0, 1.0
    for t in range(3):
        state, after = lift.states[:, :, t], lift.states[:, :, t + 1]
        move = model.predict(state, lift.actions[:, :, t])
        promised = promised + weight * lift.objective.stage(move._replace(next=after))
        gaps = gaps + distance("huber", move.next, after)
        weight = weight * DISCOUNT * move.continues
    promised = promised + weight * lift.objective.terminal(model, after)
    cfg = LiftedConfig(distance="huber", defect=3.0)
    found = lifted_cost(*arguments, cfg, window, lift.states, lift.actions)
    torch.testing.assert_close(found, promised + 3.0 * gaps)
    # It is also what the loss of plain collocation is made of.
    lift.model = model
    parts = lift.lifted(LiftedConfig(shaping=0.0, path_cost=2.0), lift.states, lift.actions)
    torch.testing.assert_close(parts.path_cost, promised)
    torch.testing.assert_close(parts.loss, parts.distance + 2.0 * promised)


@pytest.mark.parametrize("span", [1, 2, 8])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_a_lookahead_is_the_cost_of_a_short_plan_from_every_virtual_state(
    steps: int, span: int
) -> None:
    """Of one step where the span has ended."""
    lift = Lift()
    lift.model = Fading()
    expected = 0.0
    for t in range(3):
        actions = lift.actions[:, :, t : t + (steps if t < span else 1)]
        start = lift.states[:, :, t]
        expected += trajectory_cost(lift.model, lift.objective, DISCOUNT, start, actions)[0]
    cfg = LiftedConfig(lookahead=steps, lookahead_span=span)
    found = lift.lifted(cfg, lift.states, lift.actions)
    torch.testing.assert_close(found.shaping, expected)


def test_a_lookahead_over_the_whole_plan_from_its_start_is_direct_backpropagation(
    integrator: Problem, plan: Callable[..., Plan]
) -> None:
    """With virtual states that the shaping alone does not move, a_0 sees all that follows it."""
    lift = Lift()
    actions = lift.actions.clone().requires_grad_()
    cost = trajectory_cost(lift.model, lift.objective, DISCOUNT, lift.states[:, :, 0], actions)[0]
    (whole,) = torch.autograd.grad(cost.sum(), actions)
    cfg = LiftedConfig(lookahead=3, defect=0.0)
    loss = lift.lifted(cfg, lift.states, actions).loss
    (lifted,) = torch.autograd.grad(loss.sum(), actions)
    torch.testing.assert_close(lifted[:, :, 0], whole[:, :, 0])
    # One step sees one step: on the integrator, longer lookaheads find better plans.
    options = {"restarts": 1, "iterations": 60, "noise": 0.0, "select": "rollout"}
    costs = [plan("grasp", integrator, lookahead=n, **options).cost.mean() for n in (1, 5)]
    best = plan("gradient", integrator, iterations=300, restarts=1).cost.mean()
    assert abs(costs[1] - best) < 0.02 * abs(best)
    assert costs[0] > costs[1]


def test_the_cheapest_restart_by_the_lifted_cost_is_returned(
    integrator: Problem, plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = []

    def keep(*arguments: Any) -> Any:
        scored.append((arguments, lifted_cost(*arguments)))
        return scored[-1][1]

    monkeypatch.setattr("mpc.grasp.lifted_cost", keep)
    found = plan("grasp", integrator, restarts=5, states_init="noise")
    (*_, actions), cost = scored[0]
    torch.testing.assert_close(found.cost, cost.min(1).values)
    assert torch.equal(found.actions, actions[torch.arange(3), cost.argmin(1)])
    assert not torch.allclose(cost.min(1).values, cost.max(1).values)


def test_more_iterations_close_the_defect(integrator: Problem, plan: Callable[..., Plan]) -> None:
    options = {"restarts": 1, "states_init": "noise", "noise": 0.0}
    defects = [
        plan("grasp", integrator, iterations=n, **options).diagnostics.defect.mean()
        for n in (1, 10, 50)
    ]
    assert defects[0] > 10 * defects[1] and defects[1] > defects[2]


@pytest.fixture
def reach(drift: Any, problem_of: Callable[..., Problem], plan: Callable[..., Plan]) -> Any:
    """`reach(**options)`: a plan to a goal 4 steps away at most, by closing the defect alone."""
    start = torch.tensor([[1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    goal = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=torch.float64)
    problem = problem_of(drift(), start, 4, GoalDistance(goal))
    assert (plan("zero", problem).cost > 4.0).all()
    fixed = {"iterations": 300, "restarts": 1, "action_lr": 0.05, "noise": 0.0, "shaping": 0.0}
    return lambda **options: plan("grasp", problem, **fixed, **options)


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.4), ("adam", 0.02)])
def test_collocation_reaches_the_goal(optimizer: str, lr: float, reach: Any) -> None:
    """The full gradient without shaping, noise or sync is the plain baseline."""
    found = reach(stop_gradient=False, state_optimizer=optimizer, state_lr=lr)
    assert (found.cost < 1e-2).all()
    assert (found.diagnostics.defect < 1e-2).all()


def test_latco_is_that_collocation(integrator: Problem, plan: Callable[..., Plan]) -> None:
    """Near the optimum where it may take its time, and by the gradient of path and defects."""
    best = plan("gradient", integrator, iterations=300, restarts=1).cost
    found = plan("latco", integrator, iterations=400, restarts=1, defect=100.0, state_lr=0.02)
    assert (found.cost < best + 0.05 * best.abs()).all()
    same = {"noise": 0.0, "shaping": 0.0, "path_cost": 1.0, "defect": 10.0, "lookahead": 1}
    same |= {"stop_gradient": False, "state_optimizer": "adam", "state_lr": 0.05}
    same |= {"iterations": 20, "restarts": 3, "init_std": 0.3, "action_lr": 0.1}
    same |= {"select": "rollout"}
    twin = plan("grasp", integrator, **same)
    assert torch.equal(plan("latco", integrator).actions, twin.actions)


def test_with_stop_gradient_a_goal_alone_pulls_on_the_last_action_alone(reach: Any) -> None:
    """A state moves because of the prediction before it, so nothing travels back in time."""
    found = reach(stop_gradient=True)
    assert not found.actions[:, :-1].any()
    torch.testing.assert_close(found.actions[0, -1], torch.tensor([-1.0, 1.0]).double())


# ---- the rest of the options


def test_a_warm_plan_without_sync_makes_no_call_in_sequence(
    latent_task: Problem, plan: Callable[..., Plan], count_calls: Any
) -> None:
    """One step for the tail, iterations, the choice by the first lookahead, the defect.

    Only a lookahead and what it is compared by are made in sequence, as long whatever the horizon.
    """
    warm = shift(plan("grasp", latent_task, select="auto").warm_start)
    calls = count_calls(latent_task.model)
    found = plan("grasp", latent_task, warm, select="auto", restarts=4, iterations=3, leads=10)
    assert calls.rows == [3] + [3 * 10] + [3 * 4 * 5] * 3 + [3 * 8] * 6 + [3 * 5]
    assert found.diagnostics.forward_calls == 12
    calls.rows.clear()
    ahead = {"select": "auto", "iterations": 2, "lookahead": 3, "lead_steps": 3, "select_steps": 8}
    found = plan("grasp", latent_task, warm, leads=10, **ahead)
    # Leads of the other restarts; the last two lookaheads end with the plan.
    leading = [3 * 10] * 3
    assert calls.rows == [3] + leading + [60, 48, 36] * 2 + [3 * 8] * 8 + [3 * 5]
    assert found.diagnostics.backward_calls == 6
    short = len(calls.rows)
    longer = replace(latent_task, horizon=40)
    warm_long = shift(plan("grasp", longer).warm_start)
    calls.rows.clear()
    plan("grasp", longer, warm_long, **ahead)
    assert len(calls.rows) == short, "not one call more for a plan eight times as long"
    # Cold plans, and plans with sync, are chosen by their rollout.
    calls.rows.clear()
    plan("grasp", latent_task, None, select="auto", restarts=4, iterations=3)
    assert calls.rows == [3 * 32] * 5 + [3 * 4 * 5] * 3 + [3 * 8] * 5 + [3 * 5]
    calls.rows.clear()
    plan("grasp", latent_task, warm, select="auto", iterations=2, restarts=1, sync_every=2)
    assert calls.rows == [3] + [3 * 5] * 2 + [3] * 5 + [3 * 2] * 5 + [3 * 5]


class Detour(TemporalDistance):
    """A distance of places x on a line that rises from 10 at 0 to 14 at 4; at 8 it is 6."""

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        x = z[..., 0]
        return torch.where(x < 4.0, 10.0 + x, 22.0 - 2.0 * x)


def test_where_only_the_end_counts_a_warm_plan_goes_a_long_way_round(
    homing: Any, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    """To stay is best for any lookahead, the warm plan for all of its eight control steps."""
    objective = Detour(torch.zeros(3, 2).double())
    problem = problem_of(homing, torch.zeros(3, 2).double(), 8, objective)
    away = torch.zeros(3, 8, 2).double()
    away[..., 0] = 1.0
    _, states = trajectory_cost(homing, objective, 1.0, problem.state, away)
    options = {**PLAIN, "lookahead": 3, "restarts": 2, "init_std": 0.0, "lead_std": 0.0}
    options |= {"iterations": 1, "noise": 0.0, "action_lr": 1e-6}
    first = {
        select: plan(
            "grasp", problem, WarmStart(away, states), **options | {"select": select}
        ).actions[:, 0, 0]
        for select in ("auto", "lookahead")
    }
    torch.testing.assert_close(first["auto"], torch.ones(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(first["lookahead"], torch.zeros(3).double(), atol=1e-4, rtol=0)


class Ledge(TemporalDistance):
    """Places x on a line: 5 up to 2, then 20, but for 0 on a ledge of a width of 0.1 at 4."""

    def terminal(self, model: WorldModel, z: Tensor) -> Tensor:
        x = z[..., 0]
        beyond = torch.where((x - 4.0).abs() < 0.05, 0.0, 20.0)
        return torch.where(x < 2.0, 5.0, beyond)


def test_plans_executed_without_looking_are_chosen_by_what_they_cost_when_actions_err(
    homing: Any, problem_of: Callable[..., Problem], plan: Callable[..., Plan]
) -> None:
    """The warm plan leads onto the ledge, the policy stays where no noise does harm."""
    objective = Ledge(torch.zeros(3, 2).double())
    problem = problem_of(homing, torch.zeros(3, 2).double(), 8, objective)
    away = torch.zeros(3, 8, 2).double()
    away[..., 0] = 0.5
    options = {"restarts": 2, "init_std": 0.0, "iterations": 1, "noise": 0.0, "action_lr": 1e-9}
    options |= {"select": "rollout", "lead_std": 0.0}

    def end(executed: int, **changed: Any) -> Plan:
        blind = replace(problem, executed=executed)
        return plan("grasp", blind, WarmStart(away), **{**options, **changed})

    on_the_ledge = torch.full((3,), 4.0).double()
    for found in (end(1), end(8, select_std=0.0)):
        torch.testing.assert_close(found.actions[..., 0].sum(1), on_the_ledge, atol=1e-3, rtol=0)
    safe = end(8)
    torch.testing.assert_close(safe.actions[..., 0].sum(1), 0 * on_the_ledge, atol=1e-3, rtol=0)
    torch.testing.assert_close(safe.cost, 0 * on_the_ledge + 5.0)  # as it is, not under noise
    # The rollouts under noise are rows of model calls that are made anyway.
    assert safe.diagnostics.forward_calls == end(1).diagnostics.forward_calls


@pytest.mark.parametrize("select", ["lookahead", "rollout"])
@pytest.mark.parametrize("cold", [False, True])
def test_wide_leads_find_what_policy_and_warm_start_miss(
    select: str, cold: bool, latent_task: Problem, plan: Callable[..., Plan]
) -> None:
    """With steps too short to matter, the plan is as good as the best lead."""
    options = {"select": select, "lead_steps": 3, "iterations": 1, "action_lr": 1e-6}
    warm = None if cold else shift(plan("grasp", latent_task, **options).warm_start)
    cost = {
        (leads, std): plan("grasp", latent_task, warm, leads=leads, lead_std=std, **options).cost
        for leads, std in ((64, 0.0), (4, 1.0), (64, 1.0))
    }
    assert (cost[64, 1.0] < cost[64, 0.0]).all(), "noise finds better than the mode alone"
    assert cost[64, 1.0].sum() < cost[4, 1.0].sum(), "more leads find better"


def test_without_leads_restarts_lie_around_the_policy(
    latent_task: Problem, plan: Callable[..., Plan]
) -> None:
    """With no spread either, all are the policy's mode, whose steps are too short to matter."""
    options = {"leads": 0, "iterations": 1, "action_lr": 1e-6, "init_std": 0.0, "sync_every": 0}
    z = latent_task.state
    found = plan("grasp", latent_task, **options)
    for step in range(latent_task.horizon):
        action = latent_task.model.policy(z)
        torch.testing.assert_close(found.actions[:, step], action, atol=1e-4, rtol=0)
        z = latent_task.model.step(z, action)


def test_a_single_wrong_value_attracts_no_plan_that_is_compared_further(
    drift: Any, plan: Callable[..., Plan], problem_of: Callable[..., Problem]
) -> None:
    """At 1, where the warm start stays, the value promises 2 too much; the policy goes to 0."""

    class Promising(type(drift())):
        def reward(self, z: Tensor, a: Tensor) -> Tensor:
            return -z[..., 0].square()

        def value(self, z: Tensor) -> Tensor:
            return 2.0 * ((z[..., 0] - 1.0).abs() < 0.3) - z[..., 0].square()

        def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
            return (-z).clamp(-1, 1)

    one = torch.ones(1, 1, dtype=torch.float64)
    problem = problem_of(Promising(1), one, 2, Reward(), 0.9)
    stay = WarmStart(torch.zeros(1, 2, 1).double(), torch.ones(1, 3, 1).double())
    options = {"select": "lookahead", "lookahead": 1, "lead_std": 0.0, "action_lr": 1e-6}
    for steps, end in ((0, 1.0), (5, 0.0)):
        found = plan("grasp", problem, stay, select_steps=steps, **options)
        torch.testing.assert_close(one[0] + found.actions[0, 0], one[0] * end, atol=1e-3, rtol=0)


def test_a_plan_leaves_the_policy_only_for_more_than_the_margin(
    latent_task: Problem, plan: Callable[..., Plan]
) -> None:
    model = latent_task.model
    options = {"select": "lookahead", "lead_steps": 3, "iterations": 2, "select_steps": 0}
    warm = shift(plan("grasp", latent_task, **options).warm_start)
    free, bound = (plan("grasp", latent_task, warm, margin=m, **options) for m in (1e-9, 1e9))
    z, cost = latent_task.state, []
    for step in range(3):
        torch.testing.assert_close(bound.actions[:, step], model.policy(z))
        z = model.step(z, bound.actions[:, step])
    for found in (free, bound):
        arguments = (model, latent_task.objective, latent_task.discount, latent_task.state)
        cost.append(trajectory_cost(*arguments, found.actions[:, :3])[0].detach())
        torch.testing.assert_close(found.cost, cost[-1])  # what it costs, without the margin
    gain = cost[1] - cost[0]
    assert (gain > 0).all()
    margin = float(gain.sort().values[1:].mean())  # between the two largest gains
    one = plan("grasp", latent_task, warm, margin=margin, **options)
    torch.testing.assert_close(one.cost, torch.where(gain > margin, *cost))


@pytest.mark.parametrize("tail", ["repeat", "zero"])
def test_other_tails(tail: str, homing: Any, problem_of: Callable[..., Problem]) -> None:
    problem = drifting(problem_of, homing)
    old = WarmStart(torch.rand(2, 4, 2).double(), scattered(problem, 1.0))
    renewed, calls = renew(problem, shift(old, 2), 1, tail)
    assert calls == 2
    expected = 0.0 * old.actions[:, -1] if tail == "zero" else old.actions[:, -1]
    for t in (2, 3):
        assert torch.equal(renewed.actions[:, t], expected)
        torch.testing.assert_close(renewed.states[:, t + 1], renewed.states[:, t] + expected)


def test_moments_go_on_where_they_were(integrator: Problem, plan: Callable[..., Plan]) -> None:
    """Two plans of n iterations that hand their moments on are one plan of 2 n iterations."""
    options = {"restarts": 1, "noise": 0.0, "final_lr": 1.0, "state_optimizer": "adam"}
    whole = plan("grasp", integrator, iterations=8, **options)
    halves = {}
    for keep in (True, False):
        first = plan("grasp", integrator, iterations=4, keep_moments=keep, **options)
        warm = first.warm_start
        halves[keep] = plan("grasp", integrator, warm, iterations=4, keep_moments=keep, **options)
    torch.testing.assert_close(halves[True].actions, whole.actions)
    torch.testing.assert_close(halves[True].states, whole.states)
    assert not torch.allclose(halves[False].actions, whole.actions, atol=1e-3)


def test_moments_of_forgotten_rows_start_afresh(
    integrator: Problem, plan: Callable[..., Plan]
) -> None:
    options = {"restarts": 2, "keep_moments": True, "select": "auto"}
    warm = plan("grasp", integrator, **options).warm_start
    known = torch.tensor([True, False, True])
    mixed = plan("grasp", integrator, replace(warm, known=known), **options)
    for start, rows in ((warm, known), (None, ~known)):
        alone = plan("grasp", integrator, start, **options)
        assert torch.equal(mixed.actions[rows], alone.actions[rows])
        for name, x in mixed.warm_start.moments.items():
            assert torch.equal(x[rows], alone.warm_start.moments[name][rows])


def test_iterations_end_when_the_loss_settles(
    integrator: Problem, plan: Callable[..., Plan]
) -> None:
    options = {"iterations": 400, "noise": 0.0, "restarts": 2}
    early = plan("grasp", integrator, tolerance=1e-3, **options)
    late = plan("grasp", integrator, **options)
    assert 2 < early.diagnostics.iterations < late.diagnostics.iterations == 400
    loss = early.diagnostics.trace["loss"]
    assert len(loss) == early.diagnostics.iterations
    assert abs(loss[-1] - loss[-2]) <= 1e-3 * abs(loss[-2])
    assert (early.cost - late.cost).abs().max() < 0.05 * late.cost.abs().max()


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": 1e-3, "keep_moments": True, "state_optimizer": "adam", "state_lr": 0.1},
        {"select": "rollout", "sync_every": 7},
        {"noise": 0.1, "noise_until": 0.05},
    ],
    ids=["moments", "sync", "noise"],
)
def test_each_problem_of_a_batch_settles_by_itself(
    options: dict[str, Any],
    integrator: Problem,
    plan: Callable[..., Plan],
    rng: Callable[[int], torch.Generator],
) -> None:
    """Problems that end after fewer iterations are left as they were then."""
    fixed = {**PLAIN, "iterations": 400, "noise": 0.0, "restarts": 2, "tolerance": 1e-2}
    planner = make_planner("grasp", horizon=integrator.horizon, **{**fixed, **options})
    several = replace(integrator, executed=2)

    def solve(problem: Problem) -> tuple[Plan, Tensor]:
        numbers = rng(0)
        return planner.plan(problem, None, numbers), numbers.get_state()

    together, drawn = solve(several)
    counts = []
    for b in range(several.batch):
        alone, drawn_alone = solve(replace(several, state=several.state[b : b + 1]))
        counts.append(alone.diagnostics.iterations)
        assert torch.equal(drawn_alone, drawn)
        torch.testing.assert_close(together.actions[b], alone.actions[0])
        torch.testing.assert_close(together.states[b], alone.states[0])
        torch.testing.assert_close(together.cost[b], alone.cost[0])
        for name, x in alone.warm_start.moments.items():
            torch.testing.assert_close(together.warm_start.moments[name][b], x[0])
    assert min(counts) < max(counts) == together.diagnostics.iterations


@pytest.mark.parametrize("name", ["cem", "gradient"])
def test_any_planner_may_do_the_sync(
    name: str, integrator: Problem, plan: Callable[..., Plan], count_calls: Any
) -> None:
    """The cheapest restart is improved by it, and the calls it makes are counted."""
    options = {"iterations": 2, "sync_every": 2, "sync_steps": 5, "select": "rollout"}
    loose = plan("grasp", integrator, iterations=2, select="rollout")
    calls = count_calls(integrator.model)
    synced = plan("grasp", integrator, sync_planner=name, **options)
    assert (synced.cost < loose.cost - 0.01).all()
    assert synced.diagnostics.forward_calls == len(calls.rows)
    assert synced.diagnostics.backward_calls == sum(calls.differentiated)


REFUSED = {
    "horizon": [0],
    "deadline_ms": [0.0, -1.0],
    "max_batch": [0],
    "chunk": [0],
    "overlap": [-1, 200],
    "iterations": [0],
    "tolerance": [-0.1],
    "defect": [-1.0],
    "lookahead": [0],
    "lookahead_span": [0],
    "path_cost": [-1.0],
    "sync_planner": ["simplex"],
    "tail": ["random"],
    "restarts": [0, -1],
    "init_std": [-0.1],
    "leads": [-1],
    "lead_std": [-0.1],
    "lead_steps": [0],
    "lead_elites": [0],
    "margin": [-0.1],
    "action_lr": [0.0, -1.0, float("nan")],
    "final_lr": [-0.1, 1.1],
    "action_clip": [0.0],
    "states_init": ["rolout", ""],
    "distance": ["l2"],
    "shaping": [-1.0],
    "state_optimizer": ["lbfgs"],
    "state_lr": [0.0],
    "state_clip": [0.0, -2.0],
    "noise": [-0.1, float("nan")],
    "noise_schedule": ["quadratic"],
    "noise_until": [-0.1, 1.5],
    "noise_every": [0],
    "sync_every": [-1],
    "sync_steps": [0],
    "select": ["cheapest"],
    "select_steps": [-1],
    "select_decay": [-0.1, 1.1],
    "select_std": [-0.1],
    "select_draws": [0],
    "blend": [0],
}


@pytest.mark.parametrize(
    ("option", "value"), [(option, v) for option, values in REFUSED.items() for v in values]
)
def test_nonsense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"planner 'grasp': {option} must be .*, got {value!r}"):
        make_planner("grasp", **{option: value})


def test_every_option_is_either_checked_or_a_switch() -> None:
    switches = {"compile", "stop_gradient", "keep_moments"}
    assert set(GraspConfig.options()) == {*REFUSED, *switches}


def test_huber_is_torchs_with_threshold_one() -> None:
    x, y = torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0])
    expected = F.smooth_l1_loss(x, y, reduction="sum")
    torch.testing.assert_close(distance("huber", x, y), expected)
