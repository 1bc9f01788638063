"""From recorded episodes to goals: telic collect, train, control and benchmark on goal tasks."""

import json
import shutil
import signal
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cli_helpers import Result, csv_rows, repeatable, start_telic, telic, wait_for

from envs import EnvConfig, make_env, spec_of
from mpc import Plan, Planner, Problem
from scripts import offline
from scripts.benchmarks.goals import (
    ABLATIONS,
    RIVALS,
    Goals,
    GoalsSettings,
    goal_targets,
    times_to_success,
)
from scripts.benchmarks.suite import Target
from scripts.datasets import HELD_OUT, Dataset, Recorded, write_dataset
from scripts.goal_tasks import draw_goals, goal_agent, goal_task
from scripts.loading import PlannerChoice, open_goal_run
from scripts.metrics import MetricsLogger
from scripts.plots import Line
from scripts.recording import TOGETHER, AgentEpisodes, PolicyEpisodes
from scripts.run_folder import RunFolder
from scripts.settings import GoalConfig
from scripts.statistics import wilson
from world_models import Episode, latest_checkpoint, load_checkpoint

minari = pytest.importorskip("minari", reason="datasets need it: telic[goals]")

ENV = "env=goal/two-rooms"
EPISODES = 45  # of which three are held out
SIZES = (
    "model.hidden_dim=16",
    "model.latent_dim=8",
    "loss.batch_size=8",
    "loss.compile=false",
    "train.updates=40",
    "train.eval_every=20",
    "train.eval_episodes=2",
    "train.checkpoint_every=10",
    "train.log_every=10",
    "env.episode_frames=20",
    "wandb.mode=disabled",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    options = (f"episodes={EPISODES}", "steps=30", f"datasets={folder}", "policy=scripted")
    result = telic("collect", ENV, *options)
    assert result.code == 0, result.err
    path = folder / "two-rooms-scripted-v0"
    assert str(path) in result.out and f"{EPISODES} episodes, {30 * EPISODES} control" in result.out
    return path


def train(data: Path, run: Path, *options: str) -> Result:
    place = (f"runs={run.parent}", f"name={run.name}")
    return telic("train", ENV, f"data={data}", "train.objective=goal", *SIZES, *place, *options)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    result = train(data, path)
    assert result.code == 0, result.err
    assert "of 2 goals reached" in result.out and "effective rank of the latents" in result.out
    return path


def test_data_that_shows_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    older = Path(shutil.copytree(data, tmp_path / "older"))
    with h5py.File(older / "data" / "main_data.hdf5", "r+") as file:
        for episode in file.values():
            seen = episode["observations"][:, 1:]
            del episode["observations"]
            episode["observations"] = seen
    message = train(older, tmp_path / "run").error
    assert f"data={older} has observations of {seen.shape[1]} numbers" in message
    assert f"shows {seen.shape[1] + 1}; collect it again" in message
    assert not (tmp_path / "run").exists()


def test_minari_finds_what_was_collected(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data.parent))
    found = minari.load_dataset(data.name)
    assert found.total_episodes == EPISODES and found.total_steps == 30 * EPISODES
    ours = list(Dataset.open(data).read())
    assert len(ours) == EPISODES
    assert np.array_equal(ours[3].episode.obs.numpy(), found[3].observations)
    assert (data / "coverage.png").stat().st_size > 10_000
    assert not [path for path in data.parent.iterdir() if path.name.startswith(".")]


def test_recorded_actions_lead_from_state_to_state(data: Path) -> None:
    env = make_env("goal/two-rooms")
    task = goal_task(env)
    for one in list(Dataset.open(data).read())[:3]:
        assert one.states is not None and len(one.states) == 31
        env.reset(seed=0, options={"state": one.states[0]})
        for t, action in enumerate(one.episode.actions.numpy()):
            obs, *_ = env.step(action)
            assert np.array_equal(obs, one.episode.obs[t + 1].numpy())
            assert np.array_equal(task.state, one.states[t + 1])


