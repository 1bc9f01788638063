"""World models, their training data, losses and checkpoints."""

from world_models.analytic import LinearQuadratic, Pendulum, PointMass, double_integrator
from world_models.checkpoint import (
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from world_models.latent import LatentModel, ModelConfig
from world_models.networks import PictureEncoder, VectorEncoder
from world_models.replay import Batch, Episode, Replay
from world_models.training import METRICS, LossConfig, Trainer, discount_for

__all__ = [
    "METRICS",
    "Batch",
    "Checkpoint",
    "CheckpointError",
    "Episode",
    "LatentModel",
    "LinearQuadratic",
    "LossConfig",
    "ModelConfig",
    "Pendulum",
    "PictureEncoder",
    "PointMass",
    "Replay",
    "Trainer",
    "VectorEncoder",
    "discount_for",
    "double_integrator",
    "latest_checkpoint",
    "load_checkpoint",
    "prune_checkpoints",
    "save_checkpoint",
]
