"""`mujoco/PATH.xml`: a model of one's own with a task file, against MuJoCo stepped by hand."""

import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from cli_helpers import DEBUG, csv_rows, telic

from envs import EnvConfig, RenderingUnavailable, make_env, spec_of

EXAMPLES = Path(__file__).parents[1] / "examples"

MODEL = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body><joint name="slide" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <actuator><motor joint="slide" ctrlrange="-2 6" {more}/></actuator>
  {rest}
</mujoco>
"""
REWARD = "def reward(model, data):\n    return -abs(data.qpos[0])\n"


def write(folder: Path, task: str = REWARD, more: str = "", rest: str = "") -> str:
    """A model and its task file; returns the environment's name."""
    (folder / "box.xml").write_text(MODEL.format(more=more, rest=rest))
    (folder / "box.py").write_text(task)
    return f"mujoco/{folder / 'box.xml'}"


def play(env: gymnasium.Env[Any, Any], actions: np.ndarray) -> list[tuple[Any, ...]]:
    return [env.step(action)[:4] for action in actions]


def test_frames_are_steps_of_mujoco_and_actions_fill_the_native_range(tmp_path: Path) -> None:
    task = REWARD + "FRAME_SECONDS = 0.05\nEPISODE_FRAMES = 6\n"
    env = make_env(EnvConfig(name=write(tmp_path, task), action_repeat=2))
    spec = spec_of(env)
    assert spec.control_period == pytest.approx(0.1) and spec.episode_steps == 3
    assert (spec.action_low, spec.action_high) == ((-2.0,), (6.0,))
    assert spec.obs_names == ("qpos[0]", "qvel[0]")
    model = mujoco.MjModel.from_xml_path(str(tmp_path / "box.xml"))
    data = mujoco.MjData(model)
    env.reset(seed=0)
    steps = play(env, np.array([[-1.0], [0.0], [1.0]], np.float32))
    for control, (obs, reward, terminated, _) in zip((-2.0, 2.0, 6.0), steps, strict=True):
        data.ctrl[:], expected = control, 0.0
        for _ in range(2):
            mujoco.mj_step(model, data, nstep=5)
            expected -= abs(data.qpos[0])
        np.testing.assert_allclose(obs, [data.qpos[0], data.qvel[0]], rtol=1e-6)
        assert reward == pytest.approx(expected) and not terminated
    assert [step[3] for step in steps] == [False, False, True]


def test_any_file_name_is_an_environment_of_its_own(tmp_path: Path) -> None:
    write(tmp_path)
    ids = set()
    for name in ("my robot", "my_robot", "größe (2)", "other/my robot"):
        file = tmp_path / f"{name}.xml"
        file.parent.mkdir(exist_ok=True)
        for ending in (".xml", ".py"):
            shutil.copy(tmp_path / f"box{ending}", file.with_suffix(ending))
        env = make_env(f"mujoco/{file}")
        assert env.unwrapped.spec is not None
        ids.add(env.unwrapped.spec.id)
    assert len(ids) == 4
    checked = telic("check-env", f"env=mujoco/{tmp_path / 'my robot.xml'}")
    assert checked.code == 0, checked


def test_a_collection_does_not_go_on_with_another_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("minari", reason="datasets need it: telic[goals]")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    name = write(tmp_path)
    shutil.copy(tmp_path / "box.py", tmp_path / "other.py")
    words = (f"env={name}", "episodes=1", "steps=2", f"datasets={tmp_path}", "name=data")
    with monkeypatch.context() as patch:
        patch.setattr("scripts.collect.write_dataset", interrupt)
        assert telic("collect", *words).code == 130
    other = telic("collect", *words, f"env.task={tmp_path / 'other.py'}")
    assert "collected with other options" in other.error
    assert telic("collect", *words).code == 0


