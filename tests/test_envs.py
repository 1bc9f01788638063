"""Environments: the promises of `make_env`, checked against the simulators stepped by hand."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from omegaconf import OmegaConf

import envs
from envs import EnvConfig, EnvSpec, RenderingUnavailable, env_names, make_env, spec_of
from envs import registry as registry_module
from envs import rendering as rendering_module
from envs.rendering import picture_metadata

ROOT = Path(__file__).parents[1]
DMC = [name for name in env_names() if name.startswith("dmc/")]
REPRESENTATIVE = [
    "dmc/cartpole-swingup",
    "dmc/reacher-easy",
    "dmc/lqr-lqr_2_1",  # its model is drawn at random when it is loaded
    "dmc/quadruped-walk",  # scalar observations, native bounds other than [-1, 1]
    "gym/Pendulum-v1",
    "gym/Hopper-v5",  # float64 observations, terminates
    "gym/CartPole-v1",  # discrete actions
    "gym/toys/Multi-v0",
    f"mujoco/{ROOT / 'examples' / 'drone.xml'}",
]


class Toy(gymnasium.Env):
    """Counts frames, rewards each with its number, ends after `ends` of them, keeps the action."""

    observation_space = spaces.Dict(
        {
            "position": spaces.Box(-1e300, 1e300, (2, 1), np.float64),
            "inner": spaces.Dict({"level": spaces.Box(0, 255, (), np.uint8)}),
        }
    )

    def __init__(self, action_space=None, observation_space=None, ends=10**6, render_mode=None):
        low, high = np.array([[-3.0, 0.5]]), np.array([[1.0, 0.7]])
        self.action_space = action_space or spaces.Box(low, high, dtype=np.float64)
        self.observation_space = observation_space or self.observation_space
        self.ends = ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.frame = 0
        return self._observation(), {}

    def step(self, action):
        self.last_action = action
        self.frame += 1
        return self._observation(), self.frame, self.frame >= self.ends, False, {}

    def _observation(self):
        return {
            "position": np.array([[self.frame], [0.5]]),
            "inner": {"level": np.array(7, np.uint8)},
        }


BOX = spaces.Box(-1, 1, (2,), np.float32)
TOYS = {
    "Toy-v0": {},
    "Brief-v0": {"ends": 3},
    "Discrete-v0": {"action_space": spaces.Discrete(3, start=-1)},
    "Multi-v0": {"action_space": spaces.MultiDiscrete([[3], [2]], start=[[0], [5]])},
    "Binary-v0": {"action_space": spaces.MultiBinary(2)},
    "Tuple-v0": {"action_space": spaces.Tuple([spaces.Discrete(2)])},
    "Unbounded-v0": {"action_space": spaces.Box(-np.inf, np.inf, (2,))},
    "Integer-v0": {"action_space": spaces.Box(0, 5, (2,), np.int64)},
    "Pixels-v0": {"observation_space": spaces.Box(0, 255, (8, 8, 3), np.uint8)},
    "Text-v0": {"observation_space": spaces.Dict({"note": spaces.Text(5), "x": BOX})},
}


@pytest.fixture(autouse=True, scope="module")
def toys():
    for name, kwargs in TOYS.items():
        gymnasium.register(f"toys/{name}", Toy, kwargs=kwargs)
    gymnasium.register("toys/NeedsPackage-v0", "no_such_simulator.envs:Env")
    yield
    for name in (*TOYS, "NeedsPackage-v0"):
        del gymnasium.registry[f"toys/{name}"]


def register(monkeypatch, name, make, **options):
    """Register `toys/<name>` for the length of a test."""
    spec = gymnasium.envs.registration.EnvSpec(f"toys/{name}", entry_point=make, **options)
    monkeypatch.setitem(gymnasium.registry, f"toys/{name}", spec)


def episode(env, seed, steps=10**6):
    """Observations and rewards of one episode under random actions that depend on `seed` alone."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    rows, over = [np.append(obs, 0.0)], False
    while not over and len(rows) <= steps:
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append(np.append(obs, reward))
        over = terminated or truncated
    return np.array(rows)


