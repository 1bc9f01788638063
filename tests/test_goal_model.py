"""The goal-conditioned model: its data, distances, losses, and planning towards goals."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from agents import MPCAgent
from mpc import (
    BoxActions,
    Disagreement,
    GoalDistance,
    Problem,
    TemporalDistance,
    Transition,
    Weighted,
    WorldModel,
    make_planner,
    trajectory_cost,
)
from mpc.bounded import Bounded
from world_models import (
    GOAL_METRICS,
    Episode,
    GoalLossConfig,
    GoalModel,
    GoalModelConfig,
    GoalTrainer,
    Trajectories,
    window_length,
)
from world_models.goal import PLACES, effective_rank, gaps
from world_models.networks import with_octaves

TINY = GoalModelConfig(latent_dim=8, hidden_dim=32)
REACH = 0.1  # how far an action of 1 moves the point of `walks`
SMALL = GoalLossConfig(compile=False, batch_size=32)


def walks(count: int, steps: int, seed: int = 0) -> list[Episode]:
    """A point on a line, x' = x + 0.1 a, moved at random, more to one side."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        drift = 2 * torch.rand(1, generator=rng) - 1  # so that it gets somewhere
        actions = (drift + torch.randn(steps, 1, generator=rng)).clamp(-1, 1)
        start = 4 * torch.rand(1, 1, generator=rng) - 2
        obs = torch.cat([start, start + REACH * actions.cumsum(0)])
        found.append(Episode(obs, actions, torch.zeros(steps), False))
    return found


def make(config: GoalModelConfig = TINY, obs_dim: int = 1) -> GoalModel:
    torch.manual_seed(0)
    return GoalModel(obs_dim, 1, config)


def test_windows_and_goals_come_from_where_they_should() -> None:
    episodes = walks(5, 12)
    data = Trajectories(episodes, length=4, seed=0)
    assert data.windows == 5 * (12 - 4 + 1)
    batch = data.sample(2000, unrolled=3, here=0.2, ahead=0.5, discount=0.9)
    assert batch.obs.shape == (5, 2000, 1) and batch.actions.shape == (4, 2000, 1)
    # A window that crossed from one episode to another would jump.
    moved = batch.obs[1:] - batch.obs[:-1]
    torch.testing.assert_close(moved, REACH * batch.actions, atol=1e-5, rtol=0)
    base = batch.obs[1]  # the last but three
    here = batch.ahead == 0
    assert torch.equal(batch.goals[here], base[here])
    next_one = batch.ahead == 1
    assert next_one.any() and torch.equal(batch.goals[next_one], batch.obs[2][next_one])
    assert 0.15 < here.float().mean() < 0.27  # of any goals, a few are the present state
    assert 0.4 < (batch.ahead > 0).float().mean() < 0.65
    assert int(batch.ahead.max()) <= 12


def test_a_seed_repeats_the_draws_and_other_data_has_another_hash() -> None:
    one, same = (Trajectories(walks(3, 8), 2, seed=4) for _ in range(2))
    for a, b in zip(one.sample(9, 1, 0.1, 0.5, 0.9), same.sample(9, 1, 0.1, 0.5, 0.9), strict=True):
        assert torch.equal(a, b)
    assert one.hash == same.hash != Trajectories(walks(3, 8, seed=1), 2, seed=4).hash


def test_pictures_are_stacked_within_their_episode() -> None:
    episodes = [
        Episode(torch.full((4, 2), 10 * k) + torch.arange(4)[:, None], *rest)
        for k, rest in enumerate([(torch.zeros(3, 1), torch.zeros(3), False)] * 2, 1)
    ]
    data = Trajectories(episodes, 2, 0, pictures=3)
    seen = data._observed(torch.tensor([4, 5, 7]))[:, ::2]  # one number of each picture
    assert seen.tolist() == [[20, 20, 20], [20, 20, 21], [21, 22, 23]]


def test_episodes_without_a_control_step_are_left_out() -> None:
    first, empty, last = *walks(1, 8), *walks(1, 0), *walks(1, 8, seed=1)
    data, same = (Trajectories(x, 2, 0) for x in ([first, empty, last, empty], [first, last]))
    assert data.hash == same.hash and data.windows == same.windows == 14
    one, again = (record.sample(99, 1, 0.1, 0.5, 0.9) for record in (data, same))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))


def test_episodes_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a window takes 9 control steps, the longest .* has 8"):
        Trajectories(walks(3, 8), 9, 0)


