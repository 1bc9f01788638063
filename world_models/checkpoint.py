"""Atomic, verified checkpoints: safetensors for numbers, JSON for everything else, never pickle.

A checkpoint is a folder with one `<name>.safetensors` per group of tensors and `checkpoint.json`,
which holds the caller's facts and the size and SHA-256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT_VERSION = 1
INDEX = "checkpoint.json"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or too new; the message is one line that says which."""


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded: the caller's facts and, per group, tensors by name (on the CPU)."""

    meta: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint to `folder`, replacing any old one only once the new one is on disk.

    `tensors` maps group names (file names without ending) to tensors of any shape and device;
    views and shared memory are fine. `meta` is anything JSON can hold. Everything goes to a
    hidden sibling folder first, so a kill never leaves half a checkpoint under `folder`.
    Raises OSError when the disk refuses, TypeError when `meta` isn't JSON.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    _remove(fresh)
    fresh.mkdir(parents=True)
    try:
        files = {}
        for name, group in tensors.items():
            path = fresh / f"{name}.safetensors"
            save_file(_own_memory(group), path)
            _flush_to_disk(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        # A round trip, so that what is hashed is what a reader will see (keys become strings).
        facts = json.loads(json.dumps(dict(meta)))
        index = {"format": FORMAT_VERSION, "files": files, "meta": facts}
        index["sha256"] = _sha256_of_index(index)
        (fresh / INDEX).write_text(_text_of_index(index), encoding="utf-8")
        _flush_to_disk(fresh / INDEX)
        _flush_to_disk(fresh)
        _replace(fresh, folder)
    except BaseException:
        _remove(fresh)
        raise
    _flush_to_disk(folder.parent)


def load_checkpoint(folder: Path, names: Sequence[str] | None = None) -> Checkpoint:
    """Read the groups `names` (None: all) of the checkpoint in `folder`, checksums verified.

    Raises CheckpointError when the folder or a group is missing, a file is truncated or altered,
    or the format is newer than this code.
    """
    index = _read_index(folder)
    stored = [Path(file).stem for file in index["files"]]
    missing = [name for name in names or () if name not in stored]
    if missing:
        raise CheckpointError(f"{folder} has no {', '.join(missing)}; it has {', '.join(stored)}")
    tensors = {}
    for name in stored if names is None else names:
        path = folder / f"{name}.safetensors"
        _verify(path, index["files"][path.name])
        tensors[name] = load_file(path)
    return Checkpoint(index["meta"], tensors)


def latest_checkpoint(root: Path) -> Path:
    """Return the checkpoint in `root` with the most env frames in its name.

    One that was being replaced when a kill came is where that left it, under `.X.old`. Raises
    CheckpointError when there is none.
    """
    found = _by_frames(root)
    if not found:
        raise CheckpointError(f"no checkpoint in {root}")
    return found[-1]


def prune_checkpoints(root: Path, keep: int) -> None:
    """Delete all but the `keep` checkpoints with the most env frames, and what kills left over.

    A checkpoint that was being replaced when a kill came is put back first.

    Raises ValueError when `keep` is below 1.
    """
    if keep < 1:
        raise ValueError(f"need to keep at least 1 checkpoint, got keep={keep}")
    for old in root.glob(".*.old"):
        _put_back(old)
    for folder in [*_by_frames(root)[:-keep], *root.glob(".*.new"), *root.glob(".*.old")]:
        _remove(folder)


def _by_frames(root: Path) -> list[Path]:
    """Checkpoint folders in `root`, fewest frames first; temporary folders aren't numbers."""
    # Whoever only reads must not rename: the writer may be between its own two renames.
    found = {_replaced(old).name: old for old in root.glob(".*.old")}
    found |= {p.name: p for p in (root.iterdir() if root.is_dir() else ())}
    return [found[name] for name in sorted(filter(str.isdecimal, found), key=int)]


def _own_memory(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no storage, which safetensors insists on."""
    owned: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in group.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.nbytes() != plain.nbytes or storage.data_ptr() in storages:
            plain = plain.clone(memory_format=torch.contiguous_format)
        storages.add(plain.untyped_storage().data_ptr())
        owned[name] = plain
    return owned


def _replace(fresh: Path, folder: Path) -> None:
    """Rename `fresh` to `folder`; a folder can't be renamed over another, so the old one moves."""
    old = folder.with_name(f".{folder.name}.old")
    _put_back(old)
    _remove(old)
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    _remove(old)


def _replaced(old: Path) -> Path:
    """The checkpoint X that `.X.old` was."""
    return old.with_name(old.name.removeprefix(".").removesuffix(".old"))


def _put_back(old: Path) -> None:
    """Rename `.X.old` to X unless there is an X: a kill between two renames leaves it without."""
    folder = _replaced(old)
    if old.exists() and not folder.exists():
        old.rename(folder)


def _read_index(folder: Path) -> dict[str, Any]:
    """The checked content of checkpoint.json."""
    path = folder / INDEX
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    try:
        text = path.read_text(encoding="utf-8")
        index = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint: it has no {INDEX}") from None
    except ValueError:
        raise CheckpointError(f"{path} is damaged: not JSON") from None
    version = index.get("format") if isinstance(index, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(f"{path} is damaged: it names no format version")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}, this telic reads up to {FORMAT_VERSION}"
        )
    # The text as well: a number can be altered in digits that say nothing.
    same = text == _text_of_index(index)
    if index.pop("sha256", None) != _sha256_of_index(index) or not same:
        raise CheckpointError(f"{path} is damaged: checksum differs")
    return index


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless the file has the recorded size and checksum."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(f"{path} is damaged: {size} bytes, expected {expected['bytes']}")
    if _sha256(path) != expected["sha256"]:
        raise CheckpointError(f"{path} is damaged: checksum differs")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_of_index(index: Mapping[str, Any]) -> str:
    return json.dumps(index, indent=1)


def _sha256_of_index(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _flush_to_disk(path: Path) -> None:
    """Force a file or a folder's entries to the disk, so that a power cut can't undo a rename."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
