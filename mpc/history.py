"""Models that see the last h latents: windows (..., h * Z), the oldest first, the newest last.

For h = 1 a window is the latent itself, and nothing here copies or costs anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpc.contracts import WorldModel


def newest(model: WorldModel, window: Tensor) -> Tensor:
    """The current latent of a window: (..., h * Z) -> (..., Z)."""
    return window if model.history == 1 else window[..., -model.latent_dim :]


def push(model: WorldModel, window: Tensor, z: Tensor) -> Tensor:
    """The window one control step later, when `z` (..., Z) is the current latent."""
    return z if model.history == 1 else torch.cat([window[..., model.latent_dim :], z], -1)


def windows(model: WorldModel, window: Tensor, states: Tensor) -> Tensor:
    """What the model sees at every step of a path that begins where `window` ends.

    window (B, h * Z), states (B, ..., H + 1, Z) with states[..., 0, :] the newest of the window
    -> (B, ..., H, h * Z).
    """
    inputs = states[..., :-1, :]
    if model.history == 1:
        return inputs
    before = window.unflatten(-1, (model.history, -1))[:, :-1]  # (B, h - 1, Z)
    axes = [1] * (states.dim() - 3)
    before = before.view(before.shape[0], *axes, *before.shape[1:])
    before = before.expand(*states.shape[:-2], *before.shape[-2:])
    # unfold puts the h latents of a window on the last axis, behind the numbers of a latent.
    return torch.cat([before, inputs], -2).unfold(-2, model.history, 1).mT.flatten(-2)
