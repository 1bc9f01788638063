"""Losses of the latent model, and the trainer that takes one optimisation step at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpc.actions import CategoricalActions
from mpc.checks import require_at_least, require_at_most, require_positive
from mpc.compilation import compiled, compiler
from world_models.distributional import cross_entropy
from world_models.latent import LatentModel
from world_models.networks import PictureDecoder, PictureEncoder
from world_models.optimisation import (
    adam,
    follow,
    optimiser_state,
    rate_share,
    restore_optimiser,
)
from world_models.replay import Batch

SHIFT = 4  # pixels
PRECISIONS = ("auto", "float32", "bfloat16")
WINDOW = 0.1  # longest window of the average weights, as a share of the updates so far
RARE = 0.0025  # probability that a categorical policy does not learn to go below, or 1 - above
METRICS = (
    "loss",
    "consistency",
    "reward",
    "value",
    "termination",
    "reconstruction",
    "policy",
    "entropy",
)


@dataclass(frozen=True)
class LossConfig:
    """Weights and optimisation of the latent model's training."""

    horizon: int = 3  # control steps that the model is unrolled over
    batch_size: int = 128  # windows per update
    lr: float = 1e-3  # of Adam
    final_lr: float = 0.1  # share of lr left at the end of a run
    lr_falls_after: float = 0.9  # share of a run after which lr begins to fall
    encoder_lr_scale: float = 0.3  # learning rate of the encoder relative to lr
    max_gradient_norm: float = 20.0  # of the actor, and of everything else
    rho: float = 0.5  # weight of a loss t steps ahead is rho^t
    consistency: float = 20.0  # weight of the latent prediction error
    reward: float = 0.1  # weight of the reward's cross-entropy
    value: float = 0.1  # weight of the values' cross-entropy
    termination: float = 0.1  # weight of the termination's cross-entropy
    entropy: float = 1e-4  # weight of the policy's entropy (continuous actions: times their number)
    reconstruction: float = 0.1  # weight of the decoder's error, where pictures are seen
    target_rate: float = 0.01  # of the exponential moving average of the value ensemble
    average_rate: float = 1e-3  # of the moving average of all weights that is handed out; 1: none
    compile: bool = True  # needs a C++ compiler; without one training runs eagerly
    precision: str = "auto"  # of products: float32, bfloat16; auto: the latter where a CPU has it

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        require_at_least(self, 1, "horizon", "batch_size")
        if self.horizon * self.batch_size < 2:
            raise ValueError("horizon and batch_size must not both be 1: one latent has no spread")
        shares = ("target_rate", "average_rate", "rho")
        require_positive(self, "lr", "max_gradient_norm", *shares)
        weights = ("consistency", "reward", "value", "termination", "entropy", "reconstruction")
        require_at_least(self, 0, *weights, "encoder_lr_scale", "final_lr")
        if not 0 <= self.lr_falls_after < 1:
            raise ValueError(f"lr_falls_after must be in [0, 1), got {self.lr_falls_after}")
        require_at_most(self, 1, *shares)
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )


def precision_of(config: LossConfig, model: LatentModel) -> str:
    """Of matrix products in a training of `model`: "float32" or "bfloat16".

    On a CPU with instructions for bfloat16 an update of the default sizes takes half the time, if
    the conversions are compiled into what is around them. What it does to convolutions has not
    been measured.
    """
    if config.precision != "auto":
        return config.precision
    on_cpu = next(model.parameters()).device.type == "cpu"
    if model.pictures or not on_cpu or not config.compile or compiler() is None:
        return "float32"
    # Older versions of torch do not say.
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def discount_for(episode_steps: int | None) -> float:
    """Discount per control step for an episode length, TD-MPC2's rule.

    (T / 5 - 1) / (T / 5) within [0.95, 0.995]: 0.99 for 500 steps, and without a limit.
    """
    share = (episode_steps or 500) / 5
    return min(0.995, max(0.95, (share - 1) / share))


def n_step_returns(rewards: Tensor, ended: Tensor, future: Tensor, discount: float) -> Tensor:
    """Returns of all steps of a window, bootstrapped at its end: (H, B).

    G_t = r_t + discount (1 - ended_t) G_{t+1}, with G_H = `future` (B,); rewards, ended (H, B).
    Rewards travel H times faster into the values than by one-step targets.
    """
    found = []
    for reward, end in zip(rewards.flip(0), ended.flip(0), strict=True):
        future = reward + discount * (1.0 - end) * future
        found.append(future)
    return torch.stack(found[::-1])


