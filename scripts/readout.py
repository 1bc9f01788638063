"""Reading latents in the coordinates of observations, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mpc import WorldModel


@dataclass(frozen=True)
class Readout:
    """A linear map from latents to D coordinates that can be drawn."""

    weights: Tensor  # (Z + 1, D)
    labels: list[str]  # of the coordinates, with how much each tells
    columns: list[int] | None = None  # the observation numbers that they stand for, if any

    def __call__(self, z: Tensor) -> Tensor:
        """Coordinates of latents: (..., Z) -> (..., D)."""
        return _with_one(z) @ self.weights

    @torch.no_grad()
    def happened(self, model: WorldModel, obs: Tensor) -> Tensor:
        """The same coordinates of what was observed: (T, O) -> (T, D)."""
        return self(model.encode(obs)) if self.columns is None else obs[:, self.columns]


def fit_readout(model: WorldModel, obs: Tensor, names: Sequence[str], count: int = 3) -> Readout:
    """Ridge regression from the latents of `obs` (T, O) to its `count` best explained numbers.

    Numbers that hardly move are left out, unless all are. `names` (O,) and the R^2 on this data
    label them.
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
    columns = moving.topk(min(count, obs.shape[1])).indices.sort().values.tolist()
    labels = [f"{names[column]}\nR² {quality[column]:.2f}" for column in columns]
    return Readout(weights[:, columns].to(obs.dtype).to(obs.device), labels, columns)


@torch.no_grad()
def principal_readout(model: WorldModel, obs: Tensor, count: int = 3) -> Readout:
    """The `count` principal components of the latents of `obs` (T, O).

    For observations such as pictures, whose single numbers say nothing. The labels tell the share
    of the latents' variance that each explains.
    """
    z = model.encode(obs)
    mean = z.mean(0)
    _, scale, directions = torch.linalg.svd(z - mean, full_matrices=False)
    weights = directions[:count].T
    share = scale.square() / scale.square().sum()
    labels = [f"component {i + 1}\nshare {share[i]:.2f}" for i in range(weights.shape[1])]
    return Readout(torch.cat([weights, -(mean @ weights).unsqueeze(0)]), labels)


def _with_one(z: Tensor) -> Tensor:
    return torch.cat([z, torch.ones_like(z[..., :1])], -1)
