"""Analytic models: exact dynamics and costs, so that planners are judged without model error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mpc.contracts import WorldModel


class LinearQuadratic(WorldModel):
    """s' = A s + B a with reward -(s'Qs + a'Ra) and value -s'Ps, P the Riccati solution.

    With that value the best plan over any horizon is the infinite-horizon controller
    a = -K s, and its cost is s'Ps exactly (Bertsekas, Dynamic Programming, section 3.1).
    A (Z, Z), B (Z, A), Q (Z, Z), R (A, A), all of one dtype.
    """

    A: Tensor
    B: Tensor
    Q: Tensor
    R: Tensor
    P: Tensor
    gain: Tensor

    def __init__(self, A: Tensor, B: Tensor, Q: Tensor, R: Tensor) -> None:
        super().__init__()
        self.latent_dim, self.action_dim = B.shape
        # Buffers, which follow the model to a device.
        for name, matrix in {"A": A, "B": B, "Q": Q, "R": R}.items():
            self.register_buffer(name, matrix)
        self.register_buffer("P", self._riccati())
        self.register_buffer("gain", torch.linalg.solve(R + B.T @ self.P @ B, B.T @ self.P @ A))

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """A s + B a: (..., Z), (..., A) -> (..., Z)."""
        return z @ self.A.T + a @ self.B.T

    def reward(self, z: Tensor, a: Tensor) -> Tensor:
        """-(s'Qs + a'Ra): (..., Z), (..., A) -> (...)."""
        return -((z @ self.Q * z).sum(-1) + (a @ self.R * a).sum(-1))

    def value(self, z: Tensor) -> Tensor:
        """-s'Ps: (..., Z) -> (...)."""
        return -(z @ self.P * z).sum(-1)

    def encode(self, obs: Tensor) -> Tensor:
        """The state itself."""
        return obs

    def _riccati(self) -> Tensor:
        # Of any dtype in float64: the rounding of float32 alone is more than the tolerance.
        A, B, Q, R = (matrix.double() for matrix in (self.A, self.B, self.Q, self.R))
        P = Q
        for _ in range(10_000):
            inner = torch.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
            after = Q + A.T @ P @ (A - B @ inner)
            allowed = 1e-10 * P.abs() + 1e-13 * P.abs().max()
            if ((after - P).abs() <= allowed).all():
                return after.to(self.Q.dtype)
            P = after
        raise ValueError("the Riccati iteration did not converge: (A, B) is not stabilisable")


def double_integrator(dtype: torch.dtype = torch.float64) -> LinearQuadratic:
    """Position and speed of a mass under a push, 0.1 s per control step."""
    return LinearQuadratic(
        torch.tensor([[1.0, 0.1], [0.0, 1.0]], dtype=dtype),
        torch.tensor([[0.005], [0.1]], dtype=dtype),
        torch.diag(torch.tensor([1.0, 0.1], dtype=dtype)),
        torch.tensor([[0.1]], dtype=dtype),
    )


class Pendulum(WorldModel):
    """Frictionless pendulum of unit mass and length, state (angle from upright, speed).

    Semi-implicit Euler at 0.05 s; the action times `torque` is the torque in N m.
    Reward -(angle^2 + 0.1 speed^2 + 0.001 torque^2), the angle wrapped to [-pi, pi].
    """

    latent_dim, action_dim = 2, 1
    torque, gravity, period = 2.0, 10.0, 0.05

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """One control step: (..., 2), (..., 1) -> (..., 2)."""
        angle, speed = z.unbind(-1)
        push = 1.5 * self.gravity * angle.sin() + 3.0 * self.torque * a[..., 0]
        speed = (speed + self.period * push).clamp(-8.0, 8.0)
        return torch.stack([angle + self.period * speed, speed], -1)

    def reward(self, z: Tensor, a: Tensor) -> Tensor:
        """Zero at rest upright, negative elsewhere: (..., 2), (..., 1) -> (...)."""
        angle = torch.remainder(z[..., 0] + math.pi, 2 * math.pi) - math.pi
        effort = (self.torque * a[..., 0]).square()
        return -(angle.square() + 0.1 * z[..., 1].square() + 0.001 * effort)

    def encode(self, obs: Tensor) -> Tensor:
        """The state itself."""
        return obs


class PointMass(WorldModel):
    """A point in the plane that is pushed with drag, around a soft round obstacle at the origin.

    State (x, y, vx, vy), action a force; 0.1 s per control step. Reward is minus the height of
    the obstacle, a Gaussian bump of radius 0.5 and height `obstacle`.
    """

    latent_dim, action_dim = 4, 2
    obstacle, radius, drag, period = 5.0, 0.5, 0.2, 0.1

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """One control step: (..., 4), (..., 2) -> (..., 4)."""
        position, velocity = z[..., :2], z[..., 2:]
        velocity = velocity + self.period * (2.0 * a - self.drag * velocity)
        return torch.cat([position + self.period * velocity, velocity], -1)

    def reward(self, z: Tensor, a: Tensor) -> Tensor:
        """Minus the obstacle's height at the position: (..., 4), (..., 2) -> (...)."""
        near = z[..., :2].square().sum(-1) / self.radius**2
        return -self.obstacle * torch.exp(-0.5 * near)

    def encode(self, obs: Tensor) -> Tensor:
        """The state itself."""
        return obs
