"""Single files of tensors, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from world_models import CheckpointError


def write_tensors(path: Path, tensors: Mapping[str, Tensor], flush: bool = True) -> None:
    """Write under a temporary name, then rename; a kill leaves the whole file or none.

    With `flush` so does a power cut, at the cost of waiting for the disk.
    """
    fresh = path.with_suffix(".new")
    save_file(dict(tensors), fresh)
    if flush:
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
    fresh.rename(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors back. Raises CheckpointError if the file is not there or torn."""
    try:
        found: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    return found
