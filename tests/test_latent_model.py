"""The latent model, its losses and its trainer: against plain implementations and closed forms."""

import copy
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_models import (
    METRICS,
    Batch,
    Episode,
    LatentModel,
    LossConfig,
    ModelConfig,
    Replay,
    Trainer,
    discount_for,
    double_integrator,
)
from world_models.distributional import cross_entropy, expectation, symexp, symlog, two_hot
from world_models.networks import MLP, EnsembleMLP, VectorEncoder, simplex
from world_models.training import precision_of

TINY = ModelConfig(latent_dim=8, hidden_dim=16, simplex=4, bins=21, bin_limit=3.0)
BINS = torch.linspace(-3.0, 3.0, 21, dtype=torch.float64)


# ---- parts


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_simplex_groups_are_distributions(size: int, rng: Any) -> None:
    x = 5 * torch.randn(3, 2, 8, generator=rng(0), dtype=torch.float64)
    y = simplex(x, size)
    assert y.shape == x.shape and (y > 0).all()
    groups = 8 // size
    for g in range(groups):
        # The groups are strided: numbers g, g + groups, g + 2 groups, ...
        own = np.exp(x[..., g::groups].numpy())
        np.testing.assert_allclose(y[..., g::groups], own / own.sum(-1, keepdims=True))
        torch.testing.assert_close(y[..., g::groups].sum(-1), torch.ones(3, 2).double())


def test_symlog_and_symexp_are_inverses() -> None:
    x = torch.tensor([-1e4, -2.0, -1e-3, 0.0, 0.5, 300.0], dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x)
    y = x.numpy()
    np.testing.assert_allclose(symlog(x), np.sign(y) * np.log1p(np.abs(y)))


@pytest.mark.parametrize("linear", [True, False])
def test_two_hot_and_expectation_are_inverses_within_range(linear: bool) -> None:
    limit = float(symexp(BINS[-1]))
    x = torch.cat([torch.linspace(-limit, limit, 101).double(), symexp(BINS)])
    weight = two_hot(x, BINS, linear)
    torch.testing.assert_close(weight.sum(-1), torch.ones_like(x))
    assert ((weight > 1e-9).sum(-1) <= 2).all()
    # Logits whose softmax is the weight; log 0 is kept finite.
    found = expectation((weight + 1e-300).log(), BINS, linear)
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-9)


def test_the_mean_of_uncertain_numbers_is_that_of_the_numbers() -> None:
    """One outcome of ten is 10, the others are 0; averaged as symlogs that is 0.27."""
    outcomes = torch.tensor([0.0] * 9 + [10.0]).double()
    for linear, mean in ((True, 1.0), (False, 11.0**0.1 - 1.0)):
        logits = (two_hot(outcomes, BINS, linear).mean(0) + 1e-300).log()
        assert float(expectation(logits, BINS, linear)) == pytest.approx(mean)


def test_targets_out_of_range_are_clamped() -> None:
    limit = symexp(BINS[-1:])
    far = two_hot(torch.tensor([1e6, -1e6]).double(), BINS)
    torch.testing.assert_close(far, two_hot(torch.cat([limit, -limit]), BINS))


def test_cross_entropy_is_least_at_its_target() -> None:
    """The gradient, softmax minus target, vanishes where logits stand for the number itself."""
    x = torch.tensor([0.3, -4.0, 7.7], dtype=torch.float64)
    logits = (two_hot(x, BINS) + 1e-12).log().requires_grad_()
    loss = cross_entropy(logits, x, BINS)
    assert loss.shape == (3,)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().max() < 1e-9
    away = torch.randn(3, 21, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(away, x, BINS).sum(), away)
    torch.testing.assert_close(gradient, away.softmax(-1).detach() - two_hot(x, BINS))


def test_an_ensemble_is_so_many_networks(rng: Any) -> None:
    """Each member equals an MLP with the same weights, on any leading axes."""
    ensemble = EnsembleMLP(3, 5, 7, 2)
    for parameter in ensemble.parameters():
        nn.init.normal_(parameter, generator=rng(1))
    x = torch.randn(4, 6, 5, generator=rng(0))
    together = ensemble(x)
    assert together.shape == (3, 4, 6, 2)
    for i in range(3):
        single = MLP(5, 7, 7, 2)
        for layer, weight, bias in zip(
            single.layers, ensemble.weights, ensemble.biases, strict=True
        ):
            layer.weight.data, layer.bias.data = weight[i].T.clone(), bias[i, 0].clone()
        torch.testing.assert_close(together[i], single(x))
        # And by hand: layer norm without scale, then x sigmoid(x), between the layers.
        y = x.detach().numpy().astype(np.float64)
        for layer, (w, b) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            if layer:
                y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
                y = y / (1 + np.exp(-y))
            y = y @ w[i].detach().numpy() + b[i].detach().numpy()
        np.testing.assert_allclose(together[i].detach(), y, rtol=1e-4, atol=1e-4)


# ---- model


