"""Settings of a training run, as typed dataclasses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from omegaconf import MISSING

from agents import AgentConfig
from envs import EnvConfig
from mpc import PLANNERS, Planner, PlannerConfig
from mpc.checks import require_at_least, require_at_most, require_positive
from scripts.metrics import WandbConfig
from scripts.options import read_options, read_yaml, stack, typed
from scripts.run_folder import RunFolder
from scripts.usage import UsageError, usage_errors
from world_models import GoalLossConfig, GoalModelConfig, LossConfig, ModelConfig

DEFAULT_PLANNER = "grasp"
DISTANCES = ("temporal", "latent")
SOURCES = ("env", "random", "ahead")
AND = "+"  # between datasets that are trained on together


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
    objective: str = "reward"  # reward; or goal: learns from data, with options of its own
    # Share of the time limit after which a training episode is cut, so that more starts are seen;
    # evaluations are of whole episodes.
    episode_share: float = 0.5
    whole_after: float = 0.5  # share of the frames after which training episodes are whole
    num_envs: int = 1  # environments that episodes are collected in, side by side
    processes: bool = False  # each in a process of its own, which steps while the model learns
    # Control steps of random actions before the first update. They go on until a reward was seen.
    random_steps: int = 2_500
    first_updates: int = 1_000  # updates made at that point
    updates_per_step: int = 1  # updates per control step after that
    updates_fall_after: float = 1.0  # share of the frames after which it is one at most
    # Whether the model learns while the agent acts; never so on CUDA. Null: not in a sweep that has
    # a single core for each training.
    overlap: bool | None = None
    final_exploration: float = 0.3  # share of the exploration noise left after half of the frames
    greedy_every: int = 4  # one in so many episodes has no exploration noise; 0: none
    disturb_every: int = 2  # one in so many episodes begins with random actions; 0: none
    disturbed: float = 0.2  # share of an episode, as cut at first, that those may last, at most
    patience: int = 100  # control steps without reward until as many random ones follow; 0: never
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
        shares = ("disturbed", "updates_fall_after")
        counts = ("random_steps", "first_updates", "updates_per_step", "eval_every")
        require_at_least(self, 0, *counts, *shares)
        require_at_least(self, 0, "final_exploration", "greedy_every", "disturb_every", "patience")
        require_positive(self, "episode_share", "whole_after")
        require_at_most(self, 1, "episode_share", "whole_after", *shares)

    def episode_steps(self, limit: int, progress: float) -> int:
        """Control steps after which a training episode is cut, at this share of the training.

        They are fewest at 0 and most at 1. `limit` is the time limit in control steps.
        """
        return limit if progress > self.whole_after else math.ceil(self.episode_share * limit)


@dataclass(frozen=True)
class RunSettings(ABC):
    """What every training run has, whatever it is trained for."""

    name: str | None = None  # of the run folder; null: made from environment, kind and seed
    runs: str = "runs"  # where run folders lie
    seed: int = 1  # of everything random
    device: str = "auto"  # auto, cpu, cuda, mps
    threads: int = 1  # of torch on the CPU; with one, a resumed run repeats bit for bit
    env: EnvConfig = field(default_factory=EnvConfig)
    planner: Any = None  # a PlannerConfig with a `name`: the options are those of that planner
    agent: AgentConfig = field(default_factory=AgentConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        """Refuse values that make no sense, alone or together."""
        require_at_least(self, 1, "threads")
        require_seed(self.seed)
        if self.name in ("", ".", ".."):
            raise ValueError(f"name must be the name of a folder, got {self.name!r}")
        planner, every = self.planner, self.agent.replan_every
        if planner is not None and every > planner.horizon:
            raise ValueError(
                "agent.replan_every must be at most planner.horizon = "
                f"{planner.horizon}, got {every}"
            )

    @property
    @abstractmethod
    def total(self) -> int:
        """Env frames, or updates, of the whole training."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What tells runs of the same task and seed apart, for their names."""

    def run_name(self) -> str:
        """`name`, or one made from environment, kind and seed."""
        if self.name:
            return self.name
        task = self.env.name.split("/", 1)[-1]
        return f"{task}-{self.kind}-seed{self.seed}".replace("/", "-")


