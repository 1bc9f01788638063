"""`telic sweep`: which trainings it makes, and what becomes of them."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import DEBUG, assert_same_training, start_telic, telic, wait_for

from scripts import sweep as module
from scripts.sweep import plan, sweep
from scripts.terminal import console
from scripts.usage import UsageError

TINY = (*DEBUG, "env=gym/Pendulum-v1", "train.frames=130", "train.eval_every=0")
RUN = "Pendulum-v1-grasp-seed1"


class Script:
    """An engine that runs nothing: jobs end after some polls with the codes that it is given."""

    def __init__(self, slots: int, codes: Sequence[int], polls: int = 3) -> None:
        self.slots, self.codes, self.polls = slots, list(codes), polls
        self.cores = 2
        self.commands: list[Sequence[str]] = []
        self.running = self.most = 0

    def start(self, command: Sequence[str], log: Path) -> Any:
        self.commands.append(command)
        self.running += 1
        self.most = max(self.most, self.running)
        code, polls = self.codes[len(self.commands) - 1], [self.polls]
        if code == 1:
            log.write_text("loading\nerror: the disk is full\n")

        class Job:
            def poll(job) -> int | None:
                polls[0] -= 1
                if polls[0]:
                    return None
                self.running -= 1
                return code

            def interrupt(job) -> None:
                raise AssertionError("nobody asked for it")

        return Job()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)


def names(*overrides: str) -> list[str]:
    return [member.name for member in plan(["debug"], overrides)]


def test_every_combination_is_a_run_with_a_name_of_its_own() -> None:
    grid = ("env=gym/Pendulum-v1,gym/CartPole-v1", "seed=1,2", "loss.lr=0.001,0.01")
    assert names(*grid) == [
        f"{env}-grasp-seed{seed}-loss.lr={lr}"
        for env in ("Pendulum-v1", "CartPole-v1")
        for seed in (1, 2)
        for lr in ("0.001", "0.01")
    ]
    assert names("env=gym/Pendulum-v1", "planner=grasp,cem", "wandb.tags=[a,b]") == [
        RUN,
        "Pendulum-v1-cem-seed1",
    ]
    assert names("env=gym/Pendulum-v1", "seed=7,8", "seed=1") == [RUN], "the last one wins"
    member = plan(["debug"], ["env=gym/Pendulum-v1", "loss.lr=0.01,0.02", "wandb.tags=[a,b]"])[1]
    assert member.settings.loss.lr == 0.02 and member.settings.wandb.tags == ["a", "b"]
    assert {"--config", "debug", "loss.lr=0.02", f"name={member.name}"} <= set(member.command)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("seed=1,", "'seed=1,' lists an empty value; write seed=a,b"),
        ("seed", "'seed' is not an option; write key=value, such as seed=1,2,3"),
        ("name=x", "name= is made by the sweep, one for each training; leave it out"),
        ("planner=grasp,cemm", "unknown planner 'cemm'; did you mean 'cem'?"),
        ("env=gym/Pendulum-v1,gym/CartPol-v1", "did you mean 'gym/CartPole-v1'?"),
        ("train.objective=goal,reward", "telic sweep trains for reward; trainings for goals begin"),
        ("train.frames=0", "train.frames must be at least 1, got 0"),
        ("workers=0", "workers must be at least 1, got 0"),
    ],
)
def test_nonsense_is_refused_before_anything_starts(
    option: str, message: str, tmp_path: Path
) -> None:
    refused = telic("sweep", *DEBUG, f"runs={tmp_path}", "env=gym/Pendulum-v1", option)
    assert message in refused.error
    assert not list(tmp_path.iterdir())


def test_slots_are_kept_and_a_failure_is_told_and_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = plan(["debug"], ["env=gym/Pendulum-v1", "seed=1,2,3,4", f"runs={tmp_path}"])
    engine = Script(2, [0, 1, 0, 0])
    assert sweep(members, engine, console()) == 1
    assert engine.most == 2
    assert len(engine.commands) == 4
    assert [m.state for m in members] == ["finished", "failed", "finished", "finished"]
    told = capsys.readouterr().out
    log = tmp_path / "Pendulum-v1-grasp-seed2.log"
    assert f"failed: Pendulum-v1-grasp-seed2 (exit code 1), see {log}\n" in told
    assert told.rstrip().endswith("error: the disk is full")


@pytest.mark.parametrize(
    ("options", "cores", "added"),
    [
        ([], 1, ["train.overlap=false"]),
        ([], 2, []),
        (["threads=2"], 2, ["train.overlap=false"]),
        (["train.overlap=true"], 1, []),
    ],
)
def test_without_a_second_core_a_training_learns_and_acts_in_turn(
    options: list[str], cores: int, added: list[str], tmp_path: Path
) -> None:
    members = plan(["debug"], ["env=gym/Pendulum-v1", f"runs={tmp_path}", *options])
    engine = Script(1, [0])
    engine.cores = cores
    assert sweep(members, engine, console()) == 0
    assert engine.commands == [[*members[0].command, *added]]


def test_a_sweep_trains_skips_what_has_finished_and_refuses_other_settings(tmp_path: Path) -> None:
    command = ("sweep", *TINY, f"runs={tmp_path}", "seed=1,2")
    done = telic(*command)
    assert done.code == 0, done.out
    assert "2 trainings, 0 of them finished before" in done.out
    assert f"finished: {RUN}, 130 env frames, return" in done.out
    alone = tmp_path / "alone"
    assert telic("train", *TINY, "name=alone", f"runs={tmp_path}").code == 0
    assert_same_training(tmp_path / RUN, alone)
    again = telic(*command)
    assert again.code == 0 and "2 of them finished before" in again.out
    refused = telic(*command, "loss.lr=0.5")
    assert f"{tmp_path / RUN} holds a run with other settings: loss.lr is 0.001" in refused.error
    # More frames are no other settings: the runs go on.
    longer = tmp_path / "longer.yaml"
    longer.write_text("train: {frames: 200, log_every: 7}\n")
    same = [*(word for word in TINY[2:] if not word.startswith("train.frames")), f"runs={tmp_path}"]
    for files, options in ((["debug"], ["train.frames=200"]), (["debug", str(longer)], [])):
        member = plan(files, [*same, *options])[0]
        assert member.state == "waiting"
        assert {f"resume={tmp_path / RUN}", "train.frames=200"} <= set(member.command)
        assert not [word for word in member.command if word.startswith(("wandb.", "device="))]
        with pytest.raises(UsageError, match=r"other settings: train\.frames is 130, not 200"):
            plan(files, [*same, *options], exact=True)
    for option in ("train.frames=100", "train.patience=3"):
        with pytest.raises(UsageError, match=f"other settings: {option.partition('=')[0]} is"):
            plan(["debug"], [*TINY[2:], f"runs={tmp_path}", option])


def test_an_interrupted_sweep_saves_and_goes_on(tmp_path: Path) -> None:
    long = (*TINY, "train.frames=100000", f"runs={tmp_path}", "seed=1,2", "workers=1")
    process = start_telic("sweep", *long)
    metrics = tmp_path / RUN / "metrics.csv"
    wait_for(metrics.exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: 2 trainings left" in out
    log = (tmp_path / f"{RUN}.log").read_text()
    assert "everything saved" in log
    members = plan(["debug"], long[2:-1])
    assert [m.state for m in members] == ["waiting", "waiting"]
    assert f"resume={tmp_path / RUN}" in members[0].command


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        plan(["debug"], ["env=gym/Pendulum-v1", f"runs={tmp_path}"])