def shifted(obs: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures (H + 1, B, O) moved by up to SHIFT pixels, all of a window in the same way.

    The edges are repeated. Without it convolutions learn single pixels by heart (DrQ; Kostrikov
    et al. 2021, arXiv:2004.13649).
    """
    side = PictureEncoder.SIZE
    pictures = obs.unflatten(-1, (-1, side, side))  # (H + 1, B, C, side, side)
    for axis in (-1, -2):
        first, last = pictures.narrow(axis, 0, 1), pictures.narrow(axis, side - 1, 1)
        edges = [SHIFT if i == axis else -1 for i in range(-5, 0)]
        pictures = torch.cat([first.expand(*edges), pictures, last.expand(*edges)], axis)
    draw = torch.randint(2 * SHIFT + 1, (obs.shape[1], 2), generator=rng, device=rng.device)
    windows = [
        pictures[:, b, :, y : y + side, x : x + side] for b, (y, x) in enumerate(draw.tolist())
    ]
    return torch.stack(windows, 1).flatten(2)


class Trainer:
    """One-step trainer: holds the optimiser, the target values and the running value scale.

    `averaged` is what comes out: a moving average of the weights of `model`, over the last
    1 / `average_rate` updates or the last tenth of them. Single sets of weights differ from each
    other by hundreds of return while rates are high.

    `offer(function, *args)`, if given, returns a function that gives the result, and may begin
    before that is called, in another thread: the gradient of the policy is taken beside that of the
    rest. What comes out is the same.

    A decoder, where pictures are seen, begins with weights from torch's global generator.
    """

    def __init__(
        self, model: LatentModel, config: LossConfig, discount: float, seed: int = 0
    ) -> None:
        self.model, self.config, self.discount = model, config, discount
        self.offer: Callable[..., Callable[[], Any]] | None = None
        device = next(model.parameters()).device
        self.rng = torch.Generator(device=device).manual_seed(seed)
        self.frozen = model.frozen()
        self.target = copy.deepcopy(model.values).requires_grad_(False)
        self.averaged = copy.deepcopy(model).requires_grad_(False)
        self.decoder: PictureDecoder | None = None  # teaches latents what is in a picture
        if config.reconstruction and model.pictures:
            self.decoder = PictureDecoder(model.latent_dim).to(device)
        self.updates = 0
        self.scale = torch.ones((), device=device)  # 5-95 % range of values, for the policy
        actor = list(model.actor.parameters())
        encoder = list(model.encoder.parameters())
        known = {id(p) for p in actor + encoder}
        rest = [p for p in model.parameters() if id(p) not in known]
        rest += self.decoder.parameters() if self.decoder else []
        self._model_parameters, self._actor_parameters = encoder + rest, actor
        groups: list[dict[str, Any]] = [
            {"params": encoder},
            {"params": rest},
            {"params": actor, "eps": 1e-5},
        ]
        self.optimizer = adam(groups, config.lr)
        self.precision = precision_of(config, model)
        self._compiled_model_gradient = compiled(self._model_gradient, config.compile)
        self._compiled_policy_loss = compiled(self._policy_loss, config.compile)
        self._compiled_encoding = compiled(self._encoding, config.compile)

    def update(self, batch: Batch, progress: float = 0.0) -> Tensor:
        """One optimisation step; returns the values named by METRICS, (len(METRICS),).

        `progress` is the share of the training that is over; the learning rates depend on it.
        """
        # For the actions that values bootstrap from, and for those of the policy loss.
        shape = (2, batch.obs.shape[1], self.model.action_dim)
        device = self.scale.device
        noise = torch.randn(shape, generator=self.rng, device=device)
        moved = Batch(*(x.to(device) for x in batch))
        pictures = moved.obs[0] if self.decoder else None
        if self.model.pictures:
            moved = moved._replace(obs=shifted(moved.obs, self.rng))
        early = self.offer and self.offer(self._policy_gradient_at, moved.obs[0], noise[1])
        loss, losses, states, spread, gradients = self._compiled_model_gradient(
            *moved, noise[0], pictures
        )
        self._take(self._model_parameters, gradients)
        policy_loss, entropy, quantiles = (
            early() if early else self._policy_gradient(states, noise[1])
        )
        self._set_rates(progress)
        self.optimizer.step()
        follow(self.target, self.model.values, self.config.target_rate)
        with torch.no_grad():
            self.scale.lerp_(quantiles, self.config.target_rate).clamp_(min=1.0)
            self.model.spread.lerp_(spread, self.config.target_rate)
        self.updates += 1
        rate = max(self.config.average_rate, 1.0 / (WINDOW * self.updates))
        follow(self.averaged, self.model, min(1.0, rate))
        return torch.stack([loss + policy_loss, *losses, policy_loss, entropy])

    def _take(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        """Leave clipped gradients to the optimiser."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)

    def _autocast(self) -> torch.autocast:
        half = self.precision == "bfloat16"
        # All threads share one cache, so that what one has cast would depend on the others. Only
        # one at a time compiles.
        cache = torch.compiler.is_compiling()
        device = self.scale.device.type
        return torch.autocast(device, torch.bfloat16, enabled=half, cache_enabled=cache)

    def _model_gradient(
        self, *arguments: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """What `_model_loss` returns, and the gradient of the loss.

        Compiled together they take the interpreter's lock ten times instead of seventy, for which
        a thread that acts would have to be waited for.
        """
        with self._autocast():
            loss, parts, states, spread = self._model_loss(*arguments)
        gradients = torch.autograd.grad(loss, self._model_parameters)
        return loss.detach(), parts, states, spread, gradients

    def _policy_gradient(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `_policy_loss` returns, once the actor has its gradient."""
        loss, entropy, quantiles = self._compiled_policy_loss(states, noise, self.scale)
        self._take(self._actor_parameters, torch.autograd.grad(loss, self._actor_parameters))
        return loss.detach(), entropy.detach(), quantiles

    def _policy_gradient_at(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same at observations (B, O), before the model's losses have made their states."""
        return self._policy_gradient(self._compiled_encoding(obs), noise)

    def _encoding(self, obs: Tensor) -> Tensor:
        with torch.no_grad(), self._autocast():
            return self.model.encode(obs)

    def _set_rates(self, progress: float) -> None:
        cfg = self.config
        share = rate_share(progress, cfg.lr_falls_after, cfg.final_lr)
        scales = (cfg.encoder_lr_scale, 1.0, 1.0)
        for group, scale in zip(self.optimizer.param_groups, scales, strict=True):
            group["lr"] = cfg.lr * scale * share

    def state(self) -> dict[str, Tensor]:
        """What an update depends on beside `model` and `averaged`, for a checkpoint."""
        updates = torch.tensor(self.updates)
        own = {"scale": self.scale, "rng": self.rng.get_state(), "updates": updates}
        return own | optimiser_state(self.optimizer, self._beside())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        with torch.no_grad():
            self.scale.copy_(tensors["scale"])
        self.rng.set_state(tensors["rng"].cpu())
        self.updates = int(tensors["updates"])
        restore_optimiser(self.optimizer, self._beside(), tensors)

    def _beside(self) -> dict[str, nn.Module]:
        """What learns beside the model, by its name in a checkpoint."""
        return {"target": self.target} | ({"decoder": self.decoder} if self.decoder else {})

    def _model_loss(
        self,
        obs: Tensor,
        actions: Tensor,
        rewards: Tensor,
        terminated: Tensor,
        noise: Tensor,
        pictures: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss of all but the policy, its parts, first latents (B, Z) and spread of latents.

        Of a batch, shapes as in `Batch`, with `noise` (B, A) of the actions that values bootstrap
        from. `pictures` (B, O) are those that windows begin with before they were shifted; with a
        decoder they are compared with what it makes of their latents.
        """
        model, cfg = self.model, self.config
        bins = model.bins, model.config.linear
        with torch.no_grad():
            ahead = model.encode(obs[1:])
            last = ahead[-1]
            greedy = model.value_inputs(last, model.policy(last, noise))
            future = model.number(self.target(greedy)).amin(0)  # (B,)
            returns = n_step_returns(rewards, terminated, future, self.discount)  # (H, B)

        first = z = model.encode(obs[0])
        reconstruction = z.new_zeros(())
        if pictures is not None and self.decoder:
            reconstruction = self._reconstruction(self.decoder, z, pictures)
        states, predicted, reward_logits, ends = [], [], [], []
        for action in actions.unbind(0):
            states.append(z)
            z, reward, end = model.heads(z, action)
            predicted.append(z)
            reward_logits.append(reward)
            ends.append(end)

        weight = cfg.rho ** torch.arange(cfg.horizon, device=obs.device) / cfg.horizon
        consistency = ((torch.stack(predicted) - ahead).square().mean((1, 2)) * weight).sum()
        reward_loss = cross_entropy(torch.stack(reward_logits), rewards, *bins)
        reward_loss = (reward_loss.mean(1) * weight).sum()
        # Through frozen weights: what values see is there to predict, and they take it as it is.
        seen = self.frozen.value_inputs(torch.stack(states), actions)
        value_loss = cross_entropy(model.values(seen), returns, *bins)
        value_loss = (value_loss.mean((0, 2)) * weight).sum()
        end_loss = F.binary_cross_entropy_with_logits(
            torch.stack(ends), terminated, reduction="none"
        )
        end_loss = (end_loss.mean(1) * weight).sum()

        loss = (
            cfg.consistency * consistency
            + cfg.reward * reward_loss
            + cfg.value * value_loss
            + cfg.termination * end_loss
            + cfg.reconstruction * reconstruction
        )
        parts = torch.stack([consistency, reward_loss, value_loss, end_loss, reconstruction])
        spread = ahead.flatten(0, 1).std(0).mean()
        return loss, parts.detach(), first.detach(), spread

    def _reconstruction(self, decoder: PictureDecoder, z: Tensor, pictures: Tensor) -> Tensor:
        """Squared error () of the newest of stacked pictures (B, O) made from latents (B, Z).

        Rewards and the next latents alone leave out of latents what brings no reward yet, such as
        how a ball falls that was never caught.
        """
        encoder = self.model.encoder
        assert isinstance(encoder, PictureEncoder)
        made = decoder(z)
        newest = encoder.deviations(pictures)[:, -made.shape[-1] :]
        return (made - newest).square().mean()

    def _policy_loss(
        self, states: Tensor, noise: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-(Q / scale + weighted entropy), entropy, and value range over encoded states (B, Z).

        The entropy of A continuous actions weighs A times as much, as in TD-MPC2. Only the actor
        receives gradients.
        """
        with self._autocast():
            if isinstance(self.model.action_space, CategoricalActions):
                gain, q, entropy = self._choosing(self.model.action_space, states, noise, scale)
            else:
                q, entropy = self._sampled_value(states, noise)
                gain = q / scale + self.config.entropy * (entropy * self.model.action_dim)
        ordered = q.detach().sort().values
        low, high = int(0.05 * (len(ordered) - 1)), int(0.95 * (len(ordered) - 1))
        return -gain.mean(), entropy.mean(), ordered[high] - ordered[low]

    def _sampled_value(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Value and entropy (B,) of an action drawn from the squashed normal policy."""
        mean, log_std = self.model.policy_parameters(states)
        raw = mean + log_std.exp() * noise
        action = torch.tanh(raw)
        q = self.frozen.q(states, action).mean(0)  # (B,)
        # log(1 - tanh(x)^2) in a form that stays finite for large |x|.
        squash = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
        log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
        return q, -log_prob.sum(-1)

    def _choosing(
        self, space: CategoricalActions, states: Tensor, noise: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gain, value and entropy (B,) of a categorical policy.

        A choice j is worth u_j = Q(z, j) / scale - entropy log pi(j), the gain is the sum of
        pi(j) u_j. With several groups the others are drawn: values are means over the groups.
        The gradient of a logit is the natural one, its advantage u_j - sum_k pi(k) u_k, without
        the factor pi(j) by which a sure policy would never learn that it is wrong (Hennes et al.
        2020, arXiv:1906.00190). It is zero where it would make a rare choice rarer.
        """
        logits = self.model.actor(states)
        with torch.no_grad():
            log_prob = space.log_probabilities(logits)
            prob = log_prob.exp()
            tried = space.alternatives(space.choose(logits, noise))  # (B, A, A)
            q = self.frozen.q(states.unsqueeze(-2).expand(*tried.shape[:-1], -1), tried).mean(0)
            worth = q / scale - self.config.entropy * log_prob
            advantage = worth - space.sums(prob * worth)
            sure = torch.where(advantage > 0, prob > 1.0 - RARE, prob < RARE)
            advantage = advantage.masked_fill(sure, 0.0)
        pull = (logits * advantage).sum(-1)
        gain = (prob * worth).sum(-1) + pull - pull.detach()
        value = (prob * q).sum(-1) / len(space.choices)
        return gain, value, -(prob * log_prob).sum(-1)
