"""Opening a trained run, and the planner options that go on the command line with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch

from agents import MPCAgent
from envs import EnvSpec, make_env, spec_of
from mpc import PLANNERS, nearest
from scripts.agent_files import TrainedModel, load_model, require_same_task
from scripts.options import Options, split_groups, stack
from scripts.run_folder import RunFolder
from scripts.settings import (
    Settings,
    build,
    make_planner_from,
    read_run_options,
    resolve_device,
)
from scripts.usage import UsageError, usage_errors
from world_models import latest_checkpoint

CHANGES = ("env", "agent")  # groups of a training that may be changed for control and evaluation
MORE = (  # how the help of both shows them
    ("env.OPTION", "(as trained)", "such as env.episode_frames=200"),
    ("agent.OPTION", "(as trained)", "such as agent.replan_every=2"),
)


@dataclass(frozen=True)
class LoadedRun:
    """A trained run, ready to make agents."""

    folder: RunFolder
    options: Options  # those of the training, with the changes of the command line
    settings: Settings  # the same, typed
    trained: TrainedModel
    spec: EnvSpec  # of the environment as it is now, the time limit may have been changed

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.trained.model.bins.device

    def make_env(self, render: bool = False) -> gymnasium.Env[Any, Any]:
        """A fresh environment of the task."""
        return make_env(self.settings.env, render)

    def make_agent(self, name: str, options: Mapping[str, Any]) -> MPCAgent:
        """An agent that plans with planner `name` and those of the `options` that it has.

        The planner that the run was trained with keeps the options of its training.
        Raises UsageError for a value that the planner refuses.
        """
        known = PLANNERS[name].Config.options()
        # Compiling would take longer than the few decisions that follow, unless asked for.
        chosen = {"name": name, "compile": False}
        chosen |= {key: value for key, value in options.items() if key in known}
        settings = build(Settings, stack(self.options, {"planner": chosen}))
        with usage_errors():
            return self.trained.agent(make_planner_from(settings.planner), settings.agent)


def open_run(
    run: str, checkpoint: str | None, device: str, changes: Mapping[str, Any]
) -> LoadedRun:
    """Open a run folder and its checkpoint, with `changes` to the groups env and agent.

    Raises UsageError, also for a model that does not fit the environment.
    """
    with usage_errors():
        folder = RunFolder.open(Path(run))
        wanted, _ = split_groups(changes, CHANGES)
        options = stack(read_run_options(folder), wanted)
        settings = build(Settings, options)
        path = Path(checkpoint) if checkpoint else latest_checkpoint(folder.checkpoints)
        trained = load_model(path, resolve_device(device))
        probe = make_env(settings.env)
        spec = spec_of(probe)
        probe.close()
        require_same_task(trained.spec, spec, path)
    return LoadedRun(folder, options, settings, trained, spec)


@dataclass(frozen=True)
class PlannerChoice:
    """`planner=a,b planner.option=value`: which planners, with which options."""

    names: list[str]
    options: Options

    @classmethod
    def read(cls, raw: Mapping[str, Any], default: str) -> PlannerChoice:
        """The choice in group `planner` of `raw`, of planners `default` if it names none.

        Raises UsageError for an unknown planner, and for an option that none of them has.
        """
        options = dict(raw.get("planner", {}))
        given = options.pop("name", default)
        names = [str(n).strip() for n in (given if isinstance(given, list) else given.split(","))]
        with usage_errors():
            known = {option for name in names for option in PLANNERS[name].Config.options()}
        for option in options:
            if option not in known:
                hint = nearest(option, sorted(known)).replace("'", "'planner.", 1)
                raise UsageError(
                    f"unknown option 'planner.{option}'{hint} (options of "
                    f"{', '.join(names)}: {', '.join(sorted(known))})"
                )
        return cls(list(dict.fromkeys(names)), options)
