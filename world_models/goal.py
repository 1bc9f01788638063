"""The goal-conditioned latent world model, trained from data without rewards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpc.checks import require_at_least
from mpc.contracts import Transition, WorldModel
from mpc.history import newest
from mpc.objectives import beside
from world_models.networks import (
    MLP,
    EnsembleMLP,
    PictureDecoder,
    PictureEncoder,
    frozen,
    with_octaves,
)

PLACES = 32  # numbers in either part of a place
UNIT = 10.0  # control steps that one of them stands for
POLICY_STD = 0.3  # of samples of the policy, which is trained as a regression and has no spread


def gaps(here: Tensor, there: Tensor) -> Tensor:
    """A quasimetric between places (..., 2 * PLACES): (...).

    A Euclidean distance plus the largest number by which `there` exceeds `here`, which need not be
    the same on the way back (Liu et al. 2023, arXiv:2208.08133). The triangle inequality holds
    whatever the network, so that what is learned about short ways carries over to long ones.
    """
    both, one = (there - here).split(PLACES, -1)
    euclidean = (both.square().sum(-1) + 1e-6).sqrt()
    return UNIT * (euclidean + one.clamp_min(0.0).amax(-1))


@dataclass(frozen=True)
class GoalModelConfig:
    """Sizes of the goal-conditioned model."""

    latent_dim: int = 32  # numbers of a latent
    hidden_dim: int = 256  # width of all hidden layers
    history: int = 1  # latents that a step sees
    octaves: int = 4  # of sines and cosines that the encoder sees beside the numbers of a vector
    ensemble: int = 1  # members that predict the next latent
    distances: int = 2  # members of the ensemble of temporal distances

    def __post_init__(self) -> None:
        """Refuse sizes that make no sense."""
        require_at_least(self, 1, "latent_dim", "hidden_dim", "history", "ensemble", "distances")
        require_at_least(self, 0, "octaves")


class GoalModel(WorldModel):
    """Encoder, latent step, temporal distance, goal-conditioned policy and decoder.

    Latents have no fixed range; the losses keep each of their numbers at a variance of about 1.
    """

    mean: Tensor
    std: Tensor
    spread: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: GoalModelConfig,
        pictures: int = 0,
        goal_dim: int = 0,
    ) -> None:
        """Of continuous actions; `pictures` as of `LatentModel`, `goal_dim` as of `EnvSpec`."""
        super().__init__()
        self.config, self.pictures, self.goal_dim = config, pictures, goal_dim
        self.obs_dim, self.action_dim, self.latent_dim = obs_dim, action_dim, config.latent_dim
        self.history = config.history
        latent, hidden = config.latent_dim, config.hidden_dim
        self.newest = obs_dim // max(1, pictures)  # numbers that are decoded: of the last picture
        self.encoder: nn.Module
        self.decoder: nn.Module
        if pictures:
            features = PictureEncoder(pictures, hidden)
            self.encoder = nn.Sequential(features, MLP(hidden, hidden, latent))
            self.decoder = PictureDecoder(latent)
        else:
            seen = obs_dim * (1 + 2 * config.octaves)
            self.encoder = MLP(seen, hidden, hidden, latent)
            self.decoder = MLP(latent, hidden, hidden, obs_dim)
        seen = config.history * latent + action_dim
        self.dynamics: MLP | EnsembleMLP
        if config.ensemble == 1:  # a batched product of one matrix is slower than a plain one
            self.dynamics = MLP(seen, hidden, hidden, latent)
        else:
            self.dynamics = EnsembleMLP(config.ensemble, seen, hidden, latent, neutral=False)
        # Of every member two parts, for the two terms of `gaps`.
        sizes = latent, hidden, 2 * PLACES
        self.places = EnsembleMLP(config.distances, *sizes, neutral=False)
        self.actor = MLP(2 * latent, hidden, hidden, action_dim)
        self.inverse = MLP(2 * latent, hidden, action_dim)
        # Vectors are seen with mean 0 and variance 1, see `fit`; a PictureEncoder does its own.
        self.register_buffer("mean", torch.zeros(self.newest))
        self.register_buffer("std", torch.ones(self.newest))
        self.register_buffer("spread", torch.tensor(1.0))

    @torch.no_grad()
    def fit(self, obs: Tensor) -> None:
        """Take mean and deviation of observations from examples (B, O)."""
        if isinstance(self.encoder, nn.Sequential):
            features = self.encoder[0]
            assert isinstance(features, PictureEncoder)
            features.fit(obs)
            self.mean.copy_(features.mean[-self.newest :])
            self.std.fill_(features.spread)
            return
        self.mean.copy_(obs.mean(0))
        self.std.copy_(obs.std(0).clamp_min(1e-3))

    def encode(self, obs: Tensor) -> Tensor:
        """Latent of an observation: (..., O) -> (..., Z)."""
        seen = obs if self.pictures else with_octaves(self.normalised(obs), self.config.octaves)
        z: Tensor = self.encoder(seen)
        return z

    def encode_goal(self, obs: Tensor) -> Tensor:
        """Latent of a goal, of which `goal_dim` numbers are known: (..., O) -> (..., Z).

        The others, whatever stands there, count as being at their mean.
        """
        if self.goal_dim:
            unknown = self.mean[self.goal_dim :].expand(*obs.shape[:-1], -1)
            obs = torch.cat([obs[..., : self.goal_dim], unknown], -1)
        return self.encode(obs)

    def normalised(self, obs: Tensor) -> Tensor:
        """What is decoded of an observation, with mean 0 and variance 1: (..., O) -> (..., N)."""
        return (obs[..., -self.newest :] - self.mean) / self.std

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """Next latent: (..., h * Z), (..., A) -> (..., Z)."""
        return self.predict(z, a).next

    def step_each(self, z: Tensor, a: Tensor) -> Tensor:
        """Next latent by every member from a window of its own.

        (members, ..., h * Z), (..., A) -> (members, ..., Z).
        """
        seen = torch.cat([z, a.expand(*z.shape[:-1], self.action_dim)], -1)
        dynamics = self.dynamics
        each = dynamics.each if isinstance(dynamics, EnsembleMLP) else dynamics
        return newest(self, z) + each(seen)

    def predict(self, z: Tensor, a: Tensor) -> Transition:
        """The next latent, and how much an ensemble disagrees about it; there is no reward.

        Disagreement is the root mean square over latent numbers of the members' deviation, over
        the spread of latents.
        """
        change = self.dynamics(torch.cat([z, a], -1))
        if self.config.ensemble == 1:
            return Transition(z, a, newest(self, z) + change)
        apart = change.var(0).mean(-1).clamp_min(1e-12).sqrt() / self.spread
        return Transition(z, a, newest(self, z) + change.mean(0), disagreement=apart)

    def distance(self, z: Tensor, goal: Tensor) -> Tensor:
        """Control steps from `z` to `goal`, (..., Z) each, that broadcast: (...)."""
        return gaps(self.places(z), self.places(goal)).mean(0)

    def decode(self, z: Tensor) -> Tensor:
        """Observation of a latent, of pictures the newest: (..., Z) -> (..., N)."""
        seen: Tensor = self.decoder(z) * self.std + self.mean
        return seen.clamp(0.0, 255.0) if self.pictures else seen

    def towards(self, goal: Tensor) -> Towards:
        """This model with a policy prior that leads to `goal` (B, Z)."""
        return Towards(self, goal)

    def latent_spread(self) -> float:
        """Mean standard deviation of a latent number over the training data."""
        return float(self.spread)

    def frozen(self) -> GoalModel:
        """A model that shares this one's weights in memory but takes no gradients."""
        return frozen(self)


