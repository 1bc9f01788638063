"""Coloured noise: random numbers that change slowly along the horizon."""

from __future__ import annotations

import torch
from torch import Tensor


def coloured(white: Tensor, beta: float) -> Tensor:
    """Noise whose power falls as 1 / frequency^beta along the horizon, from white noise.

    white (..., H, A), standard normal -> (..., H, A), normal with variance 1 at every step.
    0: white itself, 1: pink, 2: red, a random walk that returns to where it began. The constant
    part has the power of the lowest frequency (Timmer and Koenig 1995).
    """
    horizon = white.shape[-2]
    if beta == 0.0 or horizon < 2:
        return white
    frequency = torch.fft.rfftfreq(horizon, device=white.device, dtype=white.dtype)
    frequency[0] = frequency[1]
    gain = (frequency / frequency[0]) ** (-beta / 2.0)
    # All but the constant and, if H is even, the highest frequency stand for two of the spectrum.
    twice = torch.full_like(gain, 2.0)
    twice[0] = 1.0
    if horizon % 2 == 0:
        twice[-1] = 1.0
    power = (twice * gain.square()).sum() / horizon
    spectrum = torch.fft.rfft(white, dim=-2) * (gain / power.sqrt()).unsqueeze(-1)
    return torch.fft.irfft(spectrum, n=horizon, dim=-2)
