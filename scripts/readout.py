"""Reading latents in the coordinates of observations, for pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world_models import LatentModel


@dataclass(frozen=True)
class Readout:
    """A linear map from latents to the observation numbers that it reads best."""

    weights: Tensor  # (Z + 1, D)
    columns: list[int]  # D observation numbers
    quality: list[float]  # R^2 of each on the data of the fit

    def __call__(self, z: Tensor) -> Tensor:
        """Coordinates of latents: (..., Z) -> (..., D)."""
        return _with_one(z) @ self.weights


def fit_readout(model: LatentModel, obs: Tensor, count: int = 3) -> Readout:
    """Ridge regression from the latents of `obs` (T, O) to its `count` best explained numbers.

    Numbers that hardly move are left out, unless all are.
    """
    with torch.no_grad():
        inputs = _with_one(model.encode(obs))
    inputs, targets = inputs.double().cpu(), obs.double().cpu()
    gram = inputs.T @ inputs + 1e-6 * len(obs) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, inputs.T @ targets)
    variance = targets.var(0)
    error = (inputs @ weights - targets).square().mean(0)
    quality = 1.0 - error / variance.clamp_min(1e-12)
    moving = torch.where(variance > 1e-4 * variance.max(), quality, torch.tensor(-torch.inf))
    columns = moving.topk(min(count, obs.shape[1])).indices.sort().values
    chosen = weights[:, columns].to(obs.dtype).to(model.bins.device)
    return Readout(chosen, columns.tolist(), quality[columns].tolist())


def _with_one(z: Tensor) -> Tensor:
    return torch.cat([z, torch.ones_like(z[..., :1])], -1)


def principal_readout(model: LatentModel, obs: Tensor, count: int = 3) -> Readout:
    """The `count` principal components of the latents of `obs` (T, O).

    For observations such as pictures, whose single numbers say nothing. `quality` is the share of
    the latents' variance that each explains.
    """
    with torch.no_grad():
        z = model.encode(obs)
    mean = z.mean(0)
    _, scale, directions = torch.linalg.svd(z - mean, full_matrices=False)
    weights = directions[:count].T
    share = scale.square() / scale.square().sum()
    return Readout(
        torch.cat([weights, -(mean @ weights).unsqueeze(0)]),
        list(range(count)),
        share[:count].tolist(),
    )
