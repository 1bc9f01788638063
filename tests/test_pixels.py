"""Pictures as observations: what is seen, kept and learned from."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from cli_helpers import DEBUG, start_telic, telic

from envs import EnvConfig, RenderingUnavailable, make_env, select_gl_backend, spec_of
from envs.pixels import NUMBERS, SIZE, STACK
from scripts.collector import Collector, read_episode
from world_models import (
    METRICS,
    Episode,
    LatentModel,
    LossConfig,
    ModelConfig,
    PictureEncoder,
    Replay,
    Trainer,
)
from world_models.training import SHIFT, shifted

TINY = ModelConfig(latent_dim=16, hidden_dim=32, bins=21)


def make(name: str) -> gymnasium.Env:
    try:
        select_gl_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    return make_env(EnvConfig(name=name, obs="pixels"))


def newest(obs: np.ndarray) -> np.ndarray:
    return obs[-NUMBERS:]


@pytest.mark.parametrize("name", ["dmc/cartpole-swingup", "gym/Hopper-v5", "gym/CartPole-v1"])
def test_an_observation_is_the_last_three_pictures(name: str) -> None:
    env = make(name)
    spec = spec_of(env)
    assert env.observation_space == gymnasium.spaces.Box(0, 255, (STACK * NUMBERS,), np.uint8)
    assert (spec.obs_dim, spec.pictures, spec.newest_dim) == (STACK * NUMBERS, STACK, NUMBERS)
    assert spec.observations == "3 pictures of 64 x 64" and spec.obs_names is None
    obs, _ = env.reset(seed=1)
    assert obs.dtype == np.uint8 and obs.std() > 5
    assert np.array_equal(obs, np.tile(newest(obs), STACK)), "an episode begins with one picture"
    rng = np.random.default_rng(0)
    seen = [newest(obs)] * STACK
    for _ in range(6):
        obs = env.step(rng.uniform(0.5, 1, env.action_space.shape).astype(np.float32))[0]
        seen.append(newest(obs))
        assert np.array_equal(obs, np.concatenate(seen[-STACK:]))
    assert not np.array_equal(seen[-1], seen[STACK - 1]), "something moves"
    again = make(name)
    assert np.array_equal(again.reset(seed=1)[0][:NUMBERS], seen[0])
    env.close()
    again.close()


def test_pictures_are_channels_first_and_the_right_way_up() -> None:
    """Seen from the side, cartpole has a dark sky above a lighter floor."""
    env = make("dmc/cartpole-swingup")
    obs, _ = env.reset(seed=1)
    red, _, blue = newest(obs).reshape(3, SIZE, SIZE).astype(float)
    assert blue[-16:].mean() > blue[:16].mean() + 10 and blue[-16:].mean() > red[-16:].mean()
    env.close()


def test_replay_holds_single_pictures_and_stacks_them_when_drawn() -> None:
    """Numbers tell which picture: episode times 100 plus time; the first one repeats."""
    replay = Replay(40, 3 * 2, 1, horizon=2, seed=0, pictures=3)
    assert replay.obs.shape == (40, 2) and replay.obs.dtype == torch.uint8
    for number, steps in ((1, 6), (2, 5)):
        frames = (100 * number + torch.arange(steps + 1)).to(torch.uint8)
        obs = frames.unsqueeze(-1).expand(-1, 2)
        replay.add(Episode(obs, torch.zeros(steps, 1), torch.zeros(steps), terminated=number == 2))
    drawn = replay.sample(2000).obs.unflatten(-1, (3, 2))[..., 0].int()
    assert drawn.shape == (3, 2000, 3)
    for window in drawn.unbind(1):
        episode, time = window[0, -1] // 100, window[:, -1] % 100
        last = 6 if episode == 1 else 5
        for step, stack in enumerate(window.tolist()):
            now = min(int(time[0]) + step, last)
            expected = [int(episode) * 100 + max(0, now - ago) for ago in (2, 1, 0)]
            if time[step] < last or episode == 1:  # behind its end a state repeats
                assert stack == expected
    assert {int(x) for x in drawn[0, :, -1]} >= {100, 104, 200, 204}


def test_shifts_move_whole_windows_and_repeat_their_edges() -> None:
    side = SIZE
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pictures = torch.stack([y, x, (x + y) // 2]).to(torch.uint8).repeat(3, 1, 1)
    obs = pictures.flatten().expand(4, 50, -1)
    moved = shifted(obs, torch.Generator().manual_seed(0)).view(4, 50, 9, side, side)
    assert moved.dtype == torch.uint8
    centre = moved[..., side // 2, side // 2].int()
    found = {(int(a), int(b)) for a, b in centre[0, :, :2] - side // 2}
    assert len(found) > 25
    assert {a for a, _ in found} == {b for _, b in found} == set(range(-SHIFT, SHIFT + 1))
    assert torch.equal(moved, moved[:1].expand_as(moved)), "one shift for all times of a window"
    for window, (dy, dx) in zip(moved[0], centre[0, :, :2].int() - side // 2, strict=True):
        rows = (torch.arange(side) + dy).clamp(0, side - 1)
        columns = (torch.arange(side) + dx).clamp(0, side - 1)
        assert torch.equal(window, pictures[:, rows][:, :, columns])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_of_pictures_learns_what_they_show(precision: str) -> None:
    """The reward is whether the light is on the right; only pictures tell."""
    torch.manual_seed(0)
    model = LatentModel(STACK * NUMBERS, 1, TINY, pictures=STACK)
    trainer = Trainer(model, LossConfig(batch_size=16, compile=False, precision=precision), 0.9)
    right = torch.arange(200) % 20 >= 10
    pictures = torch.zeros(201, 3, SIZE, SIZE, dtype=torch.uint8)
    for t, lit in enumerate([*right.tolist(), False]):
        place = 45 if lit else 10
        pictures[t, :, 25:40, place : place + 10] = 255
    replay = Replay(300, STACK * NUMBERS, 1, horizon=3, seed=0, pictures=STACK)
    replay.add(Episode(pictures.flatten(1), torch.zeros(200, 1), right.float(), terminated=False))
    assert isinstance(model.encoder, PictureEncoder)
    model.encoder.fit(replay.sample(64).obs[0])
    for _ in range(150):
        trainer.update(replay.sample(16))
    batch = replay.sample(100)
    with torch.no_grad():
        z = model.encode(batch.obs[0])
        assert z.shape == (100, 16)
        reward = model.reward(z, batch.actions[0])
    lit = batch.rewards[0] == 1
    assert reward[lit].min() > reward[~lit].max() + 0.2


def test_a_decoder_alone_teaches_latents_what_is_in_a_picture() -> None:
    """A light jumps about and brings no reward: latents say where it is once it is decoded."""
    rng = torch.Generator().manual_seed(0)
    places = torch.randint(0, SIZE - 16, (201, 2), generator=rng)
    pictures = torch.zeros(201, 3, SIZE, SIZE, dtype=torch.uint8)
    for picture, (y, x) in zip(pictures, places.tolist(), strict=True):
        picture[:, y : y + 16, x : x + 16] = 255
    episode = Episode(pictures.flatten(1), torch.zeros(200, 1), torch.zeros(200), terminated=False)
    errors = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = LatentModel(STACK * NUMBERS, 1, TINY, pictures=STACK)
        assert isinstance(model.encoder, PictureEncoder)
        config = LossConfig(batch_size=32, consistency=0, reconstruction=weight, compile=False)
        trainer = Trainer(model, config, 0.9)
        replay = Replay(300, STACK * NUMBERS, 1, horizon=3, seed=0, pictures=STACK)
        replay.add(episode)
        model.encoder.fit(replay.sample(128).obs[0])
        losses = torch.stack([trainer.update(replay.sample(32)) for _ in range(200)])
        batch = replay.sample(200)
        with torch.no_grad():
            z = torch.cat([model.encode(batch.obs[0]), torch.ones(200, 1)], -1)
        newest = batch.obs[0].view(200, STACK, 3, SIZE, SIZE)[:, -1, 0].float()
        pixels = torch.arange(SIZE).float()
        there = torch.stack([newest.mean(2) @ pixels, newest.mean(1) @ pixels], -1)
        there = (there - there.mean(0)) / there.std(0)
        fit = torch.linalg.lstsq(z[:100], there[:100]).solution
        errors.append(float((z[100:] @ fit - there[100:]).square().mean()))
        course = losses[:, METRICS.index("reconstruction")]
        if weight:
            assert course[-20:].mean() < 0.5 * course[0]
        else:
            assert not course.any()
    assert errors[1] < 0.5 * errors[0]


def test_pictures_of_a_still_camera_are_told_apart_from_the_first() -> None:
    """Of 64 x 64 pixels 20 change; the rest is a background of all shades."""
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (NUMBERS,), generator=rng).repeat(50, 1)
    pictures[:, :20] = torch.randint(0, 256, (50, 20), generator=rng)
    obs = pictures.to(torch.uint8).repeat(1, STACK)
    torch.manual_seed(0)
    encoder = PictureEncoder(STACK, 32)
    spreads = []
    with torch.no_grad():
        for _ in range(2):
            z = encoder(obs)
            spreads.append(float(z.std(0).mean() / z.std()))
            encoder.fit(obs)
    assert spreads[0] < 0.1 and spreads[1] > 0.5


def test_a_training_on_pictures_controls_and_keeps_single_ones(tmp_path: Path) -> None:
    make("dmc/cartpole-swingup").close()
    sizes = ("env.obs=pixels", "env.episode_frames=40", "train.random_steps=20")
    few = ("train.frames=120", "train.eval_every=0", "train.eval_episodes=1")
    done = telic("train", *DEBUG, *sizes, *few, f"runs={tmp_path}", "name=run")
    assert done.code == 0 and "3 pictures of 64 x 64" in done.out, done
    episode = read_episode(tmp_path / "run" / "episodes", 2)
    assert episode.obs.shape == (21, NUMBERS) and episode.obs.dtype == torch.uint8
    control = telic("control", f"run={tmp_path / 'run'}", "video=false")
    assert control.code == 0, control
    assert (tmp_path / "run" / "plots" / "plan-grasp-seed30000000.png").is_file()
    other = telic("control", f"run={tmp_path / 'run'}", "env.obs=state", "video=false")
    assert other.code == 2 and "with obs_dim 36864, not 5" in other.error


def test_pictures_of_environments_in_processes_are_the_same() -> None:
    make("dmc/cartpole-swingup").close()
    config = EnvConfig(name="dmc/cartpole-swingup", obs="pixels")
    both = [Collector(config, NUMBERS, 2, seed=3, processes=p) for p in (False, True)]
    for _ in range(3):
        for one in both:
            one.send(np.full((2, 1), 0.7, np.float32))
            one.receive(50)
        assert np.array_equal(both[0].obs, both[1].obs)
    assert not np.array_equal(*both[0].obs)
    for one in both:
        one.close()


def test_without_a_way_to_draw_it_is_refused_in_one_line(tmp_path: Path) -> None:
    options = (*DEBUG, "env.obs=pixels", f"runs={tmp_path}")
    process = start_telic("train", *options, MUJOCO_GL="bogus")
    with process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: env.obs=pixels: cannot render: MUJOCO_GL=bogus does not work")
    assert err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.obs must be state or pixels, got 'pictures'"):
        EnvConfig(obs="pictures")
