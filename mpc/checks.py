"""Bounds of options, refused in one line that names the option and its value."""

from __future__ import annotations

from typing import Any


def require_at_least(config: Any, least: float, *options: str) -> None:
    """Raise ValueError naming the first of the `options` of `config` that is below `least`."""
    for option in options:
        value = getattr(config, option)
        if not value >= least:
            raise ValueError(f"{option} must be at least {least}, got {value}")


def require_at_most(config: Any, most: float, *options: str) -> None:
    """Raise ValueError naming the first of the `options` of `config` that is above `most`."""
    for option in options:
        value = getattr(config, option)
        if not value <= most:
            raise ValueError(f"{option} must be at most {most}, got {value}")


def require_positive(config: Any, *options: str) -> None:
    """Raise ValueError naming the first of the `options` of `config` that is not above 0."""
    for option in options:
        value = getattr(config, option)
        if not value > 0:
            raise ValueError(f"{option} must be above 0, got {value}")
