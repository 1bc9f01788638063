"""The reward-trained latent world model (TD-MPC2 family; Hansen et al. 2024, arXiv:2310.16828)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc.actions import ActionSpace, CategoricalActions, action_space
from mpc.checks import require_at_least
from mpc.contracts import Transition, WorldModel
from world_models.distributional import expectation
from world_models.networks import (
    MLP,
    EnsembleMLP,
    PictureEncoder,
    VectorEncoder,
    frozen,
    normalised,
    simplex,
)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the latent model."""

    latent_dim: int = 64  # numbers of a latent
    hidden_dim: int = 256  # width of all hidden layers
    simplex: int = 8  # latent numbers per simplex group
    values: int = 2  # members of the value ensemble
    waves: bool = True  # whether the encoder also sees sines and cosines of slow numbers
    shared: bool = True  # whether values also see the hidden numbers that rewards come from
    bins: int = 51  # of the discrete regression
    linear: bool = True  # whether bins are averaged as the numbers they stand for, not as symlogs
    bin_limit: float = 6.0  # bins cover [-limit, limit] in symlog space: 400 rewards of 1

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        require_at_least(self, 1, "latent_dim", "hidden_dim", "simplex", "values")
        if self.latent_dim % self.simplex:
            raise ValueError(
                f"latent_dim must be a multiple of simplex = {self.simplex}, got {self.latent_dim}"
            )
        if self.bins < 3:
            raise ValueError(f"bins must be at least 3, got {self.bins}")
        if not self.bin_limit > 0:
            raise ValueError(f"bin_limit must be above 0, got {self.bin_limit}")


LOG_STD_RANGE = (-10.0, 2.0)


class LatentModel(WorldModel):
    """Encoder, latent step with reward and termination, value ensemble and policy prior."""

    bins: Tensor
    spread: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        config: ModelConfig,
        choices: tuple[int, ...] = (),
        pictures: int = 0,
    ) -> None:
        """`choices`: how many there are in each group of discrete actions; empty if continuous.

        `pictures`: how many are stacked in an observation; 0 if it is a vector.
        """
        super().__init__()
        self.config = config
        self._action_space = action_space(action_dim, choices)
        self.obs_dim, self.action_dim, self.latent_dim = obs_dim, action_dim, config.latent_dim
        latent, hidden = config.latent_dim, config.hidden_dim
        self.pictures = pictures
        self.encoder: nn.Module
        if pictures:
            self.encoder = PictureEncoder(pictures, latent)
        else:
            vector_encoder = VectorEncoder if config.waves else MLP
            self.encoder = vector_encoder(obs_dim, hidden, latent)
        self.trunk = MLP(latent + action_dim, hidden, hidden)
        # One output layer: next latent, reward bins, logit of the end of the episode.
        self.head = nn.Linear(hidden, latent + config.bins + 1)
        inputs = latent + action_dim + (hidden if config.shared else 0)
        self.values = EnsembleMLP(config.values, inputs, hidden, config.bins)
        # Logits of the choices, or mean and spread of continuous actions.
        self.actor = MLP(latent, hidden, hidden, action_dim if choices else 2 * action_dim)
        nn.init.trunc_normal_(self.head.weight[:latent], std=0.02)
        nn.init.zeros_(self.head.weight[latent:])
        nn.init.zeros_(self.head.bias)
        # Until an end of an episode is seen, hardly any is expected.
        nn.init.constant_(self.head.bias[-1:], -7.0)
        limit = config.bin_limit
        self.register_buffer("bins", torch.linspace(-limit, limit, config.bins))
        self.register_buffer("spread", torch.tensor(0.1))

    @property
    def action_space(self) -> ActionSpace:
        """What actions it takes."""
        return self._action_space

    def cover(self, reward: float) -> None:
        """Let the bins reach as many rewards of this size as they reach of 1; not fewer."""
        limit = math.log1p(max(1.0, reward) * math.expm1(self.config.bin_limit))
        self.bins.copy_(torch.linspace(-limit, limit, self.config.bins))

    def encode(self, obs: Tensor) -> Tensor:
        """Latent of an observation: (..., O) -> (..., Z)."""
        return simplex(self.encoder(obs), self.config.simplex)

    def hidden(self, z: Tensor, a: Tensor) -> Tensor:
        """What next latent, reward and termination are read from: (..., hidden_dim)."""
        return normalised(self.trunk(torch.cat([z, a], -1)))

    def heads(self, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next latent (..., Z), reward logits (..., bins) and termination logit (...)."""
        out = self.head(self.hidden(z, a)).to(z.dtype)
        latent, reward, end = out.split([self.latent_dim, self.config.bins, 1], -1)
        return simplex(latent, self.config.simplex), reward, end.squeeze(-1)

    def predict(self, z: Tensor, a: Tensor) -> Transition:
        """Next latent, reward and chance to go on, in one pass of the trunk."""
        after, reward, end = self.heads(z, a)
        return Transition(z, a, after, self.number(reward), torch.sigmoid(-end))

    def number(self, logits: Tensor) -> Tensor:
        """The reward or value that logits (..., bins) stand for: (...)."""
        return expectation(logits, self.bins, self.config.linear)

    def step(self, z: Tensor, a: Tensor) -> Tensor:
        """Next latent: (..., Z), (..., A) -> (..., Z)."""
        size = self.latent_dim
        out = F.linear(self.hidden(z, a), self.head.weight[:size], self.head.bias[:size])
        return simplex(out, self.config.simplex)

    def reward(self, z: Tensor, a: Tensor) -> Tensor:
        """Predicted reward: (..., Z), (..., A) -> (...)."""
        return self.number(self.heads(z, a)[1])

    def value_inputs(self, z: Tensor, a: Tensor) -> Tensor:
        """What the value ensemble sees of a state and an action: (..., inputs)."""
        parts = [z, a, self.hidden(z, a)] if self.config.shared else [z, a]
        return torch.cat(parts, -1)

    def q_logits(self, z: Tensor, a: Tensor) -> Tensor:
        """Logits of the action values: (..., Z), (..., A) -> (values, ..., bins)."""
        return self.values(self.value_inputs(z, a))

    def q(self, z: Tensor, a: Tensor) -> Tensor:
        """Action values of the ensemble: (..., Z), (..., A) -> (values, ...)."""
        return self.number(self.q_logits(z, a))

    def value(self, z: Tensor) -> Tensor:
        """Mean of the ensemble at the mode of the policy: (..., Z) -> (...)."""
        return self.q(z, self.policy(z)).mean(0)

    def policy(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Mode (without noise) or sample of the policy: (..., Z) -> (..., A).

        A squashed normal distribution, or of discrete actions independent categorical ones.
        """
        if isinstance(self._action_space, CategoricalActions):
            return self._action_space.choose(self.actor(z), noise)
        if noise is None:
            return torch.tanh(self.actor(z)[..., : self.action_dim])
        mean, log_std = self.policy_parameters(z)
        return torch.tanh(mean + log_std.exp() * noise)

    def policy_parameters(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before the squashing: (..., Z) -> (..., A) each.

        Of continuous actions; those of discrete ones are the logits that the actor gives.
        """
        mean, log_std = self.actor(z).chunk(2, -1)
        low, high = LOG_STD_RANGE
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1.0)

    def latent_spread(self) -> float:
        """Mean standard deviation of a latent number over the training data."""
        return float(self.spread)

    def frozen(self) -> LatentModel:
        """A model that shares this one's weights in memory but takes no gradients."""
        return frozen(self)