def test_a_collection_goes_on_where_it_was_stopped(data: Path, tmp_path: Path) -> None:
    options = (ENV, "policy=scripted", "steps=30", f"datasets={tmp_path}")
    parts = tmp_path / ".two-rooms-scripted-v0.parts"
    with start_telic("collect", *options, "episodes=100000") as process:
        wait_for(lambda: len(list(parts.glob("*.safetensors"))) > 5, process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "all saved; the same command goes on" in out
    for path in sorted(parts.glob("*.safetensors"))[30:]:
        path.unlink()
    assert "other options" in telic("collect", *options, "seed=2", "episodes=45").error
    assert telic("collect", *options, f"episodes={EPISODES}").code == 0
    again = Dataset.open(tmp_path / data.name)
    for one, other in zip(Dataset.open(data).read(), again.read(), strict=True):
        assert torch.equal(one.episode.obs, other.episode.obs)
        assert torch.equal(one.episode.actions, other.episode.actions)


@pytest.mark.parametrize(
    ("policy", "other"),
    [
        ("scripted", "env.episode_frames=20"),
        ("agent", "env.episode_frames=15"),
        ("agent", "agent.exploration=0.01"),
    ],
)
def test_a_collection_does_not_go_on_with_other_options(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, other: str
) -> None:
    source = ("planner=policy", f"run={run}") if policy == "agent" else (ENV,)
    words = (*source, f"policy={policy}", "episodes=2", "steps=3", f"datasets={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr("scripts.collect.write_dataset", interrupt)
        assert telic("collect", *words).code == 130
    parts = tmp_path / f".two-rooms-{policy}-v0.parts"
    assert "collected with other options" in telic("collect", *words, other).error
    # Notes of earlier versions did not tell.
    note = parts / "facts.json"
    facts = json.loads(note.read_text())
    for key in ("agent", "episode_frames", "task"):
        facts.pop(key, None)
    note.write_text(json.dumps(facts))
    assert telic("collect", *words).code == 0


def test_a_record_in_blocks_is_what_blocks_of_actions_do(data: Path) -> None:
    env = make_env(EnvConfig("goal/two-rooms", action_block=4))
    fine = next(Dataset.open(data).read())
    one = next(Dataset.open(data).read(action_block=4))
    assert one.states is not None and fine.states is not None
    assert one.episode.steps == 30 // 4 and one.episode.actions.shape == (7, 8)
    assert np.array_equal(one.states, fine.states[:29:4])
    obs, _ = env.reset(seed=0, options={"state": one.states[0]})
    for t, action in enumerate(one.episode.actions.numpy()):
        assert np.array_equal(obs, one.episode.obs[t].numpy())
        obs, *_ = env.step(action)
        assert np.array_equal(goal_task(env).state, one.states[t + 1])
    assert np.array_equal(obs, one.episode.obs[-1].numpy())


def test_episodes_shorter_than_a_block_are_left_out(data: Path, tmp_path: Path) -> None:
    whole = list(islice(Dataset.open(data).read(), 6))
    lengths = (30, 3, 30, 4, 1, 30)
    cut = [shortened(one, steps) for one, steps in zip(whole, lengths, strict=True)]
    spec, facts = spec_of(make_env("goal/two-rooms")), {**Dataset.open(data).facts}
    dataset = write_dataset(tmp_path / "cut", spec, facts, cut)
    assert [one.episode.steps for one in dataset.read()] == list(lengths)
    blocks = list(dataset.read(action_block=4))
    assert [one.episode.steps for one in blocks] == [7, 7, 1, 7]
    for one, again in zip(blocks, (cut[i].in_blocks(4) for i in (0, 2, 3, 5)), strict=True):
        assert torch.equal(one.episode.actions, again.episode.actions)
        assert torch.equal(one.episode.obs, again.episode.obs)
    for pair in draw_goals(GoalConfig(source="random"), blocks, 30, seed=0):
        assert pair is not None and not any(
            (pair["goal"] == state).all() for i in (1, 4) for state in states_of(cut[i])
        )
    with pytest.raises(ValueError, match="no episode as long as one control step of 31 actions"):
        list(dataset.read(action_block=31))


def shortened(one: Recorded, steps: int) -> Recorded:
    """The first control steps of an episode."""
    kept, episode = slice(steps + 1), one.episode
    parts = (episode.obs[kept], episode.actions[:steps], episode.rewards[:steps], False)
    return Recorded(Episode(*parts), states_of(one)[kept])


def states_of(one: Recorded) -> Any:
    assert one.states is not None
    return one.states


def test_a_model_of_blocks_is_trained_and_controls(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "blocks"
    result = train(data, run, "env.action_block=3", "loss.horizon=3")
    assert result.code == 0, result.err
    assert "6 actions" in result.out
    shown = telic("control", f"run={run}", "goal.source=ahead", "goal.ahead=4")
    assert shown.code == 0, shown.err
    assert "control steps" in shown.out
    refused = telic("control", f"run={run}", "env.action_block=1")
    assert "action_dim 6, not 2" in refused.error
    assert "action_block is for training" in telic("collect", ENV, "env.action_block=2").error


def test_every_episode_has_its_own_random_numbers() -> None:
    episodes = PolicyEpisodes(EnvConfig("goal/two-rooms"), 20, 1, "smooth-random")
    (one,), (other,), (again,) = (episodes.record(index) for index in (0, 1, 0))
    assert not torch.equal(one["actions"], other["actions"])
    assert torch.equal(one["obs"], again["obs"]) and torch.equal(one["actions"], again["actions"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("policy=expert",), "policy must be one of smooth-random, random, scripted, agent"),
        (("policy=agent",), "run and policy=agent need each other: run=runs/<name>"),
        (("planner=cem",), "planner is an option of policy=agent run=..."),
        (("episodes=0",), "episodes must be at least 1"),
        (("env=dmc/cartpole-swingup", "policy=scripted"), "has no scripted policy"),
    ],
)
def test_collections_that_make_no_sense_are_refused(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in telic("collect", ENV, f"datasets={tmp_path / 'x'}", *options).error
    assert not (tmp_path / "x").exists()


def test_what_an_agent_meets_is_recorded_and_trained_on(
    data: Path, run: Path, tmp_path: Path
) -> None:
    options = ("policy=agent", f"run={run}", "planner=cem", "planner.iterations=1", "steps=8")
    count, path = TOGETHER + 3, tmp_path / "two-rooms-agent-v0"
    result = telic("collect", *options, f"episodes={count}", f"datasets={tmp_path}")
    assert result.code == 0, result.err
    together = f"data={data}+{path}"
    assert together in result.out.replace("\n", "")
    dataset = Dataset.open(path)
    episodes, env = list(dataset.read()), make_env("goal/two-rooms")
    assert len(episodes) == count
    for one in (episodes[0], episodes[-1]):
        assert one.states is not None and 1 <= one.episode.steps <= 8
        env.reset(seed=0, options={"state": one.states[0]})
        for t, action in enumerate(one.episode.actions.numpy()):
            obs, *_ = env.step(action)
            assert np.array_equal(obs, one.episode.obs[t + 1].numpy())
    about = {key: dataset.facts[key] for key in ("policy", "run", "updates", "planner")}
    planner = {"name": "cem", "iterations": 1}
    assert about == {"policy": "agent", "run": str(run), "updates": 40, "planner": planner}

    both = tmp_path / "both"
    words = (ENV, together, "train.objective=goal", f"runs={tmp_path}", "name=both")
    trained = telic("train", *words, *SIZES)
    assert trained.code == 0, trained.err
    kept = EPISODES - len(range(0, EPISODES, HELD_OUT))
    windows = kept * (30 - 4) + sum(max(0, one.episode.steps - 4) for one in episodes)
    assert f"{windows} windows of" in trained.out.replace("\n", " ")
    for source in ("random", "ahead"):
        shown = telic("control", f"run={both}", f"goal.source={source}", "plan_plot=false")
        assert shown.code == 0, shown.err


def test_an_agent_begins_where_its_model_was_trained_and_takes_turns_with_noise(
    run: Path,
) -> None:
    changes = {"goal": {"source": "random"}, "agent": {"exploration": 0.01}}
    loaded = open_goal_run(str(run), None, "cpu", changes)
    planner = loaded.make_planner("policy", {})
    episodes = AgentEpisodes(loaded, planner, 4, 1)
    one, again, other = (episodes.record(first) for first in (0, 0, TOGETHER))
    paths = [path.states for path in loaded.held_out()]
    seen = {tuple(state) for path in paths if path is not None for state in path}
    assert seen and not any(tuple(e["states"][0].tolist()) in seen for e in one)
    for a, b in zip(one, again, strict=True):
        assert torch.equal(a["actions"], b["actions"]) and torch.equal(a["obs"], b["obs"])
    assert not torch.equal(one[0]["obs"][0], other[0]["obs"][0])

    settings, model = loaded.settings, loaded.trained.model
    starts = [e["obs"][0].numpy() for e in other]
    goals = np.stack([goal_seen(env) for env in episodes.envs])  # of the last ones recorded
    agent = goal_agent(model, planner, settings.agent, settings.goal, goals)
    quiet, _ = agent.act(np.stack(starts), agent.start(0))
    begun = [i for i, e in enumerate(other) if len(e["actions"])]
    noise = [np.abs(other[i]["actions"][0].numpy() - quiet[i]).max() for i in begun]
    assert len(begun) > TOGETHER / 2 and max(noise) < 0.1
    assert [amount < 1e-5 for amount in noise] == [i % 2 == 0 for i in begun]


def goal_seen(env: Any) -> Any:
    task = env.unwrapped
    return task.restore(task.goal)


def test_a_dataset_is_never_overwritten(data: Path) -> None:
    before = (data / "telic.json").read_bytes()
    options = ("policy=scripted", f"datasets={data.parent}")
    assert "exists already; choose another name=" in telic("collect", ENV, *options).error
    assert (data / "telic.json").read_bytes() == before


def test_a_training_on_data_goes_on_bit_for_bit(data: Path, run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    assert train(data, stopped, "train.updates=40").code == 0
    # As if it had been killed after update 20: the rows past it are dropped.
    shutil.rmtree(stopped / "checkpoints" / "000000040")
    newest = latest_checkpoint(stopped / "checkpoints")
    assert newest.name == "000000030"
    result = telic("train", f"resume={stopped}")
    assert result.code == 0 and "updates 30 to 40" in result.out
    assert_same_training(run, stopped)


def assert_same_training(one: Path, other: Path) -> None:
    a, b = (load_checkpoint(latest_checkpoint(path / "checkpoints")) for path in (one, other))
    for group, tensors in a.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, b.tensors[group][name]), f"{group}/{name}"
    assert list(map(repeatable, csv_rows(one))) == list(map(repeatable, csv_rows(other)))


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_training_on_data_killed_before_its_first_checkpoint_begins_anew(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("scripts.train.MetricsLogger", interrupt)
        assert train(data, stopped).code == 130
    result = telic("train", f"resume={stopped}")
    assert result.code == 0 and "updates 0 to 40" in result.out
    assert_same_training(run, stopped)


def test_metrics_are_counted_in_updates(run: Path) -> None:
    rows = csv_rows(run)
    assert next(iter(rows[0])) == "updates" and rows[-1]["updates"] == "40"
    assert float(rows[0]["train/effective_rank"]) > 1.0
    assert (run / "plots" / "learning_curve.png").is_file()


def test_a_picture_stands_beside_its_row_and_rates_are_of_their_own_episodes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    drawn: list[Line] = []
    log = MetricsLogger.log

    def note(metrics: MetricsLogger, row: dict[str, float], done: int) -> None:
        seen.extend(key for key in row if key == "eval/success")
        log(metrics, row, done)

    monkeypatch.setattr(MetricsLogger, "log", note)
    monkeypatch.setattr(MetricsLogger, "log_picture", lambda *_: seen.append("picture"))
    monkeypatch.setattr(offline, "success_curve", lambda _, lines, __: drawn.extend(lines))
    assert train(data, tmp_path / "run", "train.updates=4", "train.eval_every=2").code == 0
    assert seen == ["picture", "eval/success"] * 2
    more = ("train.updates=6", "train.eval_episodes=3")
    assert telic("train", f"resume={tmp_path / 'run'}", *more).code == 0
    last, counts = drawn[-1], (2, 2, 3)
    assert last.x == [2, 4, 6] and last.high is not None
    for rate, high, count in zip(last.y, last.high, counts, strict=True):
        assert high == wilson(round(rate * count), count).high

    # Rows of earlier versions do not say how many there were.
    class Earlier:
        def column(self, name: str) -> tuple[list[int], list[float]]:
            return ([2], [0.5]) if name == "eval/success" else ([], [])

        log_picture = staticmethod(lambda *_: None)

    state: Any = SimpleNamespace(
        envs=[None] * 4, steps=4, folder=RunFolder(tmp_path), spec=SimpleNamespace(name="task")
    )
    row, metrics = {"eval/success": 1.0, "eval/episodes": 4.0}, cast(Any, Earlier())
    offline.OfflineRun._draw_learning_curve(state, metrics, row)
    assert drawn[-1].low == [wilson(2, 4).low, wilson(4, 4).low]


def test_other_data_is_refused(data: Path, run: Path, tmp_path: Path) -> None:
    other = telic("collect", ENV, "episodes=40", "steps=30", f"datasets={tmp_path}")
    assert other.code == 0
    wrong = tmp_path / "two-rooms-smooth-random-v0"
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text().replace(str(data), str(wrong))
    (copy / "config.yaml").write_text(config)
    message = telic("train", f"resume={copy}", "train.updates=50").error
    assert f"{wrong} is not the data that {copy} was trained on" in message
    message = telic(
        "train", "env=goal/two-rooms", "env.action_repeat=2", f"data={data}", "train.objective=goal"
    ).error
    assert "was recorded with env.action_repeat=1, not 2" in message
    missing = telic("train", "train.objective=goal", "data=/nowhere", f"runs={tmp_path}").error
    assert "/nowhere is no dataset; make one with telic collect" in missing
    assert "train.objective must be reward or goal" in telic("train", "train.objective=gaol").error


def test_control_says_whether_the_goal_was_reached_and_draws_the_way(run: Path) -> None:
    result = telic("control", f"run={run}", "goal.source=random", "horizon=6", "plan_step=2")
    assert result.code == 0, result.err
    assert "horizon 6" in result.out and "model of 40 updates on" in result.out
    assert (
        "goal NOT reached in 20 control steps" in result.out or "goal reached after" in result.out
    )
    for name in ("episode", "plan", "path"):
        (picture,) = (run / "plots").glob(f"{name}-grasp-*.png")
        assert picture.stat().st_size > 10_000


def test_plans_in_pictures_are_shown_as_a_film(tmp_path: Path) -> None:
    pixels = (ENV, "env.obs=pixels")
    options = ("policy=scripted", "episodes=3", "steps=10", f"datasets={tmp_path}", "name=seen")
    collected = telic("collect", *pixels, *options)
    words = ("--config", "pixels", ENV, f"data={tmp_path / 'seen'}", "train.objective=goal")
    assert " ".join(words) in collected.out.replace("\n", "")
    trained = telic("train", *words, *SIZES, "train.updates=3", f"runs={tmp_path}", "name=run")
    assert trained.code == 0, trained.err
    result = telic("control", f"run={tmp_path / 'run'}", "horizon=6", "plan_step=2")
    assert result.code == 0, result.err
    (picture,) = (tmp_path / "run" / "plots").glob("film-grasp-*.png")
    assert picture.stat().st_size > 10_000 and str(picture) in result.out.replace("\n", "")


def test_commands_for_one_kind_of_run_refuse_the_other(run: Path) -> None:
    assert "was trained for goals" in telic("evaluate", f"run={run}").error
    reward = Path(__file__).parent.parent / "checkpoints" / "walker-walk"
    words = ("benchmark", "suite=goals", f"runs={reward}")
    assert "was trained for reward, not with train.objective=goal" in telic(*words).error


def test_reports_show_success_over_updates(run: Path) -> None:
    out = telic("report", f"run={run}").out
    assert "updates" in out and "success" in out and "telic benchmark suite=goals" in out


def test_an_exported_model_controls_without_data(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "shared"
    result = telic("export", f"run={run}", f"out={path}")
    assert result.code == 0 and "goal/two-rooms of 40 updates" in result.out
    shutil.copytree(path, tmp_path / "elsewhere")
    result = telic("control", f"run={tmp_path / 'elsewhere'}", "planner=policy")
    assert result.code == 0, result.err
    assert "holds an exported model" in telic("train", f"resume={path}", "train.updates=50").error


def test_goals_come_from_episodes_that_were_not_trained_on(data: Path) -> None:
    recorded = list(Dataset.open(data).read())[::HELD_OUT]
    assert len(recorded) == 3
    states = np.concatenate([one.states for one in recorded if one.states is not None])
    for source, ahead in (("random", 25), ("ahead", 7)):
        pairs = draw_goals(GoalConfig(source=source, ahead=ahead), recorded, 20, seed=0)
        again = draw_goals(GoalConfig(source=source, ahead=ahead), recorded, 20, seed=0)
        for pair, same in zip(pairs, again, strict=True):
            assert pair is not None and same is not None
            assert np.array_equal(pair["goal"], same["goal"])
            rows = [int(np.flatnonzero((states == pair[key]).all(1))[0]) for key in pair]
            if source == "ahead":
                assert rows[1] - rows[0] == ahead
    with pytest.raises(ValueError, match=r"goal\.source=ahead needs recorded .* of 500 control"):
        draw_goals(GoalConfig(source="ahead", ahead=500), recorded, 1, 0)


def test_goals_from_data_that_is_gone_are_refused_before_the_work_begins(
    run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("two-rooms-scripted-v0", "gone"))
    for words in (("control", f"run={copy}"), ("benchmark", "suite=goals", f"runs={copy}")):
        error = telic(*words, "goal.source=random").error
        assert "gone is no dataset; make one with telic collect" in error


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"closed": [], "open": []}, "closed or open must name a budget"),
        ({"closed": [], "ablations": True}, "closed must name a budget for ablations=true"),
        ({"open": [0.0]}, "open must be above 0 ms"),
    ],
)
def test_a_suite_that_would_measure_nothing_is_refused(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        GoalsSettings(runs=["run"], **options)


def test_a_dataset_too_small_to_train_on_is_refused(tmp_path: Path) -> None:
    options = ("episodes=1", "steps=30", f"datasets={tmp_path}", "name=one")
    assert telic("collect", ENV, *options).code == 0
    assert "a window takes 5 control steps" in train(tmp_path / "one", tmp_path / "run").error


def test_the_goals_suite_measures_open_and_closed_loops(run: Path, tmp_path: Path) -> None:
    options = ("planner=grasp,cem,policy", "pairs=3", "open=30", "closed=20", "spans=4", "most=3")
    words = ("benchmark", "suite=goals", f"runs={run}", *options, "horizons=3", f"out={tmp_path}")
    first = telic(*words, "trials=1")
    assert first.code == 0, first.err
    found = json.loads((tmp_path / "goals.json").read_text())
    assert len(found["cells"]) == 6
    for row in found["cells"]:
        assert len(row["result"]["reached"]) == 3
        cold = row["cell"]["kind"] == "open"
        assert len(row["result"]["promised"]) == (3 if cold else 0)
    text = (tmp_path / "goals.md").read_text()
    assert "### closed loop, 20 ms per decision" in text and "in the model" in text
    assert "replanned every control step with warm_start=all" in text
    assert f"written to {tmp_path}: goals.md, goals.json and goals*.png" in first.out
    assert list(tmp_path.glob("goals-1-*.png"))
    again = telic(*words, "trials=1")
    assert "6 of 6 cells are finished already" in again.out


def test_plans_are_timed_as_they_are_made_in_episodes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans that are executed for several control steps may take longer to choose."""
    made: set[tuple[str, int, int]] = set()
    plan = Planner.plan

    def watched(self: Planner[Any], problem: Problem, *rest: Any) -> Plan:
        made.add((kind, problem.batch, problem.executed))
        return plan(self, problem, *rest)

    monkeypatch.setattr(Planner, "plan", watched)
    suite = Goals(
        GoalsSettings("goals", runs=[str(run)], pairs=2, most=1, trials=2, spans=[4], open=[20.0]),
        PlannerChoice(["gradient"], {}),
        {"agent": {"replan_every": 3}},
    )
    for cell in suite.cells():
        kind = cell.key["kind"]
        cell.measure()
    assert made == {("closed", 1, 3), ("closed", 2, 3), ("open", 1, 4), ("open", 2, 4)}
    protocol = suite.report([]).protocol
    assert "replanned every 3 control steps with" in protocol
    assert protocol.endswith(" Options: `agent.replan_every=3`.")


def test_goals_lie_as_far_ahead_as_plans_are_long(run: Path) -> None:
    settings = {"open": [30.0], "closed": [20.0], "spans": [2, 5], "horizons": [3], "pairs": 4}
    suite = Goals(
        GoalsSettings("goals", runs=[str(run)], spans_ahead=True, **settings),
        PlannerChoice(["grasp"], {}),
        {},
    )
    for span in (2, 5):
        task = suite.ahead[str(run), span]
        episodes = [one.states for one in task.loaded.held_out()]
        assert task.loaded.settings.goal.ahead == span and len(task.starts) == 4
        for start in task.starts:
            assert any(
                np.array_equal(states[i], start["state"])
                and np.array_equal(states[i + span], start["goal"])
                for states in episodes
                for i in range(len(states) - span)
            )
    near = suite.tasks[str(run)]
    assert near.loaded.settings.goal.source == "env", "closed loops are as they were"
    measured = {cell.key["kind"]: cell.measure.args[1] for cell in suite.cells()}
    assert measured == {"closed": near, "open": suite.ahead[str(run), 5]}


def test_ablations_change_one_thing_each(run: Path, tmp_path: Path) -> None:
    suite = Goals(
        GoalsSettings("goals", runs=[str(run)], open=[], horizons=[3], ablations=True),
        PlannerChoice(["grasp"], {}),
        {"goal": {"source": "random"}},
    )
    cells = [cell for cell in suite.cells() if cell.key["kind"] == "ablation"]
    assert [cell.key["change"] for cell in cells] == list(ABLATIONS)
    for change, options in ABLATIONS.items():
        settings = suite.opened(str(run), options).settings
        assert settings.goal.source == "random"
        for group in set(options) - {"planner"}:
            for option, value in options[group].items():
                assert getattr(getattr(settings, group), option) == value, change
    words = ("suite=goals", f"runs={run}", "pairs=2", "planner=grasp", "open=[]", "closed=20")
    short = ("horizons=3", "most=2", "trials=1", "ablations=true", f"out={tmp_path}")
    result = telic("benchmark", *words, *short)
    assert result.code == 0, result.err
    text = (tmp_path / "goals.md").read_text()
    assert all(f"\n| {change} | " in text for change in ABLATIONS)


def cell(
    planner: str, ms: float, *reached: int | None, kind: str = "open"
) -> dict[str, dict[str, object]]:
    key = {"kind": kind, "planner": planner, "horizon": 80, "ms": ms}
    return {"cell": key, "result": {"reached": list(reached), "latency_ms": [0.8 * ms]}}


def test_time_to_success_is_what_the_quickest_plan_that_sufficed_took() -> None:
    rows = [cell("grasp", 4000.0, 3, 5, None), cell("grasp", 250.0, None, 7, None)]
    assert times_to_success(rows) == [3.2, 0.2, None]


def test_targets_compare_success_and_time() -> None:
    task = "goal/pointmaze-umaze"
    rows = [cell("grasp", 250.0, *[20] * 20), cell("cem", 250.0, *[None] * 20)]
    rows += [cell("grasp", 1000.0, *[20] * 20), cell("cem", 1000.0, *[30] * 20)]
    reach, faster = goal_targets(task, rows)
    assert reach.met and faster.met and "0.200 s against 0.800 s of cem" in faster.measured
    slow = [cell("grasp", 1000.0, *[20] * 19, None), cell("cem", 1000.0, *[20] * 20)]
    reach, faster = goal_targets(task, slow)
    assert reach.met and not faster.met
    # Two plans that reach one half of the goals each are no plan that reaches them all.
    halves = [cell("grasp", 250.0, 20, None), cell("grasp", 1000.0, None, 20)]
    assert goal_targets(task, halves)[0].met is False
    # The longest plan decides: one of many budgets would reach them by luck.
    lucky = [cell("grasp", 250.0, 20, 20), cell("grasp", 1000.0, 20, None)]
    assert goal_targets(task, lucky)[0].met is False


def test_success_is_told_for_every_budget() -> None:
    rows = [cell("grasp", 25.0, 9, 9, 9, None, kind="closed")]
    rows += [cell("grasp", 200.0, 9, 9, 9, 9, kind="closed")]
    little, much = goal_targets("goal/two-rooms", rows)
    assert little.met is False and "closed loop, 25 ms: grasp reaches 95 %" in little.text
    assert little.measured.startswith("75 % (") and little.measured.endswith(" at H = 80")
    assert much.met and "closed loop, 200 ms" in much.text and "100 % (" in much.measured


def test_a_lead_is_over_the_best_of_the_others() -> None:
    def lead(**shares: int) -> Target:
        rows = [
            cell(name, 50.0, *[9] * share, *[None] * (10 - share), kind="closed")
            for name, share in shares.items()
        ]
        (target,) = goal_targets("goal/push-t", rows)
        return target

    ahead = lead(grasp=8, cem=4, gradient=6, latco=7)
    assert ahead.met and ahead.measured == "grasp 80 %, cem 40 %, gradient 60 %, latco 70 %"
    assert lead(grasp=7, cem=4, gradient=7, latco=5).met is False
    # One rival is enough to miss it, but not to meet it.
    assert lead(grasp=7, gradient=7).met is False
    assert lead(grasp=9, gradient=7).met is None
    assert lead(gradient=7).met is None


def test_a_lead_is_told_for_every_budget() -> None:
    """At equal time: what others reach with more of it does not count."""
    rows = [
        *(cell("grasp", ms, 9, 9, 9, None, kind="closed") for ms in (10.0, 50.0)),
        *(cell(name, 10.0, 9, 9, None, None, kind="closed") for name in RIVALS),
        *(cell(name, 50.0, 9, 9, 9, None, kind="closed") for name in RIVALS),
    ]
    little, much = goal_targets("goal/push-t", rows)
    assert little.met and "closed loop, 10 ms" in little.text
    assert much.met is False and "closed loop, 50 ms" in much.text
