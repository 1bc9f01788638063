"""Opening a trained run, and the planner options that go on the command line with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium
import torch

from agents import MPCAgent
from envs import EnvSpec, make_env, spec_of
from mpc import PLANNERS, Planner, nearest
from scripts.agent_files import (
    TrainedGoalModel,
    TrainedModel,
    load_model,
    require_same_task,
)
from scripts.datasets import HELD_OUT, Dataset, Recorded
from scripts.option_help import Row, option_rows
from scripts.options import Options, split_groups, stack
from scripts.run_folder import RunFolder
from scripts.settings import (
    AnySettings,
    GoalConfig,
    GoalSettings,
    Settings,
    make_planner_from,
    read_run_options,
    resolve_device,
    training_settings,
)
from scripts.usage import UsageError, usage_errors
from world_models import latest_checkpoint

CHANGES = ("env", "agent", "goal")  # groups of a training that may be changed afterwards
MORE = (  # how the help of both shows them
    ("env.OPTION", "(as trained)", "such as env.episode_frames=200"),
    ("agent.OPTION", "(as trained)", "such as agent.replan_every=2"),
)


def goal_rows() -> list[Row]:
    """How the help of commands for goals shows the options of group `goal`."""
    return [(name, "(as trained)", note) for name, _, note in option_rows(GoalConfig(), "goal.")]


@dataclass(frozen=True)
class Loaded:
    """A trained run."""

    folder: RunFolder
    options: Options  # those of the training, with the changes of the command line
    settings: AnySettings  # the same, typed
    spec: EnvSpec  # of the environment as it is now, the time limit may have been changed

    def make_env(self, render: bool = False) -> gymnasium.Env[Any, Any]:
        """A fresh environment of the task."""
        return make_env(self.settings.env, render)

    def make_planner(self, name: str, options: Mapping[str, Any]) -> Planner[Any]:
        """Planner `name` with those of the `options` that it has.

        The planner that the run was trained with keeps the options of its training.
        Raises UsageError for a value that the planner refuses.
        """
        known = PLANNERS[name].Config.options()
        # Compiling would take longer than the few decisions that follow, unless asked for.
        chosen = {"name": name, "compile": False}
        chosen |= {key: value for key, value in options.items() if key in known}
        settings = training_settings(stack(self.options, {"planner": chosen}))
        return make_planner_from(settings.planner)


@dataclass(frozen=True)
class LoadedRun(Loaded):
    """A run trained for reward, ready to make agents."""

    settings: Settings
    trained: TrainedModel

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.trained.model.bins.device

    def make_agent(self, name: str, options: Mapping[str, Any]) -> MPCAgent:
        """An agent that plans for reward with `make_planner`. Raises UsageError."""
        planner = self.make_planner(name, options)
        with usage_errors():
            return self.trained.agent(planner, self.settings.agent)


@dataclass(frozen=True)
class LoadedGoalRun(Loaded):
    """A run trained for goals."""

    settings: GoalSettings
    trained: TrainedGoalModel

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.trained.model.spread.device

    def held_out(self) -> list[Recorded]:
        """Recorded episodes that the training has not seen; none where goals need none.

        Raises ValueError if the data is not there.
        """
        return list(islice(self._recorded(), 0, None, HELD_OUT))

    def trained_on(self) -> list[Recorded]:
        """The other recorded episodes of the same dataset."""
        return [one for i, one in enumerate(self._recorded()) if i % HELD_OUT]

    def _recorded(self) -> Iterator[Recorded]:
        if self.settings.goal.source == "env":
            return iter(())
        return Dataset.open(self.settings.datasets[0]).read(self.spec.action_block)


def open_run(
    run: str, checkpoint: str | None, device: str, changes: Mapping[str, Any]
) -> LoadedRun:
    """Open a run trained for reward, with `changes` to the groups env and agent.

    Raises UsageError, also for a model that does not fit the environment, or of another kind.
    """
    loaded = open_any_run(run, checkpoint, device, changes)
    if isinstance(loaded, LoadedGoalRun):
        raise UsageError(
            f"{run} was trained for goals: use telic control, or telic benchmark suite=goals"
        )
    return loaded


def open_goal_run(
    run: str, checkpoint: str | None, device: str, changes: Mapping[str, Any]
) -> LoadedGoalRun:
    """Open a run trained for goals, with `changes` to the groups env, agent and goal.

    Raises UsageError, also for a model that does not fit the environment, or of another kind.
    """
    loaded = open_any_run(run, checkpoint, device, changes)
    if isinstance(loaded, LoadedRun):
        raise UsageError(f"{run} was trained for reward, not with train.objective=goal")
    return loaded


def open_any_run(
    run: str, checkpoint: str | None, device: str, changes: Mapping[str, Any]
) -> LoadedRun | LoadedGoalRun:
    """Open a run folder and its checkpoint, with `changes` to the groups of options in CHANGES.

    Raises UsageError, also for a model that does not fit the environment.
    """
    with usage_errors():
        folder = RunFolder.open(Path(run))
        wanted, _ = split_groups(changes, CHANGES)
        options = stack(read_run_options(folder), wanted)
        settings = training_settings(options)
        path = Path(checkpoint) if checkpoint else latest_checkpoint(folder.checkpoints)
        trained = load_model(path, resolve_device(device))
        probe = make_env(settings.env)
        spec = spec_of(probe)
        probe.close()
        require_same_task(trained.spec, spec, path)
    if isinstance(trained, TrainedGoalModel):
        assert isinstance(settings, GoalSettings)
        return LoadedGoalRun(folder, options, settings, spec, trained)
    assert isinstance(settings, Settings)
    return LoadedRun(folder, options, settings, spec, trained)


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
        listed = given.split(",") if isinstance(given, str) else given
        if not (isinstance(listed, list) and listed and all(isinstance(n, str) for n in listed)):
            raise UsageError(f"planner must be a name or a list of names, got {given!r}")
        names = [name.strip() for name in listed]
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

    @property
    def without_deadline(self) -> Options:
        """The options, and no deadline: not that of a training either."""
        return {**self.options, "deadline_ms": None}
