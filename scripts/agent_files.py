"""What a checkpoint of a trained agent holds, and how an agent is made from one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents import AgentConfig, MPCAgent
from envs import EnvSpec
from mpc import Planner, Reward
from scripts.version import code_version
from world_models import Checkpoint, CheckpointError, LatentModel, ModelConfig, load_checkpoint


def self_test(model: LatentModel) -> Tensor:
    """A few predictions from fixed inputs; a restored model must repeat them. (7,) float32."""
    device = model.bins.device
    obs = torch.linspace(-1.0, 1.0, model.obs_dim, device=device)
    action = torch.linspace(-0.5, 0.5, model.action_dim, device=device)
    with torch.no_grad():
        z = model.encode(obs)
        step = model.predict(z, action)
        assert step.reward is not None
        numbers = [step.reward, model.value(step.next), model.policy(z)[0]]
        return torch.cat([torch.stack(numbers), step.next[:4]]).cpu()


def describe(model: LatentModel, spec: EnvSpec, discount: float) -> dict[str, Any]:
    """The part of a checkpoint's meta data from which `load_model` makes the model again."""
    return {
        "version": code_version(),
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


def make_model(spec: EnvSpec, config: ModelConfig) -> LatentModel:
    """A new model that fits an environment."""
    return LatentModel(spec.obs_dim, spec.action_dim, config, spec.choices, spec.pictures)


def load_model(folder: Path, device: torch.device) -> TrainedModel:
    """The model of a checkpoint, checked against its self-test. Raises CheckpointError."""
    checkpoint = load_checkpoint(folder)
    meta = checkpoint.meta
    try:
        env: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in meta["env"].items()
        }
        spec = EnvSpec(**env)
        model = make_model(spec, ModelConfig(**meta["model"]))
        model.load_state_dict(checkpoint.tensors["model"])
        frames, discount = int(meta["frames"]), float(meta["discount"])
        expected = torch.tensor(meta["self_test"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder} was not written by this version: {reason}") from None
    model.to(device)
    if not torch.allclose(self_test(model), expected, rtol=1e-3, atol=1e-4):
        raise CheckpointError(
            f"{folder}: the model does not repeat the predictions stored with it (written by "
            f"telic {meta['version']}, this is {code_version()})"
        )
    return TrainedModel(model, spec, discount, frames, checkpoint)


def require_same_task(trained: EnvSpec, wanted: EnvSpec, folder: Path) -> None:
    """Raise CheckpointError unless a model for `trained` can act in `wanted`."""
    if trained.name != wanted.name:
        raise CheckpointError(f"{folder} was trained on {trained.name}, not on {wanted.name}")
    for key in ("obs_dim", "pictures", "action_dim", "choices", "action_repeat"):
        ours, theirs = getattr(trained, key), getattr(wanted, key)
        if ours != theirs:
            raise CheckpointError(
                f"{folder} was trained on {trained.name} with {key} {ours}, not {theirs}"
            )
