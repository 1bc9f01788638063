"""Opening a trained run, and the planner options that go on the command line with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import torch
from omegaconf import OmegaConf

from envs import EnvConfig, make_env, spec_of
from mpc import PLANNERS, Planner, nearest
from scripts.agent_files import TrainedModel, load_model, require_same_task
from scripts.run_folder import RunFolder
from scripts.settings import (
    Settings,
    UsageError,
    load,
    make_planner_from,
    parse_overrides,
    read_run_config,
    resolve_device,
    usage_errors,
)
from world_models import latest_checkpoint


@dataclass(frozen=True)
class LoadedRun:
    """A trained run, ready to make agents."""

    folder: RunFolder
    settings: Settings
    trained: TrainedModel

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.trained.model.bins.device

    def make_env(self, render: bool = False) -> gymnasium.Env[Any, Any]:
        """A fresh environment of the task."""
        return make_env(self.settings.env, render)


def open_run(run: str, checkpoint: str | None, device: str, env: EnvConfig | None) -> LoadedRun:
    """Open a run folder and its checkpoint. Raises UsageError, also for a model of another task."""
    with usage_errors():
        folder = RunFolder.open(Path(run))
        settings = load(Settings, (), (), read_run_config(folder))
        path = Path(checkpoint) if checkpoint else latest_checkpoint(folder.checkpoints)
        trained = load_model(path, resolve_device(device))
        env = env or settings.env
        probe = make_env(env)
        require_same_task(trained.spec, spec_of(probe), path)
        probe.close()
        return LoadedRun(folder, replace(settings, env=env), trained)


@dataclass(frozen=True)
class PlannerChoice:
    """`planner=a,b planner.option=value` and `env=...`, taken out of the command line."""

    names: list[str]
    options: dict[str, Any]
    env: EnvConfig | None
    rest: list[str]  # all other arguments

    @classmethod
    def split(cls, overrides: Sequence[str], default: str | None) -> PlannerChoice:
        """Take the planner and environment options out of `overrides`. Raises UsageError."""
        raw: Any = OmegaConf.to_container(parse_overrides(overrides))
        options = dict(raw.get("planner", {}))
        given = options.pop("name", default)
        names = [] if given is None else [n.strip() for n in str(given).split(",")]
        env = load(Settings, (), (), {"env": raw["env"]}).env if "env" in raw else None
        groups = ("planner", "env")
        rest = [o for o in overrides if o.partition("=")[0].split(".")[0] not in groups]
        return cls(names, options, env, rest)

    def check(self, names: Sequence[str]) -> None:
        """Raise UsageError for a planner or option that is unknown to all of `names`."""
        with usage_errors():
            known = {o for name in names for o in PLANNERS[name].Config.options()}
        for option in self.options:
            if option not in known:
                hint = nearest(option, sorted(known))
                raise UsageError(f"no option {option!r} in planner {', '.join(names)}{hint}")

    def make(self, name: str, trained_with: Any) -> Planner[Any]:
        """Planner `name` with those of the options that it has.

        The planner that the run was trained with keeps the options of its training.
        """
        base: dict[str, Any] = {"name": name}
        if trained_with.name == name:
            base |= asdict(trained_with)
        base |= {k: v for k, v in self.options.items() if k in PLANNERS[name].Config.options()}
        # Compiling would take longer than the few decisions that follow.
        base["compile"] = self.options.get("compile", False)
        return make_planner_from(load(Settings, (), (), {"planner": base}).planner)