# The interface


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_gymnasium_finds_nothing_to_complain_about(name):
    # Unbounded observations are what the simulators have, and wrappers are what we are.
    expected = ("infinity", "different from the unwrapped version")
    env = make_env(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The skipped checks remake the environment with gymnasium.make, which cannot make ours.
        check_env(env, skip_render_check=True, skip_close_check=True)
        env.close()
        env.close()  # must be harmless
    complaints = [str(w.message) for w in caught]
    assert not [c for c in complaints if not any(words in c for words in expected)]


def test_loading_says_nothing_about_models_that_are_not_ours(caplog):
    make_env("dmc/cheetah-run").close()
    assert caplog.text == ""


@pytest.mark.parametrize("name", DMC)
def test_every_suite_task_is_as_its_spec_says_and_seeds(name):
    env = make_env(name)
    spec = spec_of(env)
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (spec.obs_dim,), np.float32)
    assert env.action_space == spaces.Box(-1, 1, (spec.action_dim,), np.float32)
    assert spec.name == name and spec.action_repeat == 2 and spec.episode_steps == 500
    assert len(spec.action_low) == len(spec.action_high) == spec.action_dim
    assert len(set(spec.obs_names)) == spec.obs_dim
    first, again = episode(env, seed=3, steps=1), episode(env, seed=3, steps=1)
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    env.close()


@pytest.mark.parametrize("name", ["gym/Pendulum-v1", "gym/Hopper-v5", "gym/toys/Toy-v0"])
def test_gymnasium_observations_are_flat_float32_in_their_space(name):
    env = make_env(name)
    spec = spec_of(env)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (spec.obs_dim,) == env.observation_space.shape
    assert obs.dtype == np.float32
    assert env.observation_space.contains(obs)
    assert env.action_space == spaces.Box(-1, 1, (spec.action_dim,), np.float32)


@pytest.mark.parametrize(
    ("name", "choices", "native"),
    [
        ("Discrete-v0", (3,), {(9, 0, 0): -1, (-3, -1, -2): 0, (0, 0, 1): 1}),
        ("Multi-v0", (3, 2), {(1, 0, 0, 0, 1): [[0], [6]], (0, 0.1, 0.9, 1, 0): [[2], [5]]}),
        ("Binary-v0", (2, 2), {(1, 0, 0, 1): [0, 1], (0, 1, 1, 0): [1, 0]}),
    ],
)
def test_vectors_become_the_choices_that_the_environment_knows(name, choices, native):
    env = make_env(f"gym/toys/{name}")
    spec = spec_of(env)
    assert spec.choices == choices and spec.action_dim == sum(choices)
    assert (spec.action_low, spec.action_high) == ((), ())
    assert env.action_space == spaces.Box(0, 1, (sum(choices),), np.float32)
    env.reset(seed=0)
    for vector, expected in native.items():
        env.step(np.array(vector, np.float32))
        taken = env.unwrapped.last_action
        assert np.array_equal(taken, expected)
        assert env.unwrapped.action_space.contains(taken)
    for wrong in (np.zeros(sum(choices) + 1), np.full(sum(choices), np.nan)):
        with pytest.raises(ValueError, match="action"):
            env.step(wrong)


def test_labels_follow_the_numbers():
    env = make_env("gym/toys/Toy-v0")
    obs, _ = env.reset(seed=0)
    named = dict(zip(spec_of(env).obs_names, obs.tolist(), strict=True))
    assert named == {"position[0,0]": 0.0, "position[1,0]": 0.5, "inner.level": 7.0}
    env = make_env("dmc/quadruped-walk")
    obs, _ = env.reset(seed=0)
    upright = obs[spec_of(env).obs_names.index("torso_upright")]
    assert upright == pytest.approx(env.unwrapped._env.physics.torso_upright())


def test_labels_name_every_part_of_a_nested_observation(monkeypatch):
    parts = {"observation": spaces.Dict({"x": BOX, "y": BOX}), "x": BOX}
    register(monkeypatch, "Nested-v0", lambda: Toy(observation_space=spaces.Dict(parts)))
    labels = spec_of(make_env("gym/toys/Nested-v0")).obs_names
    assert labels[::2] == ("observation.x[0]", "observation.y[0]", "x[0]")
    assert len(set(labels)) == len(labels) == 6