def test_an_encoder_sees_slow_numbers_with_their_sine_and_cosine() -> None:
    encoder = VectorEncoder(2, 5, 3)
    x = torch.tensor([0.3, -1.2])
    plain, nothing = MLP(6, 5, 3), torch.zeros(2)
    plain.load_state_dict({k: v for k, v in encoder.state_dict().items() if k != "slow"})
    torch.testing.assert_close(encoder(x), plain(torch.cat([x, nothing, nothing])))
    # An angle at 0.4 a step, and a velocity that changes by 0.6.
    steps = torch.arange(4.0)[:, None, None].expand(4, 7, 1)
    encoder.fit(torch.cat([0.4 * steps, -0.6 * steps], -1))
    waves = torch.tensor([math.sin(0.3), 0.0, math.cos(0.3), 0.0])
    torch.testing.assert_close(encoder(x), plain(torch.cat([x, waves])))
    # An arm that has turned twice looks the same to weights that look at waves alone.
    with torch.no_grad():
        encoder.layers[0].weight[:, :2] = 0.0
    torch.testing.assert_close(encoder(x), encoder(x + 4 * math.pi), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoder(x), encoder(x + math.pi))
    assert isinstance(LatentModel(2, 1, ModelConfig(waves=True)).encoder, VectorEncoder)


@pytest.fixture
def points(latent_model: LatentModel, rng: Any) -> tuple[Tensor, Tensor]:
    """Latents (4, 5, Z) and actions (4, 5, A)."""
    z = latent_model.encode(torch.randn(4, 5, 3, generator=rng(0), dtype=torch.float64))
    return z.detach(), torch.rand(4, 5, 2, generator=rng(1), dtype=torch.float64) * 2 - 1


def test_predict_agrees_with_its_verbs(latent_model: LatentModel, points: Any) -> None:
    z, a = points
    move = latent_model.predict(z, a)
    assert move.state is z and move.action is a
    torch.testing.assert_close(move.next, latent_model.step(z, a))
    torch.testing.assert_close(move.reward, latent_model.reward(z, a))
    assert move.next.shape == z.shape and move.reward.shape == move.continues.shape == (4, 5)
    assert ((move.continues > 0) & (move.continues < 1)).all()
    # One at a time is the same as all at once: axes do not mix.
    one = latent_model.predict(z[1, 2], a[1, 2])
    torch.testing.assert_close(one.next, move.next[1, 2])
    torch.testing.assert_close(one.reward, move.reward[1, 2])
    torch.testing.assert_close(one.continues, move.continues[1, 2])


def test_latents_lie_on_the_simplex(latent_model: LatentModel, points: Any) -> None:
    z, a = points
    for latent in (z, latent_model.step(z, a)):
        sums = latent.unflatten(-1, (4, 2)).sum(-2)
        torch.testing.assert_close(sums, torch.ones_like(sums))


def test_value_is_that_of_the_policys_mode(latent_model: LatentModel, points: Any) -> None:
    z, _ = points
    q = latent_model.q(z, latent_model.policy(z))
    assert q.shape == (2, 4, 5)
    torch.testing.assert_close(latent_model.value(z), (q[0] + q[1]) / 2)
    assert not torch.allclose(q[0], q[1])


def test_policy_samples_are_squashed_normal(latent_model: LatentModel, rng: Any) -> None:
    z = latent_model.encode(torch.zeros(1, 3, dtype=torch.float64)).expand(20_000, -1)
    noise = torch.randn(20_000, 2, generator=rng(0), dtype=torch.float64)
    raw = torch.atanh(latent_model.policy(z, noise).detach().clamp(-1 + 1e-12, 1 - 1e-12))
    mean, log_std = latent_model.policy_parameters(z[:1])
    # Where samples saturate the inverse is useless; medians are not touched by that.
    torch.testing.assert_close(raw.median(0).values, mean[0].detach(), rtol=0.05, atol=0.05)
    low, high = raw.quantile(0.3, 0), raw.quantile(0.7, 0)
    wanted = 2 * 0.5244 * log_std[0].exp().detach()
    torch.testing.assert_close(high - low, wanted, rtol=0.06, atol=0.0)
    torch.testing.assert_close(latent_model.policy(z[:1]), torch.tanh(mean))
    assert (log_std.exp() <= np.exp(2.0)).all() and (log_std.exp() >= np.exp(-10.0)).all()


def test_a_fresh_model_is_neutral() -> None:
    """It expects no reward, no value and hardly any end, so that it misleads no planner."""
    model = LatentModel(3, 2, ModelConfig())
    z, a = model.encode(torch.randn(6, 3)), torch.rand(6, 2)
    move = model.predict(z, a)
    assert move.reward.abs().max() < 1e-5 and model.value(z).abs().max() < 1e-5
    assert (move.continues > 0.999).all()


