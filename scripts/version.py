"""The version of telic."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def code_version() -> str:
    """Version of telic, "unknown" when it is not installed."""
    try:
        return version("telic")
    except PackageNotFoundError:
        return "unknown"
