"""When a training acts at random, and how much noise its actions get, without an environment."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from mpc import BoxActions
from scripts.collector import Unfinished
from scripts.exploration import Exploration, RandomActions
from scripts.settings import TrainConfig
from world_models import Episode, Replay

QUIET: dict[str, Any] = {"disturb_every": 0, "patience": 0, "greedy_every": 0}


@pytest.fixture
def replay() -> Replay:
    """Rewards from -1 to 1 have been seen."""
    replay = Replay(100, obs_dim=2, action_dim=1, horizon=1, seed=0)
    rewards = torch.tensor([-1.0, 1.0, 0.0, 0.0])
    replay.add(Episode(torch.zeros(5, 2), torch.zeros(4, 1), rewards, False))
    return replay


def exploration(replay: Replay, **options: Any) -> Exploration:
    return Exploration(TrainConfig(**{**QUIET, **options}), replay, episode_steps=50, seed=0)


def test_patience_begins_again_with_every_reward(replay: Replay) -> None:
    stuck = exploration(replay, patience=3).stuck
    assert [stuck([-1.0] * n) for n in range(9)] == [False] * 3 + [True] * 3 + [False] * 3
    assert stuck([0.5, -1.0, -0.99, -1.0]) and not stuck([-1.0, -1.0, -1.0, 0.5])
    assert not any(exploration(replay).stuck([-1.0] * n) for n in range(9))


@pytest.mark.parametrize("reward", [-1.0, 0.0, 1.0])
def test_all_is_random_until_rewards_differ_unless_every_step_pays(reward: float) -> None:
    replay = Replay(100, obs_dim=2, action_dim=1, horizon=1, seed=0)
    plan, rewards = exploration(replay, patience=3), [reward] * 9
    actions = [torch.zeros(1).numpy()] * 9

    def taken() -> list[bool]:
        some = [Unfinished(0, [], actions[:n], rewards[:n]) for n in range(9)]
        return [plan.takes_over(episode) for episode in some]

    episode = Episode(torch.zeros(5, 2), torch.zeros(4, 1), torch.full((4,), reward), False)
    replay.add(episode)
    assert taken() == [reward <= 0] * 9
    replay.add(replace(episode, rewards=torch.tensor([reward, reward, reward, reward + 1])))
    assert not all(taken())


@pytest.mark.parametrize(("reward", "random"), [(-1.0, False), (0.0, True), (1.0, False)])
def test_where_every_step_costs_the_same_an_end_is_what_pays(reward: float, random: bool) -> None:
    """As on MountainCar; nothing that a replay makes up behind the end counts as a reward."""
    replay = Replay(100, obs_dim=2, action_dim=1, horizon=3, seed=0)
    replay.add(Episode(torch.zeros(5, 2), torch.zeros(4, 1), torch.full((4,), reward), True))
    plan = exploration(replay, patience=3)
    assert (replay.least, replay.most, replay.ends) == (reward, reward, True)
    assert plan.unrewarded == random
    assert not any(plan.stuck([reward] * n) for n in range(9))


def test_disturbances_fill_their_share_of_every_second_episode(replay: Replay) -> None:
    plan = exploration(replay, disturb_every=2, disturbed=0.2)
    assert all(plan.disturbed(index) == 0 for index in range(0, 100, 2))
    lengths = [plan.disturbed(index) for index in range(1, 401, 2)]
    assert set(lengths) == set(range(11))  # 0 to 20 % of 50 control steps
    assert lengths == [plan.disturbed(index) for index in range(1, 401, 2)]


def test_random_actions_take_over_at_the_beginning_or_when_stuck(replay: Replay) -> None:
    plan = exploration(replay, disturb_every=1, disturbed=1.0, patience=100)
    index = next(i for i in range(999) if plan.disturbed(i) == 2)
    action = torch.zeros(1).numpy()
    taken = [Unfinished(index, [], [action] * n, [1.0] * n) for n in range(4)]
    assert [plan.takes_over(episode) for episode in taken] == [True, True, False, False]
    assert plan.takes_over(Unfinished(index, [], [action] * 101, [-1.0] * 101))
    turns = [plan.turn(Unfinished(3, [], [action] * n)) for n in (0, 99, 100, 250)]
    assert turns == [3, 3, 4, 5]


def test_noise_falls_over_half_of_the_training_and_some_episodes_have_none(replay: Replay) -> None:
    plan = exploration(replay, greedy_every=4, final_exploration=0.3)
    assert [plan.noise(index, 0.0) for index in range(6)] == [0.0, 1.0, 1.0, 1.0, 0.0, 1.0]
    shares = [plan.noise(1, progress) for progress in (0.25, 0.5, 1.0)]
    assert shares == pytest.approx([0.65, 0.3, 0.3])


def test_held_random_actions_hold_and_those_at_the_bounds_lie_there() -> None:
    random = RandomActions(BoxActions(2), 1, seed=0)
    white = [random.act(0, 0).copy() for _ in range(50)]
    assert all((a != b).all() for a, b in pairwise(white))
    held = [random.act(0, 2).copy() for _ in range(200)]
    assert all((abs(a) == 1).all() for a in held)
    changes = [n for n in range(1, 200) if (held[n] != held[n - 1]).any()]
    assert 1 < len(changes) < 200 / 8
    state = {name: x.clone() for name, x in random.state().items()}
    expected = [random.act(0, 1).copy() for _ in range(30)]
    random.restore(state)
    assert all((random.act(0, 1) == a).all() for a in expected)