def test_a_frozen_model_shares_what_it_sees_but_learns_nothing(points: Any) -> None:
    torch_model = LatentModel(3, 2, TINY).double()
    frozen, (z, a) = torch_model.frozen(), points
    assert torch.equal(frozen.reward(z, a), torch_model.reward(z, a))
    for ours, theirs in zip(torch_model.parameters(), frozen.parameters(), strict=True):
        assert ours.data_ptr() == theirs.data_ptr() and not theirs.requires_grad
        assert ours.requires_grad
    with torch.no_grad():
        for parameter in torch_model.parameters():
            parameter.add_(0.1)
        torch_model.spread.fill_(0.7)
    assert torch.equal(frozen.value(z), torch_model.value(z))
    assert frozen.latent_spread() == pytest.approx(0.7)
    # Gradients pass through it to actions, and stop at its weights.
    action = a.clone().requires_grad_()
    frozen.q(z, action).sum().backward()
    assert action.grad.abs().max() > 0
    assert all(p.grad is None for p in [*frozen.parameters(), *torch_model.parameters()])
    # Loading weights is a change in place too.
    torch_model.load_state_dict(LatentModel(3, 2, TINY).double().state_dict())
    assert torch.equal(frozen.value(z), torch_model.value(z))


@pytest.mark.parametrize("linear", [False, True])
def test_bins_reach_as_many_large_rewards_as_rewards_of_one(linear: bool) -> None:
    model = LatentModel(3, 2, ModelConfig(linear=linear))
    usual = model.bins.clone()
    model.cover(0.3)
    assert torch.equal(model.bins, usual)
    value = torch.tensor([-3900.0, 0.0, 12.5, 3900.0])
    model.cover(10.0)
    for bins, held in ((usual, value.clamp(-402.5, 402.5)), (model.bins, value)):
        logits = two_hot(value, bins, linear).clamp_min(1e-30).log()
        torch.testing.assert_close(expectation(logits, bins, linear), held, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"latent_dim": 0},
        {"values": 0},
        {"hidden_dim": 0},
        {"simplex": 0},
        {"latent_dim": 10, "simplex": 4},
        {"bins": 2},
        {"bin_limit": 0.0},
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ModelConfig(**options)


# ---- training


def constant_batch(
    reward: float, terminated: bool, horizon: int = 1, size: int = 8, obs: float = 0.5
) -> Batch:
    """The same control step again and again: action zero, nothing changes."""
    return Batch(
        torch.full((horizon + 1, size, 2), obs),
        torch.zeros(horizon, size, 1),
        torch.full((horizon, size), reward),
        torch.full((horizon, size), float(terminated)),
    )


def make_trainer(seed: int = 0, discount: float = 0.9, **options: Any) -> Trainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LatentModel(2, 1, TINY)
    return Trainer(model, LossConfig(compile=False, **options), discount, seed)


@pytest.fixture(scope="module")
def experience() -> Replay:
    """Random pushes of the double integrator, 40 episodes of 30 control steps."""
    model, rng = double_integrator(torch.float32), torch.Generator().manual_seed(0)
    replay = Replay(2000, 2, 1, 3, 0)
    for _ in range(40):
        state = torch.randn(2, generator=rng)
        obs, actions = [state], 2 * torch.rand(30, 1, generator=rng) - 1
        rewards = []
        for action in actions:
            rewards.append(model.reward(state, action))
            state = model.step(state, action)
            obs.append(state)
        replay.add(Episode(torch.stack(obs), actions, torch.stack(rewards), False))
    return replay


@pytest.fixture(scope="module")
def trained(experience: Replay) -> tuple[Trainer, Tensor]:
    """A trainer after 400 updates, and its metrics (400, len(METRICS))."""
    trainer = make_trainer(lr=3e-3)
    return trainer, torch.stack([trainer.update(experience.sample(64)) for _ in range(400)])


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.4, 1.0), (0.7, 0.55), (1.0, 0.1)])
def test_learning_rates_fall_after_their_share_of_a_run(
    progress: float, share: float, experience: Replay
) -> None:
    """Adam's first step has the length of the learning rate wherever there is a gradient."""
    moved = []
    for reached in (0.0, progress):
        trainer = make_trainer(lr=1e-3, lr_falls_after=0.4)
        before = trainer.model.head.weight.detach().clone()
        rng_state = experience.rng.get_state()
        trainer.update(experience.sample(64), reached)
        experience.rng.set_state(rng_state)
        moved.append((trainer.model.head.weight - before).abs().max().item())
    assert moved[0] == pytest.approx(1e-3, rel=0.01)
    assert moved[1] == pytest.approx(share * moved[0], rel=0.01)


@pytest.mark.parametrize("name", ["consistency", "reward", "value", "termination"])
def test_losses_fall(name: str, trained: tuple[Trainer, Tensor]) -> None:
    course = trained[1][:, METRICS.index(name)]
    assert course.isfinite().all()
    # Consistency starts low, as all latents are alike then; it falls from where they spread out.
    first = course[:20].mean() if name != "consistency" else course[:200].max()
    assert course[-20:].mean() < 0.8 * first


def test_the_model_learns_the_rewards_and_where_they_lead(
    trained: tuple[Trainer, Tensor], experience: Replay
) -> None:
    """Open loop over three steps, on windows drawn anew: most of the variance is explained."""
    model, batch = trained[0].model, experience.sample(500)
    with torch.no_grad():
        z, predicted = model.encode(batch.obs[0]), []
        for action in batch.actions:
            move = model.predict(z, action)
            predicted.append(move.reward)
            z = move.next
    for guess, truth in zip(predicted, batch.rewards, strict=True):
        # Rewards have a long tail; in the logarithm, which is trained, all windows count alike.
        left = (symlog(guess) - symlog(truth)).var() / symlog(truth).var()
        assert float(left) < 0.2


