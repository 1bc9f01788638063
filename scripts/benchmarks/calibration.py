"""How many iterations, and of how many samples, a planner makes in a given time."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mpc import PlannerConfig
from scripts.options import Options
from scripts.usage import UsageError

SHRINKING = {"samples": 32, "elites": 2, "policy_samples": 0, "restarts": 2}  # option -> least
SIZES = ("samples", "restarts")  # how many sequences a planner works on, whichever it has


class Yardstick:
    """A piece of work that always is the same, to see whether a machine is slowed down.

    Processors that others use too change their speed by half or more for seconds at a time.
    """

    SLOWER = 1.3  # than the fastest so far: slowed down
    PATIENCE = 20.0  # seconds to wait for a measurement at full speed
    LOOKS, PAUSE = 100, 0.1  # how often, every so many seconds, it is tried what full speed is

    def __init__(self, work: Callable[[], float]) -> None:
        """`work` does it and says how long it took."""
        self._work, self._least = work, math.inf
        for _ in range(self.LOOKS):
            self._least = min(self._least, work())
            time.sleep(self.PAUSE)

    def full_speed(self) -> bool:
        """Whether the machine is as fast as it has been."""
        taken = self._work()
        self._least = min(self._least, taken)
        return taken <= self.SLOWER * self._least

    def measure(self, measure: Callable[[], float]) -> float:
        """A time that the machine was at full speed before and after, or the least in PATIENCE."""
        least, end = math.inf, time.monotonic() + self.PATIENCE
        while True:
            steady = self.full_speed()
            if steady or time.monotonic() > end:
                least = min(least, measure())
                if (steady and self.full_speed()) or time.monotonic() > end:
                    return least


def _products() -> float:
    """Seconds of some matrix products of the size that planners make."""
    x = torch.ones(128, 128)
    started = time.perf_counter()
    for _ in range(40):
        torch.nn.functional.silu(x @ x)
    return time.perf_counter() - started


@functools.cache
def yardstick() -> Yardstick:
    """That of this machine."""
    return Yardstick(_products)


@dataclass(frozen=True)
class Calibration:
    """The options with which a planner makes the most of its time."""

    options: Options
    milliseconds: float  # that a plan was measured to take with them
    fits: bool  # whether that is within the budget


def calibrate(
    measure: Callable[[Options], float], budget: float, config: PlannerConfig, most: int = 1000
) -> Calibration:
    """The largest number of iterations, up to `most`, whose plans take at most `budget` ms.

    `measure` says how many milliseconds a plan takes with given options, the fastest of several:
    what else runs on a machine only ever adds to them, and not always as much. A planner for which
    one iteration is too much tries half as many samples, and so on; if nothing helps, or it does
    not iterate, it is what it is.
    """
    given = asdict(config)
    if "iterations" not in given:
        return _with({}, measure, budget)
    best = _with({"iterations": 1}, measure, budget)
    while not best.fits:
        smaller = _smaller(given | best.options)
        if smaller is None:
            return best
        try:
            best = _with(best.options | smaller, measure, budget)
        except UsageError:  # the planner has an option that needs more of them
            return best
    too_many = most + 1
    while best.options["iterations"] < too_many - 1:
        known = best.options["iterations"]
        # Doubled until it is too much, then halved between what fits and what does not.
        count = min(2 * known, most) if too_many > most else (known + too_many) // 2
        found = _with(best.options | {"iterations": count}, measure, budget)
        if found.fits:
            best = found
        else:
            too_many = count
    return best


def _with(options: Options, measure: Callable[[Options], float], budget: float) -> Calibration:
    milliseconds = measure(options)
    return Calibration(options, milliseconds, milliseconds <= budget)


def _smaller(given: Mapping[str, Any]) -> Options | None:
    """Half of the samples or restarts, down to the least; None for one that cannot do with less."""
    if all(given.get(size, 0) <= SHRINKING[size] for size in SIZES):
        return None
    return {
        option: min(given[option], max(given[option] // 2, least))
        for option, least in SHRINKING.items()
        if option in given
    }
