"""`telic sweep`: many trainings side by side, from every combination of listed values."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from scripts.options import read_options
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
from scripts.usage import UsageError, usage_errors

PLACES = ("runs", "name")  # options that say where a run lies
OWN = ("name", "resume")
IN_NAME = ("env", "seed", "planner")  # these are part of the name of every run
POLL_SECONDS = 0.5
STYLES = {
    "waiting": "dim",
    "running": "cyan",
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

    def frames(self) -> int:
        """Env frames at its last row of metrics."""
        frames, _ = read_column(self.folder / "metrics.csv", "frames")
        return frames[-1] if frames else 0

    def evaluated(self) -> str:
        """Its last evaluated return, and at how many env frames; empty before the first."""
        frames, returns = read_column(self.folder / "metrics.csv", "eval/return")
        return f"{returns[-1]:.1f} at {frames[-1]}" if frames else ""


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
    """How many of the trainings run side by side: `workers`, or as many as cores allow."""
    return workers or max(1, (os.cpu_count() or 1) // members[0].settings.threads)


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
    options = read_options(files, overrides)
    if training_schema(options) is not Settings:
        raise UsageError("telic sweep trains for reward; trainings for goals begin by telic train")
    settings = build(Settings, options)
    parts = [o.replace("/", "-") for o in overrides if o.partition("=")[0] in varied]
    others = [part for part in parts if part.partition("=")[0] not in IN_NAME]
    name = "-".join([settings.run_name(), *others])
    settings = load(Settings, files, [*overrides, f"name={name}"])
    train = [sys.executable, "-m", "scripts.cli", "train"]
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
    changed = [
        f"{key}={json.dumps(value)}"
        for key, value in flat(options)
        if key.partition(".")[0] in CHANGEABLE and was[key] != value
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

    A training that fails is not started again; the others go on. After Ctrl-C or SIGTERM the
    running ones save and stop.
    """
    waiting = [m for m in members if m.state == "waiting"]
    before = len(members) - len(waiting)
    console.print(
        f"{counted(len(members), 'training')}, {before} of them finished before, "
        f"{engine.slots} at a time"
    )
    running: list[tuple[Member, Job]] = []
    with noted_signals() as stop, Live(console=console, transient=True, auto_refresh=False) as live:
        told = 0
        while waiting or running:
            while waiting and len(running) < engine.slots and not stop:
                member = waiting.pop(0)
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
    found = member.evaluated()
    ended = f"  {member.state}: {member.name}, {member.frames()} env frames"
    return f"{ended}, return {found}" if found else ended


def _table(members: Sequence[Member]) -> Table:
    table = Table("run", "state", box=None, header_style="bold")
    for column in ("env frames", "return", "published at 100k, from states", "minutes"):
        table.add_column(column, justify="right")
    for member in members:
        published = published_return(member.settings.env.name)
        table.add_row(
            member.name,
            Text(member.state, STYLES[member.state]),
            f"{member.frames()} of {member.settings.train.frames}",
            member.evaluated(),
            "" if published is None else f"{published:.0f}",
            f"{member.seconds / 60:.1f}" if member.seconds else "",
        )
    return table


def _summarise(members: Sequence[Member], console: Console) -> int:
    """Say what failed or is left; returns the exit code."""
    failed = [m for m in members if m.state == "failed"]
    for member in failed:
        text = member.log.read_text(errors="replace").strip().splitlines()
        console.print(f"failed: {member.name} (exit code {member.code}), see {member.log}")
        console.print(f"  {text[-1] if text else 'it printed nothing'}")
    left = [m for m in members if m.state in ("waiting", "interrupted")]
    if left:
        console.print(
            f"interrupted: {counted(len(left), 'training')} left, what ran is saved; "
            "the same command goes on"
        )
        return 130
    if not failed:
        folder = shlex.quote(str(members[0].settings.runs))
        console.print(f"all finished, in {folder}")
    return 1 if failed else 0
