"""The version of telic, and the code itself."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mpc", "agents", "envs", "world_models", "scripts")


def code_version() -> str:
    """Version of telic, "unknown" when it is not installed."""
    try:
        return version("telic")
    except PackageNotFoundError:
        return "unknown"


def _digest() -> str:
    here, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for name in PACKAGES for path in (here / name).rglob("*.py")):
        digest.update(f"{path.relative_to(here)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


# Twelve hexadecimal digits that stand for all of telic's Python code, as it is loaded.
CODE = _digest()
