"""`telic export`: a trained model without what only its training needs, small enough to share."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING, OmegaConf

from scripts.agent_files import training_done
from scripts.loading import LoadedGoalRun, LoadedRun, open_any_run
from scripts.option_help import layout, option_rows
from scripts.run_folder import RunFolder
from scripts.settings import load
from scripts.terminal import console as make_console
from scripts.usage import UsageError, usage_errors
from world_models import save_checkpoint

# What a checkpoint says about a training that could go on.
OF_TRAINING = ("steps", "learning", "device", "first_episode", "plan_row")


@dataclass(frozen=True)
class ExportSettings:
    """Options of `telic export`."""

    run: str = MISSING  # run folder
    checkpoint: str | None = None  # folder of a checkpoint; null: the newest of the run
    out: str | None = None  # new run folder; null: checkpoints/ and the name of the run


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    return layout(option_rows(ExportSettings()))


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    settings = load(ExportSettings, files, overrides)
    loaded = open_any_run(settings.run, settings.checkpoint, "cpu", {})
    path = Path(settings.out) if settings.out else Path("checkpoints") / loaded.folder.name
    done = training_done(loaded.trained.checkpoint.meta)
    unit = "updates" if isinstance(loaded, LoadedGoalRun) else "env frames"
    if RunFolder(path).config.exists():
        raise UsageError(f"{path} already holds a run; choose another out=")
    with usage_errors():
        RunFolder.refuse_if_used(path)
        draft = path.with_name(f".{path.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            _write(loaded, draft, f"{done:09d}")
            if path.exists():
                shutil.rmtree(path)  # nothing but what a killed command left, see refuse_if_used
            draft.rename(path)
        except OSError as error:
            raise UsageError(f"cannot write to {path}: {error.strerror}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    console = make_console()
    console.print(f"{path}: {size / 1e6:.2f} MB, {loaded.spec.name} of {done} {unit}")
    console.print(f"  telic control run={shlex.quote(str(path))}")
    return 0


def _write(loaded: LoadedRun | LoadedGoalRun, path: Path, checkpoint: str) -> None:
    """Write a new run folder that holds the model as its only checkpoint, and its evaluations."""
    folder = RunFolder.create(path, OmegaConf.to_yaml(OmegaConf.create(loaded.options)))
    try:
        trained = loaded.trained
        meta = {k: v for k, v in trained.checkpoint.meta.items() if k not in OF_TRAINING}
        tensors = {"model": trained.model.state_dict()}
        save_checkpoint(folder.checkpoints / checkpoint, tensors, meta)
        evaluations = path / "evaluations"
        for file in sorted(loaded.folder.evaluations.glob(f"{checkpoint}-*.json")):
            evaluations.mkdir(exist_ok=True)
            shutil.copy2(file, evaluations)
    finally:
        folder.release()
