"""`telic train`: train, or resume a training."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from scripts.interrupts import noted_signals
from scripts.metrics import MetricsLogger
from scripts.option_help import layout, option_rows
from scripts.options import Options, parse_overrides, read_options, stack
from scripts.reference import published_return
from scripts.run_folder import RunFolder
from scripts.settings import Settings, build, load, prepare_torch, read_run_options
from scripts.stopwatch import COMPONENTS, WHOLE
from scripts.terminal import console as make_console
from scripts.training import TrainingRun, train
from scripts.usage import UsageError, usage_errors
from world_models import Checkpoint, latest_checkpoint, load_checkpoint

CHANGEABLE = ("train", "wandb", "device")  # options that may change when a run is resumed


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults, those of `files` and `overrides` applied."""
    rows = option_rows(load(Settings, files, overrides))
    resume = ("resume", "null", "run folder: go on with it; only train.*, wandb.*, device change")
    return layout([resume, *rows]) + "\n\n`planner=NAME --help` lists the options of that planner."


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    resume = parse_overrides(overrides).get("resume")
    console = make_console()
    if resume is None:
        run = start(load(Settings, files, overrides))
    else:
        opened = go_on(Path(str(resume)), files, overrides)
        if isinstance(opened, str):
            console.print(opened)
            return 0
        run = opened
    try:
        return _train(run, console)
    finally:
        run.close()
        run.folder.release()


def start(settings: Settings) -> TrainingRun:
    """A new run and its locked folder. Raises UsageError, and then leaves no folder behind."""
    prepare_torch(settings.threads)
    path = Path(settings.runs) / settings.run_name()
    with usage_errors():
        RunFolder.refuse_if_used(path)
        run = TrainingRun(settings, RunFolder(path))
        run.folder = RunFolder.create(path, _yaml(settings))
    return run


def go_on(path: Path, files: Sequence[str], overrides: Sequence[str]) -> TrainingRun | str:
    """The run in folder `path`, locked, as its last checkpoint left it.

    If it has seen all of its frames already, a line that says so. Raises UsageError.
    """
    changes = read_options(files, [o for o in overrides if not o.startswith("resume=")])
    for key in changes:
        if key not in CHANGEABLE:
            raise UsageError(
                f"{key} cannot change when a run is resumed; only {', '.join(CHANGEABLE)} can"
            )
    with usage_errors():
        folder = RunFolder.open(path)
        folder.lock()
    try:
        return _restored(folder, changes)
    except BaseException:
        folder.release()
        raise


def _restored(folder: RunFolder, changes: Options) -> TrainingRun | str:
    settings = build(Settings, stack(read_run_options(folder), changes))
    prepare_torch(settings.threads)
    with usage_errors():
        newest = latest_checkpoint(folder.checkpoints)
        checkpoint = load_checkpoint(newest)
        if "trainer" not in checkpoint.tensors:
            raise ValueError(f"{newest} holds an exported model, which cannot be trained on")
        seen = _frames(checkpoint, newest)
        if seen >= settings.train.frames:
            folder.release()
            return (
                f"{folder.path} has finished: {seen} of {settings.train.frames} env frames; "
                f"train longer with train.frames={2 * seen}"
            )
        run = TrainingRun(settings, folder)
        try:
            run.restore(checkpoint)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{newest} does not fit {folder.config}: {error}") from error
        folder.write_config(_yaml(settings))
    return run


def _frames(checkpoint: Checkpoint, path: Path) -> int:
    try:
        return int(checkpoint.meta["frames"])
    except (KeyError, TypeError):
        raise ValueError(f"{path} was not written by `telic train`") from None


def _train(run: TrainingRun, console: Console) -> int:
    settings, folder, spec = run.settings, run.folder, run.spec
    with noted_signals(raise_second=True) as stop:
        config: Any = OmegaConf.to_container(OmegaConf.structured(settings))
        run.metrics = MetricsLogger(folder.path, settings.wandb, config, folder.name)
        finished = False
        try:
            run.metrics.truncate(run.frames)
            console.print(
                f"{spec.name}: {spec.observations}, {spec.actions}, "
                f"{1000 * spec.control_period:.0f} ms per control step, planner "
                f"{settings.planner.name}, env frames {run.frames} to {settings.train.frames}, "
                f"in {folder.path}"
            )
            finished = _with_progress(run, console, lambda: bool(stop))
        except KeyboardInterrupt:
            console.print(f"stopped at once; go on from the last checkpoint: {_resume(folder)}")
            return 130
        finally:
            run.metrics.close(0 if finished else 1)
        if not finished:
            console.print(
                f"interrupted at {run.frames} frames, everything saved; go on: {_resume(folder)}"
            )
            return 130
    _summarise(run, console)
    return 0


class _Rate(ProgressColumn):
    """Env frames per second of the last half minute, whatever they were spent on."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} frames/s" if speed else "")


def _with_progress(run: TrainingRun, console: Console, interrupted: Callable[[], bool]) -> bool:
    """Train under a progress bar, where there is a terminal; one line for every evaluation."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, refresh_per_second=2, disable=hidden) as bar:
        task = bar.add_task("training", total=run.settings.train.frames, completed=run.frames)

        def show(run: TrainingRun, shown: dict[str, float]) -> None:
            if run.steps % 20 == 0 or run.finished:
                doing = "training" if run.learning else "random actions"
                bar.update(task, completed=run.frames, description=doing)
            if "eval/return" in shown:
                console.print(
                    f"  {run.frames:>8} frames: return {shown['eval/return']:.1f} "
                    f"± {shown['eval/std']:.1f} over {len(run.eval_envs)} episodes"
                )

        return train(run, show, interrupted)


def _summarise(run: TrainingRun, console: Console) -> None:
    """Say how long control steps took, how it went and where everything is."""
    folder = run.folder
    spent = run.stopwatch.milliseconds()
    if spent:
        parts = ", ".join(f"{name} {spent[name]:.1f}" for name in COMPONENTS)
        console.print(
            f"per control step: {spent[WHOLE]:.1f} ms ({parts}) on {torch.get_num_threads()} "
            f"thread(s), {1000 * run.spec.action_repeat / spent[WHOLE]:.0f} env frames per second, "
            "compilation and evaluation not counted"
        )
    assert run.metrics is not None
    frames, returns = run.metrics.column("eval/return")
    if returns:
        published = published_return(run.spec.name)
        beside = f" (published TD-MPC2 at 100k frames: {published:.0f})" if published else ""
        console.print(f"return {returns[-1]:.1f} at {frames[-1]} frames{beside}")
        console.print(f"learning curve: {folder.plots / 'learning_curve.png'}")
    if not run.learning:
        console.print("nothing was learned: train.frames ended before train.random_steps did")
    quoted = shlex.quote(str(folder.path))
    console.print(f"run folder: {folder.path}\n  telic control run={quoted} video=true")


def _resume(folder: RunFolder) -> str:
    return f"telic train resume={shlex.quote(str(folder.path))}"


def _yaml(settings: Settings) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(settings))
