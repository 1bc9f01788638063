"""The whole pipeline through the real commands, on the debug sizes."""

import json
import math
import re
import shutil
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import wandb
from cli_helpers import DEBUG, csv_rows, json_rows, telic, wandb_rows
from gymnasium.envs.classic_control import CartPoleEnv
from safetensors.torch import load_file

from agents import MPCAgent, Protocol, run_episodes
from envs import EnvConfig, EnvSpec, RenderingUnavailable, make_env, select_gl_backend
from mpc import PLANNERS
from scripts import doctor
from scripts.agent_files import describe, load_model
from scripts.collector import Unfinished, read_episode
from scripts.exploration import RandomActions
from scripts.loading import open_run
from scripts.run_folder import RunFolder
from scripts.settings import Settings, load
from scripts.stopwatch import Stopwatch
from scripts.training import EVALUATION_SEED, TrainingRun, passed
from world_models import LatentModel, ModelConfig, load_checkpoint, save_checkpoint

PNG = b"\x89PNG\r\n\x1a\n"
FEW = ("train.frames=140", "train.random_steps=40", "train.eval_every=0", "train.eval_episodes=1")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the debug run that a test may change."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def test_training_writes_config_metrics_checkpoints_episodes_and_a_curve(trained_run: Path) -> None:
    settings = load(Settings, [str(trained_run / "config.yaml")])
    assert settings.train.frames == 400 and settings.planner.name == "grasp"
    words = ["wandb.mode=offline", f"runs={trained_run.parent}", "name=debug"]
    assert asdict(settings) == asdict(load(Settings, ["debug"], words))
    assert sorted(p.name for p in (trained_run / "checkpoints").iterdir()) == [
        "000000300",
        "000000400",
    ]
    meta = load_checkpoint(trained_run / "checkpoints" / "000000400").meta
    assert (meta["frames"], meta["steps"], meta["env"]["name"]) == (
        400,
        200,
        "dmc/cartpole-swingup",
    )
    assert len(list((trained_run / "episodes").iterdir())) == 4
    assert (trained_run / "plots" / "learning_curve.png").read_bytes().startswith(PNG)


def test_evaluations_in_a_training_are_of_the_average_that_is_kept(trained_run: Path) -> None:
    """The checkpoint's model repeats them; what learning goes on with is another."""
    loaded = open_run(str(trained_run), None, "cpu", {})
    envs = [loaded.make_env() for _ in range(loaded.settings.train.eval_episodes)]
    seeds = [EVALUATION_SEED + i for i in range(len(envs))]
    records = run_episodes(loaded.make_agent("grasp", {}), envs, seeds)
    expected = csv_rows(trained_run)[-1]["eval/return"]
    assert np.mean([record.score for record in records]) == pytest.approx(float(expected))
    tensors = loaded.trained.checkpoint.tensors
    name = "head.weight"
    assert not torch.equal(tensors["model"][name], tensors["learner"][name])


def test_a_checkpoint_from_before_some_options_is_read_as_it_was(tmp_path: Path) -> None:
    absent = dict.fromkeys(("waves", "linear", "shared"), False)
    model = LatentModel(2, 1, ModelConfig(latent_dim=8, hidden_dim=8, **absent))
    spec = EnvSpec("gym/Pendulum-v1", 2, 1, 1, 0.05, 200, (-2.0,), (2.0,))
    meta = describe(model, spec, 0.9) | {"frames": 0}
    for option in absent:
        del meta["model"][option]
    save_checkpoint(tmp_path / "0", {"model": model.state_dict()}, meta)
    assert load_model(tmp_path / "0", torch.device("cpu")).model.config == model.config


def test_values_may_be_as_large_as_the_rewards_of_random_actions_ask(tmp_path: Path) -> None:
    words = ["env=gym/Pendulum-v1", "env.episode_frames=20", *FEW, "wandb.mode=disabled"]
    folder = RunFolder.create(tmp_path / "run", "{}")
    run = TrainingRun(load(Settings, ["debug"], words), folder)
    try:
        while not run.learning:
            run.advance()
        seen = run.replay.rewards.abs().max()
        assert seen > 1 and run.model.bins[-1].expm1() > 390 * seen
        assert torch.equal(run.agent.model.bins, run.model.bins)
    finally:
        run.close()


