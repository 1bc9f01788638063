"""`telic collect`: record episodes of a collection policy, as data to train a world model on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from envs import EnvConfig, EnvSpec
from envs.goals import GoalTask
from mpc.checks import require_at_least
from scripts.datasets import Dataset, Recorded, import_minari, write_dataset
from scripts.interrupts import noted_signals
from scripts.loading import PlannerChoice, goal_rows, open_goal_run
from scripts.option_help import layout, option_rows
from scripts.options import Options, split_groups
from scripts.plots import coverage_picture
from scripts.recording import POLICIES, AgentEpisodes, PolicyEpisodes, Source
from scripts.run_folder import RunFolder
from scripts.settings import build, prepare_torch, read_training_options, require_seed
from scripts.tensor_files import read_tensors, write_tensors
from scripts.terminal import console as make_console
from scripts.usage import UsageError, usage_errors
from world_models import Episode

AGENT = "agent"  # the policy of a trained run
SHOWN = 40  # episodes in the picture


@dataclass(frozen=True)
class CollectSettings:
    """Options of `telic collect`, beside those of an agent."""

    env: EnvConfig = field(default_factory=lambda: EnvConfig(name="goal/pointmaze-umaze"))
    # smooth-random, random, scripted (where the task has a script), agent (of a trained run)
    policy: str = "smooth-random"
    run: str | None = None  # folder of a training for goals, whose agent it is; env is its own
    episodes: int = 2_000
    steps: int = 100  # control steps of an episode, at most
    seed: int = 1  # of everything random
    datasets: str = "datasets"  # folder in which datasets lie
    name: str | None = None  # of the dataset; null: made from environment and policy
    device: str = "auto"  # of an agent: auto, cpu, cuda, mps
    threads: int = 1  # of torch on the CPU

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "episodes", "steps", "threads")
        require_seed(self.seed)
        if self.env.action_block > 1:
            raise ValueError(
                "env.action_block is for training: data of single actions serves blocks of any size"
            )
        if self.policy not in (*POLICIES, AGENT):
            choices = ", ".join((*POLICIES, AGENT))
            raise ValueError(f"policy must be one of {choices}, got {self.policy!r}")
        if (self.run is None) == (self.policy == AGENT):
            raise ValueError(f"run and policy={AGENT} need each other: run=runs/<name>")

    @property
    def path(self) -> Path:
        """Folder of the dataset; Minari wants a version in its name."""
        task = self.env.name.split("/", 1)[-1].replace("/", "-")
        seen = "-pixels" if self.env.obs == "pixels" else ""
        return Path(self.datasets) / (self.name or f"{task}{seen}-{self.policy}-v0")


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    own = [
        ("planner", "(as trained)", "which planner an agent has; planner.OPTION=value"),
        ("agent.OPTION", "(as trained)", "such as agent.exploration=0.1"),
    ]
    return layout([*option_rows(CollectSettings()), *own, *goal_rows()])


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    raw = read_training_options(files, overrides, CollectSettings)
    changes, raw = split_groups(raw, ("agent", "goal", "planner"))
    settings = build(CollectSettings, raw)
    prepare_torch(settings.threads)
    with usage_errors():
        import_minari()
        source, facts = _source(settings, changes, raw.get("env", {}))
        settings = replace(settings, env=source.config)
        path = settings.path
        if path.exists():
            raise UsageError(f"{path} exists already; choose another name=")
        parts = path.with_name(f".{path.name}.parts")
        lock = RunFolder(parts)
        _make_folder(parts)
        lock.lock()
    console, facts = make_console(), _facts(settings, source.spec) | facts
    try:
        _same_collection(parts, facts)
        with noted_signals() as stop:
            done = len(list(parts.glob("*.safetensors")))
            numbers = range(done - done % source.together, settings.episodes, source.together)
            for first in track(
                numbers, "collecting", console=console, disable=not console.is_terminal
            ):
                if stop:
                    console.print(
                        f"interrupted after {first} of {settings.episodes} episodes, all saved; "
                        "the same command goes on"
                    )
                    return 130
                for index, found in enumerate(source.record(first), first):
                    write_tensors(parts / f"{index:06d}.safetensors", found, flush=False)
        dataset = write_dataset(path, source.spec, facts, _parts(parts, settings.episodes))
    finally:
        source.close()
        lock.release()
    shutil.rmtree(parts)
    _summarise(settings, dataset, source, console)
    return 0


def _source(
    settings: CollectSettings, changes: Options, env: Options
) -> tuple[Source, dict[str, Any]]:
    """What is recorded, and what to say of it beside the settings."""
    steps, seed = settings.steps, settings.seed
    if settings.run is None:
        if changes:
            raise UsageError(f"{next(iter(changes))} is an option of policy={AGENT} run=...")
        return PolicyEpisodes(settings.env, steps, seed, settings.policy), {}
    loaded = open_goal_run(settings.run, None, settings.device, {**changes, "env": env})
    if loaded.spec.action_block > 1:
        raise UsageError(f"{settings.run} was trained with env.action_block, and acts in blocks")
    choice = PlannerChoice.read(changes, loaded.settings.planner.name)
    if len(choice.names) > 1:
        raise UsageError(f"collect takes one planner, got {', '.join(choice.names)}")
    planner = loaded.make_planner(choice.names[0], choice.options)
    about = {
        "run": settings.run,
        "updates": loaded.trained.updates,
        "planner": {"name": choice.names[0], **choice.options},
        "agent": asdict(loaded.settings.agent),
        "goal": asdict(loaded.settings.goal),
    }
    return AgentEpisodes(loaded, planner, steps, seed), about


def _facts(settings: CollectSettings, spec: EnvSpec) -> dict[str, Any]:
    """What is said about a dataset, and must not change while it is collected."""
    return {
        "env": spec.name,
        "task": settings.env.task,
        "obs": settings.env.obs,
        "action_repeat": spec.action_repeat,
        "episode_frames": settings.env.episode_frames,
        "policy": settings.policy,
        "steps": settings.steps,
        "seed": settings.seed,
    }


def _make_folder(parts: Path) -> None:
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {parts.parent}: {error.strerror}") from None


def _same_collection(parts: Path, facts: dict[str, Any]) -> None:
    """Note what is being collected; raise UsageError if it was something else before.

    Notes of earlier versions say less, and what they do not say is taken to be the same.
    """
    note = parts / "facts.json"
    before = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if facts | before != facts:
        raise UsageError(
            f"{parts} holds episodes collected with other options; choose another name=, "
            "or remove it"
        )
    draft = note.with_suffix(".new")
    draft.write_text(json.dumps(facts), encoding="utf-8")
    draft.rename(note)


def _parts(parts: Path, count: int) -> Iterator[Recorded]:
    """What was recorded, without episodes that were over before they began."""
    for index in range(count):
        found = read_tensors(parts / f"{index:06d}.safetensors")
        if not len(found["actions"]):
            continue
        ended = bool(found["terminated"])
        episode = Episode(found["obs"], found["actions"], found["rewards"], ended)
        states = found.get("states")
        yield Recorded(episode, None if states is None else states.numpy())


def _summarise(
    settings: CollectSettings, dataset: Dataset, source: Source, console: Console
) -> None:
    """Say what there is, and draw where it has been."""
    task, spec = source.envs[0].unwrapped, source.spec
    episodes = list(dataset.read())
    count = sum(one.episode.steps for one in episodes)
    size = sum(f.stat().st_size for f in dataset.path.rglob("*") if f.is_file())
    console.print(
        f"{dataset.path}: {len(episodes)} episodes, {count} control steps of {dataset.env}, "
        f"{size / 1e6:.1f} MB"
    )
    paths = [places for one in episodes if (places := _places(one, task, spec)) is not None]
    if paths:
        names = ("first", "second")
        if not spec.pictures and spec.obs_names is not None:
            names = (spec.obs_names[0], spec.obs_names[1])
        walls = task.outline() if isinstance(task, GoalTask) else []
        picture = dataset.path / "coverage.png"
        coverage_picture(picture, paths, SHOWN, walls, names, f"{dataset.path.name}: {count} steps")
        console.print(f"  {picture}")
    if isinstance(task, GoalTask):
        config = "--config pixels " if spec.pictures else ""
        given = {key: getattr(settings.env, key) for key in ("action_repeat", "episode_frames")}
        options = "".join(f"env.{key}={value} " for key, value in given.items() if value)
        data = source.beside(dataset.path)
        chosen = f"{config}env={dataset.env} {options}data={data}"
        console.print(f"  telic train {chosen} train.objective=goal")


def _places(one: Recorded, task: Any, spec: EnvSpec) -> NDArray[np.float64] | None:
    """Where an episode of a goal task has been, (T + 1, 2): two numbers of its states."""
    states = one.states
    if states is None and isinstance(task, GoalTask) and not spec.pictures:
        states = np.stack([task.state_of(obs) for obs in one.episode.obs.numpy()])
    return states[:, :2] if states is not None and states.shape[1] > 1 else None
