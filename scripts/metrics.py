"""One row of metrics to three places: metrics.csv, metrics.jsonl and Weights & Biases."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import netrc
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat
from urllib.parse import urlsplit

LOG = logging.getLogger(__name__)
MODES = ("auto", "online", "offline", "disabled")
WANDB_SETTINGS: dict[str, Any] = {"silent": True, "console": "off", "init_timeout": 60.0}
# Known to newer W&B only: how long uploads may hold up the end of a run, and how many seconds of
# rows a killed run may lose from its offline file (15 by default).
NEWER_WANDB_SETTINGS: dict[str, Any] = {
    "finish_timeout": 120.0,
    "x_transaction_log_flush_interval": 1.0,
}


@dataclass(frozen=True)
class WandbConfig:
    """How a run shows up in Weights & Biases."""

    mode: str = "auto"  # auto (online when a key is configured), online, offline, disabled
    project: str = "telic"  # that the run is filed under
    entity: str | None = None  # team or user; null: the key's own
    group: str | None = None  # that the run belongs to, such as a sweep
    tags: list[str] = field(default_factory=list)  # of the run

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"wandb.mode must be one of {', '.join(MODES)}, got {self.mode!r}")


class MetricsLogger:
    """Appends rows to the metrics files in `folder` and to the W&B run kept below it.

    Opening a folder that has rows continues them, and the same W&B run; call `truncate` first.
    """

    def __init__(
        self,
        folder: Path,
        config: WandbConfig,
        run_config: Mapping[str, Any],
        name: str,
        axis: str = "frames",
    ) -> None:
        """`axis` is what progress is counted in: env frames, or updates of the model."""
        self._axis = axis
        self._csv = folder / "metrics.csv"
        self._jsonl = folder / "metrics.jsonl"
        enabled = config.mode != "disabled"
        start = partial(_start_wandb, folder, config, run_config, name, axis)
        self._wandb = _WandbRun(start if enabled else None)
        self._columns, rows = _read_csv(self._csv)
        self._count = len(rows)

    def log(self, row: Mapping[str, SupportsFloat | str], done: int) -> None:
        """Write `row` at `done` env frames, or updates, everywhere; on disk when this returns.

        Non-finite numbers are `nan` and `inf` in the CSV and null in the JSONL.
        """
        full: dict[str, float | str] = {self._axis: done}
        full.update({key: _plain(value) for key, value in row.items()})
        new = [key for key in full if key not in self._columns]
        if new:
            self._columns += new
            _write_csv(self._csv, self._columns, _read_csv(self._csv)[1])
        _append(self._csv, _csv_line([full.get(column, "") for column in self._columns]))
        _append(self._jsonl, json.dumps({k: _or_null(v) for k, v in full.items()}) + "\n")
        self._wandb.log(full, step=self._count)
        self._count += 1

    def log_picture(self, key: str, path: Path) -> None:
        """Show a picture in W&B beside the next row; the file stays as it is."""
        self._wandb.log_picture(key, path, step=self._count)

    def truncate(self, done: int) -> None:
        """Drop rows past `done` env frames, or updates, and a last line torn by a kill.

        What is left equals the files of a run that had been stopped there.
        """
        columns, rows = _read_csv(self._csv)
        kept = [row for row in rows if int(row[self._axis]) <= done]
        self._columns = [c for c in columns if any(row[c] != "" for row in kept)]
        self._count = len(kept)
        if self._csv.exists():
            _write_csv(self._csv, self._columns, kept)
        lines = _whole_text(self._jsonl).splitlines(keepends=True)
        if lines:
            _swap(self._jsonl, "".join(x for x in lines if json.loads(x)[self._axis] <= done))

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Progress and values of all rows so far that have a number in column `name`."""
        return read_column(self._csv, name)

    def close(self, exit_code: int = 0) -> None:
        """End the W&B run, marked as failed unless `exit_code` is 0."""
        self._wandb.finish(exit_code)


