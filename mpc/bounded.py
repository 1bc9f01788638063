"""A bound on memory: a model whose batched calls are split into pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mpc.actions import ActionSpace
from mpc.contracts import Transition, WorldModel


class Bounded(WorldModel):
    """`model`, called with at most `rows` rows at a time.

    Where gradients are taken a piece keeps its inputs only and is computed again on the way back,
    so that what is held between the two does not grow with the hidden layers of the model.
    """

    def __init__(self, model: WorldModel, rows: int) -> None:
        super().__init__()
        self.model, self.rows = model, rows
        self.latent_dim, self.action_dim = model.latent_dim, model.action_dim
        self.history = model.history

    @property
    def action_space(self) -> ActionSpace:
        """That of the model."""
        return self.model.action_space

    def supports(self, verb: str) -> bool:
        """What the model itself supports."""
        return self.model.supports(verb)

    def latent_spread(self) -> float:
        """That of the model."""
        return self.model.latent_spread()

    def encode(self, obs: Tensor) -> Tensor:
        """Latent of an observation: (..., O) -> (..., Z)."""
        return self._split(self.model.encode, obs)

    def decode(self, z: Tensor) -> Tensor:
        """Observation of a latent: (..., Z) -> (..., O)."""
        return self._split(self.model.decode, z)

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """Next latent: (B, ..., h * Z), (B, ..., A) -> (B, ..., Z)."""
        return self._by_problem(lambda model, z, a: model.step(z, a), z, a)

    def reward(self, z: Tensor, a: Tensor) -> Tensor:
        """Reward of a control step: (B, ..., h * Z), (B, ..., A) -> (B, ...)."""
        return self._by_problem(lambda model, z, a: model.reward(z, a), z, a)

    def value(self, z: Tensor) -> Tensor:
        """Discounted return of the policy prior: (B, ..., Z) -> (B, ...)."""
        return self._by_problem(lambda model, z: model.value(z), z)

    def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Action of the policy prior: (B, ..., Z) -> (B, ..., A)."""
        inputs = (z,) if noise is None else (z, noise)
        return self._by_problem(lambda model, *x: model.policy(*x), *inputs)

    def distance(self, z: Tensor, goal: Tensor) -> Tensor:
        """Control steps from `z` to `goal`, (B, ..., Z) each, that broadcast: (B, ...)."""
        return self._by_problem(lambda model, z, goal: model.distance(z, goal), z, goal)

    def for_problems(self, index: Tensor) -> Bounded:
        """That of the model, bounded alike."""
        return Bounded(self.model.for_problems(index), self.rows)

    def predict(self, z: Tensor, a: Tensor) -> Transition:
        """Everything about one control step."""
        found = self._by_problem(lambda model, z, a: model.predict(z, a)[2:], z, a)
        return Transition(z, a, *found)

    def _by_problem(self, call: Callable[..., Any], *inputs: Tensor) -> Any:
        """`call` of the model and `inputs`, (B, ..., any) each, that broadcast."""
        shape = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        if shape.numel() <= self.rows:
            return call(self.model, *inputs)
        problems = torch.arange(shape[0], device=inputs[0].device).view(-1, *(1,) * len(shape))

        def piece(problem: Tensor, *rows: Tensor) -> Any:
            return call(self.model.for_problems(problem[:, 0]), *rows)

        return self._split(piece, problems, *inputs)

    def _split(self, call: Callable[..., Any], *inputs: Tensor) -> Any:
        """`call` of all rows of `inputs`, (..., any) each, that broadcast, piece by piece."""
        shape = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        if shape.numel() <= self.rows:
            return call(*inputs)
        flat = (x.expand(*shape, x.shape[-1]).reshape(-1, x.shape[-1]) for x in inputs)
        pieces = zip(*(x.split(self.rows) for x in flat), strict=True)
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        if graph:
            found = [checkpoint(call, *piece, use_reentrant=False) for piece in pieces]
        else:
            found = [call(*piece) for piece in pieces]
        if isinstance(found[0], Tensor):
            return torch.cat(found).unflatten(0, shape)
        parts = (None if x[0] is None else torch.cat(x) for x in zip(*found, strict=True))
        return tuple(None if x is None else x.unflatten(0, shape) for x in parts)
