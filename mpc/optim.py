"""The optimiser steps of gradient and lifted planners, as pure functions of tensors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Adam(NamedTuple):
    """Adam (Kingma and Ba 2015) as a value: moments in, step and new moments out."""

    mean: Tensor  # running mean of the gradient
    square: Tensor  # running mean of its square
    steps: int = 0

    @staticmethod
    def zeros(like: Tensor) -> Adam:
        """Moments of a fresh optimiser for a variable shaped `like`."""
        return Adam(torch.zeros_like(like), torch.zeros_like(like))

    def step(
        self, gradient: Tensor, lr: float, betas: tuple[float, float] = (0.9, 0.999)
    ) -> tuple[Tensor, Adam]:
        """What to subtract from the variable, and the optimiser afterwards."""
        steps = self.steps + 1
        mean = torch.lerp(gradient, self.mean, betas[0])
        square = torch.lerp(gradient.square(), self.square, betas[1])
        scale = lr / (1 - betas[0] ** steps)
        root = (square / (1 - betas[1] ** steps)).sqrt_().add_(1e-8)
        return mean.mul(scale).div_(root), Adam(mean, square, steps)


def clip_norm(gradient: Tensor, limit: float) -> Tensor:
    """Scale each vector on the last axis to norm at most `limit`.

    Each control step is clipped by itself, so that the limit means the same at every horizon.
    """
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    return gradient * (limit / norm.clamp_min(limit))


def annealed(lr: float, progress: float, final: float) -> float:
    """Cosine from `lr` at progress 0 to `final` * lr at progress 1."""
    return lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))
