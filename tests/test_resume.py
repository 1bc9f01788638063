"""Killed, interrupted, extended: what goes on equals what was never stopped, bit for bit."""

import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import (
    DEBUG,
    Result,
    assert_same_training,
    json_rows,
    start_telic,
    telic,
    tree,
    wait_for,
    wandb_rows,
)

from envs import RenderingUnavailable, select_gl_backend
from scripts.collector import read_episode
from scripts.settings import Settings, load
from scripts.training import TrainingRun
from world_models import latest_checkpoint, load_checkpoint, save_checkpoint

# 130 control steps in episodes of 30; checkpoints and rows of losses in mid-episode.
SIZES = {
    "env.episode_frames": 60,
    "train.frames": 260,
    "train.random_steps": 40,
    "train.eval_every": 150,
    "train.eval_episodes": 1,
    "train.checkpoint_every": 70,
    "train.log_every": 7,
}
OPTIONS = (*DEBUG, *(f"{key}={value}" for key, value in SIZES.items()))
CEM = ("planner=cem", "planner.samples=16", "planner.policy_samples=4", "planner.elites=4")
ICEM = ("planner=icem", *CEM[1:])
REPLAN = (*CEM, "agent.replan_every=3")
CARTPOLE = (*CEM, "env=gym/CartPole-v1", "env.action_repeat=2")  # discrete, and it terminates
# Three environments; those of CartPole differ in how far their episodes have come.
BESIDE = (*CEM, "train.num_envs=3", "train.processes=true")
CARTPOLES = (*CARTPOLE, "train.num_envs=3")
PIXELS = (*CEM, "env.obs=pixels")
# Episodes of 30 as well, but cut in the middle of the environments'; the third goes on whole.
CUT = (*CEM, "env.episode_frames=120", "train.episode_share=0.5", "train.whole_after=0.5")
CUTS = (*CUT, "train.whole_after=1", "train.num_envs=3")
EVICT = (*CEM, "replay.capacity=70", "train.keep_checkpoints=1")


