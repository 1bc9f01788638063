"""Coloured noise: random numbers that change slowly along the horizon."""

from __future__ import annotations

import torch
from torch import Tensor


def coloured(white: Tensor, beta: float) -> Tensor:
    """Noise whose power falls as 1 / frequency^beta along the steps, from white noise.

    white (..., T, A), standard normal -> (..., T, A), normal with variance 1 at every step, and
    periodic: step 0 would follow step T - 1. 0 is white noise itself, 1 pink, 2 red. The constant
    part has the power of the lowest frequency (Timmer and Koenig 1995).
    """
    steps = white.shape[-2]
    if beta == 0.0 or steps < 2:
        return white
    frequency = torch.fft.rfftfreq(steps, device=white.device, dtype=white.dtype)
    frequency[0] = frequency[1]
    gain = (frequency / frequency[0]) ** (-beta / 2.0)
    # The constant and, if T is even, the highest frequency stand for one of T, the others for two.
    counts = torch.full_like(gain, 2.0)
    counts[0] = 1.0
    if steps % 2 == 0:
        counts[-1] = 1.0
    power = (counts * gain.square()).sum() / steps
    spectrum = torch.fft.rfft(white, dim=-2) * (gain / power.sqrt()).unsqueeze(-1)
    return torch.fft.irfft(spectrum, n=steps, dim=-2)
