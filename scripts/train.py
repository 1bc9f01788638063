"""`telic train`: train, or resume a training."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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

from scripts.agent_files import training_done
from scripts.interrupts import noted_signals
from scripts.metrics import MetricsLogger
from scripts.offline import OfflineRun
from scripts.option_help import layout, option_rows, shown
from scripts.options import Options, stack
from scripts.run_folder import RunFolder
from scripts.settings import (
    AnySettings,
    GoalSettings,
    prepare_torch,
    read_run_options,
    read_training_options,
    training_schema,
    training_settings,
)
from scripts.terminal import console as make_console
from scripts.training import TrainingRun
from scripts.usage import UsageError, usage_errors
from world_models import Checkpoint, latest_checkpoint, load_checkpoint

Run = TrainingRun | OfflineRun
CHANGEABLE = ("train", "wandb", "device")  # options that may change when a run is resumed


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults, or as resume= has them, `files` and `overrides` applied."""
    folder, others = _split_resume(overrides)
    raw = read_training_options(files, others)
    if folder is not None:
        with usage_errors():
            raw = stack(read_run_options(RunFolder.open(folder)), raw)
    if training_schema(raw) is GoalSettings:
        raw = {"data": "(required)", **raw}
    rows = option_rows(training_settings(raw))
    note = "run folder: go on with it; only train.*, wandb.*, device change"
    return layout([("resume", shown(folder), note), *rows]) + (
        "\n\n`planner=NAME --help` lists the options of that planner, "
        "`train.objective=goal --help` those of a training on data."
    )


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    folder, others = _split_resume(overrides)
    console = make_console()
    if folder is None:
        run = start(training_settings(read_training_options(files, others)))
    else:
        opened = go_on(folder, files, others)
        if isinstance(opened, str):
            console.print(opened)
            return 0
        run = opened
    try:
        return _train(run, console)
    finally:
        run.close()
        run.folder.release()