def test_the_spread_is_that_of_the_latents(
    trained: tuple[Trainer, Tensor], experience: Replay
) -> None:
    model = trained[0].model
    latents = model.encode(experience.sample(500).obs).detach().flatten(0, 1)
    assert trained[0].frozen.latent_spread() == pytest.approx(
        float(latents.std(0).mean()), rel=0.15
    )


@pytest.mark.parametrize(("terminated", "value"), [(True, 1.0), (False, 2.0)])
def test_only_a_true_end_cuts_the_future_off(terminated: bool, value: float) -> None:
    """Reward 1 for ever, discount 0.5: worth 2 if it goes on, 1 if this was the last step."""
    trainer = make_trainer(discount=0.5, horizon=1, lr=1e-2, target_rate=0.2)
    batch = constant_batch(1.0, terminated)
    for _ in range(150):
        trainer.update(batch)
    model = trainer.model
    with torch.no_grad():
        z = model.encode(batch.obs[0])
        q = model.q(z, batch.actions[0])
        move = model.predict(z, batch.actions[0])
    torch.testing.assert_close(q, torch.full_like(q, value), rtol=0.05, atol=0.0)
    torch.testing.assert_close(move.reward, torch.ones(8), rtol=0.05, atol=0.0)
    # The model learns when it ends, too.
    assert (move.continues < 0.2).all() if terminated else (move.continues > 0.9).all()


def test_value_targets_are_the_bellman_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards to the end of the window or episode, then min over members of Q'(z, policy)."""
    trainer, seen = make_trainer(discount=0.8, horizon=2), []
    for parameter in [*trainer.model.parameters(), *trainer.target.parameters()]:
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(5))
    original = cross_entropy

    def keep(logits: Tensor, x: Tensor, *bins: Any) -> Tensor:
        seen.append(x.detach().clone())
        return original(logits, x, *bins)

    monkeypatch.setattr("world_models.training.cross_entropy", keep)
    rng = torch.Generator().manual_seed(0)
    obs, rewards = torch.randn(3, 4, 2, generator=rng), torch.randn(2, 4, generator=rng)
    ends = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    batch = Batch(obs, torch.zeros(2, 4, 1), rewards, ends)
    # The policy's sample uses the trainer's next noise; a copy of its generator foretells it.
    twin = torch.Generator()
    twin.set_state(trainer.rng.get_state())
    noise = torch.randn(2, 4, 1, generator=twin)[0]
    with torch.no_grad():
        ahead = trainer.model.encode(obs[2])
        action = trainer.model.policy(ahead, noise)
        worth = trainer.model.number(trainer.target(trainer.model.value_inputs(ahead, action)))
    expected = torch.empty(2, 4)
    for b in range(4):
        future = min(float(worth[0, b]), float(worth[1, b]))
        expected[1, b] = rewards[1, b] + 0.8 * (1 - ends[1, b]) * future
        expected[0, b] = rewards[0, b] + 0.8 * (1 - ends[0, b]) * expected[1, b]
    trainer.update(batch)
    assert torch.equal(seen[0], rewards)
    torch.testing.assert_close(seen[1], expected)


def gradients_of(trainer: Trainer, batch: Batch, part: str) -> dict[str, float]:
    """Largest gradient by top-level module of one part of the loss."""
    model = trainer.model
    shape = (2, batch.obs.shape[1], 1)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = model.encode(batch.obs[0])
    if part == "policy":
        loss, *_ = trainer._policy_loss(states.requires_grad_(), noise[1], trainer.scale)
    else:
        loss, *_ = trainer._model_loss(*batch, noise[0])
    model.zero_grad()
    loss.backward()
    found: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        size = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        module = name.split(".")[0]
        found[module] = max(found.get(module, 0.0), size)
    assert all(p.grad is None for p in trainer.target.parameters())
    assert all(p.grad is None for p in trainer.frozen.parameters())
    return found


