"""Published learning curves on dm_control from states, to stand beside ours.

`configs/references/dmc_returns.csv` holds means over seeds, read off the results that the authors
of TD-MPC2 and DreamerV3 publish in their repositories (column `source`). Frames are env frames,
action repeat included, at the points logged there. DreamerV3 is its authors' own run where there
is one, else the run in TD-MPC2's repository.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Curve:
    """A published learning curve; one entry per point, env frames ascending."""

    frames: tuple[int, ...]
    mean: tuple[float, ...]  # episode return, mean over seeds
    seeds: tuple[int, ...]
    source: str  # repository and file


def reference_curves(env_name: str) -> dict[str, Curve]:
    """Published curves by method for an environment such as `dmc/ball_in_cup-catch`.

    Empty for other suites and for tasks that nobody published here.
    """
    suite, _, name = env_name.partition("/")
    if suite != "dmc":
        return {}
    # The publications shorten this one domain, and write dm_control's underscores as dashes.
    task = name.replace("ball_in_cup-", "cup-").replace("_", "-")
    file = resources.files("configs") / "references" / "dmc_returns.csv"
    points: dict[str, list[dict[str, str]]] = {}
    with file.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["task"] == task:
                points.setdefault(row["method"], []).append(row)
    return {method: _curve(rows) for method, rows in points.items()}


@cache
def published_return(env_name: str, frames: int = 100_000, method: str = "tdmpc2") -> float | None:
    """Mean published return of `method` at its point nearest to `frames` env frames.

    None when there is no point within 5 % of `frames`.
    """
    curve = reference_curves(env_name).get(method)
    if curve is None:
        return None
    distance, mean = min(
        (abs(f - frames), m) for f, m in zip(curve.frames, curve.mean, strict=True)
    )
    return mean if distance <= 0.05 * frames else None


def _curve(rows: list[dict[str, str]]) -> Curve:
    rows = sorted(rows, key=lambda row: int(row["frames"]))
    return Curve(
        frames=tuple(int(row["frames"]) for row in rows),
        mean=tuple(float(row["mean"]) for row in rows),
        seeds=tuple(int(row["n_seeds"]) for row in rows),
        source=rows[0]["source"],
    )