def test_the_task_sees_action_and_state_and_ends_the_episode(tmp_path: Path) -> None:
    task = (
        "OBSERVATION_NAMES = ('place',)\n"
        "def reset(model, data, rng):\n    data.qpos[0] = rng.uniform(1.0, 2.0)\n"
        "def observation(model, data):\n    return [data.body(1).xpos[0]]\n"
        "def reward(model, data):\n    return data.ctrl[0]\n"
        "def terminated(model, data):\n    return data.qpos[0] > 2.5\n"
    )
    env = make_env(write(tmp_path, task))
    assert spec_of(env).obs_names == ("place",)
    starts = [env.reset(seed=seed)[0].item() for seed in (1, 2, 1)]
    assert starts[0] == starts[2] != starts[1] and 1.0 <= min(starts) <= max(starts) <= 2.0
    found = env.step(np.ones(1, np.float32))
    assert found[1] == 6.0 and not found[2]
    while not found[2]:
        found = env.step(np.ones(1, np.float32))
    assert 2.5 < found[0].item() < 2.6 and not found[3]


def test_task_files_may_hold_dataclasses_with_annotations_as_text(tmp_path: Path) -> None:
    """Dataclasses look their module up by its name, which two files of one name must not share."""
    task = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Weights:\n    push: float = {push}\n"
        "def reward(model, data):\n    return Weights().push\n"
    )
    envs, modules = [], []
    for push in (2.0, 3.0):
        folder = tmp_path / str(push)
        folder.mkdir()
        env = make_env(write(folder, task.format(push=push)))
        env.reset(seed=0)
        envs.append(env)
        native: Any = env.unwrapped
        modules.append(sys.modules[native.task.Weights.__module__])
        assert modules[-1] is native.task
    assert modules[0] is not modules[1]
    assert [env.step(np.zeros(1, np.float32))[1] for env in envs] == [2.0, 3.0]


def test_only_episodes_with_a_seed_repeat(tmp_path: Path) -> None:
    task = REWARD + "def reset(model, data, rng):\n    data.qpos[0] = rng.random()\n"
    name = write(tmp_path, task)
    starts = [make_env(name).reset()[0][0] for _ in range(2)]
    assert starts[0] != starts[1]
    env, rng = make_env(name), np.random.default_rng(5)
    assert env.reset(seed=5)[0][0] == np.float32(rng.random())
    assert env.reset()[0][0] == np.float32(rng.random())


def test_an_episode_begins_at_the_first_keyframe(tmp_path: Path) -> None:
    env = make_env(write(tmp_path, rest='<keyframe><key qpos="0.7" qvel="-1"/></keyframe>'))
    np.testing.assert_allclose(env.reset(seed=3)[0], [0.7, -1.0], rtol=1e-6)


def test_diverged_physics_truncates_with_the_last_sound_observation(tmp_path: Path) -> None:
    task = "def reward(model, data):\n    return 1.0\n"
    env = make_env(write(tmp_path, task, more='gear="1e9"'))
    seen, _ = env.reset(seed=0)
    for _ in range(1000):
        obs, reward, terminated, truncated, info = env.step(np.ones(1, np.float32))
        if truncated:
            break
        seen = obs
    assert truncated and not terminated and reward == 0.0
    assert info["physics_error"] == "the simulation became unstable"
    np.testing.assert_array_equal(obs, seen)
    assert np.isfinite(env.reset(seed=0)[0]).all() and env.step(np.zeros(1, np.float32))[3] is False