def test_observations_are_float32_in_memory_of_their_own(monkeypatch):
    class Careless(Toy):
        """Gives its own memory away, of another type than it says."""

        def __init__(self, dtype=np.float32):
            super().__init__(observation_space=BOX)
            self.seen = np.zeros(2, dtype)

        def _observation(self):
            self.seen[:] = self.frame
            return self.seen

    for dtype in (np.float32, np.float64):
        register(monkeypatch, "Careless-v0", lambda dtype=dtype: Careless(dtype))
        env = make_env("gym/toys/Careless-v0")
        first, _ = env.reset(seed=0)
        second = env.step(np.zeros(2))[0]
        assert first.dtype == second.dtype == np.float32
        assert first.tolist() == [0, 0] and second.tolist() == [1, 1]


def test_spec_survives_json_and_further_wrappers():
    env = gymnasium.wrappers.RecordEpisodeStatistics(make_env("dmc/cup-catch"))
    spec = spec_of(env)
    loaded = json.loads(json.dumps(dataclasses.asdict(spec)))
    tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in loaded.items()}
    assert EnvSpec(**tuples) == spec
    assert spec.name == "dmc/ball_in_cup-catch"
    assert spec.obs_names[:2] == ("position[0]", "position[1]")
    with pytest.raises(ValueError, match="not made by make_env"):
        spec_of(gymnasium.make("Pendulum-v1"))


def test_times_are_in_seconds_and_control_steps():
    spec = spec_of(make_env("dmc/cartpole-swingup"))
    assert spec.control_period == pytest.approx(0.02)  # two frames of 0.01 s
    spec = spec_of(make_env(EnvConfig("gym/Pendulum-v1", action_repeat=3)))
    assert spec.control_period == pytest.approx(0.15)  # the physics' 0.05 s, not the 30 Hz of video
    assert spec.episode_steps == 67  # 200 frames
    env = make_env("gym/MountainCarContinuous-v0")
    assert spec_of(env).control_period == pytest.approx(1 / 30)
    assert env.metadata["render_fps"] == 30
    assert spec_of(make_env("gym/toys/Toy-v0")).episode_steps is None


# Seeds


@pytest.mark.parametrize("name", [*REPRESENTATIVE, "dmc/quadruped-escape"])
def test_a_seed_is_an_episode(name):
    # The contacts of one are slow, the other has no end of its own.
    frames = 100 if "escape" in name or "toys" in name else None
    env = make_env(EnvConfig(name, episode_frames=frames))
    first, other, again = (episode(env, seed) for seed in (5, 6, 5))
    fresh = episode(make_env(EnvConfig(name, episode_frames=frames)), 5)
    assert np.array_equal(first, again)
    assert np.array_equal(first, fresh)
    if "toys" not in name:  # which always begin alike
        assert not np.array_equal(first[0], other[0])


def test_without_a_seed_instances_differ():
    # lqr's model is loaded with a fixed seed, which must not leak into the starts of episodes.
    first, second = (make_env("dmc/lqr-lqr_2_1").reset()[0] for _ in range(2))
    assert not np.array_equal(first, second)


# Truth: the native environments, stepped by hand


@pytest.mark.parametrize("task", ["cartpole-swingup", "reacher-easy", "finger-spin", "walker-walk"])
def test_dm_control_by_hand_gives_the_same_episode(task):
    from dm_control import suite  # here, because its import warns where there is no display

    raw = suite.load(*task.split("-"), task_kwargs={"random": 11})
    env = make_env(f"dmc/{task}")
    flat = np.concatenate([np.ravel(part) for part in raw.reset().observation.values()])
    obs, _ = env.reset(seed=11)
    assert np.array_equal(obs, flat.astype(np.float32))
    rng, steps, over = np.random.default_rng(0), 0, False
    while not over:
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, reward, terminated, over, _ = env.step(action)
        one, two = raw.step(action), raw.step(action)
        flat = np.concatenate([np.ravel(part) for part in two.observation.values()])
        assert np.array_equal(obs, flat.astype(np.float32))
        assert reward == one.reward + two.reward
        assert over == two.last()  # the time limit is dm_control's own
        assert not terminated
        steps += 1
    assert steps == 500