@dataclass(frozen=True)
class Settings(RunSettings):
    """Everything that defines a training run for reward."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def total(self) -> int:
        """Env frames of the whole training."""
        return self.train.frames

    @property
    def kind(self) -> str:
        """The planner."""
        return str(self.planner.name)


@dataclass(frozen=True)
class GoalConfig:
    """Which goals are set, and what tells a planner how far they are."""

    distance: str = "temporal"  # temporal: control steps left, as learned; latent: squared distance
    disagreement: float = 0.0  # weight of the ensemble's disagreement on the way
    # env: far pairs of the task; random: two recorded states; ahead: a recorded state and a later
    # one of the same episode.
    source: str = "env"
    ahead: int = 25  # control steps between start and goal of source=ahead

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for option, choices in (("distance", DISTANCES), ("source", SOURCES)):
            if getattr(self, option) not in choices:
                words = ", ".join(choices)
                raise ValueError(f"{option} must be one of {words}, got {getattr(self, option)!r}")
        require_at_least(self, 0, "disagreement")
        require_at_least(self, 1, "ahead")


@dataclass(frozen=True)
class OfflineConfig:
    """How long to train on data, and what to do on the way."""

    updates: int | None = None  # of the model; null: 20,000, of pictures 10,000
    objective: str = "goal"  # goal; or reward: learns while it controls, with options of its own
    eval_every: int = 5_000  # updates; 0: only at the end
    eval_episodes: int = 20  # episodes per evaluation
    checkpoint_every: int = 2_000  # updates
    keep_checkpoints: int = 2  # older ones are removed
    log_every: int = 500  # updates between rows of training losses

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.updates is not None:
            require_at_least(self, 1, "updates")
        require_at_least(
            self, 1, "eval_episodes", "checkpoint_every", "keep_checkpoints", "log_every"
        )
        require_at_least(self, 0, "eval_every")


@dataclass(frozen=True)
class GoalSettings(RunSettings):
    """Everything that defines the training of a goal-conditioned model on data."""

    # Other defaults of planner options. Ways round obstacles take longer, and plans that are chosen
    # by their end have no leads that look further than the gradients do.
    PLANNER_DEFAULTS: ClassVar = {"all": {"horizon": 8}, "grasp": {"lookahead": 3}}

    env: EnvConfig = field(default_factory=lambda: EnvConfig(name="goal/pointmaze-umaze"))
    data: str = MISSING  # folder of the dataset, or of several: a+b; goals come from the first
    goal: GoalConfig = field(default_factory=GoalConfig)
    model: GoalModelConfig = field(default_factory=GoalModelConfig)
    loss: GoalLossConfig = field(default_factory=GoalLossConfig)
    train: OfflineConfig = field(default_factory=OfflineConfig)

    def __post_init__(self) -> None:
        """Refuse values that make no sense, alone or together."""
        super().__post_init__()
        if self.goal.disagreement and self.model.ensemble == 1:
            raise ValueError("goal.disagreement needs members: model.ensemble must be above 1")

    @property
    def datasets(self) -> list[Path]:
        """Folders of the datasets."""
        return [Path(path) for path in self.data.split(AND)]

    @property
    def total(self) -> int:
        """Updates of the whole training."""
        usual = 10_000 if self.env.obs == "pixels" else 20_000
        return self.train.updates or usual

    @property
    def kind(self) -> str:
        """That it is trained for goals; the planner is only that of its evaluations."""
        return "goal"


AnySettings = Settings | GoalSettings
OBJECTIVES: dict[str, type[AnySettings]] = {"reward": Settings, "goal": GoalSettings}


def read_training_options(
    files: Sequence[str], overrides: Sequence[str], *own: type[Any]
) -> dict[str, Any]:
    """Options of a training of either kind, and those of the schemas `own`. Raises UsageError."""
    return read_options(files, overrides, *own, *OBJECTIVES.values())


def training_schema(raw: Mapping[str, Any]) -> type[AnySettings]:
    """The settings that `train.objective` of plain options asks for. Raises UsageError."""
    train = raw.get("train")
    objective = train.get("objective", "reward") if isinstance(train, Mapping) else "reward"
    if objective not in OBJECTIVES:
        choices = " or ".join(OBJECTIVES)
        raise UsageError(f"train.objective must be {choices}, got {objective!r}")
    return OBJECTIVES[objective]


def training_settings(raw: Mapping[str, Any]) -> AnySettings:
    """Settings of the training that plain options describe. Raises UsageError."""
    return build(training_schema(raw), raw)


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
    return build(schema, stack(base or {}, read_options(files, overrides, schema)))


def build(schema: type[S], raw: Mapping[str, Any]) -> S:
    """Settings of type `schema` from plain options; `planner` has those of the one it names.

    Raises UsageError.
    """
    if "planner" not in (f.name for f in fields(schema)):  # type: ignore[arg-type]
        return typed(schema, raw)
    with usage_errors():
        name = str(raw.get("planner", {}).get("name", DEFAULT_PLANNER))
        options = PLANNERS[name].Config
    defaults = getattr(schema, "PLANNER_DEFAULTS", {})
    defaults = defaults.get("all", {}) | defaults.get(name, {})
    own = [("name", str, name), *((option, int, value) for option, value in defaults.items())]
    named = make_dataclass("Planner", own, bases=(options,), frozen=True)
    planner = [("planner", named, field(default_factory=named))]
    return typed(make_dataclass(schema.__name__, planner, bases=(schema,), frozen=True), raw)


# What trainings for rewards were like before config.yaml said so.
BEFORE: dict[str, Any] = {
    "loss": {"precision": "float32", "reconstruction": 0.0},
    "train": {"episode_share": 1.0, "whole_after": 1.0},
}


def read_run_options(folder: RunFolder) -> dict[str, Any]:
    """The options that a run was started with. Raises UsageError naming the file if they fail."""
    raw = read_yaml(str(folder.config))
    try:
        training_settings(raw)
    except UsageError as error:
        raise UsageError(f"{folder.config}: {error}") from None
    return stack(BEFORE, raw) if training_schema(raw) is Settings else raw


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