def test_updates_per_control_step_fall_to_one(tmp_path: Path) -> None:
    falls = ("train.updates_per_step=3", "train.updates_fall_after=0.75")
    settings = load(Settings, ["debug"], [*FEW, *falls, "env.episode_frames=20"])
    run = TrainingRun(settings, RunFolder.create(tmp_path / "run", "{}"))
    made: dict[bool, set[int]] = {False: set(), True: set()}
    try:
        while not run.finished:
            learned, late = run.learning, run.frames >= 105
            before = run.trainer.updates
            run.advance()
            if learned:
                made[late].add(run.trainer.updates - before)
    finally:
        run.close()
    assert made == {False: {3}, True: {1}}


def test_csv_jsonl_and_the_offline_history_of_wandb_are_the_same(trained_run: Path) -> None:
    rows = json_rows(trained_run)
    assert [row["frames"] for row in rows if "eval/return" in row] == [200, 400]
    assert [row["frames"] for row in rows if "train/loss" in row] == list(range(160, 401, 40))
    assert all(math.isfinite(value) for row in rows for value in row.values())
    plain = [{k: float(v) for k, v in row.items() if v != ""} for row in csv_rows(trained_run)]
    assert plain == rows
    assert wandb_rows(trained_run) == rows


def test_evaluate_compares_every_planner_under_one_hashed_protocol(run: Path) -> None:
    names = PLANNERS.names()
    words = (f"run={run}", f"planner={','.join(names)}", "episodes=2", "decisions=3")
    result = telic("evaluate", *words)
    assert result.code == 0 and result.err == ""
    (path,) = (run / "evaluations").iterdir()
    found = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    protocol = Protocol(**{**found["protocol"], "seeds": tuple(found["protocol"]["seeds"])})
    assert protocol.hash == found["protocol_hash"] and protocol.hash in path.name
    assert (protocol.episode_steps, len(protocol.seeds)) == (50, 2)
    assert f"protocol {protocol.hash}; written to {path}" in result.out
    assert [score["planner"] for score in found["scores"]] == names
    for score in found["scores"]:
        assert len(score["returns"]) == 2 and len(score["latency_ms"]) == 3
        assert score["options"]["horizon"] == 3 and score["fallbacks"] == 0
        assert re.search(rf"^│ {score['planner']} +│", result.out, re.MULTILINE)
    assert (run / "plots" / f"planners-{path.stem}.png").read_bytes().startswith(PNG)


