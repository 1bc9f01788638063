"""`telic sweep`: many trainings side by side, from every combination of listed values."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mpc.checks import require_at_least
from scripts.engines import Engine, Job, LocalEngine
from scripts.interrupts import noted_signals
from scripts.metrics import read_column
from scripts.option_help import layout, option_rows
from scripts.options import read_options, word
from scripts.reference import published_return
from scripts.run_folder import RunFolder
from scripts.run_results import LOOKING, flat
from scripts.settings import (
    Settings,
    build,
    load,
    read_run_options,
    training_schema,
)
from scripts.terminal import console as make_console
from scripts.terminal import counted
from scripts.train import CHANGEABLE
from scripts.training import trainable_spec
from scripts.usage import UsageError, require_writable, usage_errors

PLACES = ("runs", "name")  # options that say where a run lies
OWN = ("name", "resume")
IN_NAME = ("env", "seed", "planner")  # these are part of every name that a run is not given
POLL_SECONDS = 0.5
ELSEWHERE = "running elsewhere"
STYLES = {
    "waiting": "dim",
    "running": "cyan",
    ELSEWHERE: "cyan",
    "finished": "green",
    "skipped": "dim green",
    "interrupted": "yellow",
    "failed": "bold red",
}


@dataclass(frozen=True)
class SweepConfig:
    """Options of the sweep itself."""

    workers: int | None = None  # trainings side by side; null: as many as there are cores

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.workers is not None:
            require_at_least(self, 1, "workers")


@dataclass
class Member:
    """One training of a sweep, and how it is doing."""

    settings: Settings
    command: list[str]
    state: str = "waiting"  # waiting, running, or how it ended: a key of STYLES
    code: int = 0
    started: float = 0.0
    seconds: float = 0.0
    # Of the metrics that were last read: when they were written, their size; and what was in them.
    _read: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _reached: tuple[int, str] = field(default=(0, ""), init=False, repr=False)

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return self.settings.run_name()

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.settings.runs) / self.name

    @property
    def log(self) -> Path:
        """The file that takes what it prints."""
        return Path(self.settings.runs) / f"{self.name}.log"

    def command_on(self, cores: int) -> list[str]:
        """Its command where it has so many cores; what comes out is the same on any."""
        crowded = self.settings.train.overlap is None and cores < 2 * self.settings.threads
        return [*self.command, *(["train.overlap=false"] if crowded else [])]

    def reached(self) -> tuple[int, str]:
        """Env frames at its last row of metrics, and its last evaluated return at how many.

        The return is empty before the first. Metrics are read where they have changed.
        """
        metrics = self.folder / "metrics.csv"
        if not metrics.exists():
            return 0, ""
        now = metrics.stat()
        if self._read != (now.st_mtime_ns, now.st_size):
            frames, _ = read_column(metrics, "frames")
            at, returns = read_column(metrics, "eval/return")
            found = f"{returns[-1]:.1f} at {at[-1]}" if at else ""
            self._reached = frames[-1] if frames else 0, found
            self._read = now.st_mtime_ns, now.st_size
        return self._reached


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """The sweep's own options; the others are those of `telic train`."""
    train = ("OPTION", "a,b,c", "any option of `telic train`: one value, or several to combine")
    return layout([train, *option_rows(SweepConfig())])


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError, and then starts nothing."""
    own = [o for o in overrides if o.startswith("workers=")]
    config = load(SweepConfig, [], own)
    members = plan(files, [o for o in overrides if o not in own])
    return sweep(members, LocalEngine(slots(members, config.workers)), make_console())


def slots(members: Sequence[Member], workers: int | None) -> int:
    """How many trainings run side by side: `workers`, or as many as cores allow; all, if fewer."""
    most = workers or (os.cpu_count() or 1) // members[0].settings.threads
    return max(1, min(most, sum(member.state == "waiting" for member in members)))


def plan(files: Sequence[str], overrides: Sequence[str], *, exact: bool = False) -> list[Member]:
    """The trainings that `overrides` ask for; those that have finished are marked as skipped.

    Raises UsageError for options that no training could start with, and where a run folder holds
    a run of other settings. Unless `exact`, one of fewer `train.frames` is continued to more, and
    one may have been evaluated at other frames.
    """
    last = {item.partition("=")[0]: item for item in overrides}  # of an option given twice
    axes = [_values(item) for item in last.values()]
    varied = [axis[0].partition("=")[0] for axis in axes if len(axis) > 1]
    members = [_member(files, choice, varied, exact) for choice in itertools.product(*axes)]
    folders = [member.folder for member in members]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UsageError(f"two trainings would share the folder {folder}")
    checked = []
    for member in members:
        if member.state == "waiting" and member.settings.env not in checked:
            checked.append(member.settings.env)
            with usage_errors():
                trainable_spec(member.settings)
    return members


def _values(item: str) -> list[str]:
    """`key=a,b` as `key=a` and `key=b`; a list in brackets is one value. Raises UsageError."""
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise UsageError(f"{item!r} is not an option; write key=value, such as seed=1,2,3")
    if key in OWN:
        raise UsageError(f"{key}= is made by the sweep, one for each training; leave it out")
    if value[:1] in ("[", "{"):
        return [item]
    values = value.split(",")
    if "" in values and len(values) > 1:
        raise UsageError(f"{item!r} lists an empty value; write {key}=a,b")
    return [f"{key}={one}" for one in dict.fromkeys(values)]


def _member(
    files: Sequence[str], overrides: Sequence[str], varied: Sequence[str], exact: bool
) -> Member:
    options = read_options(files, overrides, Settings)
    if training_schema(options) is not Settings:
        raise UsageError("telic sweep trains for reward; trainings for goals begin by telic train")
    settings = build(Settings, options)
    parts = [o.replace("/", "-") for o in overrides if o.partition("=")[0] in varied]
    if settings.name is None:
        parts = [part for part in parts if part.partition("=")[0] not in IN_NAME]
    name = "-".join([settings.run_name(), *parts])
    settings = load(Settings, files, [*overrides, f"name={name}"])
    # -P, because packages in the working folder may have the names of ours.
    train = [sys.executable, "-P", "-m", "scripts.cli", "train"]
    member = Member(settings, [*train, *_configs(files), *overrides, f"name={name}"])
    with usage_errors():
        if not RunFolder(member.folder).config.exists():
            RunFolder.refuse_if_used(member.folder)
            return member
        stored = build(Settings, read_run_options(RunFolder.open(member.folder)))
    was, asked = (dict(flat(options_of(each))) for each in (stored, settings))
    difference = _difference(was, asked, exact)
    if difference:
        raise UsageError(
            f"{member.folder} holds a run with other settings: {difference}; choose another runs="
        )
    checkpoints = RunFolder(member.folder).checkpoints
    seen = [int(p.name) for p in checkpoints.glob("*") if p.name.isdecimal()]
    if seen and max(seen) >= settings.train.frames:
        member.state = "skipped"
    given = [key for key, _ in flat(options) if key in asked]  # without groups that are empty
    changed = [
        f"{key}={word(asked[key])}"
        for key in given
        if key.partition(".")[0] in CHANGEABLE and was[key] != asked[key]
    ]
    member.command = [*train, f"resume={member.folder}", *changed]
    return member


def _configs(files: Sequence[str]) -> list[str]:
    return [word for file in files for word in ("--config", file)]


def _difference(was: Mapping[str, Any], asked: Mapping[str, Any], exact: bool) -> str:
    """The first option that makes a training another than the one asked for, or nothing."""
    free = [key for key in LOOKING if not (exact and key == "train.eval_every")]
    for key, value in asked.items():
        without_effect = key.partition(".")[0] in ("wandb", "device", *PLACES) or key in free
        grows = not exact and key == "train.frames" and was[key] < value
        if was.get(key) != value and not without_effect and not grows:
            return f"{key} is {was.get(key)}, not {value}"
    return ""


def options_of(settings: Settings) -> dict[str, Any]:
    """All options, nested."""
    found: Any = OmegaConf.to_container(OmegaConf.structured(settings))
    return dict(found)


def sweep(members: Sequence[Member], engine: Engine, console: Console) -> int:
    """Run what waits, as many at once as the engine takes; returns the exit code.

    A training that fails is not started again; the others go on. After Ctrl-C, SIGTERM or SIGHUP
    the running ones save and stop. Raises UsageError where nothing can be written.
    """
    waiting = [m for m in members if m.state == "waiting"]
    before = len(members) - len(waiting)
    for folder in {member.log.parent for member in waiting}:
        require_writable(folder)
    side_by_side = f", {engine.slots} at a time" if waiting else ""
    console.print(
        f"{counted(len(members), 'training')}, {before} of them finished before{side_by_side}"
    )
    running: list[tuple[Member, Job]] = []
    told = 0
    with noted_signals() as stop, Live(console=console, transient=True, auto_refresh=False) as live:
        try:
            while waiting or running:
                while waiting and len(running) < engine.slots and not stop:
                    member = waiting.pop(0)
                    if RunFolder(member.folder).locked:
                        member.state = ELSEWHERE
                        continue
                    member.log.parent.mkdir(parents=True, exist_ok=True)
                    member.state, member.started = "running", time.monotonic()
                    command = member.command_on(engine.cores)
                    running.append((member, engine.start(command, member.log)))
                if len(stop) > told:  # a second Ctrl-C is passed on, too
                    waiting, told = [], len(stop)
                    for _, job in running:
                        job.interrupt()
                for member, job in running:
                    if _ended(member, job.poll()):
                        console.print(_line(member))
                running = [(member, job) for member, job in running if member.state == "running"]
                live.update(_table(members), refresh=True)
                time.sleep(POLL_SECONDS)
        finally:
            # Whatever ends a sweep ends its trainings; a second signal would keep them from saving.
            for _, job in running if not told else ():
                job.interrupt()
    console.print(_table(members))
    return _summarise(members, console)


def _ended(member: Member, code: int | None) -> bool:
    """Note how long a training has run, and how it ended if it has."""
    member.seconds = time.monotonic() - member.started
    if code is None:
        return False
    member.code = code
    member.state = {0: "finished", 130: "interrupted"}.get(code, "failed")
    return True


def _line(member: Member) -> str:
    """How a training ended."""
    frames, found = member.reached()
    ended = f"  {member.state}: {member.name}, {frames} env frames"
    return f"{ended}, return {found}" if found else ended


def _table(members: Sequence[Member]) -> Table:
    table = Table("run", "state", box=None, header_style="bold")
    for column in ("env frames", "return", "published at 100k, from states", "minutes"):
        table.add_column(column, justify="right")
    for member in members:
        published = published_return(member.settings.env.name)
        frames, found = member.reached()
        table.add_row(
            member.name,
            Text(member.state, STYLES[member.state]),
            f"{frames} of {member.settings.train.frames}",
            found,
            "" if published is None else f"{published:.0f}",
            f"{member.seconds / 60:.1f}" if member.seconds else "",
        )
    return table


def _summarise(members: Sequence[Member], console: Console) -> int:
    """Say what failed, runs elsewhere or is left; returns the exit code."""
    failed = [m for m in members if m.state == "failed"]
    for member in failed:
        text = member.log.read_text(errors="replace").strip().splitlines()
        console.print(f"failed: {member.name} (exit code {member.code}), see {member.log}")
        console.print(f"  {text[-1] if text else 'it printed nothing'}")
    elsewhere = [m for m in members if m.state == ELSEWHERE]
    for member in elsewhere:
        console.print(
            f"{ELSEWHERE}: another telic process writes {member.folder}; "
            "when it has ended the same command goes on"
        )
    left = [m for m in members if m.state in ("waiting", "interrupted")]
    if left:
        console.print(
            f"interrupted: {counted(len(left), 'training')} left, what ran is saved; "
            "the same command goes on"
        )
        return 130
    if failed or elsewhere:
        return 1
    console.print(f"all finished, in {shlex.quote(str(members[0].settings.runs))}")
    return 0
