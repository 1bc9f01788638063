"""Milliseconds per control step of training, and of one iteration of GRASP and of `gradient`.

    python benchmarks/speed.py [--steps 300] [--write benchmarks/results/speed.md]

Training: cartpole-swingup with the default settings, planner grasp, compiled, one thread.
Iterations: the same latent model, one problem, one restart, H = 50, eager, in one process; the time
of an iteration is the slope between plans of 5 and of 25 iterations, so that what a plan costs once
does not count.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from mpc import BoxActions, Problem, Reward, make_planner
from scripts.run_folder import RunFolder
from scripts.settings import Settings, load, prepare_torch
from scripts.training import TrainingRun
from world_models import LatentModel, ModelConfig

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


def iteration(planner: str, repeats: int = 9, **options: float) -> float:
    """Median milliseconds of one iteration of `planner`."""
    torch.manual_seed(0)
    model = LatentModel(5, 1, ModelConfig()).frozen()
    problem = Problem(
        model, Reward(), model.encode(torch.randn(1, 5)), HORIZON, BoxActions(1), 0.99
    )
    short, long = (
        make_planner(planner, horizon=HORIZON, restarts=1, iterations=n, **options) for n in (5, 25)
    )
    slopes = []
    for _ in range(repeats):
        taken = []
        for chosen in (short, long):
            started = time.perf_counter()
            chosen.plan(problem, None, torch.Generator().manual_seed(0))
            taken.append(time.perf_counter() - started)
        slopes.append(1000.0 * (taken[1] - taken[0]) / 20)
    return statistics.median(slopes)


def cpu() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    prepare_torch(threads=1)
    lifted, direct = iteration("grasp", sync_every=0), iteration("gradient")
    parts = training(arguments.steps)
    total = parts.pop("step")
    lines = [
        "# Speed",
        "",
        f"`python benchmarks/speed.py --steps {arguments.steps}`, "
        f"{datetime.date.today()}, {cpu()}, {os.cpu_count()} cores, one thread, "
        f"torch {torch.__version__}, seed 1.",
        "",
        "| training on dmc/cartpole-swingup, planner grasp, compiled | ms per control step |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in parts.items()),
        f"| **all** | **{total:.2f}** |",
        "",
        f"| one iteration, B = 1, H = {HORIZON}, one restart, eager | ms |",
        "|---|---|",
        f"| grasp | {lifted:.2f} |",
        f"| gradient | {direct:.2f} |",
        f"| **ratio** | **{direct / lifted:.1f}** |",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