class Towards(WorldModel):
    """A goal-conditioned model with the policy prior to one goal per problem."""

    policy_has_spread = False

    def __init__(self, model: GoalModel, goal: Tensor) -> None:
        """`goal` (B, Z)."""
        super().__init__()
        self.model, self.goal = model, goal
        self.latent_dim, self.action_dim = model.latent_dim, model.action_dim
        self.history = model.history

    def encode(self, obs: Tensor) -> Tensor:
        """Latent of an observation: (..., O) -> (..., Z)."""
        return self.model.encode(obs)

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """Next latent: (..., h * Z), (..., A) -> (..., Z)."""
        return self.model.step(z, a)

    def predict(self, z: Tensor, a: Tensor) -> Transition:
        """The next latent, and how much an ensemble disagrees about it; there is no reward."""
        return self.model.predict(z, a)

    def distance(self, z: Tensor, goal: Tensor) -> Tensor:
        """Control steps from `z` to `goal`: (..., Z) both -> (...)."""
        return self.model.distance(z, goal)

    def decode(self, z: Tensor) -> Tensor:
        """Observation of a latent, of pictures the newest: (..., Z) -> (..., N)."""
        return self.model.decode(z)

    def for_problems(self, index: Tensor) -> Towards:
        """Towards the goals of the problems `index` (N,) alone."""
        return Towards(self.model, self.goal[index])

    def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mode of the policy to the goal, plus POLICY_STD times `noise`: (B, ..., Z)."""
        goal = beside(self.goal, z).expand_as(z)
        action = torch.tanh(self.model.actor(torch.cat([z, goal], -1)))
        if noise is not None:
            action = (action + POLICY_STD * noise).clamp(-1.0, 1.0)
        return action

    def latent_spread(self) -> float:
        """Mean standard deviation of a latent number over the training data."""
        return self.model.latent_spread()


def effective_rank(z: Tensor) -> Tensor:
    """How many directions the latents (N, Z) fill: exp of the entropy of the singular values.

    Roy and Vetterli 2007. Between 1, collapsed, and Z; ().
    """
    values = torch.linalg.svdvals(z - z.mean(0))
    share = values / values.sum().clamp_min(1e-12)
    return torch.exp(-(share * share.clamp_min(1e-12).log()).sum())
