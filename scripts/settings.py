"""Settings: typed dataclasses, with YAML files and dotted overrides merged into them.

Every mistake (unknown key, wrong type, impossible value) raises UsageError with one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, make_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from agents import AgentConfig
from envs import EnvConfig
from mpc import PLANNERS, Planner, PlannerConfig, nearest
from scripts.metrics import WandbConfig
from scripts.run_folder import RunFolder
from world_models import LossConfig, ModelConfig

GROUPS = ("env", "planner")  # `planner=cem` is short for `planner.name=cem`


class UsageError(Exception):
    """Wrong usage or configuration: one clear line for the user, exit code 2."""


@dataclass(frozen=True)
class ReplayConfig:
    """The replay."""

    capacity: int = 1_000_000  # control steps; memory and disk are bounded by it

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {self.capacity}")


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what to do on the way."""

    frames: int = 100_000  # env frames, action repeat included
    random_steps: int = 2_500  # control steps of random actions before the first update
    first_updates: int = 1_000  # updates made at that point
    updates_per_step: int = 1
    eval_every: int = 10_000  # env frames; 0: never
    eval_episodes: int = 5
    checkpoint_every: int = 10_000  # env frames
    keep_checkpoints: int = 2
    log_every: int = 1_000  # control steps between rows of training losses

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for option in ("frames", "eval_episodes", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1, got {getattr(self, option)}")
        for option in ("random_steps", "first_updates", "updates_per_step", "eval_every"):
            if getattr(self, option) < 0:
                raise ValueError(f"{option} must be at least 0, got {getattr(self, option)}")


@dataclass(frozen=True)
class Settings:
    """Everything that defines a training run."""

    name: str | None = None  # of the run folder; None: made from environment, planner and seed
    runs: str = "runs"  # where run folders lie
    seed: int = 1
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
    layers = [OmegaConf.create(dict(base or {})), *(read_yaml(f) for f in files)]
    layers.append(parse_overrides(overrides))
    raw: Any = OmegaConf.create({})
    for layer in layers:
        raw = _stack(raw, layer)
    typed = _schema(schema, raw)
    _check_keys(typed, raw, "")
    try:
        return OmegaConf.to_object(OmegaConf.merge(typed, raw))  # type: ignore[return-value]
    except MissingMandatoryValue as error:
        raise UsageError(f"{error.full_key}= is required") from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise UsageError(f"{error.full_key}: {reason}") from None
    except ValueError as error:
        raise UsageError(str(error).splitlines()[0]) from None


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """Dotted `key=value` arguments as a nested config."""
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key:
            raise UsageError(f"{item!r} is not an option; write key=value, such as seed=2")
    config = OmegaConf.create({})
    for item in overrides:
        key, _, value = item.partition("=")
        try:
            # One at a time, so that `planner=cem planner.horizon=5` may follow each other.
            one = OmegaConf.from_dotlist([f"{key}.name={value}" if key in GROUPS else item])
        except (YAMLError, OmegaConfBaseException):
            raise UsageError(f"{item!r} cannot be read as key=value") from None
        config = OmegaConf.merge(config, one)  # type: ignore[assignment]
    return config


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the ValueError of a wrong name, folder or checkpoint into a UsageError."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error).splitlines()[0]) from error


def read_run_config(folder: RunFolder) -> dict[str, Any]:
    """The settings that a run was started with, as plain values."""
    config: Any = OmegaConf.to_container(read_yaml(str(folder.config)))
    return config


def read_yaml(name: str) -> DictConfig:
    """A YAML file, or a bundled config by its name (see `telic list configs`)."""
    path: Any = Path(name)
    if not path.is_file():
        path = resources.files("configs") / f"{name}.yaml"
        if not path.is_file():
            raise UsageError(
                f"no config file {name!r}{nearest(name, bundled())}; "
                f"bundled configs: {', '.join(bundled())}"
            )
    try:
        config = OmegaConf.create(path.read_text(encoding="utf-8"))
    except (YAMLError, OmegaConfBaseException) as error:
        raise UsageError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(config, DictConfig):
        raise UsageError(f"{name}: expected a mapping of options")
    return config


def bundled() -> list[str]:
    """Names of the configs that come with telic."""
    files = (Path(f.name) for f in resources.files("configs").iterdir())
    return sorted(f.stem for f in files if f.suffix == ".yaml")


def make_planner_from(config: PlannerConfig) -> Planner[Any]:
    """The planner that a `planner` setting describes."""
    return PLANNERS[config.name](config)  # type: ignore[attr-defined]


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


def _stack(below: DictConfig, above: DictConfig) -> DictConfig:
    """`above` merged over `below`; naming another planner drops the options of the one below."""
    above = above.copy()
    for group in GROUPS:
        if isinstance(above.get(group), str):
            above[group] = {"name": above[group]}
    name = OmegaConf.select(above, "planner.name")
    if name is not None and OmegaConf.select(below, "planner.name") not in (None, name):
        below = below.copy()
        del below["planner"]
    return OmegaConf.merge(below, above)  # type: ignore[return-value]


def _schema(schema: type[Any], raw: DictConfig) -> DictConfig:
    """The typed defaults; `planner` takes the options of the planner that `raw` names."""
    if "planner" in (f.name for f in dataclasses.fields(schema)):
        name = str(OmegaConf.select(raw, "planner.name") or "grasp")
        try:
            options = PLANNERS[name].Config
        except ValueError as error:
            raise UsageError(str(error)) from None
        named = make_dataclass("Planner", [("name", str, name)], bases=(options,), frozen=True)
        planner = [("planner", named, field(default_factory=named))]
        schema = make_dataclass(schema.__name__, planner, bases=(schema,), frozen=True)
    return OmegaConf.structured(schema)


def _check_keys(typed: DictConfig, raw: DictConfig, prefix: str) -> None:
    for key in map(str, raw):
        known = [str(k) for k in typed.keys()]  # noqa: SIM118  `in` skips required options
        if key not in known:
            where = f"{prefix}{key}"
            raise UsageError(
                f"unknown option {where!r}{nearest(key, known)} "
                f"(options{f' of {prefix[:-1]}' if prefix else ''}: {', '.join(known)})"
            )
        if isinstance(typed._get_node(key), DictConfig):
            if not isinstance(raw._get_node(key), DictConfig):
                example = next(iter(typed[key]))
                raise UsageError(
                    f"{prefix}{key} is a group of options; write {prefix}{key}.{example}=..."
                )
            _check_keys(typed[key], raw[key], f"{prefix}{key}.")
