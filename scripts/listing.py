"""`telic list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from envs import env_names, open_names
from mpc import PLANNERS, nearest
from scripts.option_help import shown
from scripts.options import bundled
from scripts.terminal import console as make_console
from scripts.usage import UsageError
from world_models import GoalModel, GoalModelConfig, LatentModel, ModelConfig

MODELS = (("reward", LatentModel, ModelConfig), ("goal", GoalModel, GoalModelConfig))
KINDS = ("planners", "envs", "models", "configs")


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    if len(overrides) != 1 or overrides[0] not in KINDS:
        wrong = " ".join(overrides)
        hint = nearest(wrong, list(KINDS))
        raise UsageError(
            f"telic list takes one of {', '.join(KINDS)}, got {wrong or 'nothing'}{hint}"
        )
    console = make_console()
    if overrides[0] == "planners":
        _planners(console)
    elif overrides[0] == "models":
        for objective, model, config in MODELS:
            console.print(
                f"train.objective={objective}  {_summary(model)}\n"
                f"  model.option=value with: {_defaults(config)}"
            )
    else:
        names = [*env_names(), *open_names()] if overrides[0] == "envs" else bundled()
        console.print("\n".join(names))
    return 0


def _planners(console: Console) -> None:
    table = Table("planner", "what it does", "planner.option=default")
    for name in PLANNERS.names():
        cls = PLANNERS[name]
        table.add_row(name, _summary(cls), _defaults(cls.Config))
    console.print(table)


def _defaults(config: type[Any]) -> str:
    """All options of a dataclass as they are written on the command line."""
    return ", ".join(f"{f.name}={shown(f.default)}" for f in fields(config))


def _summary(cls: type) -> str:
    """First line of a class's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]
