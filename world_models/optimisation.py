"""What the trainers of all models share: their optimiser, its rate, and a slowly moving target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def adam(groups: list[dict[str, Any]], lr: float) -> torch.optim.Adam:
    """Adam on groups of parameters, fused into one operation where torch can."""
    kinds = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.Adam(groups, lr=lr, fused=kinds <= {"cpu", "cuda"})


def rate_share(progress: float, falls_after: float, final: float) -> float:
    """Share of a learning rate that falls linearly to `final` of it, from `falls_after` on.

    `progress` is the share of the training that is over.
    """
    fallen = max(0.0, progress - falls_after) / (1.0 - falls_after)
    return 1.0 - (1.0 - final) * fallen


@torch.no_grad()
def follow(target: nn.Module, model: nn.Module, rate: float) -> None:
    """Move the weights of `target` towards those of `model`: an exponential moving average.

    Buffers are copied.
    """
    torch._foreach_lerp_(list(target.parameters()), list(model.parameters()), rate)
    for held, now in zip(target.buffers(), model.buffers(), strict=True):
        held.copy_(now)


def optimiser_state(
    optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Moments of the optimiser and weights of what else learns by name, for a checkpoint."""
    tensors = {
        f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()
    }
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
    return tensors


def restore_optimiser(
    optimizer: torch.optim.Optimizer,
    modules: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
) -> None:
    """Go on where `optimiser_state` was taken; other tensors are left alone."""
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    saved = optimizer.state_dict()
    optimizer.load_state_dict({**saved, "state": moments})