def test_gymnasium_by_hand_gives_the_same_episode_with_action_repeat():
    raw = gymnasium.make("Pendulum-v1")
    env = make_env(EnvConfig("gym/Pendulum-v1", action_repeat=3))
    assert np.array_equal(env.reset(seed=4)[0], raw.reset(seed=4)[0])
    rng, frames, over = np.random.default_rng(0), [], False
    while not over:
        action = rng.uniform(-1, 1, 1).astype(np.float32)
        obs, reward, terminated, over, info = env.step(action)
        by_hand = [raw.step(2 * action) for _ in range(info["frames"])]  # torques in [-2, 2]
        assert np.array_equal(obs, by_hand[-1][0])
        assert reward == pytest.approx(sum(step[1] for step in by_hand))
        assert (terminated, over) == (by_hand[-1][2], by_hand[-1][3])
        frames.append(info["frames"])
    assert frames == [3] * 66 + [2]  # the limit of 200 frames cuts the last step short


def test_a_block_of_actions_is_as_many_control_steps():
    single = make_env("gym/Pendulum-v1")
    env = make_env(EnvConfig("gym/Pendulum-v1", action_block=3))
    one, spec = spec_of(single), spec_of(env)
    assert (spec.action_dim, spec.episode_steps, spec.frames) == (3, 67, 3 * one.frames)
    assert spec.control_period == 3 * one.control_period and spec.action_low == 3 * one.action_low
    assert np.array_equal(env.reset(seed=4)[0], single.reset(seed=4)[0])
    rng, truncated = np.random.default_rng(0), False
    for step in range(67):
        assert not truncated
        block = rng.uniform(-1, 1, 3).astype(np.float32)
        obs, reward, terminated, truncated, info = env.step(block)
        count = 3 if step < 66 else 2  # the limit of 200 frames cuts the last one short
        by_hand = [single.step(action) for action in block[:count, None]]
        assert np.array_equal(obs, by_hand[-1][0]) and info["frames"] == count
        assert reward == pytest.approx(sum(step[1] for step in by_hand))
    assert truncated and not terminated


def test_blocks_of_choices_keep_the_order_of_actions():
    env = make_env(EnvConfig("gym/CartPole-v1", action_block=2))
    single = make_env("gym/CartPole-v1")
    assert spec_of(env).choices == (2, 2)
    env.reset(seed=0), single.reset(seed=0)
    obs, *_ = env.step(np.array([0, 1, 1, 0], np.float32))
    single.step(np.array([0, 1], np.float32))
    assert np.array_equal(obs, single.step(np.array([1, 0], np.float32))[0])


# Actions


@pytest.mark.parametrize(
    ("action", "native"),
    [
        ((-1, -1), (-3.0, 0.5)),
        ((1, 1), (1.0, 0.7)),
        ((0, 0), (-1.0, 0.6)),
        ((-9, 1.001), (-3.0, 0.7)),
    ],
)
def test_actions_reach_the_native_bounds_and_not_beyond(action, native):
    env = make_env("gym/toys/Toy-v0")
    env.reset(seed=0)
    env.step(np.array(action, np.float32))
    received = env.unwrapped.last_action
    assert received.dtype == np.float64 and received.shape == (1, 2)
    assert received.ravel() == pytest.approx(native)
    assert env.unwrapped.action_space.contains(received)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_actions_that_are_not_finite_are_refused(bad):
    env = make_env("gym/Pendulum-v1")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([bad], np.float32))


def test_actions_of_another_shape_are_refused():
    # NumPy would broadcast them without a word.
    env = make_env("dmc/reacher-easy")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected shape \(2,\), got \(1,\)"):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize("name", ["dmc/lqr-lqr_2_1", "dmc/lqr-lqr_6_2"])
def test_motors_without_limits_take_forces_of_one(name):
    env = make_env(name)
    spec = spec_of(env)
    assert set(spec.action_low) == {-1.0} and set(spec.action_high) == {1.0}
    rows = episode(env, seed=1, steps=20)
    assert len(rows) == 21 and np.abs(rows[:, :-1]).max() < 10
    env.reset(seed=1)
    env.step(np.full(spec.action_dim, 0.5, np.float32))
    assert (env.unwrapped.data.ctrl == 0.5).all()


# Ends of episodes


