"""Warm starts: shifting against arrays written by hand, and forgetting rows."""

import pytest
import torch
from torch import Tensor

from mpc import WarmStart, forget, shift
from mpc.warm_start import fill, known_rows


@pytest.fixture
def warm() -> WarmStart:
    """Two problems, H = 3: actions 0 1 2 and 10 11 12, states 0..3 and 10..13."""
    return WarmStart(
        actions=column([0, 1, 2], [10, 11, 12]),
        states=column([0, 1, 2, 3], [10, 11, 12, 13]),
        std=column([5, 6, 7], [8, 9, 1]),
        elites=torch.stack([column([0, 1, 2], [10, 11, 12])] * 2, 2),
    )


def column(*rows: list[float]) -> Tensor:
    """Rows as (B, H, 1)."""
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(-1)


@pytest.mark.parametrize(
    ("steps", "actions", "states", "std"),
    [
        (0, [10, 11, 12], [10, 11, 12, 13], [8, 9, 1]),
        (1, [11, 12, 12], [11, 12, 13, 13], [9, 1, 1]),
        (2, [12, 12, 12], [12, 13, 13, 13], [1, 1, 1]),
        (3, [12, 12, 12], [13, 13, 13, 13], [1, 1, 1]),
        (9, [12, 12, 12], [13, 13, 13, 13], [1, 1, 1]),
    ],
)
def test_shift_drops_what_was_executed_and_repeats_the_last(
    warm: WarmStart, steps: int, actions: list[float], states: list[float], std: list[float]
) -> None:
    moved = shift(warm, steps)
    assert torch.equal(moved.actions[1:], column(actions))
    assert torch.equal(moved.states[1:], column(states))
    assert torch.equal(moved.std[1:], column(std))
    assert torch.equal(moved.elites, torch.stack([moved.actions] * 2, 2))
    assert moved.filled == min(3, steps)
    # The first row moves alike, and the original stays.
    assert torch.equal(moved.actions[0], moved.actions[1] - 10)
    assert torch.equal(warm.actions, column([0, 1, 2], [10, 11, 12])) and warm.filled == 0


def test_shifting_twice_is_shifting_by_two(warm: WarmStart) -> None:
    once, twice = shift(warm, 2), shift(shift(warm))
    for name in ("actions", "states", "std", "elites"):
        assert torch.equal(getattr(once, name), getattr(twice, name))
    assert once.filled == twice.filled == 2
    assert shift(shift(twice)).filled == 3


def test_what_a_plan_lacks_it_lacks_after_a_shift() -> None:
    moved = shift(WarmStart(column([0, 1, 2])))
    assert moved.states is None and moved.std is None and moved.known is None
    assert moved.elites is None


def test_forget_touches_the_finished_rows_only(warm: WarmStart) -> None:
    first = forget(warm, torch.tensor([False, True]))
    assert first.known.tolist() == [True, False]
    assert torch.equal(first.actions, warm.actions) and warm.known is None
    # Rows stay forgotten, also through a shift, until a new plan knows them.
    both = forget(shift(first), torch.tensor([True, False]))
    assert both.known.tolist() == [False, False]
    assert forget(first, torch.tensor([False, False])).known.tolist() == [True, False]


def test_known_rows_without_a_record(warm: WarmStart) -> None:
    cpu = torch.device("cpu")
    assert known_rows(None, 2, cpu).tolist() == [False, False]
    assert known_rows(warm, 2, cpu).tolist() == [True, True]
    assert known_rows(forget(warm, torch.tensor([True, False])), 2, cpu).tolist() == [False, True]


def test_fill_takes_rows_of_either() -> None:
    known = torch.tensor([True, False])
    warm, cold = column([1, 2], [3, torch.nan]), column([5, 6], [7, 8])
    assert torch.equal(fill(known, warm, cold), column([1, 2], [7, 8]))
    assert fill(known, torch.ones(2), torch.zeros(2)).tolist() == [1.0, 0.0]
