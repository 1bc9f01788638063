"""The folder of one run: where every file lies, and who may write there."""

from __future__ import annotations

import difflib
import fcntl
import os
from pathlib import Path

SUBFOLDERS = ("checkpoints", "episodes", "videos", "plots", "wandb")


class RunFolder:
    """The files of a run below `path`; made by `create` or `open`, not by the constructor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.checkpoints = path / "checkpoints"
        self.episodes = path / "episodes"
        self.videos = path / "videos"
        self.plots = path / "plots"
        self.evaluations = path / "evaluations"
        self._lock: int | None = None

    @property
    def name(self) -> str:
        """The run's name: the last part of its path."""
        return self.path.resolve().name

    @classmethod
    def create(cls, path: Path, config: str) -> RunFolder:
        """Make a new run folder that holds `config` as config.yaml, locked for this process.

        Raises ValueError, without touching what is there, when the folder holds anything already,
        can't be written, or is being made by another process.
        """
        run = cls(path)
        cls.refuse_if_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run.lock()
            # Another process may have made a run here between the first look and the lock.
            cls.refuse_if_used(path)
            for name in SUBFOLDERS:
                (path / name).mkdir(exist_ok=True)
            run.write_config(config)  # it makes a folder a run, so it comes last
        except OSError as error:
            run.release()
            raise ValueError(f"cannot write to {path}: {error.strerror}") from error
        except ValueError:
            run.release()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run, unlocked (call `lock` before writing metrics or checkpoints).

        Raises ValueError naming the nearest existing runs when `path` isn't a run folder.
        """
        run = cls(path)
        if run.config.is_file():
            return run
        reason = "it has no config.yaml" if path.is_dir() else "no such folder"
        nearest = _nearest_runs(path)
        hint = f"; nearest runs: {', '.join(nearest)}" if nearest else ""
        raise ValueError(f"{path} is not a run folder: {reason}{hint}")

    def write_config(self, config: str) -> None:
        """Write config.yaml, whole or not at all. Raises OSError when the disk refuses."""
        draft = self.path / ".config.yaml.new"
        draft.write_text(config, encoding="utf-8")
        draft.rename(self.config)

    def lock(self) -> None:
        """Keep other processes from writing this run, until `release` or the end of this process.

        Raises ValueError when another process (or RunFolder) has it, or the folder is read-only.
        """
        if self._lock is not None:
            return
        try:
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ValueError(f"cannot write to {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise ValueError(f"{self.path} is being written by another telic process") from error
        self._lock = handle

    @property
    def locked(self) -> bool:
        """Whether another process (or RunFolder) is writing this run."""
        try:
            handle = os.open(self.path / ".lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    def release(self) -> None:
        """Give the lock back; harmless when there is none."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @classmethod
    def refuse_if_used(cls, path: Path) -> None:
        """Raise ValueError if `path` holds a run or other files; touches nothing."""
        if cls(path).config.exists():
            raise ValueError(
                f"{path} already holds a run; resume it with "
                f"`telic train resume={path}` or choose another name="
            )
        ours = {".lock", ".config.yaml.new"}  # all that a killed `create` can leave
        if any(p.is_file() and p.name not in ours for p in path.rglob("*")):
            raise ValueError(f"{path} holds other files; choose another name=")


def _nearest_runs(path: Path, count: int = 3) -> list[str]:
    """Paths of up to `count` runs beside `path`, those with the most similar names."""
    runs = [config.parent.name for config in path.parent.glob("*/config.yaml")]
    names = difflib.get_close_matches(path.name, runs, count, cutoff=0.0)
    return [str(path.with_name(name)) for name in names]