def noisy_trainer(**options: Any) -> Trainer:
    """Random weights in all layers, so that no gradient vanishes by initialisation."""
    trainer = make_trainer(**options)
    for i, parameter in enumerate(trainer.model.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    return trainer


def test_the_policy_loss_moves_the_actor_alone(experience: Replay) -> None:
    sizes = gradients_of(noisy_trainer(), experience.sample(16), "policy")
    assert sizes.pop("actor") > 1e-4
    assert set(sizes) == {"encoder", "trunk", "head", "values"}
    assert not any(sizes.values())


def test_the_other_losses_leave_the_actor_alone(experience: Replay) -> None:
    sizes = gradients_of(noisy_trainer(), experience.sample(16), "model")
    assert sizes.pop("actor") < 1e-7
    assert all(size > 1e-4 for size in sizes.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_policy_may_learn_in_another_thread(experience: Replay, precision: str) -> None:
    """In the midst of the losses of the rest; what comes out is the same, bit for bit."""
    batches = [experience.sample(16) for _ in range(3)]
    alone, helped = noisy_trainer(precision=precision), noisy_trainer(precision=precision)
    threads: list[int] = []
    midst, learned, heads = threading.Event(), threading.Event(), helped.model.heads

    def gradient(function: Callable[..., Any], *args: Tensor) -> Any:
        assert midst.wait(10)
        threads.append(threading.get_ident())
        result = function(*args)
        learned.set()
        return result

    def heads_after_the_policy(*args: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = heads(*args)
        midst.set()
        assert learned.wait(10)
        return found

    helped.model.heads = heads_after_the_policy
    with ThreadPoolExecutor(1) as pool:
        helped.offer = lambda *work: pool.submit(gradient, *work).result
        for batch in batches:
            midst.clear()
            learned.clear()
            torch.testing.assert_close(helped.update(batch), alone.update(batch), rtol=0, atol=0)
    assert len(threads) == len(batches) and threading.get_ident() not in threads
    for name, expected in alone.model.state_dict().items():
        assert torch.equal(helped.model.state_dict()[name], expected), name


def test_values_see_what_predicts_rewards_and_leave_it_as_it_is(experience: Replay) -> None:
    others = {name: 0.0 for name in ("consistency", "reward", "termination")}
    trainer = make_trainer(horizon=1, **others)
    model = trainer.model
    drawn = experience.sample(16)
    batch = Batch(drawn.obs[:2], *(part[:1] for part in drawn[1:]))
    names = ("encoder", "trunk", "head", "values")
    before = {name: copy.deepcopy(getattr(model, name).state_dict()) for name in names}
    for _ in range(3):  # a fresh value ensemble gives the encoder no gradient at first
        trainer.update(batch)

    def changed(name: str) -> bool:
        now = getattr(model, name).state_dict()
        return any(not torch.equal(now[key], old) for key, old in before[name].items())

    assert {name for name in names if changed(name)} == {"encoder", "values"}
    z, a = model.encode(batch.obs[0]), batch.actions[0]
    q = model.q(z, a)
    with torch.no_grad():
        nn.init.normal_(model.trunk.layers[-1].weight)
    assert not torch.allclose(model.q(z, a), q)
    plain = LatentModel(2, 1, replace(TINY, shared=False))
    q = plain.q(z, a)
    nn.init.normal_(plain.trunk.layers[-1].weight)
    assert torch.equal(plain.q(z, a), q)


def test_the_actor_climbs_the_value() -> None:
    """Q = 5 a for every latent, written into the value network: the policy learns to push."""
    trainer = make_trainer(horizon=1, lr=3e-3)
    batch = constant_batch(0.0, True)

    def linear(z: Tensor, a: Tensor) -> Tensor:
        return (5.0 * a[..., 0]).expand(2, *a.shape[:-1])

    trainer.frozen.q = linear
    z = trainer.model.encode(batch.obs[0])
    assert trainer.model.policy(z).abs().max() < 0.5
    for _ in range(100):
        trainer.update(batch)
    assert (trainer.model.policy(trainer.model.encode(batch.obs[0])) > 0.8).all()


def test_target_values_move_by_their_rate(experience: Replay) -> None:
    trainer = make_trainer(target_rate=0.25)
    for _ in range(3):
        before = [p.clone() for p in trainer.target.parameters()]
        trainer.update(experience.sample(16))
        live = list(trainer.model.values.parameters())
        for old, new, now in zip(before, live, trainer.target.parameters(), strict=True):
            torch.testing.assert_close(now, 0.75 * old + 0.25 * new.detach())
        assert any(not torch.equal(a, b) for a, b in zip(before, live, strict=True))


def test_what_comes_out_is_an_average_over_the_last_tenth_of_the_updates(
    experience: Replay,
) -> None:
    """Or over fewer, once 1 / average_rate of them are less."""
    trainer = make_trainer(average_rate=0.25)
    for rate in [*[1.0] * 10, 10 / 11, 10 / 12, 0.25]:
        if rate == 0.25:
            trainer.updates = 1000
        before = [p.clone() for p in trainer.averaged.parameters()]
        trainer.update(experience.sample(16))
        live = list(trainer.model.parameters())
        for old, new, now in zip(before, live, trainer.averaged.parameters(), strict=True):
            torch.testing.assert_close(now, old.lerp(new.detach(), rate))
        assert any(not torch.equal(a, b) for a, b in zip(before, live, strict=True))
    assert torch.equal(trainer.averaged.spread, trainer.model.spread)
    assert all(p.grad is None for p in trainer.averaged.parameters())


def test_the_scale_follows_the_range_of_values_but_not_below_one() -> None:
    trainer = make_trainer(target_rate=0.5, horizon=1)
    rng = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(2, 101, 2, generator=rng), *constant_batch(0.0, True, size=101)[1:])
    trainer.update(batch)
    assert float(trainer.scale) == 1.0
    worth = torch.linspace(0, 40, 101)
    trainer.frozen.q = lambda z, a: (worth + 0.0 * a[..., 0]).expand(2, *a.shape[:-1])
    for expected in (1 + 0.5 * 35, 1 + 0.5 * 35 + 0.5 * (36 - 18.5)):
        trainer.update(batch)
        # The 5th and 95th of 101 even values lie 36 apart.
        assert float(trainer.scale) == pytest.approx(expected, rel=1e-3)


def test_training_repeats_by_its_seed_alone(experience: Replay) -> None:
    batches = [experience.sample(8) for _ in range(3)]
    before = torch.get_rng_state()
    courses = []
    for seed in (4, 4, 5):
        trainer = make_trainer(seed=seed)
        courses.append(torch.stack([trainer.update(batch) for batch in batches]))
    assert torch.equal(courses[0], courses[1]) and not torch.equal(courses[0], courses[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("updates", [0, 3])
def test_a_restored_trainer_continues_to_the_bit(updates: int, experience: Replay) -> None:
    first = make_trainer(seed=1)
    for _ in range(updates):
        first.update(experience.sample(16))
    saved = {k: v.clone() for k, v in first.state().items()}
    weights = {k: v.clone() for k, v in first.model.state_dict().items()}
    batches = [experience.sample(16) for _ in range(4)]
    expected = torch.stack([first.update(batch) for batch in batches])

    again = make_trainer(seed=2)
    again.update(experience.sample(16))
    again.model.load_state_dict(weights)
    again.restore(saved)
    found = torch.stack([again.update(batch) for batch in batches])
    assert torch.equal(found, expected)
    for a, b in zip(first.state().values(), again.state().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first.model.spread, again.model.spread)


def test_the_state_is_tensors_under_flat_names(experience: Replay) -> None:
    """A checkpoint can hold nothing else."""
    trainer = make_trainer()
    trainer.update(experience.sample(8))
    assert all(isinstance(x, Tensor) for x in trainer.state().values())


@pytest.mark.parametrize(
    ("steps", "discount"),
    [
        (None, 0.99),
        (500, 0.99),
        (1000, 0.995),
        (10_000, 0.995),
        (200, 0.975),
        (50, 0.95),
        (1, 0.95),
    ],
)
def test_discounts_fit_the_length_of_episodes(steps: int | None, discount: float) -> None:
    assert discount_for(steps) == pytest.approx(discount)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("horizon", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("max_gradient_norm", -1.0),
        ("target_rate", 0.0),
        ("target_rate", 1.5),
        ("rho", 0.0),
        ("lr_falls_after", -0.1),
        ("lr_falls_after", 1.0),
        ("consistency", -1.0),
        ("entropy", -1.0),
        ("encoder_lr_scale", -0.1),
        ("lr", float("nan")),
        ("precision", "float16"),
    ],
)
def test_nonsense_in_the_losses_is_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        LossConfig(**{option: value})


def test_a_single_latent_is_refused_because_it_has_no_spread() -> None:
    with pytest.raises(ValueError, match="horizon and batch_size must not both be 1"):
        LossConfig(horizon=1, batch_size=1)
    for sizes in ({"horizon": 2, "batch_size": 1}, {"horizon": 1, "batch_size": 2}):
        trainer, replay = make_trainer(**sizes), Replay(9, 2, 1, sizes["horizon"], seed=0)
        replay.add(Episode(torch.eye(5, 2), torch.zeros(4, 1), torch.zeros(4), False))
        assert trainer.update(replay.sample(sizes["batch_size"])).isfinite().all()
        assert math.isfinite(trainer.model.latent_spread())


def test_bfloat16_learns_the_same(trained: tuple[Trainer, Tensor], experience: Replay) -> None:
    """Losses within its precision, gradients the same way, and what is kept in float32."""
    batch, learned = experience.sample(128), trained[0]
    found = []
    for precision in ("float32", "bfloat16"):
        trainer = make_trainer(precision=precision)
        model = trainer.model
        model.load_state_dict(learned.model.state_dict())
        trainer.target.load_state_dict(learned.target.state_dict())
        metrics = trainer.update(batch)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        kept = [metrics, trainer.scale, *gradients, *model.state_dict().values()]
        assert {x.dtype for x in kept} == {torch.float32}
        found.append((metrics, gradients))
    (exact, true), (near, made) = found
    torch.testing.assert_close(near, exact, rtol=0.02, atol=2e-4)
    assert not torch.equal(near, exact) and len(true) == len(made)
    for a, b in zip(true, made, strict=True):
        assert float(F.cosine_similarity(a.flatten(), b.flatten(), 0)) > 0.99


@pytest.mark.parametrize(
    ("known", "compile", "precision"),
    [
        ({"avx512_bf16": True}, True, "bfloat16"),
        ({"amx_bf16": True, "avx512_bf16": False}, True, "bfloat16"),
        ({"avx512_bf16": True}, False, "float32"),
        ({"avx2": True}, True, "float32"),
        ({}, True, "float32"),
    ],
)
def test_precision_is_lowered_where_that_is_faster(
    known: dict[str, bool], compile: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr("world_models.training.compiler", lambda: "/usr/bin/g++")
    vectors, pictures = LatentModel(2, 1, TINY), LatentModel(2, 1, TINY, pictures=2)
    assert precision_of(LossConfig(compile=compile), vectors) == precision
    assert precision_of(LossConfig(compile=compile), pictures) == "float32"
    for model in (vectors, pictures):
        for asked in ("float32", "bfloat16"):
            assert precision_of(LossConfig(compile=compile, precision=asked), model) == asked
    monkeypatch.setattr("world_models.training.compiler", lambda: None)
    assert precision_of(LossConfig(compile=compile), vectors) == "float32"


def test_termination_is_trained_by_binary_cross_entropy() -> None:
    """A fresh model expects an end with probability sigmoid(-7) everywhere."""
    for ended in (False, True):
        metrics = make_trainer(horizon=1).update(constant_batch(0.0, ended))
        expected = F.softplus(torch.tensor(7.0 if ended else -7.0))
        assert float(metrics[METRICS.index("termination")]) == pytest.approx(float(expected), 1e-3)


def test_later_steps_weigh_less() -> None:
    """Weights rho^t: the loss of a wrong reward one step later is rho times as large."""
    losses = []
    for t in range(3):
        trainer = make_trainer(horizon=3, rho=0.5, lr=1e-2)
        # A fresh model finds all rewards alike; one that expects none is surprised.
        for _ in range(60):
            trainer.update(constant_batch(0.0, False, horizon=3))
        batch = constant_batch(0.0, False, horizon=3)
        batch.rewards[t] = 5.0
        losses.append(float(trainer.update(batch)[METRICS.index("reward")]))
    for sooner, later in pairwise(losses):
        assert later == pytest.approx(0.5 * sooner, rel=0.15)


def test_entropy_is_that_of_the_squashed_normal(experience: Replay) -> None:
    """Minus the log density of the sampled actions, by PyTorch's own distributions."""
    trainer, batch = noisy_trainer(), experience.sample(16)
    noise = torch.randn(16, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = trainer.model.encode(batch.obs[0])
        mean, log_std = trainer.model.policy_parameters(states)
        normal = torch.distributions.Normal(mean.double(), log_std.exp().double())
        squash = torch.distributions.TanhTransform(cache_size=1)
        squashed = torch.distributions.TransformedDistribution(normal, [squash])
        action = squash(mean.double() + log_std.exp().double() * noise)
        expected = -squashed.log_prob(action).mean()
    _, entropy, _ = trainer._policy_loss(states, noise, trainer.scale)
    assert float(entropy.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_entropy_of_more_actions_is_theirs_and_weighs_as_many_times_more(rng: Any) -> None:
    """What is logged is the entropy; the loss has it times the number of actions."""
    weight, noise, scale = 0.1, torch.randn(16, 3, generator=rng(0)), torch.ones(())
    model = LatentModel(2, 3, TINY)
    for i, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=rng(i))
    states = model.encode(torch.randn(16, 2, generator=rng(1))).detach()
    losses = []
    for entropy in (0.0, weight):
        trainer = Trainer(model, LossConfig(compile=False, entropy=entropy), 0.9)
        losses.append(trainer._policy_loss(states, noise, scale)[:2])
    (free, found), (loss, same) = losses
    with torch.no_grad():
        mean, log_std = model.policy_parameters(states)
        raw = mean + log_std.exp() * noise
        density = torch.distributions.Normal(mean, log_std.exp()).log_prob(raw)
        expected = -(density - (1.0 - torch.tanh(raw).square()).log()).sum(-1).mean()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=0)
    assert torch.equal(found, same)
    torch.testing.assert_close(free - loss, weight * 3 * found, rtol=1e-3, atol=0)


def test_entropy_is_rewarded() -> None:
    """Where all actions are worth the same, the policy spreads out."""
    trainer = make_trainer(horizon=1, lr=1e-2, entropy=1.0)
    trainer.frozen.q = lambda z, a: (0.0 * a[..., 0]).expand(2, *a.shape[:-1])
    with torch.no_grad():
        trainer.model.actor.layers[-1].bias[1] = -0.5  # a narrow start
    batch = constant_batch(0.0, True)
    course = torch.stack([trainer.update(batch) for _ in range(60)])[:, METRICS.index("entropy")]
    # The uniform distribution on [-1, 1] has the largest entropy, ln 2.
    assert course[:5].mean() < -1.0 and 0.3 < course[-5:].mean() < 0.8


# ---- discrete actions

CHOICES = (3, 2)


@pytest.fixture
def choosing_trainer() -> Trainer:
    """A trainer of a model of two choices, random weights in all layers."""
    model = LatentModel(2, 5, TINY, CHOICES)
    for i, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    return Trainer(model, LossConfig(compile=False, entropy=0.1), 0.9)


def joint(model: LatentModel, z: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of choices (6, 5), and its probability at `z` (B, Z): (B, 6)."""
    one, other = model.actor(z).split(CHOICES, -1)
    pairs = [torch.cat([a, b]) for a in torch.eye(3) for b in torch.eye(2)]
    prob = one.softmax(-1).unsqueeze(-1) * other.softmax(-1).unsqueeze(-2)
    return torch.stack(pairs), prob.flatten(-2)


def test_a_categorical_policy_draws_its_probabilities(choosing_trainer: Trainer) -> None:
    model = choosing_trainer.model
    z = model.encode(torch.tensor([[0.3, -1.0]])).expand(40_000, -1)
    noise = torch.randn(40_000, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        drawn, (pairs, prob) = model.policy(z, noise), joint(model, z[:1])
        mode = model.policy(z[:1])
    found = (drawn.unsqueeze(1) == pairs).all(-1).float().mean(0)
    assert found.sum() == pytest.approx(1.0)
    torch.testing.assert_close(found, prob[0], rtol=0, atol=0.0125)
    assert torch.equal(mode, pairs[prob.argmax(1)])


def test_the_categorical_policy_follows_the_natural_gradient(choosing_trainer: Trainer) -> None:
    """Advantages against the sum over all pairs of choices, in the mean over the drawn ones."""
    trainer, model = choosing_trainer, choosing_trainer.model
    size, scale = 20_000, torch.tensor(2.0)
    with torch.no_grad():
        state = model.encode(torch.tensor([0.3, -1.0]))
        pairs, prob = joint(model, state.unsqueeze(0))
        q = model.q(state.expand(6, -1), pairs).mean(0)
        one, other = (g.softmax(0) for g in model.actor(state).split(CHOICES))
        table = q.view(3, 2)
        worths = [(table @ other) / scale - 0.1 * one.log(), (one @ table) / scale]
        worths[1] = worths[1] - 0.1 * other.log()
        advantage = torch.cat(
            [u - (p * u).sum() for p, u in zip((one, other), worths, strict=True)]
        )
        entropy = -(prob * prob.log()).sum()

    noise = torch.randn(size, 5, generator=torch.Generator().manual_seed(0))
    states = state.expand(size, -1)
    loss, found, _ = trainer._policy_loss(states, noise, scale)
    assert float(found) == pytest.approx(float(entropy), rel=1e-5)
    gain = sum((p * u).sum() for p, u in zip((one, other), worths, strict=True))
    assert float(loss.detach()) == pytest.approx(-float(gain), rel=0.01)
    # The gradient of the last bias is that of the logits, here the same for all rows.
    (gradient,) = torch.autograd.grad(loss, model.actor.layers[-1].bias)
    torch.testing.assert_close(
        -gradient, advantage, rtol=0, atol=0.02 * float(advantage.abs().max())
    )


def test_one_choice_needs_no_draw_for_its_value() -> None:
    """The expected value of a single group is exact, whatever the noise."""
    trainer = Trainer(LatentModel(2, 3, TINY, (3,)), LossConfig(compile=False), 0.9)
    for i, parameter in enumerate(trainer.model.parameters()):
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    z = trainer.model.encode(torch.randn(4, 9, 2, generator=torch.Generator().manual_seed(1)))
    prob = trainer.model.actor(z).softmax(-1)
    q = torch.stack([trainer.model.q(z, a.expand(4, 9, 3)).mean(0) for a in torch.eye(3)], -1)
    noise = torch.randn(4, 9, 3, generator=torch.Generator())
    space, scale = trainer.model.action_space, torch.tensor(3.0)
    gain, value, entropy = trainer._choosing(space, z.detach(), noise, scale)
    torch.testing.assert_close(value, (prob * q).sum(-1))
    torch.testing.assert_close(entropy, torch.distributions.Categorical(prob).entropy())
    torch.testing.assert_close(gain, value / scale + trainer.config.entropy * entropy)


def test_a_sure_policy_that_is_wrong_learns_better() -> None:
    """From one in a thousand: by the plain gradient it would take as many times longer."""
    trainer = Trainer(LatentModel(2, 2, TINY, (2,)), LossConfig(compile=False, horizon=1), 0.9)
    with torch.no_grad():
        trainer.model.actor.layers[-1].bias.copy_(torch.tensor([7.0, 0.0]))
    trainer.frozen.q = lambda z, a: (0.01 * a[..., 1]).expand(2, *a.shape[:-1])
    trainer.config = LossConfig(compile=False, horizon=1, lr=0.03)
    batch = Batch(torch.zeros(2, 32, 2), torch.zeros(1, 32, 2), *torch.zeros(2, 1, 32))
    z = trainer.model.encode(torch.zeros(2)).detach()
    assert trainer.model.policy(z).tolist() == [1.0, 0.0]
    for _ in range(400):
        trainer.update(batch)
    z = trainer.model.encode(torch.zeros(1, 2)).detach()
    assert float(trainer.model.actor(z).detach().softmax(-1)[0, 1]) > 0.99
    # It stops where the other choice has become rare.
    loss, *_ = trainer._policy_loss(z, torch.zeros(1, 2), trainer.scale)
    gradients = torch.autograd.grad(loss, list(trainer.model.actor.parameters()))
    assert not any(gradient.any() for gradient in gradients)


def test_the_categorical_actor_learns_the_best_choices(choosing_trainer: Trainer) -> None:
    """Worth 1 for the second of three and 1 for the first of two, 3 for another pair."""
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    trainer = choosing_trainer
    trainer.frozen.q = lambda z, a: torch.einsum(
        "...i,ij,...j->...", a[..., :3], table, a[..., 3:]
    ).expand(2, *a.shape[:-1])
    trainer.optimizer.param_groups[2]["lr"] = 3e-3
    trainer._set_rates = lambda progress: None
    batch = Batch(torch.zeros(4, 32, 2), torch.zeros(3, 32, 5), *torch.zeros(2, 3, 32))
    for _ in range(150):
        trainer.update(batch)
    mode = trainer.model.policy(trainer.model.encode(torch.zeros(2)))
    assert mode.tolist() == [0.0, 0.0, 1.0, 0.0, 1.0]