def test_an_evaluation_has_a_date_and_no_deadline(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    assert "deadline_ms: null" in config
    (run / "config.yaml").write_text(config.replace("deadline_ms: null", "deadline_ms: 5.0"))
    words = (f"run={run}", "planner=grasp", "episodes=1", "decisions=1")
    assert telic("evaluate", *words).code == 0
    (path,) = (run / "evaluations").iterdir()
    found = json.loads(path.read_text())
    assert found["scores"][0]["options"]["deadline_ms"] is None
    age = datetime.now(UTC) - datetime.fromisoformat(found["date"])
    assert timedelta(0) <= age < timedelta(minutes=10)


def test_evaluations_repeat_and_keep_each_other(run: Path) -> None:
    words = (f"run={run}", "planner=cem,zero", "planner.samples=32", "episodes=1", "decisions=1")
    for _ in range(2):
        result = telic("evaluate", *words)
        assert result.code == 0 and "unknown" in result.out  # the interval of one episode
    other = telic("evaluate", *words, "env.episode_frames=40")
    assert other.code == 0
    files = sorted((run / "evaluations").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    first, again, short = (json.loads(path.read_text()) for path in files)
    assert [s["returns"] for s in first["scores"]] == [s["returns"] for s in again["scores"]]
    assert first["scores"][0]["options"]["samples"] == 32
    assert first["scores"][0]["interval"]["low"] is None
    assert short["protocol"]["episode_steps"] == 20
    assert short["protocol_hash"] != first["protocol_hash"] == again["protocol_hash"]


def test_control_reports_and_draws_an_episode(run: Path) -> None:
    words = (f"run={run}", "episodes=2", "planner=cem", "planner.horizon=5", "plan_step=7")
    result = telic("control", *words)
    assert result.code == 0 and result.err == ""
    assert "dmc/cartpole-swingup with cem, horizon 5 (0.10 s)" in result.out
    assert len(re.findall(r"^return -?[\d.]+ in 50 control steps; ", result.out, re.M)) == 2
    for seed in (30_000_000, 30_000_001):
        for kind in ("episode", "plan", "iterations"):
            path = run / "plots" / f"{kind}-cem-seed{seed}.png"
            assert path.read_bytes().startswith(PNG) and str(path) in result.out
    again = telic("control", *words)
    returns = [re.findall(r"^return (\S+)", text, re.M) for text in (result.out, again.out)]
    assert returns[0] == returns[1]


def test_control_times_the_control_steps_that_make_a_plan(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    act = MPCAgent.act

    def timed(self: MPCAgent, *words: Any) -> Any:
        actions, memory = act(self, *words)
        return actions, replace(memory, seconds=0.5 if memory.age == 1 else 0.0)

    monkeypatch.setattr(MPCAgent, "act", timed)
    words = (f"run={run}", "planner=policy", "agent.replan_every=3", "plan_plot=false")
    result = telic("control", *words)
    assert result.code == 0 and "500.0 ms per decision after the first (95 % below" in result.out
    assert "16 over the control period of 20 ms" in result.out  # 17 plans, the first is cold


def test_control_draws_no_more_than_asked(run: Path) -> None:
    quiet = telic("control", f"run={run}", "planner=cem", "plan_plot=false")
    assert [line.split("/")[-1] for line in quiet.out.split() if line.endswith(".png")] == [
        "episode-cem-seed30000000.png"
    ]
    # A planner that does not iterate has nothing of that kind to show.
    result = telic("control", f"run={run}", "planner=zero")
    assert "plan-zero" in result.out and "iterations-zero" not in result.out


def test_control_writes_a_video(run: Path) -> None:
    try:
        select_gl_backend()
    except RenderingUnavailable as error:
        pytest.skip(str(error))
    result = telic("control", f"run={run}", "planner=zero", "video=true")
    assert result.code == 0 and result.err == ""
    with imageio.get_reader(run / "videos" / "zero-seed30000000.mp4") as video:
        assert video.count_frames() == 50
        assert video.get_meta_data()["fps"] == 50  # 20 ms per control step
    with imageio.get_reader(run / "videos" / "plan-zero-seed30000000.mp4") as video:
        assert video.count_frames() == 1 + 3  # a horizon of 3 control steps
        height, width, _ = video.get_data(0).shape
        assert width > 1.9 * height, "plan and episode side by side"


def test_control_and_evaluate_take_yaml(run: Path, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(
        f"run: {run}\nplanner: {{name: mppi, horizon: 4}}\nepisodes: 1\n"
    )
    result = telic("control", "--config", tmp_path / "options.yaml", "planner.horizon=2")
    assert "with mppi, horizon 2 (0.04 s)" in result.out


@pytest.mark.parametrize("env", ["gym/Pendulum-v1", "dmc/reacher-easy", "gym/InvertedPendulum-v5"])
def test_other_environments_train_and_are_controlled(tmp_path: Path, env: str) -> None:
    words = (*DEBUG, *FEW, f"env={env}", f"runs={tmp_path}", "name=run", "planner=mppi")
    trained = telic("train", *words)
    assert trained.code == 0, trained
    rows = json_rows(tmp_path / "run")
    assert rows[-1]["frames"] == 140 and "eval/return" in rows[-1]
    assert sum("train/return" in row for row in rows) >= 1
    controlled = telic("control", f"run={tmp_path / 'run'}", "planner=grasp")
    assert controlled.code == 0 and controlled.err == ""
    resumed = telic("train", f"resume={tmp_path / 'run'}", "train.frames=160")
    assert resumed.code == 0 and resumed.err == "", resumed


def test_stacked_configs_and_bundled_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 4\nplanner: random\ntrain: {frames: 20}\n")
    words = ("--config", "debug", "--config", tmp_path / "mine.yaml", "wandb.mode=disabled")
    result = telic("train", *words, f"runs={tmp_path}")
    assert result.code == 0
    assert "nothing was learned: train.frames ended before train.random_steps did" in result.out
    settings = load(Settings, [str(tmp_path / "cartpole-swingup-random-seed4" / "config.yaml")])
    assert (settings.train.frames, settings.train.random_steps) == (20, 60)
    assert "debug" in telic("list", "configs").out.split()


def test_a_training_without_rewards_says_so(tmp_path: Path) -> None:
    # A pendulum that never comes up: episodes of 50 control steps that begin far from the top.
    words = ("--config", "debug", "env=dmc/pendulum-swingup", "seed=1", "wandb.mode=disabled")
    result = telic("train", *words, f"runs={tmp_path}")
    assert result.code == 0
    assert "all rewards were 0, so all actions were random" in result.out


def test_listing_shows_what_the_registries_hold() -> None:
    text = telic("list", "planners").out
    assert all(re.search(rf"\b{name}\b", text) for name in PLANNERS.names())
    # As they are written on the command line.
    assert "compile=null" in text and not re.search("=(None|True|False)", text)
    envs = telic("list", "envs").out
    assert {"dmc/cartpole-swingup", "gym/Pendulum-v1", "mujoco/PATH.xml"} <= set(envs.split())
    assert "goal/ID (of Gymnasium, with a desired_goal)" in envs
    assert "latent_dim=64" in telic("list", "models").out


def test_choices_are_trained_controlled_and_evaluated(tmp_path: Path) -> None:
    """The debug pipeline on an environment with discrete actions that terminates."""
    run, task = tmp_path / "run", "env=gym/CartPole-v1"
    assert telic("train", *DEBUG, task, f"runs={tmp_path}", "name=run", *FEW).code == 0
    meta = load_checkpoint(run / "checkpoints" / "000000140").meta
    assert meta["env"]["choices"] == [2]
    for path in (run / "episodes").iterdir():
        episode = load_file(path)
        assert episode["terminated"]
        assert torch.equal(
            episode["actions"].sort(-1).values,
            torch.tensor([[0.0, 1.0]]).expand(len(episode["actions"]), -1),
        )
    result = telic("control", f"run={run}", "planner=grasp")
    assert result.code == 0 and "0 fallbacks" in result.out
    names = ",".join(PLANNERS.names())
    assert telic("evaluate", f"run={run}", f"planner={names}", "episodes=2").code == 0
    (file,) = (run / "evaluations").glob("*.json")
    scores = json.loads(file.read_text())["scores"]
    assert [score["planner"] for score in scores] == PLANNERS.names()
    # A pole that nobody holds falls after eight control steps at the earliest.
    assert all(8 <= value <= 100 for score in scores for value in score["returns"])


def test_doctor_and_check_env_say_ok() -> None:
    assert telic("doctor").code == 0
    choosing = telic("check-env", "env=gym/CartPole-v1")
    assert choosing.code == 0
    assert "4 observation numbers, discrete actions (2 choices), 20 ms" in choosing.out
    checked = telic("check-env", "env=gym/Pendulum-v1")
    assert checked.code == 0
    assert re.search(r"^ok +a seed reproduces an episode bit for bit", checked.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("disabled", "disabled: as WANDB_MODE or your W&B settings say"),
        (
            "offline",
            "offline: as WANDB_MODE or your W&B settings say, runs are kept for wandb sync",
        ),
        (None, "offline: no key configured, runs are kept for wandb sync"),
    ],
)
def test_doctor_tells_why_wandb_is_not_online(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str | None, told: str
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    wandb.teardown()
    assert doctor._wandb() == told
    wandb.teardown()


def test_check_env_names_an_error_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(CartPoleEnv, "step", step)
    checked = telic("check-env", "env=gym/CartPole-v1")
    assert checked.code == 1 and "Gymnasium's check_env: NotImplementedError" in checked.out


def test_stopwatch_leaves_the_first_steps_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = Stopwatch(skip=2)
    for step in range(5):
        with watch.measure("step"):
            with watch.measure("decide"):
                now[0] += 100.0 if step < 2 else 0.004
            now[0] += 0.001
        watch.count()
        now[0] += 10.0  # an evaluation between two steps
        assert (watch.milliseconds() == {}) == (step < 2)
    expected = {"decide": 4.0, "environment": 0.0, "update": 0.0, "step": 5.0}
    assert watch.milliseconds() == pytest.approx(expected)


def test_passed_finds_multiples_inside_a_control_step() -> None:
    assert [f for f in range(4, 41, 4) if passed(10, f, 4)] == [12, 20, 32, 40]
    assert not passed(0, 40, 4)


def test_an_exported_model_controls_as_its_run_does_and_cannot_be_trained(
    run: Path, tmp_path: Path
) -> None:
    assert telic("evaluate", f"run={run}", "planner=policy", "episodes=1").code == 0
    out = tmp_path / "shared"
    done = telic("export", f"run={run}", f"out={out}")
    assert done.code == 0, done.err
    assert done.out.endswith(f"telic control run={out}\n")
    kept = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    checkpoint = "checkpoints/000000400"
    (evaluation,) = (p.name for p in (run / "evaluations").iterdir())
    times = [(at / "evaluations" / evaluation).stat().st_mtime for at in (run, out)]
    assert times[0] == times[1]
    assert kept == {
        ".lock",
        "config.yaml",
        f"evaluations/{evaluation}",
        f"{checkpoint}/checkpoint.json",
        f"{checkpoint}/model.safetensors",
    }
    options = ("episodes=1", "plan_plot=false", "planner=cem")
    returns = [
        re.findall(r"return (-?[\d.]+)", telic("control", f"run={folder}", *options).out)
        for folder in (run, out)
    ]
    assert returns[0] == returns[1] and returns[0]
    assert "cannot be trained on" in telic("train", f"resume={out}", "train.frames=500").error
    again = telic("export", f"run={run}", f"out={out}")
    assert again.error == f"{out} already holds a run; choose another out="


def test_an_export_is_whole_or_not_there(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    words = ("export", f"run={trained_run}", f"out={tmp_path / 'shared'}")
    with monkeypatch.context() as patch:
        patch.setattr("scripts.export.save_checkpoint", interrupt)
        assert telic(*words).code == 130
    assert list(tmp_path.iterdir()) == []
    shutil.copytree(trained_run, tmp_path / ".shared.new")  # as of one that was killed
    assert telic(*words).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    assert not list((tmp_path / "shared" / "episodes").iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    refused = telic("export", f"run={trained_run}", f"out={tmp_path / 'mine'}")
    assert "mine holds other files" in refused.error
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]


def test_environments_side_by_side_share_plans_and_have_episodes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CartPole's episodes end at different times; each is the one that its actions lead to."""
    batches, updates = [], []
    act, update = MPCAgent.act, TrainingRun._update

    def spy(agent: MPCAgent, obs: Any, *rest: Any) -> Any:
        batches.append(len(obs))
        return act(agent, obs, *rest)

    def count(run: TrainingRun, number: int) -> Any:
        updates.append(number)
        return update(run, number)

    monkeypatch.setattr(MPCAgent, "act", spy)
    monkeypatch.setattr(TrainingRun, "_update", count)
    steps = ("train.frames=300", "train.random_steps=100", "train.eval_every=0")
    options = (*steps, "train.num_envs=4", "train.eval_episodes=1", "train.disturb_every=0")
    done = telic("train", *DEBUG, "env=gym/CartPole-v1", *options, f"runs={tmp_path}", "name=run")
    assert done.code == 0, done.err
    collecting = [size for size in batches if size > 1]
    assert collecting == [4] * 50 and updates == [5, *[4] * 50]
    env = make_env(EnvConfig(name="gym/CartPole-v1"))
    paths = sorted((tmp_path / "run" / "episodes").iterdir())
    assert len(paths) > 4
    starts = set()
    for index in range(len(paths)):
        episode = read_episode(tmp_path / "run" / "episodes", index)
        starts.add(tuple(episode.obs[0].tolist()))
        seeds = (np.random.SeedSequence((1, i)).generate_state(1)[0] for i in range(99))
        found = (s for s in seeds if np.array_equal(env.reset(seed=int(s))[0], episode.obs[0]))
        env.reset(seed=int(next(found)))
        for action, expected in zip(episode.actions, episode.obs[1:], strict=True):
            obs, _, terminated, _, _ = env.step(action.numpy())
            assert np.array_equal(obs, expected)
        assert terminated == episode.terminated
    assert len(starts) == len(paths)


def test_training_episodes_are_cut_in_the_first_half_and_evaluations_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At half of 40 control steps until each environment has made 30, in the second episode."""
    lengths = []

    def spy(*args: Any, **options: Any) -> Any:
        records = run_episodes(*args, **options)
        lengths.extend(len(record.rewards) for record in records)
        return records

    monkeypatch.setattr("scripts.training.run_episodes", spy)
    cut = ("env.episode_frames=80", "train.episode_share=0.5", "train.whole_after=0.5")
    more = (*cut, "train.num_envs=2", "train.frames=240")
    done = telic("train", *DEBUG, *FEW, *more, f"runs={tmp_path}", "name=run")
    assert done.code == 0, done.err
    assert lengths == [40]
    paths = list((tmp_path / "run" / "episodes").iterdir())
    episodes = [read_episode(tmp_path / "run" / "episodes", index) for index in range(len(paths))]
    assert [episode.steps for episode in episodes] == [20, 20, 40, 40]
    assert not any(episode.terminated for episode in episodes)
    assert len({tuple(episode.obs[0].tolist()) for episode in episodes}) == len(episodes)


def test_every_so_many_episodes_one_begins_with_random_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 50 of 100 control steps, in episodes 3 and 5; learning begins in the middle of 1."""
    asked: dict[int, list[int]] = {}
    act = RandomActions.act

    def spy(actions: RandomActions, row: int, episode: int) -> Any:
        asked.setdefault(episode, []).append(row)
        return act(actions, row, episode)

    monkeypatch.setattr(RandomActions, "act", spy)
    steps = ("train.frames=1400", "train.random_steps=150", "train.eval_every=0")
    more = ("env.episode_frames=200", "train.disturb_every=2", "train.disturbed=0.5")
    done = telic("train", *DEBUG, *steps, *more, f"runs={tmp_path}")
    assert done.code == 0, done.err
    counts = {episode: len(rows) for episode, rows in asked.items()}
    assert counts.pop(0) == 100 and counts.pop(1) == 50
    assert set(counts) <= {3, 5} and counts and all(0 < n <= 50 for n in counts.values())


def test_an_episode_without_reward_goes_on_with_random_actions_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every reward counts as none, 10 of 20 control steps are random once learning began."""
    asked: dict[int, list[int]] = {}
    act, chosen = RandomActions.act, TrainingRun._act

    def spy(actions: RandomActions, row: int, turn: int) -> Any:
        asked.setdefault(now.index, []).append(len(now.actions))
        assert turn == now.index + len(now.actions) // 10
        return act(actions, row, turn)

    def watch(run: TrainingRun) -> Any:
        nonlocal now
        now = run.collector.episodes[0]
        actions, plan = chosen(run), run.memory.warm_start
        if plan is not None and len(now.actions) in asked.get(now.index, []):
            forgotten.append(plan.known is not None and not plan.known.any())
        return actions

    now, forgotten = Unfinished(0, []), []
    monkeypatch.setattr(RandomActions, "act", spy)
    monkeypatch.setattr(TrainingRun, "_act", watch)
    monkeypatch.setattr("scripts.exploration.LITTLE", 100.0)
    steps = ("train.frames=300", "train.random_steps=50", "train.eval_every=0")
    more = ("train.disturb_every=0", "train.patience=10")
    done = telic("train", *DEBUG, *steps, *more, f"runs={tmp_path}")
    assert done.code == 0, done.err
    turns = [*range(10, 20), *range(30, 40)]
    assert asked == {0: list(range(50)), 1: turns, 2: turns}
    assert forgotten and all(forgotten), "what follows random actions must not begin with old plans"


def test_every_so_many_episodes_one_has_no_exploration_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_planned: dict[int, set[bool]] = {}
    act = TrainingRun._act

    def spy(run: TrainingRun) -> Any:
        action, plan = act(run), run.memory.plan
        if plan is not None:
            same = bool((plan.actions[0, 0].numpy() == action).all())
            as_planned.setdefault(run.collector.episodes[0].index, set()).add(same)
        return action

    monkeypatch.setattr(TrainingRun, "_act", spy)
    steps = ("train.frames=600", "train.random_steps=150", "train.eval_every=0")
    done = telic("train", *DEBUG, *steps, "train.greedy_every=3", f"runs={tmp_path}")
    assert done.code == 0, done.err
    # With noise an action may still be the planned one, at a bound.
    assert set(as_planned) == {3, 4, 5} and as_planned[3] == {True}
    assert False in as_planned[4] and False in as_planned[5]
