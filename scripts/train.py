"""`telic train`: train, or resume a training."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from scripts.metrics import MetricsLogger
from scripts.plots import learning_curve
from scripts.reference import published_return, reference_curves
from scripts.run_folder import RunFolder
from scripts.settings import (
    Settings,
    UsageError,
    load,
    parse_overrides,
    read_run_config,
    usage_errors,
)
from scripts.terminal import console as make_console
from scripts.training import COMPONENTS, TrainingRun, train
from world_models import latest_checkpoint, load_checkpoint

RESUME_GROUPS = ("resume", "train", "wandb", "device")


def defaults_text() -> str:
    """All options with their defaults, for the help."""
    text = OmegaConf.to_yaml(OmegaConf.structured(load(Settings)))
    return text + "\nresume: runs/<name> goes on with an interrupted or longer training\n"


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    resume = parse_overrides(overrides).get("resume")
    if resume is None:
        settings = load(Settings, files, overrides)
        torch.set_num_threads(settings.threads)
        path = Path(settings.runs) / settings.run_name()
        text = OmegaConf.to_yaml(OmegaConf.structured(settings))
        with usage_errors():
            RunFolder.refuse_if_used(path)
            run = TrainingRun(settings, RunFolder(path))
            run.folder = RunFolder.create(path, text)
    else:
        run = _resumed(Path(str(resume)), files, overrides)
    return _train(run)


def _resumed(path: Path, files: Sequence[str], overrides: Sequence[str]) -> TrainingRun:
    """The run in folder `path` as its last checkpoint left it."""
    for item in [*overrides, *("--config" for _ in files)]:
        if item.partition("=")[0].split(".")[0] not in RESUME_GROUPS:
            raise UsageError(
                f"{item!r} cannot change when a run is resumed; "
                f"only {', '.join(RESUME_GROUPS[1:])} options can"
            )
    changes = [item for item in overrides if not item.startswith("resume=")]
    with usage_errors():
        folder = RunFolder.open(path)
        settings = load(Settings, (), changes, read_run_config(folder))
        torch.set_num_threads(settings.threads)
        folder.lock()
        newest = latest_checkpoint(folder.checkpoints)
        run = TrainingRun(settings, folder)
        run.restore(load_checkpoint(newest))
    return run


def _train(run: TrainingRun) -> int:
    console = make_console()
    settings, folder = run.settings, run.folder
    stop: list[int] = []
    previous = {s: signal.signal(s, _request(stop)) for s in (signal.SIGINT, signal.SIGTERM)}
    config: Any = OmegaConf.to_container(OmegaConf.structured(settings))
    run.metrics = MetricsLogger(folder.path, settings.wandb, config, folder.name)
    run.metrics.truncate(run.frames)
    console.print(
        f"[bold]{run.spec.name}[/]: {run.spec.obs_dim} observation numbers, "
        f"{run.spec.action_dim} actions, {1000 * run.spec.control_period:.0f} ms per control step, "
        f"planner {settings.planner.name}, {settings.train.frames} env frames "
        f"from {run.frames} -> {folder.path}"
    )
    finished = False
    try:
        finished = _with_progress(run, console, stop)
        _summarise(run, console, finished)
    finally:
        run.metrics.close(0 if finished else 1)
        run.close()
        folder.release()
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 0 if finished else 130


def _request(stop: list[int]) -> Any:
    def handler(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)

    return handler


def _with_progress(run: TrainingRun, console: Console, stop: list[int]) -> bool:
    """Train under a progress bar; one line for every evaluation."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("training", total=run.settings.train.frames, rate="")
        bar.update(task, completed=run.frames)

        def show(run: TrainingRun, shown: dict[str, float]) -> None:
            if run.steps % 20 == 0 or run.finished:
                spent = sum(run.stopwatch.milliseconds().values())
                rate = f"{run.spec.action_repeat * 1000 / spent:.0f} frames/s" if spent else ""
                doing = "training" if run.learning else "random actions"
                bar.update(task, completed=run.frames, rate=rate, description=doing)
            if "eval/return" in shown:
                bar.console.print(
                    f"  {run.frames:>8} frames: return {shown['eval/return']:.1f} "
                    f"± {shown['eval/std']:.1f} over {len(run.eval_envs)} episodes"
                )

        return train(run, show, lambda: bool(stop))


def _summarise(run: TrainingRun, console: Console, finished: bool) -> None:
    """Draw the learning curve and print what there is and where."""
    folder = run.folder
    if not finished:
        console.print(
            f"interrupted at {run.frames} frames, everything saved; go on with\n"
            f"  telic train resume={folder.path}"
        )
        return
    milliseconds = run.stopwatch.milliseconds()
    parts = ", ".join(f"{name} {milliseconds[name]:.1f}" for name in COMPONENTS)
    console.print(
        f"per control step: {sum(milliseconds.values()):.1f} ms ({parts}) on "
        f"{torch.get_num_threads()} thread(s)"
    )
    assert run.metrics is not None
    frames, returns = run.metrics.column("eval/return")
    _, std = run.metrics.column("eval/std")
    if returns:
        path = folder.plots / "learning_curve.png"
        spread = [
            [r - s for r, s in zip(returns, std, strict=True)],
            [r + s for r, s in zip(returns, std, strict=True)],
        ]
        references = reference_curves(run.spec.name)
        learning_curve(path, frames, returns, references, run.spec.name, spread)
        run.metrics.log_media("plots/learning_curve", path)
        published = published_return(run.spec.name)
        beside = f" (published TD-MPC2 at 100k frames: {published:.0f})" if published else ""
        console.print(f"return {returns[-1]:.1f} at {frames[-1]} frames{beside}")
        console.print(f"learning curve: {path}")
    console.print(f"run folder: {folder.path}\n  telic control run={folder.path} video=true")