def test_a_time_limit_truncates_and_does_not_terminate():
    env = make_env(EnvConfig("dmc/cartpole-swingup", action_repeat=4, episode_frames=10))
    assert spec_of(env).episode_steps == 3
    env.reset(seed=0)
    ends = [env.step(np.zeros(1))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_a_fall_terminates_and_is_not_truncated():
    env = make_env("gym/InvertedPendulum-v5")
    env.reset(seed=0)
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, _ = env.step(np.ones(1))
    assert terminated and not truncated


def test_a_terminal_state_of_dm_control_terminates():
    env = make_env("dmc/lqr-lqr_2_1")
    env.reset(seed=0)
    physics = env.unwrapped._env.physics
    with physics.reset_context():
        physics.data.qpos[:] = 0.0  # at rest at the goal, where lqr gives discount 0
    assert env.step(np.zeros(1))[2:4] == (True, False)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))


def test_repeat_stops_at_termination():
    env = make_env(EnvConfig("gym/toys/Brief-v0", action_repeat=2))
    env.reset(seed=0)
    assert env.step(np.zeros(2))[1:] == (1 + 2, False, False, {"frames": 2})
    assert env.step(np.zeros(2))[1:] == (3, True, False, {"frames": 1})


def test_diverged_physics_truncates_with_the_last_sound_observation():
    env = make_env("dmc/cartpole-swingup")
    env.reset(seed=0)
    before = env.step(np.zeros(1))[0]
    env.unwrapped._env.physics.data.qpos[:] = np.nan
    obs, reward, terminated, truncated, info = env.step(np.zeros(1))
    assert np.array_equal(obs, before)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "BADQPOS" in info["physics_error"]
    assert np.isfinite(env.reset(seed=0)[0]).all()


@pytest.mark.parametrize("name", ["dmc/cartpole-swingup", "gym/Pendulum-v1"])
def test_vectorised_environments_equal_single_ones(name):
    config = EnvConfig(name, episode_frames=10)
    vector = gymnasium.vector.SyncVectorEnv([lambda: make_env(config)] * 2)
    single = make_env(config)
    obs, _ = vector.reset(seed=[1, 2])
    alone, _ = single.reset(seed=2)
    assert np.array_equal(obs[1], alone)
    for _ in range(spec_of(single).episode_steps):
        obs, rewards, _, truncated, _ = vector.step(np.full((2, 1), 0.3, np.float32))
        alone, reward, *_ = single.step(np.full(1, 0.3, np.float32))
        assert np.array_equal(obs[1], alone)
        assert rewards[1] == reward
    assert truncated.all()


# Names, options, suites


def message_of(make):
    with pytest.raises(ValueError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dmc/cartpole-swingupp", "'dmc/cartpole-swingupp' is unknown; did you mean 'dmc/cartpole"),
        ("cartpole-swingup", "did you mean 'dmc/cartpole-swingup'?"),
        ("cup-catch", "did you mean 'dmc/ball_in_cup-catch'?"),
        ("Pendulum-v1", "did you mean 'gym/Pendulum-v1'?"),
        ("gym/Hoper-v5", "did you mean 'gym/Hopper-v5'?"),
        ("dmc/humanoid_cmu-run", "did you mean 'dmc/humanoid_CMU-run'?"),
        ("dcm/cartpole-swingup", "did you mean 'dmc/cartpole-swingup'?"),
        ("dmc/", "(telic list envs shows all)"),
        ("gym/FrozenLake-v1", "has observation Discrete(16); telic supports Box observations"),
        ("gym/toys/Tuple-v0", "the action space Tuple(Discrete(2)); telic supports Box and discr"),
        ("gym/toys/Unbounded-v0", "needs finite bounds"),
        ("gym/toys/Integer-v0", "integer actions"),
        ("gym/toys/Pixels-v0", "has pictures as observation; use env.obs=pixels"),
        ("gym/toys/Text-v0", "has note Text"),
        ("gym/toys/NeedsPackage-v0", "the Python package 'no_such_simulator' is not installed"),
        ("gym/no_such_module:Env-v0", "No module named 'no_such_module'"),
    ],
)
def test_a_name_that_cannot_be_used_says_why_in_one_line(name, words):
    assert words in message_of(lambda: make_env(name))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ""}, "env.name must not be empty"),
        ({"action_repeat": 0}, "env.action_repeat must be at least 1 or null, got 0"),
        ({"action_block": 0}, "env.action_block must be at least 1, got 0"),
        ({"episode_frames": -5}, "env.episode_frames must be at least 1 or null, got -5"),
    ],
)
def test_a_config_checks_itself(options, words):
    assert words in message_of(lambda: EnvConfig(**options))


