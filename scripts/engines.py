"""Where the trainings of a sweep run: the contract of an engine, and this machine as one."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

AT_ONCE = "TELIC_AT_ONCE"  # environment variable of a command: how many run side by side with it


class Job(Protocol):
    """A command that an engine has started."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs or waits."""

    def interrupt(self) -> None:
        """Ask it to save and stop (SIGINT, or what the engine sends in its place)."""


class Engine(Protocol):
    """Starts commands; Ray or SLURM (through submitit) can stand in for the local one."""

    slots: int  # commands that it takes at once
    cores: int  # that each of them may use

    def start(self, command: Sequence[str], log: Path) -> Job:
        """Run `command` with AT_ONCE set, both of its outputs appended to the file `log`."""


class LocalJob:
    """A process of this machine."""

    def __init__(self, command: Sequence[str], log: Path, at_once: int) -> None:
        with log.open("ab") as file:
            # In a session of its own, so that Ctrl-C reaches the sweep alone, which passes it on.
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, AT_ONCE: str(at_once)},
            )

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def interrupt(self) -> None:
        """Send SIGINT; harmless when it has ended."""
        self._process.send_signal(signal.SIGINT)


class LocalEngine:
    """This machine, with `slots` processes side by side."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.cores = max(1, (os.cpu_count() or 1) // slots)

    def start(self, command: Sequence[str], log: Path) -> Job:
        """Run `command` as a process."""
        return LocalJob(command, log, self.slots)
