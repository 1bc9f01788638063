"""Metrics: three copies that agree, survive kills, and never need W&B."""

import importlib
import json
import logging
import math
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.metrics import MetricsLogger, WandbConfig

OFF = WandbConfig(mode="disabled")
OFFLINE = WandbConfig(mode="offline", tags=["test"])


def make(folder: Path, config: WandbConfig = OFF) -> MetricsLogger:
    return MetricsLogger(folder, config, {"seed": 1, "train": {"frames": 30}}, folder.name)


def jsonl(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def row(frames: int) -> dict[str, float | str]:
    """A row like training's: an evaluation every third time adds columns."""
    train: dict[str, float | str] = {"loss": 1 / frames, "phase": "train, on"}
    return train | ({"return": 10.0 * frames} if frames % 30 == 0 else {})


def test_csv_and_jsonl_hold_the_same_rows_with_late_columns(tmp_path: Path) -> None:
    metrics = make(tmp_path)
    metrics.log({"loss": np.float32(0.5)}, 10)
    metrics.log({"loss": math.nan, "return": -math.inf}, 20)
    metrics.log({"return": 3, "phase": 'a "b", c'}, 30)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "frames,loss,return,phase",
        "10,0.5,,",
        "20,nan,-inf,",
        '30,,3,"a ""b"", c"',
    ]
    assert jsonl(tmp_path) == [
        {"frames": 10, "loss": 0.5},
        {"frames": 20, "loss": None, "return": None},
        {"frames": 30, "return": 3, "phase": 'a "b", c'},
    ]


@pytest.mark.parametrize("checkpoint", [0, 20, 30, 40])
def test_killed_and_resumed_files_equal_the_uninterrupted_ones(
    tmp_path: Path, checkpoint: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        metrics = make(folder)
        for frames in range(10, 70 if folder is whole else 50, 10):
            metrics.log(row(frames), frames)
    for name, torn in (("metrics.csv", "1"), ("metrics.jsonl", '{"fra')):
        with (killed / name).open("a") as file:
            file.write(torn)
    resumed = make(killed)
    resumed.truncate(checkpoint)
    for frames in range(checkpoint + 10, 70, 10):
        resumed.log(row(frames), frames)
    for name in ("metrics.csv", "metrics.jsonl"):
        assert (killed / name).read_text() == (whole / name).read_text()


def read_offline_history(wandb_folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows of all offline runs below `wandb_folder`, once there are `count` or after 10 s.

    W&B writes them from a process of its own, up to a second after a run has finished.
    """
    deadline = time.monotonic() + 10
    while len(rows := offline_history(wandb_folder)) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    return rows


def offline_history(wandb_folder: Path) -> list[dict[str, Any]]:
    """Rows of all offline runs below `wandb_folder`, one per step, in order of steps.

    A .wandb file is a 7-byte head and LevelDB log records: 32 KiB blocks of pieces, each with
    checksum, length and kind (1 whole, 2 first, 3 middle, 4 last); W&B's protobuf is inside.
    """
    record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    rows: dict[int, dict[str, Any]] = {}
    for path in sorted(wandb_folder.glob("offline-run-*/*.wandb")):
        data, position, message = path.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while position + 7 <= len(data):
            if 2**15 - position % 2**15 < 7:
                position += 2**15 - position % 2**15
                continue
            _, length, kind = struct.unpack_from("<IHB", data, position)
            if position + 7 + length > len(data):
                break  # W&B is about to write the rest of this piece
            message += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):
                items = record.FromString(message).history.item
                found = {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in items}
                if found:
                    rows[found["_step"]] = {k: v for k, v in found.items() if k[0] != "_"}
                message = b""
    return [rows[step] for step in sorted(rows)]


def test_offline_wandb_run_holds_the_rows_of_jsonl_across_a_resume(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    environment = dict(os.environ)
    first = make(tmp_path, OFFLINE)
    for frames in (10, 20, 30, 40):
        first.log(row(frames), frames)
    assert len(read_offline_history(tmp_path / "wandb", 4)) == 4  # what a kill would leave
    first.close()
    resumed = make(tmp_path, OFFLINE)
    resumed.truncate(20)
    for frames in range(30, 1500, 10):  # past one 32 KiB block
        resumed.log(row(frames) | {"bad": math.nan}, frames)
    resumed.close()
    written = jsonl(tmp_path)
    history = read_offline_history(tmp_path / "wandb", len(written))
    plain = [{k: None if v != v else v for k, v in found.items()} for found in history]
    assert plain == written
    run_id = (tmp_path / "wandb" / "run_id.txt").read_text()
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and {f.name for f in files} == {f"run-{run_id}.wandb"}
    assert capfd.readouterr() == ("", "")
    assert {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} == {
        k: v for k, v in environment.items() if not k.startswith("WANDB_")
    }


def test_auto_is_offline_without_a_key_and_online_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    from scripts.metrics import wandb_mode

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    wandb.teardown()
    assert wandb_mode("auto") == "offline"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password " + "a" * 40 + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    assert wandb_mode("auto") == "offline"
    assert wandb_mode("online") == "online"
    wandb.teardown()


def test_failing_wandb_is_one_warning_and_files_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import wandb

    def fail(**_: Any) -> None:
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(wandb, "init", fail)
    with caplog.at_level(logging.WARNING):
        metrics = make(tmp_path, OFFLINE)
        metrics.log({"loss": 1.0}, 10)
        metrics.close()
    assert caplog.messages == ["W&B failed, going on without it: no network"]
    assert jsonl(tmp_path) == [{"frames": 10, "loss": 1.0}]


def test_disabled_never_imports_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    metrics = make(tmp_path)
    metrics.log({"loss": 1.0}, 10)
    metrics.log_picture("plan", tmp_path / "plan.png")
    assert not (tmp_path / "wandb").exists()


def test_unknown_mode_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="auto, online, offline, disabled, got 'of'"):
        WandbConfig(mode="of")
