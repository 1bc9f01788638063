"""Any Gymnasium environment with goals: what of it is seen, its rule, and a run on it."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from cli_helpers import telic
from gymnasium import spaces

from envs import EnvConfig, make_env, spec_of
from world_models import GoalModel, GoalModelConfig

NEAR = 0.3


class Plane(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """A point whose speed is set, and a place that it is to reach; a number of no use is seen."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}

    def __init__(self, sparse: bool = True, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        keys = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = spaces.Dict({key: box for key in keys})
        self.action_space = spaces.Box(-0.2, 0.2, (2,), np.float32)
        self.sparse = sparse

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.desired = self.np_random.uniform(-1, 1, (2, 2))
        return self._seen(), {}

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + action, -1, 1)
        reward = self.compute_reward(self.place, self.desired, {})
        return self._seen(), reward, False, False, {}

    def compute_reward(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: dict[str, Any]
    ) -> float:
        gap = float(np.linalg.norm(achieved_goal - desired_goal))
        return -float(gap > NEAR) if self.sparse else -gap

    def _seen(self) -> dict[str, np.ndarray]:
        others = self.np_random.uniform(-1, 1, 2)
        return {"observation": others, "achieved_goal": self.place, "desired_goal": self.desired}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Plane-v0", Plane, max_episode_steps=25)
    gymnasium.register("PlaneDense-v0", Plane, max_episode_steps=25, kwargs={"sparse": False})
    gymnasium.register("PlaneForever-v0", Plane)
    yield
    # Not those that a test has made a package register: packages do so once.
    for name in ("Plane-v0", "PlaneDense-v0", "PlaneForever-v0"):
        del gymnasium.registry[name]


def test_goals_show_what_is_to_be_achieved_and_nothing_else() -> None:
    env = make_env("goal/Plane-v0")
    spec, inner = spec_of(env), env.unwrapped.inner.unwrapped  # type: ignore[attr-defined]
    assert (spec.obs_dim, spec.goal_dim, spec.episode_steps) == (4, 2, 25)
    assert spec.obs_names is not None and spec.obs_names[1:3] == (
        "achieved_goal[1]",
        "observation[0]",
    )
    obs, info = env.reset(seed=3)
    assert np.allclose(obs[:2], inner.place) and np.allclose(info["goal"][:2], inner.desired)
    assert np.isnan(info["goal"][2:]).all()
    again, same = env.reset(seed=3)
    assert np.array_equal(obs, again) and np.array_equal(info["goal"][:2], same["goal"][:2])


def test_a_goal_is_reached_where_the_reward_is_that_of_the_goal() -> None:
    env = make_env("goal/Plane-v0")
    outcomes = set()
    for seed in range(20):
        obs, info = env.reset(seed=seed)
        goal = info["goal"]
        for _ in range(25):
            gap = goal[:2] - obs[:2]
            assert info["success"] == (np.linalg.norm(gap) <= NEAR)
            outcomes.add(info["success"])
            obs, reward, terminated, truncated, info = env.step(np.clip(gap / 0.2, -1, 1))
            assert reward == info["success"] and not terminated
        assert truncated
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "goal/PlaneDense-v0"}, "use its variant with sparse rewards"),
        ({"name": "goal/PlaneForever-v0"}, "no time limit; give one, such as env.episode_frames"),
        ({"name": "goal/CartPole-v1"}, "no goals.*env=gym/CartPole-v1"),
        ({"name": "goal/Plane-v1"}, "unknown"),
        (
            {"name": "goal/Plane-v0", "obs": "pixels"},
            "cannot show what its goals look like; use env.obs=state",
        ),
    ],
)
def test_what_cannot_be_a_goal_task_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        make_env(EnvConfig(**options))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["goal/PlaneDense-v0", "goal/PlaneForever-v0"])
def test_what_is_refused_is_closed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Plane, "close", lambda self: closed.append(name))
    with pytest.raises(ValueError, match=name):
        make_env(name)
    assert closed == [name]