def test_distances_are_a_quasimetric_whatever_the_network() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 500, 2 * PLACES)
    assert (gaps(a, c) <= gaps(a, b) + gaps(b, c) + 1e-3).all()
    assert (gaps(a, a) < 0.02).all() and (gaps(a, b) > 0).all()
    assert not torch.allclose(gaps(a, b), gaps(b, a))


def test_octaves_are_waves_beside_the_numbers() -> None:
    x = torch.tensor([[0.3, -1.0]])
    waves = [f(x * period) for period in (math.pi / 2, math.pi) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(with_octaves(x, 2), torch.cat([x, *waves], -1))
    assert torch.equal(with_octaves(x, 0), x)


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    one = torch.randn(1000, 1) * torch.randn(1, 16)
    assert float(effective_rank(one)) == pytest.approx(1.0, abs=1e-3)
    assert float(effective_rank(torch.randn(4000, 16))) > 15.9


@pytest.fixture(scope="module")
def trained() -> GoalModel:
    """A model of the point on a line."""
    model = make()
    trainer = GoalTrainer(model, SMALL)
    data = Trajectories(walks(100, 60), window_length(model, SMALL), 0)
    model.fit(data.examples(1000))
    first = None
    for i in range(2500):
        losses = trainer.update(trainer.draw(data), i / 2500)
        first = losses if first is None else first
    assert first is not None
    names = dict(zip(GOAL_METRICS, zip(first.tolist(), losses.tolist(), strict=True), strict=True))
    for name in ("prediction", "reconstruction", "inverse"):
        assert names[name][1] < 0.2 * names[name][0], name
    return model


def places(*x: float) -> Tensor:
    return torch.tensor(x).unsqueeze(-1)


def test_distance_is_the_number_of_control_steps(trained: GoalModel) -> None:
    x = torch.linspace(-1.5, 1.5, 13).unsqueeze(-1)
    with torch.no_grad():
        z = trained.encode(x)
        found = trained.distance(z.unsqueeze(1), z.unsqueeze(0))
    truth = (x - x.T).abs() / REACH
    both = torch.stack([found.flatten(), truth.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95
    # Random actions are half as fast as the best; better recorded ways count more, not alone.
    far = truth > 5
    assert 0.8 < float((found[far] / truth[far]).mean()) < 1.8


def test_decoder_and_step_say_where_the_point_goes(trained: GoalModel) -> None:
    with torch.no_grad():
        z = trained.encode(places(-0.5, 0.0, 0.5))
        for _ in range(5):
            z = trained.step(z, torch.ones(3, 1))
        torch.testing.assert_close(trained.decode(z), places(0.0, 0.5, 1.0), atol=0.08, rtol=0)


@pytest.mark.parametrize("name", ["grasp", "cem", "gradient", "mppi", "policy"])
def test_agents_reach_goals_on_either_side(trained: GoalModel, name: str) -> None:
    goals = places(-1.0, 1.0)
    with torch.no_grad():
        target = trained.encode(goals)
    planner = make_planner(name, horizon=5)
    model = trained.frozen().towards(target)
    agent = MPCAgent(model, planner, TemporalDistance(target), 1.0)
    memory, x = agent.start(0), torch.zeros(2, 1)
    for _ in range(25):
        actions, memory = agent.act(x.numpy(), memory)
        x = x + REACH * torch.from_numpy(actions)
    torch.testing.assert_close(x, goals, atol=0.15, rtol=0)


def test_a_temporal_distance_judges_what_a_latent_distance_does_not(trained: GoalModel) -> None:
    target = trained.encode(places(1.0)).detach()
    state = trained.encode(places(0.0)).detach()
    for objective, judged in ((TemporalDistance(target), True), (GoalDistance(target), False)):
        problem = Problem(trained, objective, state, 3, trained.action_space)
        assert problem.judged is judged


def test_a_policy_prior_leads_each_problem_to_its_goal(trained: GoalModel) -> None:
    with torch.no_grad():
        model = trained.towards(trained.encode(places(-1.0, 1.0)))
        z = trained.encode(torch.zeros(2, 4, 1))
        actions = model.policy(z)
        noisy = model.policy(z, torch.ones_like(actions))
        for bounded in (Bounded(model, 3), Bounded(Bounded(model, 3), 2)):
            torch.testing.assert_close(bounded.policy(z), actions)
            torch.testing.assert_close(bounded.policy(z, torch.ones_like(actions)), noisy)
    assert actions.shape == (2, 4, 1)
    assert (actions[0] < -0.1).all() and (actions[1] > 0.1).all()
    assert (noisy >= actions).all() and noisy.max() <= 1.0


@pytest.mark.parametrize("history", [1, 2])
def test_members_of_an_ensemble_are_unrolled_apart_and_planned_with_together(history: int) -> None:
    model = make(GoalModelConfig(latent_dim=8, hidden_dim=16, history=history, ensemble=3))
    z, a = torch.randn(4, 8 * history), torch.rand(4, 1)
    each = model.step_each(z.expand(3, *z.shape), a)
    move = model.predict(z, a)
    torch.testing.assert_close(move.next, each.mean(0))
    assert torch.equal(move.next, model.step(z, a))
    deviation = (each - each.mean(0)).square().sum(0) / 2
    assert move.disagreement is not None
    torch.testing.assert_close(move.disagreement, deviation.mean(-1).sqrt() / model.spread)
    other = model.step_each(torch.stack([z, 0 * z, z]), a)  # a window of its own for each
    assert torch.equal(other[0], each[0]) and not torch.allclose(other[1], each[1])
    assert make().predict(z[:, :8], a).disagreement is None


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("objective", [TemporalDistance, GoalDistance])
@pytest.mark.parametrize("name", ["grasp", "gradient", "cem", "mppi", "policy"])
def test_a_bounded_plan_leads_each_problem_to_its_own_goal(
    name: str, objective: Any, rows: int, rng: Callable[[int], torch.Generator]
) -> None:
    model = make().double().requires_grad_(False)
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.4, generator=rng(i))
    goals, state = model.encode(torch.randn(2, 3, 1, generator=rng(99), dtype=torch.float64))
    problem = Problem(model.towards(goals), objective(goals), state, 4, model.action_space)
    of = {"samples": 16, "policy_samples": 4, "elites": 4} if name in ("cem", "mppi") else {}
    whole, pieces = (
        make_planner(name, horizon=4, max_batch=bound, **of).plan(problem, None, rng(0))
        for bound in (None, rows)
    )
    torch.testing.assert_close(pieces.actions, whole.actions)
    torch.testing.assert_close(pieces.cost, whole.cost)
    torch.testing.assert_close(pieces.states, whole.states)


def test_members_disagree_where_there_is_no_data() -> None:
    loss = replace(SMALL, distance=0.0, policy=0.0)
    model = make(replace(TINY, ensemble=3))
    trainer = GoalTrainer(model, loss)
    data = Trajectories(walks(100, 60), window_length(model, loss), 0)
    model.fit(data.examples(1000))
    for i in range(600):
        trainer.update(trainer.draw(data), i / 600)
    with torch.no_grad():
        z = model.encode(data.examples(500))
        strange = 3.0 * z.std(0) * torch.randn(500, 8)  # latents of no observation at all
        action = torch.rand(500, 1)
        known, unknown = (model.predict(x, action).disagreement for x in (z, strange))
    assert known is not None and unknown is not None
    assert unknown.median() > 2 * known.median()


class Doubtful(WorldModel):
    """A point in a plane, z' = z + 0.25 a, that is sure of nothing near the origin."""

    latent_dim = action_dim = 2

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        return z + 0.25 * a

    def predict(self, z: Tensor, a: Tensor) -> Transition:
        after = self.step(z, a)
        return Transition(z, a, after, disagreement=torch.exp(-after.square().sum(-1) / 0.08))


@pytest.mark.parametrize("name", ["grasp", "latco", "cem", "mppi", "gradient"])
def test_plans_lead_round_what_a_model_is_unsure_of(name: str) -> None:
    state = torch.tensor([[-1.0, 0.05]])
    goal = GoalDistance(torch.tensor([[1.0, 0.0]]))
    planner = make_planner(name, horizon=12, iterations=60)
    doubts = {}
    for weight in (0.0, 2.0):
        objective = Weighted({"goal": (5.0, goal), "disagreement": (weight, Disagreement())})
        problem = Problem(Doubtful(), objective, state, 12, BoxActions(2))
        plan = planner.plan(problem, None, torch.Generator().manual_seed(0))
        _, states = trajectory_cost(problem.model, goal, 1.0, state, plan.actions)
        assert (states[0, -1] - goal.target[0]).norm() < 1.0  # at least half of the way
        doubts[weight] = float(torch.exp(-states[0].square().sum(-1) / 0.08).sum())
    assert doubts[2.0] < 0.5 * doubts[0.0]


@pytest.mark.parametrize("history", [1, 3])
def test_models_with_a_history_learn_and_plan(history: int) -> None:
    model = make(GoalModelConfig(latent_dim=8, hidden_dim=16, history=history))
    length = window_length(model, SMALL)
    assert length == SMALL.horizon + history - 1
    trainer = GoalTrainer(model, SMALL)
    data = Trajectories(walks(10, 20), length, 0)
    assert trainer.update(trainer.draw(data)).isfinite().all()
    target = model.encode(places(1.0)).detach()
    state = model.encode(places(0.0)).detach().repeat(1, history)
    towards = model.frozen().towards(target)
    problem = Problem(towards, TemporalDistance(target), state, 4, model.action_space)
    plan = make_planner("grasp", horizon=4).plan(problem, None, torch.Generator())
    assert plan.actions.shape == (1, 4, 1) and plan.actions.isfinite().all()


def test_a_trainer_goes_on_as_if_it_had_not_stopped() -> None:
    data = Trajectories(walks(10, 20), SMALL.horizon, 0)

    def fresh() -> GoalTrainer:
        return GoalTrainer(make(), SMALL)

    whole = fresh()
    batches = [whole.draw(data) for _ in range(6)]
    for batch in batches:
        whole.update(batch)
    stopped = fresh()
    for batch in batches[:3]:
        stopped.update(batch)
    other = fresh()
    other.model.load_state_dict(stopped.model.state_dict())
    other.restore(stopped.state())
    for batch in batches[3:]:
        other.update(batch)
    for a, b in zip(whole.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_to_look_at_the_rank_changes_nothing_of_what_is_drawn() -> None:
    """However often a training logs, it learns from the same batches."""
    trainer = GoalTrainer(make(), SMALL)
    seen, unseen = (Trajectories(walks(10, 20), SMALL.horizon, 0) for _ in range(2))
    rank = trainer.rank(seen)
    assert rank == trainer.rank(seen) > 1.0
    for a, b in zip(trainer.draw(seen), trainer.draw(unseen), strict=True):
        assert torch.equal(a, b)


def test_observations_at_equal_distances_cover_the_record() -> None:
    episodes = [Episode(torch.arange(9.0)[:, None], torch.zeros(8, 1), torch.zeros(8), False)]
    data = Trajectories(episodes, 2, 0)
    assert data.spaced(5).flatten().tolist() == [0, 2, 4, 6, 8]
    assert data.spaced(17).unique().tolist() == list(range(9))


def test_latents_learn_what_pictures_show() -> None:
    torch.manual_seed(0)
    side = GoalModel(3 * 64 * 64, 1, TINY, pictures=1)
    weights = ("prediction", "variance", "covariance", "inverse", "distance", "policy")
    loss = GoalLossConfig(compile=False, batch_size=8, **dict.fromkeys(weights, 0.0))
    trainer = GoalTrainer(side, loss)
    shown = torch.randint(0, 256, (20, 3 * 64 * 64), dtype=torch.uint8)
    episodes = [Episode(shown, torch.zeros(19, 1), torch.zeros(19), False)]
    data = Trajectories(episodes, window_length(side, loss), 0, pictures=1)
    before = [x.clone() for x in side.encoder.parameters()]
    trainer.update(trainer.draw(data))
    assert all(
        not torch.equal(x, y) for x, y in zip(before, side.encoder.parameters(), strict=True)
    )


def test_without_weight_against_it_latents_collapse() -> None:
    """What the anti-collapse term is for: prediction alone is best when all latents are equal."""
    ranks = {}
    for weight in (0.0, 1.0):
        loss = GoalLossConfig(
            compile=False, batch_size=32, variance=weight, reconstruction=0.0, inverse=0.0
        )
        model = make()
        trainer = GoalTrainer(model, loss)
        data = Trajectories(walks(50, 30), loss.horizon, 0)
        for i in range(300):
            trainer.update(trainer.draw(data), i / 300)
        ranks[weight] = float(model.encode(data.examples(500)).detach().std(0).mean())
    assert ranks[0.0] < 0.3 < 0.7 < ranks[1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"horizon": 0}, "horizon must be at least 1"),
        ({"expectile": 1.0}, "expectile must be above 0 and below 1"),
        ({"goals_here": 0.7, "goals_ahead": 0.7}, "shares that add up to at most 1"),
    ],
)
def test_nonsense_is_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GoalLossConfig(**options)  # type: ignore[arg-type]
