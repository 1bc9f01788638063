"""Discrete regression: a number as a distribution over bins in symlog space.

Used for rewards and values of any scale (Hafner et al. 2023, arXiv:2301.04104, equations 1, 9).
"""

from __future__ import annotations

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|), any shape."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot(x: Tensor, bins: Tensor, linear: bool = False) -> Tensor:
    """Weights (..., K) on the two of K bins around symlog(x); x (...) is clamped to their range.

    What they average to is x, as `expectation` averages.
    """
    places, x = (symexp(bins), x) if linear else (bins, symlog(x))
    x = x.clamp(places[0], places[-1]).unsqueeze(-1)
    far = places.new_full((1,), torch.inf)
    below, above = torch.cat([far, places.diff()]), torch.cat([places.diff(), far])
    rising, falling = 1.0 - (places - x) / below, 1.0 - (x - places) / above
    return torch.minimum(rising, falling).clamp(0.0, 1.0)


def expectation(logits: Tensor, bins: Tensor, linear: bool = False) -> Tensor:
    """The number that logits (..., K) over bins (K,) stand for: (...).

    With `linear` the mean of the distribution. Otherwise symlogs are averaged, which says hardly
    anything of what is large and rare: 0.7 where every tenth outcome is 180 and the others are 0.
    """
    weights = logits.softmax(-1)
    # Not a matrix product, whose precision autocast may lower.
    return (weights * symexp(bins)).sum(-1) if linear else symexp((weights * bins).sum(-1))


def cross_entropy(logits: Tensor, x: Tensor, bins: Tensor, linear: bool = False) -> Tensor:
    """-sum_k two_hot(x)_k log softmax(logits)_k: logits (..., K), x (...) -> (...)."""
    return -(two_hot(x, bins, linear) * logits.log_softmax(-1)).sum(-1)
