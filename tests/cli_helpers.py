"""Running `telic` in tests, and comparing what trainings leave behind."""

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scripts.cli import main
from world_models import latest_checkpoint, load_checkpoint

DEBUG = ("--config", "debug", "wandb.mode=disabled")


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a refusal; fails the test if it was anything else."""
        assert self.code == 2, self
        assert self.out == "", self
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").strip()


def telic(*words: object) -> Result:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return Result(code, out.getvalue(), err.getvalue())


def start_telic(*words: object, **environment: str) -> "subprocess.Popen[str]":
    """Start a command line in a process (and process group) of its own."""
    command = [sys.executable, "-m", "scripts.cli", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def run_telic(*words: object, **environment: str) -> Result:
    """Run a command line in a process of its own."""
    with start_telic(*words, **environment) as process:
        out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait until `condition`; fails the test if `process` ends before, or after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tree(path: Path) -> dict[str, bytes]:
    """Files below `path` with their content, and folders with none."""
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() else b"" for p in path.rglob("*")
    }


def repeatable(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics without its wall-clock columns; numbers as text, so that nan equals nan."""
    return {key: str(value) for key, value in row.items() if not key.startswith("time/")}


def csv_rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def json_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def wandb_rows(run: Path) -> list[dict[str, Any]]:
    """Rows of W&B's offline files, without the pictures that go with some."""
    from test_metrics import read_offline_history

    rows = read_offline_history(run / "wandb", len(json_rows(run)))
    return [{k: v for k, v in row.items() if not k.startswith("plots/")} for row in rows]


def assert_same_training(one: Path, other: Path) -> None:
    """Model, optimiser, generators, replay, metrics and episodes are equal bit for bit."""
    a, b = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (one, other))
    assert repeatable(a.meta["plan_row"]) == repeatable(b.meta["plan_row"])
    for checkpoint in (a, b):
        for key in ("plan_row", "seconds", "made_by"):
            del checkpoint.meta[key]
    assert a.meta == b.meta
    for group, tensors in a.tensors.items():
        assert tensors.keys() == b.tensors[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, b.tensors[group][name]), f"{group}/{name}"
    for rows in (csv_rows, json_rows):
        assert list(map(repeatable, rows(one))) == list(map(repeatable, rows(other)))
    assert tree(one / "episodes") == tree(other / "episodes")


def has_control_characters(text: str) -> bool:
    """Whether `text` holds anything that moves a cursor or colours a terminal."""
    return re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text) is not None