def test_a_config_is_merged_from_dotted_overrides():
    schema = OmegaConf.structured(EnvConfig)
    merged = OmegaConf.merge(schema, OmegaConf.from_dotlist(["name=gym/A-v0", "action_repeat=4"]))
    assert OmegaConf.to_object(merged) == EnvConfig("gym/A-v0", action_repeat=4)


def test_every_listed_gymnasium_name_is_made_or_names_what_is_missing():
    own = {  # other packages may have registered theirs in this process
        f"gym/{spec.id}"
        for spec in gymnasium.registry.values()
        if str(spec.entry_point).startswith("gymnasium.")
    }
    listed = [name for name in env_names() if name in own]
    assert {"gym/Hopper-v5", "gym/CartPole-v1"} < set(listed)
    assert "gym/FrozenLake-v1" not in listed
    for name in listed:
        try:
            make_env(name).close()
        except ValueError as error:
            assert "not installed" in str(error), error


def toy_loader(task, config, render):
    assert task == "anything"
    return gymnasium.make("toys/Toy-v0", max_episode_steps=config.episode_frames)


@pytest.fixture
def installed(monkeypatch):
    """Pretend that packages with these entry points are installed."""

    def install(**values):
        points = [EntryPoint(name, value, registry_module.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry_module, "entry_points", lambda group: points)

    return install


def test_another_package_can_add_a_suite(installed):
    installed(other=f"{__name__}:toy_loader", broken="no_such_package:load")
    env = make_env(EnvConfig("other/anything", episode_frames=7))
    assert spec_of(env).name == "other/anything"
    assert spec_of(env).episode_steps == 7
    assert "'no_such_package'" in message_of(lambda: make_env("broken/anything"))


class Plain(gymnasium.Env):
    """An environment as packages write them first: no spec, no rendering, no `dt`."""

    observation_space, action_space = BOX, BOX

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


def plain_loader(task, config, render):
    env = gymnasium.wrappers.TimeLimit(Plain(), config.episode_frames or 100)
    return gymnasium.wrappers.TimeLimit(env, 1000) if task == "nested" else env


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 100),
        ({"action_repeat": 3}, 34),
        ({"action_repeat": 3, "action_block": 2}, 17),
        ({"episode_frames": 7, "action_repeat": 2}, 4),
        ({"name": "other/nested"}, 100),
    ],
)
def test_a_time_limit_around_an_environment_without_a_spec_is_known(installed, options, steps):
    installed(other=f"{__name__}:plain_loader")
    env = make_env(EnvConfig(**{"name": "other/plain", **options}))
    assert env.spec is None and spec_of(env).episode_steps == steps
    assert len(episode(env, seed=0)) == steps + 1


def test_two_suites_of_one_name_are_refused(installed):
    installed(dmc="other_package:load")
    assert "'dmc' is claimed twice" in message_of(lambda: make_env("dmc/cartpole-swingup"))


def test_gymnasium_robotics_is_known_in_a_fresh_process():
    pytest.importorskip("gymnasium_robotics", reason="telic[goals]")
    make = "envs.make_env('gym/PointMaze_UMaze-v3')"
    code = f"import envs; print(envs.spec_of({make}).action_dim)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "2", run.stderr


def test_importing_envs_loads_no_simulator():
    heavy = "{'mujoco', 'dm_control', 'torch', 'glfw', 'pygame'}"
    code = f"import sys, envs; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


# Pictures


@pytest.fixture
def unset_gl(monkeypatch):
    """No MUJOCO_GL at first, and whatever is chosen is forgotten afterwards."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("MUJOCO_GL")


@pytest.fixture
def gl(monkeypatch):
    """A backend that draws: the user's, else the one that is found, forgotten afterwards."""
    if "MUJOCO_GL" not in os.environ:
        monkeypatch.setenv("MUJOCO_GL", "")
        monkeypatch.delenv("MUJOCO_GL")
    try:
        return envs.select_gl_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["dmc/cartpole-swingup", "dmc/quadruped-escape", "gym/Hopper-v5"])
