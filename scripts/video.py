"""Frames to an mp4 file that browsers play."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np


def write_video(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Write `frames`, each (height, width, 3) uint8, as H.264; `path` appears only when complete.

    An odd height or width loses its last row or column, which the colour format demands.
    Raises ValueError when there are no frames or their shapes differ or don't fit, OSError or
    RuntimeError when ffmpeg fails.
    """
    shapes = {(frame.shape, frame.dtype) for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"need frames of one shape, got {len(frames)} frames of {len(shapes)}")
    shape, dtype = shapes.pop()
    if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8 or min(shape[:2]) < 2:
        raise ValueError(f"need (height, width, 3) uint8 frames, got {shape} {dtype}")
    height, width = shape[0] // 2 * 2, shape[1] // 2 * 2
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.new.mp4")
    try:
        # One thread: a video must not take the cores from a training beside it.
        writer: Any = imageio.get_writer(
            draft,
            format="FFMPEG",
            fps=fps,
            codec="libx264",
            pixelformat="yuv420p",
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-threads", "1", "-movflags", "+faststart"],
        )
        with writer:
            for frame in frames:
                writer.append_data(np.ascontiguousarray(frame[:height, :width]))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
