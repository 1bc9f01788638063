"""Intervals against closed forms, and their coverage by simulation."""

import math

import numpy as np
import pytest

from scripts.statistics import Interval, mean_interval, paired_difference, wilson


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def covered(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_mean_interval_of_many_normal_draws_is_the_textbook_one(rng: np.random.Generator) -> None:
    draws = rng.normal(800, 20, 400)
    interval = mean_interval(draws, rng)
    half = 1.96 * draws.std(ddof=1) / math.sqrt(400)
    assert interval.point == draws.mean()
    assert interval.low == pytest.approx(draws.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(draws.mean() + half, abs=0.1 * half)


def test_mean_interval_of_skewed_episodes_covers(rng: np.random.Generator) -> None:
    """Returns like reacher's: most episodes succeed, some score nothing."""
    hits = [
        covered(mean_interval(950.0 * (rng.random(20) < 0.7) + rng.normal(size=20), rng), 665.0)
        for _ in range(150)
    ]
    assert 0.86 <= np.mean(hits) <= 0.99


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", [0.0, 1e-13])
def test_constant_returns_have_no_width(rng: np.random.Generator, noise: float) -> None:
    interval = mean_interval(900 + noise * rng.normal(size=10), rng)
    assert interval == Interval(interval.point, interval.point, interval.point)
    assert interval.point == pytest.approx(900)


def test_one_episode_has_no_interval(rng: np.random.Generator) -> None:
    interval = mean_interval([5.0], rng)
    assert interval.point == 5.0 and math.isnan(interval.low) and math.isnan(interval.high)


def test_pairing_removes_what_both_share(rng: np.random.Generator) -> None:
    start = rng.normal(500, 200, 30)
    better = start + rng.normal(10, 3, 30)
    assert paired_difference(better, start, rng).low > 5
    assert covered(paired_difference(better, start, rng), (better - start).mean())


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (Wilson without correction)
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval.point == successes / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_same_generator_state_same_interval() -> None:
    draws = np.random.default_rng(3).normal(size=20)
    first, again = (mean_interval(draws, np.random.default_rng(1)) for _ in range(2))
    assert first == again


def test_what_cannot_be_estimated_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="at least one episode"):
        mean_interval([], rng)
    with pytest.raises(ValueError, match="pairs need equal shapes"):
        paired_difference([1.0], [1.0, 2.0], rng)
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson(3, 2)