def _split_resume(overrides: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder of the last `resume=`, if it names one, and all other options."""
    folders = [item.removeprefix("resume=") for item in overrides if item.startswith("resume=")]
    others = [item for item in overrides if not item.startswith("resume=")]
    return (Path(folders[-1]) if folders and folders[-1] not in ("", "null") else None), others


def start(settings: AnySettings) -> Run:
    """A new run and its locked folder. Raises UsageError, and then leaves no folder behind."""
    prepare_torch(settings.threads)
    path = Path(settings.runs) / settings.run_name()
    with usage_errors():
        RunFolder.refuse_if_used(path)
        run = _make(settings, RunFolder(path))
        run.folder = RunFolder.create(path, _yaml(settings))
    return run


def _make(settings: AnySettings, folder: RunFolder) -> Run:
    if isinstance(settings, GoalSettings):
        return OfflineRun(settings, folder)
    return TrainingRun(settings, folder)


def go_on(path: Path, files: Sequence[str], overrides: Sequence[str]) -> Run | str:
    """The run in folder `path`, locked, as its last checkpoint left it; new if it never had one.

    If it has done all that it was asked for, a line that says so. Raises UsageError.
    """
    changes = read_training_options(files, overrides)
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


def _restored(folder: RunFolder, changes: Options) -> Run | str:
    settings = training_settings(stack(read_run_options(folder), changes))
    prepare_torch(settings.threads)
    with usage_errors():
        run = _make(settings, folder) if _is_new(folder) else _at_checkpoint(settings, folder)
        if not isinstance(run, str):
            folder.write_config(_yaml(settings))
    return run


def _is_new(folder: RunFolder) -> bool:
    """Whether the run was killed before its first checkpoint, which comes before all metrics."""
    saved = any(path.name.isdecimal() for path in folder.checkpoints.glob("*"))
    return not saved and not (folder.path / "metrics.csv").exists()


def _at_checkpoint(settings: AnySettings, folder: RunFolder) -> Run | str:
    """The run as its last checkpoint left it, or a line that it has finished.

    Raises ValueError or UsageError.
    """
    newest = latest_checkpoint(folder.checkpoints)
    checkpoint = load_checkpoint(newest)
    if "trainer" not in checkpoint.tensors:
        raise ValueError(f"{newest} holds an exported model, which cannot be trained on")
    done = _done(checkpoint, newest)
    kind = OfflineRun if isinstance(settings, GoalSettings) else TrainingRun
    total = settings.total
    if done >= total:
        folder.release()
        option = "updates" if kind is OfflineRun else "frames"
        return (
            f"{folder.path} has finished: {done} of {total} {kind.unit}; "
            f"train longer with train.{option}={2 * done}"
        )
    run = _make(settings, folder)
    try:
        run.restore(checkpoint)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{newest} does not fit {folder.config}: {error}") from error
    return run


def _done(checkpoint: Checkpoint, path: Path) -> int:
    """Env frames, or updates, before a checkpoint."""
    try:
        return training_done(checkpoint.meta)
    except (KeyError, TypeError):
        raise ValueError(f"{path} was not written by `telic train`") from None


def _train(run: Run, console: Console) -> int:
    settings, folder = run.settings, run.folder
    with noted_signals(raise_second=True) as stop:
        config: Any = OmegaConf.to_container(OmegaConf.structured(settings))
        run.metrics = MetricsLogger(folder.path, settings.wandb, config, folder.name, run.axis)
        finished = False
        try:
            run.metrics.truncate(run.done)
            span = f"{run.unit} {run.done} to {run.settings.total}"
            console.print(f"{run.heading()}, {span}, in {folder.path}")
            finished = _with_progress(run, console, lambda: bool(stop))
        except KeyboardInterrupt:
            console.print(f"stopped at once; go on from the last checkpoint: {_resume(folder)}")
            return 130
        finally:
            run.metrics.close(0 if finished else 1)
        if not finished:
            console.print(
                f"interrupted at {run.done} {run.unit}, everything saved; go on: {_resume(folder)}"
            )
            return 130
    _summarise(run, console)
    return 0


class _Rate(ProgressColumn):
    """Progress per second of the last half minute, whatever it was spent on."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f} {self._unit}/s" if speed else "")


def train(
    run: Run,
    progress: Callable[[dict[str, float]], None],
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Advance `run` until it has finished or `interrupted()`; True if it has finished.

    Evaluates and saves on the way and at the end. `progress` hears of every step.
    """
    if not run.steps:
        run.save()  # so that a run killed at any time can be resumed
    while not run.finished:
        if interrupted():
            run.save()
            return False
        shown = run.advance()
        if run.evaluation_due:
            shown = {**shown, **run.evaluate()}
        if run.checkpoint_due:
            run.save()
        progress(shown)
    return True


def _with_progress(run: Run, console: Console, interrupted: Callable[[], bool]) -> bool:
    """Train under a progress bar, where there is a terminal; one line for every evaluation."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        _Rate(run.unit.split()[-1]),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, refresh_per_second=2, disable=hidden) as bar:
        task = bar.add_task(run.doing, total=run.settings.total, completed=run.done)

        def show(shown: dict[str, float]) -> None:
            if run.steps % 20 == 0 or run.finished:
                bar.update(task, completed=run.done, description=run.doing)
            line = run.evaluated(shown)
            if line is not None:
                console.print(f"  {run.done:>8} {run.unit.split()[-1]}: {line}")

        return train(run, show, interrupted)


def _summarise(run: Run, console: Console) -> None:
    """Say how long it took, how it went and where everything is."""
    for line in run.summary():
        console.print(line)
    path = run.folder.path
    console.print(f"run folder: {path}\n  telic control run={shlex.quote(str(path))} video=true")


def _resume(folder: RunFolder) -> str:
    return f"telic train resume={shlex.quote(str(folder.path))}"


def _yaml(settings: AnySettings) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(settings))