def test_pictures_show_the_state_of_their_own_environment(name, gl):
    # dm_control and mujoco were imported long before the backend was chosen: this must not matter.
    used, fresh = make_env(name, render=True), make_env(name, render=True)
    used.reset(seed=0)
    first = used.render()
    assert first.ndim == 3 and first.shape[2] == 3 and first.dtype == np.uint8
    assert first.std() > 5
    for env in (used, fresh):
        env.reset(seed=1)
        for _ in range(20):
            env.step(env.action_space.high)
    picture = used.render().astype(float)
    assert np.abs(picture - first).max() > 50
    assert np.abs(picture - fresh.render()).mean() < 0.5  # terrain of this episode, not of the last
    assert np.array_equal(picture, used.render())  # each draws in its own OpenGL context
    fresh.close()
    del fresh, env
    assert np.array_equal(picture, used.render())
    used.close()
    used.close()  # must be harmless


def test_pygame_pictures_or_what_to_install():
    try:
        env = make_env("gym/Pendulum-v1", render=True)
    except RenderingUnavailable as error:
        assert "pygame is not installed" in str(error) and "\n" not in str(error)
    else:
        env.reset(seed=0)
        assert env.render().std() > 5


@pytest.mark.parametrize("name", ["gym/toys/Plain-v0", "gym/toys/Silent-v0", "other/plain"])
def test_what_cannot_be_drawn_is_one_line(name, installed, monkeypatch):
    class Silent(Plain):
        metadata: ClassVar = {"render_modes": ["rgb_array"]}

        def __init__(self, render_mode=None):
            self.render_mode = render_mode

    register(monkeypatch, "Plain-v0", Plain)
    register(monkeypatch, "Silent-v0", Silent)
    installed(other=f"{__name__}:plain_loader")
    with pytest.raises(RenderingUnavailable, match=r"^cannot render: ") as caught:
        make_env(name, render=True)
    assert "\n" not in str(caught.value)
    refusal = message_of(lambda: make_env(EnvConfig(name, obs="pixels")))
    assert refusal.startswith("env.obs=pixels: cannot render: ")
    make_env(name).reset(seed=0)


@pytest.mark.parametrize(
    ("name", "options", "render"),
    [
        ("Refused-v0", {"action_space": spaces.Tuple([BOX])}, False),
        ("Refused-v0", {"observation_space": spaces.Discrete(2)}, False),
        ("Refused-v0", {}, True),  # draws nothing
        ("Drawn-v0", {}, True),  # raises when it draws
    ],
)
def test_what_is_refused_is_closed(name, options, render, monkeypatch):
    closed = []

    class Refused(Toy):
        def close(self):
            closed.append(name)

    class Drawn(Refused):
        metadata: ClassVar = {"render_modes": ["rgb_array"]}
        render_mode = "rgb_array"

    made = {"Refused-v0": Refused, "Drawn-v0": Drawn}[name]
    register(monkeypatch, name, made, kwargs=options)
    with pytest.raises((ValueError, RenderingUnavailable)):
        make_env(f"gym/toys/{name}", render=render)
    assert closed == [name]


def test_a_video_of_slow_steps_has_a_frame_rate(monkeypatch):
    register(monkeypatch, "Slow-v0", Toy)
    monkeypatch.setattr(Toy, "dt", 3.0, raising=False)
    assert make_env("gym/toys/Slow-v0").metadata["render_fps"] == 1
    assert picture_metadata(3.0)["render_fps"] == 1 and picture_metadata(0.01)["render_fps"] == 100


@pytest.mark.parametrize("name", ["dmc/cartpole-swingup", "gym/Hopper-v5"])
def test_no_backend_is_one_line_and_changes_nothing(name, unset_gl, monkeypatch):
    monkeypatch.setattr(rendering_module, "gl_backend_works", lambda backend: False)
    with pytest.raises(RenderingUnavailable, match="install libegl1 or libosmesa6") as caught:
        make_env(name, render=True)
    assert "\n" not in str(caught.value)
    assert "MUJOCO_GL" not in os.environ
    make_env(name).reset(seed=0)


def test_a_setting_that_does_not_work_is_named(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(RenderingUnavailable, match="MUJOCO_GL=disable does not work here"):
        make_env("dmc/cartpole-swingup", render=True)
