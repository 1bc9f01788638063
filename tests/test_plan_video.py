"""The video of a plan shows the plan, from where it was made."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from scripts.plan_video import CAPTION, carry_out, side_by_side


class Counter(gymnasium.Env[Any, Any]):
    """The observation is the seed plus all actions so far, and so is every pixel."""

    def __init__(self, forgetful: bool = False, length: int = 100) -> None:
        self.forgetful, self.length = forgetful, length
        self.total, self.steps, self.resets = 0.0, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.resets += 1
        self.total, self.steps = float(seed or 0), 0
        if self.forgetful:
            self.total += self.resets
        return np.array([self.total]), {}

    def step(self, action: Any) -> Any:
        self.total, self.steps = self.total + float(action[0]), self.steps + 1
        return np.array([self.total]), 0.0, self.steps == self.length, False, {}

    def render(self) -> Any:
        return np.full((8, 8, 3), int(self.total), np.uint8)


EXECUTED = [np.array([1.0]), np.array([2.0])]
PLANNED = [np.array([10.0]), np.array([20.0]), np.array([30.0])]


def levels(frames: Any) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_a_plan_is_carried_out_from_where_it_was_made() -> None:
    frames = carry_out(Counter(), 4, EXECUTED, np.array([7.0]), PLANNED)
    assert levels(frames) == [7, 17, 37, 67]


def test_a_plan_ends_with_the_episode() -> None:
    frames = carry_out(Counter(length=4), 4, EXECUTED, np.array([7.0]), PLANNED)
    assert levels(frames) == [7, 17, 37]


def test_an_environment_that_does_not_repeat_itself_is_not_filmed() -> None:
    with pytest.raises(RuntimeError, match="did not repeat"):
        carry_out(Counter(forgetful=True), 4, EXECUTED, np.array([7.0]), PLANNED)


def test_both_sides_are_seen_under_their_labels() -> None:
    left = [np.full((8, 60, 3), level, np.uint8) for level in (1, 2, 3)]
    right = [np.full((8, 60, 3), level, np.uint8) for level in (11, 12)]
    frames = side_by_side(left, right, ("plan", "truth"))
    assert [frame.shape for frame in frames] == [(8 + CAPTION, 120, 3)] * 2
    assert levels(frame[CAPTION:] for frame in frames) == [1, 2]
    assert levels(frame[CAPTION:, 60:] for frame in frames) == [11, 12]
    labels = frames[0][:CAPTION]
    assert labels[:, :60].min() < 100 and labels[:, 60:].min() < 100, "dark letters on white"
