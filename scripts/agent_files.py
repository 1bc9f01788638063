"""What a checkpoint of a trained agent holds, and how an agent is made from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents import AgentConfig, MPCAgent
from envs import EnvSpec
from mpc import Planner, Reward
from scripts.usage import first_line
from scripts.version import code_version
from world_models import (
    Checkpoint,
    CheckpointError,
    GoalModel,
    GoalModelConfig,
    LatentModel,
    ModelConfig,
    load_checkpoint,
)

GOAL = "goal"  # kind of a checkpoint that holds a goal-conditioned model
BEFORE = {
    "waves": False,
    "linear": False,
    "shared": False,
}  # what models were like before checkpoints said so


def training_done(meta: Mapping[str, Any]) -> int:
    """Env frames, or updates of a goal-conditioned model, before a checkpoint. Raises KeyError."""
    return int(meta["updates" if meta.get("kind") == GOAL else "frames"])


def self_test(model: LatentModel | GoalModel) -> Tensor:
    """A few predictions from fixed inputs; a restored model must repeat them. (N,) float32."""
    device = next(model.parameters()).device
    obs = torch.linspace(-1.0, 1.0, model.obs_dim, device=device)
    action = torch.linspace(-0.5, 0.5, model.action_dim, device=device)
    # Convolutions of a GPU may else round to ten bits, which no CPU repeats.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        z = model.encode(obs)
        if isinstance(model, GoalModel):
            after = model.step(z.repeat(model.history), action)
            numbers = [model.distance(z, after), model.distance(after, z)]
        else:
            step = model.predict(z, action)
            after = step.next
            assert step.reward is not None
            numbers = [step.reward, model.value(after), model.policy(z)[0]]
        return torch.cat([torch.stack(numbers), after[:4]]).cpu()


def describe(model: LatentModel | GoalModel, spec: EnvSpec, discount: float) -> dict[str, Any]:
    """The part of a checkpoint's meta data from which `load_model` makes the model again."""
    return {
        "version": code_version(),
        "kind": GOAL if isinstance(model, GoalModel) else "reward",
        "env": asdict(spec),
        "model": asdict(model.config),
        "discount": discount,
        "self_test": self_test(model).tolist(),
    }


@dataclass(frozen=True)
class TrainedModel:
    """A model from a checkpoint, with what it was trained for."""

    model: LatentModel
    spec: EnvSpec
    discount: float
    frames: int  # env frames of training
    checkpoint: Checkpoint

    def agent(self, planner: Planner[Any], config: AgentConfig) -> MPCAgent:
        """An agent that plans for reward with this model."""
        return MPCAgent(self.model.frozen(), planner, Reward(), self.discount, config)


@dataclass(frozen=True)
class TrainedGoalModel:
    """A goal-conditioned model from a checkpoint, with what it was trained for."""

    model: GoalModel
    spec: EnvSpec
    updates: int  # of the training
    checkpoint: Checkpoint

    @property
    def data(self) -> dict[str, Any]:
        """What is known of the data: its path, hash, policy, control steps."""
        found: dict[str, Any] = self.checkpoint.meta["data"]
        return found


def make_goal_model(spec: EnvSpec, config: GoalModelConfig) -> GoalModel:
    """A new goal-conditioned model that fits an environment."""
    return GoalModel(spec.obs_dim, spec.action_dim, config, spec.pictures, spec.goal_dim)


def make_model(spec: EnvSpec, config: ModelConfig) -> LatentModel:
    """A new model that fits an environment."""
    return LatentModel(spec.obs_dim, spec.action_dim, config, spec.choices, spec.pictures)


def load_model(folder: Path, device: torch.device) -> TrainedModel | TrainedGoalModel:
    """The model of a checkpoint, checked against its self-test. Raises CheckpointError."""
    checkpoint = load_checkpoint(folder)
    meta = checkpoint.meta
    try:
        env: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in meta["env"].items()
        }
        spec = EnvSpec(**env)
        model: LatentModel | GoalModel
        if meta.get("kind") == GOAL:
            model = make_goal_model(spec, GoalModelConfig(**meta["model"]))
        else:
            model = make_model(spec, ModelConfig(**{**BEFORE, **meta["model"]}))
        model.load_state_dict(checkpoint.tensors["model"])
        done, discount = training_done(meta), float(meta["discount"])
        expected = torch.tensor(meta["self_test"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{folder} was not written by this version: {first_line(error)}"
        ) from None
    model.to(device)
    if not torch.allclose(self_test(model), expected, rtol=1e-3, atol=1e-4):
        raise CheckpointError(
            f"{folder}: the model does not repeat the predictions stored with it (written by "
            f"telic {meta['version']}, this is {code_version()})"
        )
    if isinstance(model, GoalModel):
        return TrainedGoalModel(model, spec, done, checkpoint)
    return TrainedModel(model, spec, discount, done, checkpoint)


def require_same_task(trained: EnvSpec, wanted: EnvSpec, folder: Path) -> None:
    """Raise CheckpointError unless a model for `trained` can act in `wanted`."""
    if trained.name != wanted.name:
        raise CheckpointError(f"{folder} was trained on {trained.name}, not on {wanted.name}")
    for key in ("obs_dim", "pictures", "action_dim", "choices", "action_repeat", "action_block"):
        ours, theirs = getattr(trained, key), getattr(wanted, key)
        if ours != theirs:
            raise CheckpointError(
                f"{folder} was trained on {trained.name} with {key} {ours}, not {theirs}"
            )