def test_labels_are_in_the_order_of_the_numbers() -> None:
    class Scrambled(Plane):
        """Its parts are in no order of names, and one of them has parts itself."""

        def __init__(self) -> None:
            super().__init__()
            place = self.observation_space["achieved_goal"]
            parts = {"speed": place, "load": spaces.Box(0, 9, (1,), np.float64)}
            own = {"observation": spaces.Dict(OrderedDict(parts)), "battery": parts["load"]}
            goals = {"desired_goal": place, "achieved_goal": place}
            self.observation_space = spaces.Dict(OrderedDict({**own, **goals}))

        def _seen(self) -> dict[str, Any]:
            goals = {"achieved_goal": self.place, "desired_goal": self.desired}
            own = {"speed": np.array([5.0, 6.0]), "load": np.array([7.0])}
            return {**goals, "battery": np.array([8.0]), "observation": own}

    gymnasium.registry["Plane-v0"].entry_point = Scrambled
    env = make_env("goal/Plane-v0")
    obs, _ = env.reset(seed=0)
    named = dict(zip(spec_of(env).obs_names or (), obs.tolist(), strict=True))
    expected = {"speed[0]": 5.0, "speed[1]": 6.0, "load[0]": 7.0}
    for label, number in {f"observation.{k}": v for k, v in expected.items()}.items():
        assert named[label] == number
    assert named["battery[0]"] == 8.0


def test_only_episodes_with_a_seed_repeat() -> None:
    starts = [make_env("goal/Plane-v0").reset()[0].tolist() for _ in range(2)]
    assert starts[0] != starts[1]
    env = make_env("goal/Plane-v0")
    seeded = [env.reset(seed=4)[0].tolist(), env.reset()[0].tolist()]
    raw = gymnasium.make("Plane-v0")
    places = [raw.reset(seed=4)[0]["achieved_goal"], raw.reset()[0]["achieved_goal"]]
    assert np.allclose([obs[:2] for obs in seeded], places)


def test_an_environment_that_fails_to_start_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> gymnasium.Env:
        raise AssertionError

    spec = gymnasium.envs.registration.EnvSpec("Broken-v0", entry_point=broken)
    monkeypatch.setitem(gymnasium.registry, "Broken-v0", spec)
    with pytest.raises(ValueError, match=r"cannot be made: AssertionError\(\) in .*line"):
        make_env("gym/Broken-v0")


def test_what_a_goal_does_not_show_makes_no_difference() -> None:
    model = GoalModel(4, 2, GoalModelConfig(), goal_dim=2)
    model.fit(torch.randn(100, 4) + 5.0)
    goals = torch.randn(6, 4)
    hidden = torch.cat([goals[:, :2], torch.full((6, 2), torch.nan)], -1)
    assert torch.equal(model.encode_goal(goals), model.encode_goal(hidden))
    assert not torch.allclose(model.encode_goal(goals), model.encode_goal(goals + 1.0))
    whole = GoalModel(4, 2, GoalModelConfig())
    assert torch.equal(whole.encode_goal(goals), whole.encode(goals))


def test_from_collection_to_control(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="datasets need it: telic[goals]")
    place = (f"datasets={tmp_path}", "episodes=80", "steps=25", "seed=1")
    assert telic("collect", "env=goal/Plane-v0", *place).code == 0
    data = tmp_path / "Plane-v0-smooth-random-v0"
    assert (data / "coverage.png").is_file()
    words = (
        "env=goal/Plane-v0",
        f"data={data}",
        "train.objective=goal",
        f"runs={tmp_path}",
        "name=run",
        "model.hidden_dim=64",
        "model.latent_dim=8",
        "loss.compile=false",
        "train.updates=600",
        "train.eval_every=600",
        "wandb.mode=disabled",
    )
    assert "recorded episodes with states" in telic("train", *words, "goal.source=ahead").error
    trained = telic("train", *words)
    assert trained.code == 0, trained.err
    shown = telic("control", f"run={tmp_path / 'run'}", "episodes=8", "plan_plot=true")
    assert shown.code == 0, shown.err
    assert shown.out.count("goal reached after") == 8, shown.out
    refused = telic("control", f"run={tmp_path / 'run'}", "goal.source=random")
    assert "recorded episodes with states" in refused.error