@pytest.mark.parametrize("integrator", ["Euler", "RK4", "implicitfast"])
def test_what_the_task_reads_belongs_to_the_new_state(tmp_path: Path, integrator: str) -> None:
    task = (
        "def observation(model, data):\n"
        "    return [data.qpos[0], data.body(1).xpos[0], data.sensordata[0]]\n"
    )
    name = write(tmp_path, REWARD + task, rest='<sensor><jointpos joint="slide"/></sensor>')
    text = (tmp_path / "box.xml").read_text()
    (tmp_path / "box.xml").write_text(text.replace("0.01", f'0.01" integrator="{integrator}'))
    env = make_env(name)
    env.reset(seed=0)
    for obs, *_ in play(env, np.ones((5, 1), np.float32)):
        assert obs[0] != 0.0 and obs[0] == obs[1] == obs[2]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("", "box.py must define reward(model, data)"),
        ("reward = 3\n", "box.py must define reward(model, data)"),
        ("def reward(:\n", "box.py cannot be loaded: SyntaxError: invalid syntax"),
        (
            "import no_such_module\n",
            "ModuleNotFoundError: No module named 'no_such_module' (line 1)",
        ),
        ("def reward(model, data):\n    return 1 / 0\n", "reward failed: ZeroDivisionError: "),
        ("def reward(model, data):\n    return 1 / 0\n", "division by zero (line 2)"),
        ("def reward(model, data):\n    return 'much'\n", "reward gave 'much' instead of numbers"),
        ("def reward(model, data):\n    return [1, 2]\n", "reward gave shape (2,) instead of one"),
        ("def reward(model, data):\n    return float('nan')\n", "reward gave nan, which is not"),
        (
            REWARD + "FRAME_SECONDS = 0.015\n",
            "FRAME_SECONDS = 0.015 is no multiple of the timestep",
        ),
        (REWARD + "FRAME_SECONDS = 'x'\n", "FRAME_SECONDS = 'x' is no number above 0"),
        (REWARD + "FRAME_SECONDS = -0.01\n", "FRAME_SECONDS = -0.01 is no number above 0"),
        (REWARD + "EPISODE_FRAMES = None\n", "EPISODE_FRAMES = None is no whole number above 0"),
        (REWARD + "EPISODE_FRAMES = 0\n", "EPISODE_FRAMES = 0 is no whole number above 0"),
        (REWARD + "EPISODE_FRAMES = 9.5\n", "EPISODE_FRAMES = 9.5 is no whole number above 0"),
        (
            REWARD + "def observation(model, data):\n    return 1.0\n",
            "observation gave shape () instead of (O,)",
        ),
        (
            REWARD + "OBSERVATION_NAMES = 'ab'\ndef observation(m, d):\n    return [1.0]\n",
            "there are 2 OBSERVATION_NAMES for the 1 numbers that observation gives",
        ),
    ],
)
def test_a_mistake_in_the_task_file_is_one_line(tmp_path: Path, task: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_env(write(tmp_path, task))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "box.py" in str(caught.value)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    name = write(tmp_path)
    for config, message in (
        (EnvConfig(name="mujoco/nowhere.xml"), "there is no file nowhere.xml in"),
        (EnvConfig(name=name, task="other.py"), "there is no other.py; name the task file"),
        (EnvConfig(name=name, task=str(tmp_path / "box.xml")), "its name must end in .py"),
    ):
        with pytest.raises(ValueError, match=message):
            make_env(config)
    (tmp_path / "box.xml").write_text("<mujoco><worldbody><bod/></worldbody></mujoco>")
    with pytest.raises(ValueError, match=r"box\.xml is no MuJoCo model: .*unrecognized element"):
        make_env(name)
    (tmp_path / "box.xml").write_text("<mujoco/>")
    with pytest.raises(ValueError, match="has no actuators"):
        make_env(name)
    text = MODEL.format(more="", rest="").replace('ctrlrange="-2 6"', "")
    (tmp_path / "box.xml").write_text(text)
    with pytest.raises(ValueError, match='actuator 0 has no ctrlrange; write ctrlrange="-1 1"'):
        make_env(name)


def test_the_drone_falls_without_thrust_and_flies_off_with_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    env = make_env("mujoco/examples/drone.xml")
    assert spec_of(env).obs_dim == 9 and spec_of(env).episode_steps == 200
    obs, _ = env.reset(seed=4)
    fall = [env.step(-np.ones(2, np.float32)) for _ in range(5)]
    assert fall[-1][0][3] < obs[3] and not fall[-1][2], "without thrust it sinks"
    while not (found := env.step(np.ones(2, np.float32)))[2]:
        assert 0.0 <= found[1] <= 1.0
    assert not found[3], "it leaves the room upwards"


def test_the_example_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    try:
        env = make_env("mujoco/examples/drone.xml", render=True)
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    env.reset(seed=0)
    before = env.render()
    for _ in range(5):
        env.step(-np.ones(2, np.float32))
    after = env.render()
    env.close()
    assert before.shape == (240, 320, 3) and (before != after).any()


def test_a_model_of_ones_own_is_trained_and_controlled(tmp_path: Path) -> None:
    name = write(tmp_path, REWARD + "EPISODE_FRAMES = 40\n")
    run = telic("train", *DEBUG, f"env={name}", f"runs={tmp_path}", "name=box")
    assert run.code == 0, run
    assert any(row["eval/return"] for row in csv_rows(tmp_path / "box"))
    control = telic("control", f"run={tmp_path / 'box'}", "video=false")
    assert control.code == 0, control
