"""Discrete regression: a number as a distribution over bins in symlog space.

Used for rewards and values of any scale (Hafner et al. 2023, arXiv:2301.04104, equations 1, 9).
"""

from __future__ import annotations

from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|), any shape."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """Weights (..., K) on the two of K even bins around symlog(x); x (...) is clamped to range."""
    place = symlog(x).clamp(bins[0], bins[-1]).unsqueeze(-1)
    return (1.0 - (place - bins).abs() / (bins[1] - bins[0])).clamp_min(0.0)


def expectation(logits: Tensor, bins: Tensor) -> Tensor:
    """The number that logits (..., K) over bins (K,) stand for: (...)."""
    return symexp(logits.softmax(-1) @ bins)


def cross_entropy(logits: Tensor, x: Tensor, bins: Tensor) -> Tensor:
    """-sum_k two_hot(x)_k log softmax(logits)_k: logits (..., K), x (...) -> (...)."""
    return -(two_hot(x, bins) * logits.log_softmax(-1)).sum(-1)