def train(folder: Path, *options: str) -> Result:
    return telic("train", *OPTIONS, f"runs={folder.parent}", f"name={folder.name}", *options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`whole(*options)`: an uninterrupted run, trained once per module."""
    made: dict[tuple[str, ...], Path] = {}

    def make(*options: str) -> Path:
        if options not in made:
            made[options] = tmp_path_factory.mktemp("whole") / "run"
            assert train(made[options], *options).code == 0
        return made[options]

    return make


def send(number: int, times: int = 1) -> None:
    for _ in range(times):
        os.kill(os.getpid(), number)


def stop_at(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Press Ctrl-C in this process in the course of control step `steps`."""
    advance = TrainingRun.advance

    def interrupted(run: TrainingRun) -> dict[str, float]:
        if run.steps == steps:
            send(signal.SIGINT)
        return advance(run)

    monkeypatch.setattr(TrainingRun, "advance", interrupted)


@pytest.mark.parametrize(
    ("step", "options"),
    [
        (0, CEM),  # the first step
        (23, CEM),  # random actions, mid-episode
        (29, CEM),  # the step that ends an episode
        (39, CEM),  # the last step before the first updates
        (75, CEM),  # mid-episode, between rows of losses
        (75, ICEM),  # the elites of the last plan are handed to the next one
        (82, REPLAN),  # mid-plan, so that the next row of losses describes a plan of before
        (23, CARTPOLE),
        (75, CARTPOLE),
        (24, BESIDE),
        (75, BESIDE),
        (75, CARTPOLES),
        (29, CUT),
        (75, CUT),
        (75, CUTS),
        (75, PIXELS),
        (95, EVICT),  # the replay has dropped its oldest episodes
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Callable[..., Path],
    step: int,
    options: tuple[str, ...],
) -> None:
    if options is PIXELS:
        try:
            select_gl_backend()
        except RenderingUnavailable as error:
            pytest.skip(str(error))
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        stopped = train(folder, *options)
    assert stopped.code == 130 and stopped.err == ""
    count = 3 if "train.num_envs=3" in options else 1
    assert (
        f"interrupted at {2 * (step + count)} env frames, everything saved; go on: " in stopped.out
    )
    assert telic("train", f"resume={folder}").code == 0
    assert_same_training(folder, whole(*options))


def test_a_resume_with_shorter_episodes_keeps_the_one_in_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is longer than those to come already, and ends with the next control step."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 24)
        assert train(folder, *CEM).code == 130
    resumed = telic("train", f"resume={folder}", "train.episode_share=0.5")
    assert resumed.code == 0 and resumed.err == "", resumed
    lengths = [read_episode(folder / "episodes", index).steps for index in range(3)]
    assert lengths == [26, 15, 15]


def test_the_number_of_environments_cannot_change(whole: Callable[..., Path]) -> None:
    for options, count in ((BESIDE, 2), (CEM, 3)):
        run = telic(
            "train", f"resume={whole(*options)}", "train.frames=999", f"train.num_envs={count}"
        )
        held = 3 if options is BESIDE else 1
        assert run.code == 2
        assert run.error == f"a training with train.num_envs={held} cannot go on with {count}"


def test_a_training_of_before_averages_cannot_go_on_but_is_taken_as_it_is(
    tmp_path: Path, whole: Callable[..., Path]
) -> None:
    folder = Path(shutil.copytree(whole(*CEM), tmp_path / "run"))
    path = latest_checkpoint(folder / "checkpoints")
    old = load_checkpoint(path)
    del old.tensors["learner"]
    save_checkpoint(path, old.tensors, old.meta)
    run = telic("train", f"resume={folder}", "train.frames=999")
    assert run.code == 2
    assert f"{folder} was trained by an earlier version, which kept no average" in run.error
    assert telic("control", f"run={folder}", "planner=policy").code == 0


@pytest.mark.parametrize("alone", ["train.processes=false", "train.overlap=false"])
def test_processes_and_threads_of_their_own_change_nothing_but_time(
    tmp_path: Path, whole: Callable[..., Path], alone: str
) -> None:
    assert train(tmp_path / "run", *BESIDE, alone).code == 0
    assert_same_training(tmp_path / "run", whole(*BESIDE))


def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, whole: Callable[..., Path]
) -> None:
    folder = tmp_path / "run"
    process = start_telic("train", *OPTIONS, f"runs={tmp_path}", "name=run")
    with process:
        # Past the first updates, and past the checkpoint that the resumed run starts from.
        wait_for(lambda: (folder / "checkpoints" / "000000140").is_dir(), process)
        wait_for(lambda: '"frames": 154' in (folder / "metrics.jsonl").read_text(), process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert telic("train", f"resume={folder}").code == 0
    assert_same_training(folder, whole())


def test_killed_before_its_first_checkpoint_it_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., Path]
) -> None:
    """Such as while W&B starts, which may take a minute."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("scripts.train.MetricsLogger", lambda *_: send(signal.SIGINT, times=2))
        assert train(folder, *CEM).code == 130
    assert tree(folder / "checkpoints") == {}
    assert telic("train", f"resume={folder}").code == 0
    assert_same_training(folder, whole(*CEM))


def test_ctrl_c_of_a_terminal_saves_everything_and_says_how_to_go_on(tmp_path: Path) -> None:
    options = ("--config", "debug", "wandb.mode=offline", f"runs={tmp_path}", "name=a run")
    folder = tmp_path / "a run"
    process = start_telic("train", *options, WANDB_MODE="offline")
    with process:
        wait_for(lambda: (folder / "checkpoints" / "000000200").is_dir(), process)
        os.killpg(process.pid, signal.SIGINT)  # a terminal signals children too
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == ""
    last = out.splitlines()[-1]
    found = re.fullmatch(
        r"interrupted at \d+ env frames, everything saved; go on: telic (.*)", last
    )
    assert found is not None, out
    assert telic(*shlex.split(found[1]), "wandb.mode=offline").code == 0
    frames = [row["frames"] for row in json_rows(folder)]
    assert frames[-1] == 400 and frames == sorted(frames)
    assert wandb_rows(folder) == json_rows(folder)


def test_second_ctrl_c_stops_at_once_and_the_last_checkpoint_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Callable[..., Path]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "evaluate", lambda run: send(signal.SIGINT, times=2))
        stopped = train(folder, *CEM)
    assert stopped.code == 130 and stopped.err == ""
    last = f"stopped at once; go on from the last checkpoint: telic train resume={folder}"
    assert stopped.out.splitlines()[-1] == last
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert telic("train", f"resume={folder}").code == 0
    assert_same_training(folder, whole(*CEM))


def test_finished_run_says_so_and_is_extended_by_more_frames(
    tmp_path: Path, whole: Callable[..., Path]
) -> None:
    # Rates that fall over a run depend on its length, so they stay level here.
    level = (*CEM, "loss.final_lr=1", "train.final_exploration=1")
    folder = tmp_path / "run"
    assert train(folder, *level, "train.frames=150").code == 0
    before = tree(folder)
    said = telic("train", f"resume={folder}")
    assert said.code == 0 and said.err == ""
    assert said.out == (
        f"{folder} has finished: 150 of 150 env frames; train longer with train.frames=300\n"
    )
    assert tree(folder) == before
    assert telic("train", f"resume={folder}", "train.frames=260").code == 0
    settings = load(Settings, [str(folder / "config.yaml")])
    assert settings.train.frames == 260 and settings.train.log_every == 7
    assert_same_training(folder, whole(*level))


def test_disk_is_bounded_by_the_replay_and_by_keep_checkpoints(whole: Callable[..., Path]) -> None:
    folder = whole(*EVICT)
    # The replay has room for two of the four episodes with their last rows.
    assert sorted(p.stem for p in (folder / "episodes").iterdir()) == ["000002", "000003"]
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["000000260"]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path, whole: Callable[..., Path]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole(*CEM), folder)
    (folder / "checkpoints" / ".000000999.new").mkdir()
    (folder / "episodes" / "000007.safetensors").write_bytes(b"torn")
    (folder / "episodes" / "000004.new").write_bytes(b"torn")
    assert telic("train", f"resume={folder}", "train.frames=300").code == 0
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["000000280", "000000300"]
    names = sorted(p.name for p in (folder / "episodes").iterdir())
    assert names == [f"{i:06d}.safetensors" for i in range(5)]
