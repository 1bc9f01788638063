"""Settings of a training run, as typed dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, TypeVar

import torch

from agents import AgentConfig
from envs import EnvConfig
from mpc import PLANNERS, Planner, PlannerConfig
from scripts.metrics import WandbConfig
from scripts.options import read_options, read_yaml, stack, typed
from scripts.run_folder import RunFolder
from scripts.usage import UsageError, usage_errors
from world_models import LossConfig, ModelConfig

DEFAULT_PLANNER = "grasp"


def require_at_least(config: Any, least: int, *options: str) -> None:
    """Raise ValueError naming the first of the `options` of `config` that is below `least`."""
    for option in options:
        value = getattr(config, option)
        if value < least:
            raise ValueError(f"{option} must be at least {least}, got {value}")


def require_seed(seed: int) -> None:
    """Raise ValueError unless environments and generators take `seed`."""
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must be at least 0 and below 2**31, got {seed}")


@dataclass(frozen=True)
class ReplayConfig:
    """The replay."""

    capacity: int = 1_000_000  # control steps; memory and disk are bounded by it

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "capacity")


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to do on the way."""

    frames: int = 100_000  # env frames, action repeat included
    num_envs: int = 1  # environments that episodes are collected in, side by side
    processes: bool = False  # each in a process of its own, which steps while the model learns
    random_steps: int = 2_500  # control steps of random actions before the first update
    first_updates: int = 1_000  # updates made at that point
    updates_per_step: int = 1  # updates per control step after that
    final_exploration: float = 0.3  # share of the exploration noise left after half of the frames
    greedy_every: int = 4  # one in so many episodes has no exploration noise; 0: none
    disturb_every: int = 2  # one in so many episodes begins with random actions; 0: none
    disturbed: float = 0.2  # share of an episode that those may last, at most
    patience: int = 0  # control steps without reward until as many random ones follow; 0: never
    eval_every: int = 10_000  # env frames; 0: only at the end
    eval_episodes: int = 5  # episodes per evaluation
    checkpoint_every: int = 10_000  # env frames
    keep_checkpoints: int = 2  # older ones are removed
    log_every: int = 1_000  # control steps between rows of training losses

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(
            self,
            1,
            "frames",
            "num_envs",
            "eval_episodes",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
        )
        require_at_least(self, 0, "random_steps", "first_updates", "updates_per_step", "eval_every")
        require_at_least(self, 0, "final_exploration", "greedy_every")
        require_at_least(self, 0, "disturb_every", "disturbed", "patience")
        if self.disturbed > 1:
            raise ValueError(f"disturbed must be at most 1, got {self.disturbed}")


@dataclass(frozen=True)
class Settings:
    """Everything that defines a training run."""

    name: str | None = None  # of the run folder; null: made from environment, planner and seed
    runs: str = "runs"  # where run folders lie
    seed: int = 1  # of everything random
    device: str = "auto"  # auto, cpu, cuda, mps
    threads: int = 1  # of torch on the CPU; with one, a resumed run repeats bit for bit
    env: EnvConfig = field(default_factory=EnvConfig)
    planner: Any = None  # a PlannerConfig with a `name`: the options are those of that planner
    agent: AgentConfig = field(default_factory=AgentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        """Refuse values that make no sense, alone or together."""
        require_at_least(self, 1, "threads")
        require_seed(self.seed)
        if self.name in ("", ".", ".."):
            raise ValueError(f"name must be the name of a folder, got {self.name!r}")
        if self.planner is not None and self.agent.replan_every > self.planner.horizon:
            raise ValueError(
                f"agent.replan_every must be at most planner.horizon = {self.planner.horizon}, "
                f"got {self.agent.replan_every}"
            )

    def run_name(self) -> str:
        """`name`, or one made from environment, planner and seed."""
        if self.name:
            return self.name
        task = self.env.name.split("/", 1)[-1]
        return f"{task}-{self.planner.name}-seed{self.seed}".replace("/", "-")


S = TypeVar("S")


def load(
    schema: type[S],
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
) -> S:
    """Settings of type `schema`: defaults, then `base`, YAML `files` in order, `overrides`.

    Raises UsageError.
    """
    return build(schema, stack(base or {}, read_options(files, overrides)))


def build(schema: type[S], raw: Mapping[str, Any]) -> S:
    """Settings of type `schema` from plain options; `planner` has those of the one it names.

    Raises UsageError.
    """
    if "planner" not in (f.name for f in fields(schema)):  # type: ignore[arg-type]
        return typed(schema, raw)
    with usage_errors():
        name = str(raw.get("planner", {}).get("name", DEFAULT_PLANNER))
        options = PLANNERS[name].Config
    named = make_dataclass("Planner", [("name", str, name)], bases=(options,), frozen=True)
    planner = [("planner", named, field(default_factory=named))]
    return typed(make_dataclass(schema.__name__, planner, bases=(schema,), frozen=True), raw)


def read_run_options(folder: RunFolder) -> dict[str, Any]:
    """The options that a run was started with. Raises UsageError naming the file if they fail."""
    raw = read_yaml(str(folder.config))
    try:
        build(Settings, raw)
    except UsageError as error:
        raise UsageError(f"{folder.config}: {error}") from None
    return raw


def make_planner_from(config: PlannerConfig) -> Planner[Any]:
    """The planner that a `planner` setting describes."""
    return PLANNERS[config.name](config)  # type: ignore[attr-defined]


def prepare_torch(threads: int) -> None:
    """Settings of this process that every command makes before it computes."""
    torch.set_num_threads(threads)
    # Vanishing moments and softmax tails become subnormal numbers, which are slow on CPUs.
    torch.set_flush_denormal(True)


def resolve_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "mps". Raises UsageError if it is not there."""
    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    if name not in available:
        raise UsageError(f"device must be auto, cpu, cuda or mps, got {name!r}")
    if not available[name]:
        raise UsageError(f"device {name!r} is not available on this machine; use device=auto")
    return torch.device(name)
