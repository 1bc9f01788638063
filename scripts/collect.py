"""`telic collect`: record episodes of a collection policy, as data to train a world model on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from envs import EnvConfig, EnvSpec, make_env, spec_of
from envs.goals import GoalSimulation, GoalTask
from mpc.checks import require_at_least
from mpc.noise import coloured
from scripts.datasets import Dataset, Recorded, import_minari, write_dataset
from scripts.interrupts import noted_signals
from scripts.option_help import layout, option_rows
from scripts.plots import coverage_picture
from scripts.run_folder import RunFolder
from scripts.settings import load, require_seed
from scripts.tensor_files import read_tensors, write_tensors
from scripts.terminal import console as make_console
from scripts.usage import UsageError, usage_errors
from world_models import Episode

POLICIES = ("smooth-random", "random", "scripted")
SLOWEST = 2.0  # largest power of the frequency with which the power of smooth noise falls
SHOWN = 40  # episodes in the picture
Act = Callable[[], NDArray[np.float32]]


@dataclass(frozen=True)
class CollectSettings:
    """Options of `telic collect`."""

    env: EnvConfig = field(default_factory=lambda: EnvConfig(name="goal/pointmaze-umaze"))
    policy: str = "smooth-random"  # smooth-random, random, scripted (where the task has a script)
    episodes: int = 2_000
    steps: int = 100  # control steps of an episode
    seed: int = 1  # of everything random
    datasets: str = "datasets"  # folder in which datasets lie
    name: str | None = None  # of the dataset; null: made from environment and policy

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "episodes", "steps")
        require_seed(self.seed)
        if self.env.action_block > 1:
            raise ValueError(
                "env.action_block is for training: data of single actions serves blocks of any size"
            )
        if self.policy not in POLICIES:
            choices = ", ".join(POLICIES)
            raise ValueError(f"policy must be one of {choices}, got {self.policy!r}")

    @property
    def path(self) -> Path:
        """Folder of the dataset; Minari wants a version in its name."""
        task = self.env.name.split("/", 1)[-1].replace("/", "-")
        seen = "-pixels" if self.env.obs == "pixels" else ""
        return Path(self.datasets) / (self.name or f"{task}{seen}-{self.policy}-v0")


def option_help(files: Sequence[str], overrides: Sequence[str]) -> str:
    """All options with their defaults."""
    return layout(option_rows(CollectSettings()))


def main(files: Sequence[str], overrides: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UsageError."""
    settings = load(CollectSettings, files, overrides)
    console, path = make_console(), settings.path
    parts = path.with_name(f".{path.name}.parts")
    lock = RunFolder(parts)
    with usage_errors():
        import_minari()
        if path.exists():
            raise UsageError(f"{path} exists already; choose another name=")
        env = make_env(settings.env)
        spec = spec_of(env)
        facts = _facts(settings, spec)
        make_policy(settings, env, 0)  # finds out now if there is no script
        _make_folder(parts)
        lock.lock()
    try:
        _same_collection(parts, facts)
        with noted_signals() as stop:
            first = len(list(parts.glob("*.safetensors")))
            numbers = range(first, settings.episodes)
            for index in track(
                numbers, "collecting", console=console, disable=not console.is_terminal
            ):
                if stop:
                    console.print(
                        f"interrupted after {index} of {settings.episodes} episodes, all saved; "
                        "the same command goes on"
                    )
                    return 130
                found = record(settings, env, index)
                write_tensors(parts / f"{index:06d}.safetensors", found, flush=False)
        dataset = write_dataset(path, spec, facts, _parts(parts, settings.episodes))
    finally:
        env.close()
        lock.release()
    shutil.rmtree(parts)
    _summarise(settings, dataset, env, spec, console)
    return 0


