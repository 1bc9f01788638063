"""A plan beside what happened: its actions carried out by the simulator, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Frame = NDArray[np.uint8]  # (height, width, 3)
CAPTION = 18  # pixels above a frame


def carry_out(
    env: gymnasium.Env[Any, Any],
    seed: int,
    executed: Sequence[NDArray[np.float32]],
    seen: NDArray[np.float32],
    planned: Sequence[NDArray[np.float32]],
    options: dict[str, Any] | None = None,
) -> list[Frame]:
    """Frames before and after each of the `planned` actions (A,), until an episode ends.

    The episode that begins at `seed`, with the `options` of its reset, is repeated with the
    `executed` actions (A,) to get there.
    Raises RuntimeError if that does not lead to the observation `seen` (O,).
    """
    obs, _ = env.reset(seed=seed, options=options)
    for action in executed:
        obs, *_ = env.step(action)
    if not np.array_equal(obs, seen):
        raise RuntimeError("the environment did not repeat the episode")
    frames = [env.render()]
    for action in planned:
        _, _, terminated, truncated, _ = env.step(action)
        frames.append(env.render())
        if terminated or truncated:
            break
    return frames  # type: ignore[return-value]


def side_by_side(
    left: Sequence[Frame], right: Sequence[Frame], labels: Sequence[str]
) -> list[Frame]:
    """Frames of both next to each other under their labels, as long as the shorter one lasts."""
    pairs = []
    for pair in zip(left, right, strict=False):
        panels = [_captioned(frame, label) for frame, label in zip(pair, labels, strict=True)]
        pairs.append(np.concatenate(panels, axis=1))
    return pairs


def _captioned(frame: Frame, label: str) -> Frame:
    height, width, _ = frame.shape
    picture = Image.new("RGB", (width, height + CAPTION), "white")
    picture.paste(Image.fromarray(frame), (0, CAPTION))
    ImageDraw.Draw(picture).text((4, 3), label, fill="black")
    return np.asarray(picture)
