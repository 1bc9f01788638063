"""The few network parts that the latent models are made of."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def simplex(x: Tensor, size: int) -> Tensor:
    """Simplicial normalisation: softmax over groups of `size` latent numbers, (..., Z) -> (..., Z).

    Lavoie et al. 2022, arXiv:2204.00616, as used by TD-MPC2. A group is strided over the last
    axis, not contiguous: softmax over an inner axis vectorises, and the order of latent numbers
    means nothing.
    """
    groups = x.unflatten(-1, (size, -1))
    return groups.softmax(-2).flatten(-2)


def normalised(x: Tensor) -> Tensor:
    """SiLU of the layer norm without learned scale, over the last axis."""
    return F.silu(torch.layer_norm(x, x.shape[-1:]))


M = TypeVar("M", bound=nn.Module)


def frozen(module: M) -> M:
    """A module that shares the weights of `module` in memory but takes no gradients.

    It follows every in-place change, so planners can hold it while training goes on.
    """
    shared: dict[int, Tensor] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()
    }
    shared.update({id(b): b for b in module.buffers()})
    return copy.deepcopy(module, shared)


class MLP(nn.Module):
    """Linear layers with `normalised` between them, on any leading axes.

    What comes out has the precision of the weights, also where autocast lowers that of matrix
    products; so it is with all networks here. What is made of it, such as softmax, needs that.
    """

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(..., first size) -> (..., last size)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = normalised(layer(x))
        return last(x).to(last.weight.dtype)


def with_octaves(x: Tensor, count: int) -> Tensor:
    """Numbers, and their sines and cosines with periods of 4, 2, 1, ...: (..., N (1 + 2 count)).

    What lies on either side of a thin wall has nearly the same numbers, and networks are slow to
    learn what changes fast with their inputs (Tancik et al. 2020, arXiv:2006.10739).
    """
    fast = [x * (math.pi / 2 * 2**k) for k in range(count)]
    return torch.cat([x, *(wave(y) for y in fast for wave in (torch.sin, torch.cos))], -1)


class VectorEncoder(MLP):
    """An MLP that also sees the sine and cosine of numbers that change slowly, as angles do.

    Angles of joints without limits grow with every turn. To a plain network an arm that has turned
    once is somewhere else, and beyond what starts show it knows nothing. Of a number that moves
    much of a period in a control step, as velocities may, they would be noise.
    """

    SLOW = 0.5  # root mean square of the change in a control step, about a twelfth of a period
    slow: Tensor

    def __init__(self, numbers: int, *sizes: int) -> None:
        super().__init__(3 * numbers, *sizes)
        self.register_buffer("slow", torch.zeros(numbers))

    @torch.no_grad()
    def fit(self, obs: Tensor) -> None:
        """Find out from windows (H + 1, B, numbers) which numbers change slowly; before, none."""
        change = obs.diff(dim=0).square().mean((0, 1)).sqrt()
        self.slow.copy_(change < self.SLOW)

    def forward(self, x: Tensor) -> Tensor:
        """(..., numbers) -> (..., last size)."""
        return super().forward(torch.cat([x, self.slow * x.sin(), self.slow * x.cos()], -1))


class PictureEncoder(nn.Module):
    """Three convolutions and a linear layer, for stacked pictures of 64 x 64.

    Pictures are seen as they differ from the mean picture, see `fit`. Without that and the layer
    norm all pictures of a still camera look nearly alike, and latents collapse before rewards can
    tell them apart.
    """

    SIZE = 64
    mean: Tensor
    spread: Tensor

    def __init__(self, pictures: int, features: int) -> None:
        super().__init__()
        self.channels = 3 * pictures
        width = 32
        # Long strides first: most of the cost of a picture lies in the first layer.
        self.layers = nn.Sequential(
            nn.Conv2d(self.channels, width, 8, 4),
            nn.SiLU(),
            nn.Conv2d(width, width, 4, 2),
            nn.SiLU(),
            nn.Conv2d(width, width, 3),
            nn.SiLU(),
            nn.Flatten(),
            nn.LayerNorm(width * 4 * 4, elementwise_affine=False),
            nn.Linear(width * 4 * 4, features),
        )
        self.register_buffer("mean", torch.full((self.channels * self.SIZE**2,), 127.5))
        self.register_buffer("spread", torch.tensor(64.0))

    @torch.no_grad()
    def fit(self, obs: Tensor) -> None:
        """Take the mean picture, and the deviations from it, from examples (B, O)."""
        self.mean.copy_(obs.float().mean(0))
        self.spread.copy_((obs - self.mean).std().clamp(min=1.0))

    def deviations(self, x: Tensor) -> Tensor:
        """How pictures (..., O) differ from the mean picture, of variance 1 in the examples."""
        return (x - self.mean) / self.spread

    def forward(self, x: Tensor) -> Tensor:
        """Numbers 0 to 255, channels first, (..., 3 * pictures * 64 * 64) -> (..., features)."""
        features = self.layers(self.deviations(x).reshape(-1, self.channels, self.SIZE, self.SIZE))
        return features.to(self.mean.dtype).view(*x.shape[:-1], -1)


class PictureDecoder(nn.Sequential):
    """One picture of 64 x 64 from a latent: (..., Z) -> (..., 3 * 64 * 64), channels first."""

    def __init__(self, latent: int) -> None:
        widths = (64, 32, 32, 16, 3)  # of pictures with a side of 4, 8, .. 64
        layers: list[nn.Module] = [
            nn.Linear(latent, widths[0] * 4 * 4),
            nn.Unflatten(-1, (-1, 4, 4)),
        ]
        for here, there in pairwise(widths):
            layers += [nn.SiLU(), nn.ConvTranspose2d(here, there, 4, 2, 1)]
        super().__init__(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """(..., Z) -> (..., 3 * 64 * 64)."""
        made = super().forward(z.reshape(-1, z.shape[-1]))
        return made.to(z.dtype).reshape(*z.shape[:-1], -1)


class EnsembleMLP(nn.Module):
    """`count` MLPs with two hidden layers side by side, one batched matrix product per layer."""

    def __init__(
        self, count: int, inputs: int, hidden: int, outputs: int, neutral: bool = True
    ) -> None:
        """With `neutral`, every member starts at the prediction 0."""
        super().__init__()
        sizes = [(inputs, hidden), (hidden, hidden), (hidden, outputs)]
        self.weights = nn.ParameterList(torch.empty(count, a, b) for a, b in sizes)
        self.biases = nn.ParameterList(torch.zeros(count, 1, b) for _, b in sizes)
        # In this order, so that a neutral last layer takes no random numbers.
        for weight in self.weights[:-1]:
            nn.init.trunc_normal_(weight, std=0.02)
        if neutral:
            nn.init.zeros_(self.weights[-1])
        else:
            nn.init.trunc_normal_(self.weights[-1], std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same rows for all members: (..., inputs) -> (count, ..., outputs)."""
        rows = x.reshape(-1, x.shape[-1])  # copied once at most, before they are repeated
        y = self.each(rows.expand(self.weights[0].shape[0], *rows.shape))
        return y.view(len(y), *x.shape[:-1], y.shape[-1])

    def each(self, x: Tensor) -> Tensor:
        """Of rows of its own for every member: (count, ..., inputs) -> (count, ..., outputs)."""
        y = x.reshape(x.shape[0], -1, x.shape[-1])
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = torch.baddbmm(bias, y if i == 0 else normalised(y), weight)
        return y.to(x.dtype).view(*x.shape[:-1], y.shape[-1])