def record(
    settings: CollectSettings, env: gymnasium.Env[Any, Any], index: int
) -> dict[str, torch.Tensor]:
    """Episode number `index`, from its own random numbers: obs, actions, rewards, states."""
    rng = np.random.default_rng((settings.seed, index))
    seed = int(rng.integers(2**31))
    task, options = env.unwrapped, None
    if isinstance(task, GoalSimulation):
        options = {"state": task.draw_state(rng)}
    obs, info = env.reset(seed=seed, options=options)
    newest = spec_of(env).newest_dim
    act = make_policy(settings, env, int(rng.integers(2**31)))
    seen, states = [obs[-newest:]], [info.get("state")]
    taken: list[NDArray[np.float32]] = []
    rewards: list[float] = []
    terminated = truncated = False
    while len(taken) < settings.steps and not (terminated or truncated):
        taken.append(act())
        obs, reward, terminated, truncated, info = env.step(taken[-1])
        seen.append(obs[-newest:])
        rewards.append(float(reward))
        states.append(info.get("state"))
    found = {
        "obs": torch.from_numpy(np.stack(seen)),
        "actions": torch.from_numpy(np.stack(taken)),
        "rewards": torch.tensor(rewards),
        "terminated": torch.tensor(bool(terminated)),
    }
    if states[0] is not None:
        found["states"] = torch.from_numpy(np.stack(states))  # type: ignore[arg-type]
    return found


def make_policy(settings: CollectSettings, env: gymnasium.Env[Any, Any], seed: int) -> Act:
    """Actions (A,) of one episode. Raises ValueError where the task has no script."""
    rng = np.random.default_rng(seed)
    spec, task = spec_of(env), env.unwrapped
    if settings.policy == "scripted":
        if not isinstance(task, GoalTask):
            raise ValueError(f"{spec.name} has no scripted policy; use policy=smooth-random")
        return task.script(rng)
    white = torch.from_numpy(rng.standard_normal((2 * settings.steps, spec.action_dim)))
    # Slow noise reaches far but ends at walls, quick noise stays free: every episode has its own.
    beta = rng.uniform(0.0, SLOWEST) if settings.policy == "smooth-random" else 0.0
    # Of deviation 1 and clipped: a third of the actions are at the bounds.
    actions = coloured(white, beta)[: settings.steps].float().numpy()
    if not spec.choices:
        actions = actions.clip(-1.0, 1.0)
    steps = iter(actions)
    return lambda: next(steps)


def _facts(settings: CollectSettings, spec: EnvSpec) -> dict[str, Any]:
    """What is said about a dataset, and must not change while it is collected."""
    return {
        "env": spec.name,
        "obs": settings.env.obs,
        "action_repeat": spec.action_repeat,
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
    """Note what is being collected; raise UsageError if it was something else before."""
    note = parts / "facts.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != facts:
        raise UsageError(
            f"{parts} holds episodes collected with other options; choose another name=, "
            "or remove it"
        )
    draft = note.with_suffix(".new")
    draft.write_text(json.dumps(facts), encoding="utf-8")
    draft.rename(note)


def _parts(parts: Path, count: int) -> Iterator[Recorded]:
    for index in range(count):
        found = read_tensors(parts / f"{index:06d}.safetensors")
        ended = bool(found["terminated"])
        episode = Episode(found["obs"], found["actions"], found["rewards"], ended)
        states = found.get("states")
        yield Recorded(episode, None if states is None else states.numpy())


def _summarise(
    settings: CollectSettings,
    dataset: Dataset,
    env: gymnasium.Env[Any, Any],
    spec: EnvSpec,
    console: Console,
) -> None:
    """Say what there is, and draw where it has been."""
    episodes = list(dataset.read())
    count = sum(one.episode.steps for one in episodes)
    size = sum(f.stat().st_size for f in dataset.path.rglob("*") if f.is_file())
    console.print(
        f"{dataset.path}: {len(episodes)} episodes, {count} control steps of {dataset.env}, "
        f"{size / 1e6:.1f} MB"
    )
    task = env.unwrapped
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
        chosen = f"{config}env={dataset.env} {options}data={dataset.path}"
        console.print(f"  telic train {chosen} train.objective=goal")


def _places(one: Recorded, task: Any, spec: EnvSpec) -> NDArray[np.float64] | None:
    """Where an episode of a goal task has been, (T + 1, 2): two numbers of its states."""
    states = one.states
    if states is None and isinstance(task, GoalTask) and not spec.pictures:
        states = np.stack([task.state_of(obs) for obs in one.episode.obs.numpy()])
    return states[:, :2] if states is not None and states.shape[1] > 1 else None
