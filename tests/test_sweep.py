"""`telic sweep`: which trainings it makes, and what becomes of them."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import DEBUG, assert_same_training, start_telic, telic, wait_for
from omegaconf import OmegaConf

from scripts import sweep as module
from scripts.interrupts import noted_signals
from scripts.run_folder import RunFolder
from scripts.settings import Settings, load
from scripts.sweep import plan, slots, sweep
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


def test_packages_of_the_working_folder_do_not_stand_in_for_ours(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").write_text("raise SystemExit('another package')")
    (member,) = plan(["debug"], ["env=gym/Pendulum-v1", f"runs={tmp_path}"])
    command = member.command[: member.command.index("train") + 1]
    done = subprocess.run([*command, "--no"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.startswith("error: unknown argument '--no'")


def test_a_lone_training_has_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    members = plan(["debug"], ["env=gym/Pendulum-v1", "seed=1,2,3", f"runs={tmp_path}"])
    assert (slots(members, None), slots(members, 2), slots(members, 9)) == (3, 2, 3)
    members[0].state = members[1].state = "skipped"
    assert (slots(members, None), slots(members, 2)) == (1, 1)
    members[2].state = "skipped"
    assert slots(members, None) == 1


def test_a_sweep_that_fails_interrupts_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = plan(["debug"], ["env=gym/Pendulum-v1", "seed=1,2", f"runs={tmp_path}"])
    interrupted = []

    class Job:
        def poll(self) -> int | None:
            raise OSError("the terminal is gone")

        def interrupt(self) -> None:
            interrupted.append(self)

    engine = Script(2, [0, 0])
    monkeypatch.setattr(engine, "start", lambda *_: Job())
    with pytest.raises(OSError, match="the terminal is gone"):
        sweep(members, engine, console())
    assert len(interrupted) == 2


def test_a_closed_terminal_is_noted_unless_it_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with noted_signals() as seen:
            signal.raise_signal(signal.SIGHUP)
        assert seen == [signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with noted_signals() as seen:
            signal.raise_signal(signal.SIGHUP)
        assert seen == [] and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_that_runs_elsewhere_has_not_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = plan(["debug"], ["env=gym/Pendulum-v1", "seed=1,2", f"runs={tmp_path}"])
    other = RunFolder.create(members[0].folder, "")
    assert RunFolder(members[0].folder).locked and not RunFolder(members[1].folder).locked
    engine = Script(2, [0])
    assert sweep(members, engine, console()) == 1
    other.release()
    assert not RunFolder(members[0].folder).locked
    assert [m.state for m in members] == ["running elsewhere", "finished"]
    told = capsys.readouterr().out
    assert f"running elsewhere: another telic process writes {members[0].folder};" in told
    assert "failed" not in told and "all finished" not in told


def test_metrics_are_read_again_only_where_they_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (member,) = plan(["debug"], ["env=gym/Pendulum-v1", f"runs={tmp_path}"])
    assert member.reached() == (0, "")
    member.folder.mkdir()
    metrics = member.folder / "metrics.csv"
    metrics.write_text("frames,eval/return\n100,7.25\n150,\n")
    assert member.reached() == (150, "7.2 at 100")
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_column", None)
        assert member.reached() == (150, "7.2 at 100")
    metrics.write_text("frames,eval/return\n100,7.25\n200,8\n")
    assert member.reached() == (200, "8.0 at 200")


def test_runs_of_a_file_that_names_them_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nenv: gym/Pendulum-v1\n")

    def found(*options: str) -> list[str]:
        return [m.name for m in plan(["debug", str(file)], [*options, f"runs={tmp_path}"])]

    assert found("seed=1,2") == ["mine-seed=1", "mine-seed=2"]
    assert found("planner=grasp,cem", "loss.lr=0.1") == ["mine-planner=grasp", "mine-planner=cem"]
    assert found("seed=2") == ["mine"]


def test_a_file_with_an_empty_group_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n# frames: 7\nwandb: {project: '007', tags: [a]}\n")
    options = ["env=gym/Pendulum-v1", f"runs={tmp_path}"]
    (member,) = plan([str(file)], options)
    stored = OmegaConf.structured(load(Settings, [], options[:1]))
    RunFolder.create(member.folder, OmegaConf.to_yaml(stored)).release()
    (again,) = plan([str(file)], options)
    resume = [f"resume={member.folder}", "wandb.project=007", 'wandb.tags=["a"]']
    assert again.command[-3:] == resume


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for runs in (tmp_path / "file", tmp_path / "file" / "runs", Path("/proc/runs")):
        refused = telic("sweep", *DEBUG, f"runs={runs}", "env=gym/Pendulum-v1")
        assert refused.error.startswith(f"cannot write to {runs}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
