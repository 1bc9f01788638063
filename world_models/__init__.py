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
from world_models.goal import GoalModel, GoalModelConfig, Towards
from world_models.goal_training import GOAL_METRICS, GoalLossConfig, GoalTrainer, window_length
from world_models.latent import LatentModel, ModelConfig
from world_models.networks import PictureEncoder, VectorEncoder
from world_models.replay import Batch, Episode, Replay
from world_models.training import METRICS, LossConfig, Trainer, discount_for, precision_of
from world_models.trajectories import GoalBatch, Trajectories

__all__ = [
    "GOAL_METRICS",
    "METRICS",
    "Batch",
    "Checkpoint",
    "CheckpointError",
    "Episode",
    "GoalBatch",
    "GoalLossConfig",
    "GoalModel",
    "GoalModelConfig",
    "GoalTrainer",
    "LatentModel",
    "LinearQuadratic",
    "LossConfig",
    "ModelConfig",
    "Pendulum",
    "PictureEncoder",
    "PointMass",
    "Replay",
    "Towards",
    "Trainer",
    "Trajectories",
    "VectorEncoder",
    "discount_for",
    "double_integrator",
    "latest_checkpoint",
    "load_checkpoint",
    "precision_of",
    "prune_checkpoints",
    "save_checkpoint",
    "window_length",
]
