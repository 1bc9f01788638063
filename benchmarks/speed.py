"""Milliseconds per control step of training, and of one iteration of GRASP and of `gradient`.

    python benchmarks/speed.py [--steps 300] [--write benchmarks/results/speed.md]

Training: cartpole-swingup with the default settings, planner grasp, compiled, one thread.
Iterations: one problem, one restart, H = 50, eager, in one process, as in `telic benchmark
suite=latency`; the time of an iteration is the slope between plans of 5 and of 25 iterations, so
that what a plan costs once does not count.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from pathlib import Path
from typing import Any

from scripts.benchmarks.latency import (
    LatencySettings,
    WarmPlans,
    interleave,
    random_model,
    random_problem,
    slope,
)
from scripts.benchmarks.suite import machine, planner_of
from scripts.run_folder import RunFolder
from scripts.settings import Settings, load, prepare_torch
from scripts.training import TrainingRun

HORIZON = 50


def training(steps: int) -> dict[str, float]:
    """Mean milliseconds by component over `steps` control steps with an update each."""
    overrides = ["train.random_steps=500", "train.first_updates=10"]
    settings = load(Settings, (), [*overrides, "train.checkpoint_every=1000000000"])
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(settings, RunFolder.create(Path(folder) / "run", "{}"))
        while run.stopwatch.steps < steps + run.stopwatch.skip:
            run.advance()
        run.close()
    return run.stopwatch.milliseconds()


def iteration(planner: str, **options: Any) -> float:
    """Median milliseconds of one iteration of `planner`."""
    model = random_model(LatencySettings(suite="latency"))
    plans = {}
    for count in (5, 25):
        chosen = planner_of(
            planner, {"horizon": HORIZON, "restarts": 1}, options | {"iterations": count}
        )
        plans[str(count)] = WarmPlans(chosen, random_problem(model, HORIZON, 1, seed=0), seed=0)
        plans[str(count)].once()
    taken = interleave(plans, repeats=9, enough=60.0)
    return slope(taken["5"], taken["25"], 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    prepare_torch(threads=1)
    direct = iteration("gradient")
    lifted = {steps: iteration("grasp", lookahead=steps) for steps in (1, 3)}
    parts = training(arguments.steps)
    total, found = parts.pop("step"), machine()
    lines = [
        "# Speed",
        "",
        f"`python benchmarks/speed.py --steps {arguments.steps}`, "
        f"{datetime.date.today()}, {found['cpu']}, {found['cores']} cores, one thread, "
        f"torch {found['torch']}, seed 1.",
        "",
        "| training on dmc/cartpole-swingup, planner grasp, compiled | ms per control step |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in parts.items()),
        f"| **all** | **{total:.2f}** |",
        "",
        f"| one iteration, B = 1, H = {HORIZON}, one restart, eager | ms | times faster |",
        "|---|---|---|",
        f"| gradient | {direct:.2f} | |",
        *(
            f"| grasp, lookahead={n}: {what} | {lifted[n]:.2f} | {direct / lifted[n]:.1f} |"
            for n, what in ((1, "the paper's loss"), (3, "the default"))
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
