"""Milliseconds per control step of training, and of one iteration of GRASP and of `gradient`.

    python benchmarks/speed.py [--steps 300] [--write benchmarks/results/speed.md]

Training: cartpole-swingup with the default settings, planner grasp, compiled, one thread each for
acting and for learning, side by side or in turn; then with several environments side by side, in
this process and in processes of their own.
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

import torch

from envs import make_env, spec_of
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
from scripts.stopwatch import COMPONENTS, WHOLE
from scripts.training import TrainingRun

HORIZON = 50
COUNTS = (1, 4, 16)  # environments side by side


def training(steps: int, *options: str) -> dict[str, float]:
    """Mean milliseconds by component over `steps` control steps, by default an update each."""
    overrides = ["train.random_steps=500", "train.first_updates=10"]
    overrides += ["train.checkpoint_every=1000000000", *options]
    settings = load(Settings, (), overrides)
    torch.compiler.reset()  # torch compiles a function for so many planners in one process only
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(settings, RunFolder.create(Path(folder) / "run", "{}"))
        while run.stopwatch.steps < steps + run.stopwatch.skip:
            run.advance()
        run.close()
    return run.stopwatch.milliseconds()


def side_by_side(count: int, processes: bool, steps: int) -> str:
    """A row of the table: a training with `count` environments, over `steps` control steps."""
    # Random actions last until every environment has ended an episode, and no longer.
    options = [f"train.num_envs={count}", f"train.random_steps={500 * count}"]
    parts = training(steps, *options, f"train.processes={str(processes).lower()}")
    total = parts.pop(WHOLE)
    shares = " | ".join(f"{value:.2f}" for value in parts.values())
    repeat = spec_of(make_env(Settings().env)).action_repeat
    return f"| {count} | {processes} | {shares} | {total:.2f} | {1000 * repeat / total:.0f} |"


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
    twice, once, in_turn = (
        training(arguments.steps, *options)
        for options in (["train.updates_per_step=2"], [], ["train.overlap=false"])
    )
    rows = [side_by_side(n, own, arguments.steps) for n in COUNTS for own in (False, True)]
    found = machine()
    lines = [
        "# Speed",
        "",
        f"`python benchmarks/speed.py --steps {arguments.steps}`, "
        f"{datetime.date.today()}, {found['cpu']}, {found['cores']} cores, one thread (learning "
        f"beside acting: one each), torch {found['torch']}, seed 1.",
        "",
        "| training on dmc/cartpole-swingup, planner grasp, compiled, ms per control step "
        "| two updates: `train.updates_per_step=2` | one update, learning beside acting: the "
        "default | one update, in turn: `train.overlap=false` |",
        "|---|---|---|---|",
        *(
            f"| {name} | {twice[name]:.2f} | {once[name]:.2f} | {in_turn[name]:.2f} |"
            for name in COMPONENTS
        ),
        f"| **all** | **{twice[WHOLE]:.2f}** | **{once[WHOLE]:.2f}** | **{in_turn[WHOLE]:.2f}** |",
        "",
        "| environments | own processes | decide | environment | update | all, ms per control step "
        "of one environment | env frames per second |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"| one iteration, B = 1, H = {HORIZON}, one restart, eager | ms | times faster |",
        "|---|---|---|",
        f"| gradient | {direct:.2f} | |",
        *(
            f"| grasp, lookahead={n}: {what} | {lifted[n]:.2f} | {direct / lifted[n]:.1f} |"
            for n, what in ((1, "the default, and the paper's loss"), (3, "in runs for goals"))
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
