"""Replay: windows stay within episodes, all count alike, and a restored one goes on exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from world_models import Batch, Episode, Replay


def episode(number: int, steps: int, terminated: bool = False) -> Episode:
    """Every number says where it is from: obs 1000 n + t, action the same over 10^6, reward t."""
    time = torch.arange(steps + 1, dtype=torch.float32)
    obs = torch.stack([1000.0 * number + time, torch.full_like(time, number)], 1)
    return Episode(obs, obs[:-1, :1] / 1e6, time[:-1], terminated)


@pytest.fixture
def replay() -> Callable[..., Replay]:
    """`replay(steps of each episode..., capacity, horizon, seed)`."""

    def make(*lengths: int, capacity: int = 100, horizon: int = 3, seed: int = 0) -> Replay:
        made = Replay(capacity, 2, 1, horizon, seed)
        for number, steps in enumerate(lengths):
            made.add(episode(number, steps, terminated=number % 2 == 1))
        return made

    return make


def check(batch: Batch, lengths: dict[int, int]) -> None:
    """Every window of `batch` is one of an episode: `lengths` gives the steps by number.

    Odd ones terminated, and go on in their last state without reward.
    """
    horizon = batch.actions.shape[0]
    number = (batch.obs[0, :, 0] / 1000).floor()
    begin = batch.obs[0, :, 0] - 1000 * number
    assert set(number.int().tolist()) <= set(lengths)
    steps = torch.tensor([lengths[n] for n in number.int().tolist()])
    odd = number % 2 == 1
    assert (torch.where(odd, begin + 1, begin + horizon) <= steps).all()
    for t in range(horizon + 1):
        assert torch.equal(batch.obs[t, :, 0], 1000 * number + (begin + t).minimum(steps))
        assert torch.equal(batch.obs[t, :, 1], number)
    for t in range(horizon):
        step = (begin + t).minimum(steps - 1)
        assert torch.equal(batch.actions[t, :, 0], (1000 * number + step) / 1e6)
        assert torch.equal(batch.rewards[t], torch.where(begin + t < steps, step, 0.0))
        over = (begin + t >= steps - 1) & odd
        assert torch.equal(batch.terminated[t], over.float())


def test_windows_hold_what_happened_and_end_with_their_episode(
    replay: Callable[..., Replay],
) -> None:
    made = replay(5, 3, 9, 4)
    # Two of the four terminated and are two control steps longer for it.
    assert made.steps == 25 and made.windows == 3 + 3 + 7 + 4
    batch = made.sample(500)
    assert batch.obs.shape == (4, 500, 2) and batch.actions.shape == (3, 500, 1)
    assert batch.rewards.shape == batch.terminated.shape == (3, 500)
    check(batch, {0: 5, 1: 3, 2: 9, 3: 4})


def test_every_window_is_equally_likely(replay: Callable[..., Replay]) -> None:
    """Also those of long episodes against short ones, by a chi-square test."""
    made = replay(5, 3, 12, 2, 4)
    draws = 30_000
    starts, counts = made.sample(draws).obs[0, :, 0].unique(return_counts=True)
    windows = 3 + 3 + 10 + 2 + 2
    assert len(starts) == windows == made.windows
    expected = draws / windows
    # 19 degrees of freedom: a fair replay exceeds 43.8 once in a thousand seeds.
    assert float(((counts - expected) ** 2 / expected).sum()) < 43.8


@pytest.mark.parametrize("horizon", [1, 3, 5])
def test_episodes_shorter_than_the_horizon_are_held_but_not_drawn(
    horizon: int, replay: Callable[..., Replay]
) -> None:
    """Unless they terminated, for what follows that is known."""
    made = replay(horizon - 1, 1, horizon - 1, 2, horizon, horizon=horizon)
    assert made.windows == 1 + 2 + 1
    lengths = {0: horizon - 1, 1: 1, 2: horizon - 1, 3: 2, 4: horizon}
    batch = made.sample(200)
    check(batch, lengths)
    assert set((batch.obs[0, :, 0] / 1000).int().tolist()) == {1, 3, 4}


def test_the_end_of_an_episode_is_seen_as_often_as_any_step(
    replay: Callable[..., Replay],
) -> None:
    """At the front of a window too, where a model starts from the observation itself."""
    batch = replay(0, 6).sample(6_000)
    for t in range(3):
        share = (batch.obs[t, :, 0] == 1005).float().mean()
        # Five standard deviations of a share of 6,000 draws are at most 0.025.
        assert float(share) == pytest.approx(1 / 6, abs=0.025)
    assert (batch.terminated[0] == (batch.obs[0, :, 0] == 1005)).all()


def test_the_range_of_rewards_is_that_of_what_is_held(replay: Callable[..., Replay]) -> None:
    assert (replay().least, replay().most) == (0.0, 0.0)
    made = replay(5, 8, capacity=20)
    assert (made.least, made.most) == (0.0, 7.0)
    for rewards in ([-1.0, 2.0, 3.0], [4.0, 3.0, 3.5, 3.0, 3.0, 3.0, 3.0, 3.0]):
        steps = len(rewards)
        made.add(
            Episode(torch.zeros(steps + 1, 2), torch.zeros(steps, 1), torch.tensor(rewards), False)
        )
    assert len(made.spans) == 2 and (made.least, made.most) == (-1.0, 4.0)


def test_an_empty_replay_says_so(replay: Callable[..., Replay]) -> None:
    for made in (replay(), replay(2, horizon=3)):
        assert made.windows == 0
        with pytest.raises(ValueError, match="holds no window of 3 control steps yet"):
            made.sample(1)


def test_an_episode_that_cannot_fit_is_refused(replay: Callable[..., Replay]) -> None:
    made = replay(4, capacity=10)
    with pytest.raises(ValueError, match=r"an episode of 10 steps exceeds replay.capacity 10"):
        made.add(episode(1, 10))
    # Refused means that nothing was lost.
    check(made.sample(10), {0: 4})
    with pytest.raises(ValueError, match=r"an episode of 8 steps exceeds replay.capacity 10"):
        made.add(episode(1, 8, True))
    made.add(episode(1, 7, True))
    check(made.sample(50), {1: 7})


def held_after(lengths: list[int], capacity: int) -> dict[int, int]:
    """The longest run of newest episodes that the rows could ever hold, each needing T + 1."""
    held: dict[int, int] = {}
    rows = 0
    for number in range(len(lengths) - 1, -1, -1):
        rows += lengths[number] + 1
        if rows > capacity:
            break
        held[number] = lengths[number]
    return held


RINGS = {
    "equal": [4] * 12,
    "exact": [9, 9, 4, 4, 9],
    "growing": [1, 2, 3, 4, 5, 6, 7, 8, 9],
    "falling": [9, 8, 7, 6, 5, 4, 3, 2, 1],
    "blocked": [3, 1, 2, 3],
    "random": torch.randint(1, 10, (60,), generator=torch.Generator().manual_seed(0)).tolist(),
}


@pytest.mark.parametrize("capacity", [6, 10, 13, 40])
@pytest.mark.parametrize("name", sorted(RINGS))
def test_the_oldest_episodes_give_way(name: str, capacity: int) -> None:
    """What is held is whole, are the newest episodes, and never more than fits."""
    made = Replay(capacity, 2, 1, 1, 0)
    lengths: list[int] = []
    for number, steps in enumerate(n for n in RINGS[name] if n < capacity):
        lengths.append(steps)
        made.add(episode(number, steps, terminated=number % 2 == 1))
        newest = dict(list(enumerate(lengths))[len(lengths) - len(made.spans) :])
        assert [n for _, n in made.spans] == list(newest.values())
        assert newest.items() <= held_after(lengths, capacity).items()
        assert made.steps == sum(newest.values()) <= capacity
        assert made.obs.shape[0] == capacity
        check(made.sample(100), newest)


def test_no_room_is_wasted_while_there_is_some(replay: Callable[..., Replay]) -> None:
    made = replay(4, 4, 4, capacity=15, horizon=1)
    assert len(made.spans) == 3
    made.add(episode(3, 4, True))
    assert [n for _, n in made.spans] == [4, 4, 4]
    check(made.sample(100), {1: 4, 2: 4, 3: 4})


@pytest.mark.parametrize("added", [0, 1, 3, 9])
@pytest.mark.parametrize("capacity", [20, 100])
def test_a_restored_replay_goes_on_exactly(
    added: int, capacity: int, replay: Callable[..., Replay]
) -> None:
    """Same windows, same evictions, from the state and the files of the episodes that it held."""
    lengths = [5, 3, 7, 4, 6, 3, 8, 5, 4, 9, 3, 3]
    first = replay(*lengths[:added], capacity=capacity)
    if first.windows:
        first.sample(7)
    saved = {k: v.clone() for k, v in first.state().items()}
    again = replay(capacity=capacity, seed=99)
    asked: list[int] = []

    def read(index: int) -> Episode:
        asked.append(index)
        return episode(index, lengths[index], terminated=index % 2 == 1)

    again.restore(saved, read)
    assert asked == list(range(added - len(first.spans), added))
    assert (again.added, again.steps, again.spans) == (added, first.steps, first.spans)
    for number in range(added, len(lengths)):
        if first.windows:
            for a, b in zip(first.sample(9), again.sample(9), strict=True):
                assert torch.equal(a, b)
        for made in (first, again):
            made.add(episode(number, lengths[number], terminated=number % 2 == 1))
        assert again.spans == first.spans


def test_the_generator_of_a_replay_is_its_own(replay: Callable[..., Replay]) -> None:
    def draw(seed: int) -> Any:
        return replay(9, 9, seed=seed).sample(20).obs

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)
