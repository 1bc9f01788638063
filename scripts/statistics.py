"""Intervals that stand beside every reported number; all at 95 %."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    point: float
    low: float
    high: float


def span(interval: Interval, form: str = ".1f") -> str:
    """An estimate with its bounds, where it has any."""
    if math.isnan(interval.low):
        return f"{interval.point:{form}}"
    return f"{interval.point:{form}} ({interval.low:{form}} to {interval.high:{form}})"


def mean_interval(returns: ArrayLike, rng: np.random.Generator) -> Interval:
    """Mean return of one agent over its episodes (E,), with a BCa bootstrap interval.

    It says how well this agent is known, nothing about other seeds. The bounds are nan for a
    single episode. Raises ValueError when there are no episodes.
    """
    episodes = np.asarray(returns, dtype=float)
    if episodes.ndim != 1 or episodes.size == 0:
        raise ValueError(f"need the returns of at least one episode, got shape {episodes.shape}")
    if episodes.size == 1:
        return Interval(float(episodes[0]), math.nan, math.nan)
    point = float(episodes.mean())
    if np.allclose(episodes, episodes[0], rtol=1e-9, atol=0.0):
        return Interval(point, point, point)  # BCa divides by the spread, here at most rounding
    bounds = stats.bootstrap(
        (episodes,), np.mean, confidence_level=CONFIDENCE, method="BCa", vectorized=True, rng=rng
    ).confidence_interval
    return Interval(point, float(bounds.low), float(bounds.high))


def paired_difference(a: ArrayLike, b: ArrayLike, rng: np.random.Generator) -> Interval:
    """Mean of a - b, with a bootstrap interval over pairs (same start and goal in both).

    a and b (E,). Raises ValueError when their shapes differ.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.shape != second.shape:
        raise ValueError(f"pairs need equal shapes, got {first.shape} and {second.shape}")
    return mean_interval(first - second, rng)


def wilson(successes: int, n: int) -> Interval:
    """Success rate out of `n` trials with the Wilson score interval.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"need 0 <= successes <= n and n > 0, got {successes} of {n}")
    bounds = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / n, float(bounds.low), float(bounds.high))
