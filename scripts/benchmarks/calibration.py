"""How many iterations, and of how many samples, a planner makes in a given time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mpc import PlannerConfig
from scripts.options import Options
from scripts.usage import UsageError

FEWEST_SAMPLES = 32
SHRINKING = {"samples": FEWEST_SAMPLES, "elites": 2, "policy_samples": 0}  # option -> least


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
        fewer = _fewer_samples(given | best.options)
        if fewer is None:
            return best
        try:
            best = _with(best.options | fewer, measure, budget)
        except UsageError:  # the planner has an option that needs more samples
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


def _fewer_samples(given: Mapping[str, Any]) -> Options | None:
    """Half of the samples, down to the fewest; None for a planner that cannot do with fewer."""
    if given.get("samples", 0) <= FEWEST_SAMPLES:
        return None
    return {
        option: min(given[option], max(given[option] // 2, least))
        for option, least in SHRINKING.items()
        if option in given
    }
