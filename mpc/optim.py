"""The optimiser steps of gradient and lifted planners, as pure functions of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BETAS = (0.9, 0.999)


class Adam(NamedTuple):
    """Adam (Kingma and Ba 2015) as a value: moments in, step and new moments out."""

    mean: Tensor  # running mean of the gradient
    square: Tensor  # running mean of its square
    steps: Tensor  # how many gradients they have seen, of any shape that broadcasts

    @staticmethod
    def zeros(like: Tensor) -> Adam:
        """Moments of a fresh optimiser for a variable shaped `like`."""
        return Adam(torch.zeros_like(like), torch.zeros_like(like), like.new_zeros(()))

    def step(self, gradient: Tensor, lr: Tensor | float) -> tuple[Tensor, Adam]:
        """What to subtract from the variable, and the moments afterwards."""
        mean = torch.lerp(gradient, self.mean, BETAS[0])
        square = torch.lerp(gradient.square(), self.square, BETAS[1])
        steps = self.steps + 1
        # The efficient form of the bias correction, at the end of section 2 of the paper.
        rate = lr * (1 - BETAS[1] ** steps).sqrt() / (1 - BETAS[0] ** steps)
        return rate * mean / (square.sqrt() + 1e-8), Adam(mean, square, steps)


def annealed(lr: float, progress: float, final: float) -> float:
    """Cosine from `lr` at progress 0 to `final` * lr at progress 1."""
    return lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def clip_norm(gradient: Tensor, limit: float) -> Tensor:
    """Scale each vector on the last axis to norm at most `limit`.

    Each control step is clipped by itself, so that the limit means the same at every horizon.
    """
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    return gradient * (limit / norm.clamp_min(limit))


def gradients(
    loss: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], *inputs: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Gradients of `loss(*inputs)[0]` with respect to all inputs, and `loss(*inputs)[1]`.

    Works under no_grad, and inside torch.compile, which traces only the functional form; run
    eagerly the functional form would be the slower one. Nothing that is returned has a graph.
    """
    if torch.compiler.is_compiling():
        return torch.func.grad(loss, argnums=tuple(range(len(inputs))), has_aux=True)(*inputs)
    with torch.enable_grad():
        variables = [x.detach().requires_grad_() for x in inputs]
        total, extra = loss(*variables)
        found = torch.autograd.grad(total, variables)
    return found, tuple(x.detach() for x in extra)