class _WandbRun:
    """A W&B run that never stops a training: the first failure is one warning, then silence."""

    def __init__(self, start: Callable[[], Any] | None) -> None:
        """`start` makes the run; None: there is none."""
        self._run: Any = None
        if start is not None:
            self._guard(lambda: setattr(self, "_run", start()))

    def log(self, row: Mapping[str, Any], step: int) -> None:
        # The step is the row's number, so that rows repeated after a resume are seen to be the
        # same ones: an online run drops them, and readers of offline files can.
        if self._run is not None:
            self._guard(lambda: self._run.log(dict(row), step=step, commit=True))

    def log_picture(self, key: str, path: Path, step: int) -> None:
        """A picture, beside the row of `step`, which follows."""

        def send() -> None:
            import wandb

            self._run.log({key: wandb.Image(str(path))}, step=step, commit=False)

        if self._run is not None:
            self._guard(send)

    def finish(self, exit_code: int) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  W&B raises anything; training must go on
            LOG.warning("W&B failed, going on without it: %s", " ".join(str(error).split()))
            self._run = None


def _start_wandb(
    folder: Path,
    config: WandbConfig,
    run_config: Mapping[str, Any],
    name: str,
    axis: str,
) -> Any:
    """A W&B run of which `axis` is the x axis."""
    # W&B takes our package `agents` for another one of that name and advertises an add-on.
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
    import wandb  # slow, and not needed when disabled

    known = wandb.Settings.model_fields
    newer = {key: value for key, value in NEWER_WANDB_SETTINGS.items() if key in known}
    run = wandb.init(
        dir=str(folder),
        id=_run_id(folder),
        resume="allow",
        mode=wandb_mode(config.mode),  # type: ignore[arg-type]
        name=name,
        project=config.project,
        entity=config.entity,
        group=config.group,
        tags=config.tags,
        config=dict(run_config),
        settings=wandb.Settings(**WANDB_SETTINGS, **newer),
    )
    run.define_metric(axis)
    run.define_metric("*", step_metric=axis)
    return run


def read_column(path: Path, name: str) -> tuple[list[int], list[float]]:
    """Progress and values of the rows of a metrics.csv that have a number in column `name`.

    Progress is the first column, env frames or updates.
    """
    columns, rows = _read_csv(path)
    rows = [row for row in rows if row.get(name)]
    return [int(row[columns[0]]) for row in rows], [float(row[name]) for row in rows]


def wandb_mode(mode: str) -> str:
    """`mode`, with auto settled by the user's W&B settings and by whether there is a key."""
    if mode != "auto":
        return mode
    import wandb

    settings = wandb.setup().settings
    if settings.mode != "online":
        return settings.mode
    return "online" if settings.api_key or _netrc_has(settings.base_url) else "offline"


def _netrc_has(base_url: str) -> bool:
    """Whether ~/.netrc holds a key for the W&B server (api.wandb.ai is the public one's name)."""
    try:
        entries = netrc.netrc()
    except (OSError, netrc.NetrcParseError):
        return False
    hosts = {urlsplit(base_url).netloc, "api.wandb.ai"}
    return any(entries.authenticators(host) for host in hosts)


def _run_id(folder: Path) -> str:
    """The W&B id of the run, made on first use and kept in the folder so that resume finds it."""
    path = folder / "wandb" / "run_id.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        _swap(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8").strip()


def _plain(value: SupportsFloat | str) -> float | str:
    return value if isinstance(value, str | int) else float(value)


def _or_null(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(text)


def _swap(path: Path, text: str) -> None:
    """Replace the content of `path` in one step."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text, encoding="utf-8", newline="")
    draft.replace(path)


def _whole_text(path: Path) -> str:
    """Content of `path` up to its last line end; a kill can leave a piece of a line after it."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    return text[: text.rfind("\n") + 1]


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows; nothing when there is no file."""
    reader = csv.DictReader(io.StringIO(_whole_text(path), newline=""))
    rows = list(reader)
    return list(reader.fieldnames or ()), rows


def _write_csv(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    lines = [_csv_line(columns)] if columns else []
    lines += [_csv_line([row.get(column, "") for column in columns]) for row in rows]
    _swap(path, "".join(lines))


def _csv_line(values: list[Any]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
