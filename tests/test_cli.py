"""The command line: help, refusals in one line that leave nothing behind, interrupts."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import DEBUG, has_control_characters, run_telic, start_telic, telic, tree, wait_for
from rich.console import Console

from agents import MPCAgent
from mpc import PLANNERS
from mpc.compilation import _warn_of_missing_compiler
from scripts.cli import COMMANDS
from scripts.run_folder import RunFolder


def test_help_and_wrong_commands_do_not_load_torch() -> None:
    code = """
import sys
from scripts.cli import main
assert (main(["--help"]), main(["trian"]), main(["train", "--seed", "3"])) == (0, 2, 2)
assert not {"torch", "numpy", "gymnasium"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done
    for name, command in COMMANDS.items():
        assert f"  {name}" in done.stdout and command.summary in done.stdout
        assert command.examples[0] in done.stdout
    assert done.stderr.splitlines()[0] == (
        f"error: unknown command 'trian'; did you mean 'train'? (commands: {', '.join(COMMANDS)})"
    )


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_explains_it(command: str) -> None:
    result = telic(command, "--help")
    assert result.code == 0 and result.err == ""
    for example in COMMANDS[command].examples:
        assert example in result.out
    assert telic(command, "-h").out == result.out


def test_help_lists_options_with_defaults_meaning_and_the_given_planner() -> None:
    text = telic("train", "planner=cem", "--config", "debug", "--help").out
    for line in (
        r"planner=cem +see `telic list planners`",
        r"planner\.elites=32\b",
        r"planner\.horizon=3 +control steps",
        r"train\.frames=400 +env frames, action repeat included",  # of the given config
        r"replay\.capacity=1000000 +control steps; memory and disk are bounded by it",
        r"resume=null +run folder: go on with it",
    ):
        assert re.search(f"^  {line}", text, re.MULTILINE), line
    assert re.search(r"^  run=\(required\) +run folder", telic("evaluate", "-h").out, re.MULTILINE)


def test_help_on_a_resume_shows_the_options_of_the_run(trained_run: Path) -> None:
    result = telic("train", f"resume={trained_run}", "train.log_every=7", "--help")
    assert result.code == 0 and result.err == ""
    for option in (f"resume={trained_run}", "train.frames=400", "train.log_every=7"):
        assert re.search(rf"^  {re.escape(option)}\b", result.out, re.MULTILINE), option


def test_an_interrupted_command_is_not_said_to_have_saved() -> None:
    assert "130 interrupted.\n" in telic("--help").out


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("evaluate", "evaluations"),
        ("evaluate", "plots"),
        ("control", "plots"),
        ("control", "videos"),
    ],
)
def test_a_run_folder_that_cannot_be_written_to_is_refused_before_the_episodes(
    trained_run: Path, tmp_path: Path, command: str, place: str
) -> None:
    folder = Path(shutil.copytree(trained_run, tmp_path / "run"))
    shutil.rmtree(folder / place, ignore_errors=True)
    (folder / place).touch()
    words = ["video=true"] if place == "videos" else []
    refused = telic(command, f"run={folder}", "planner=zero", *words)
    assert refused.error == f"cannot write to {folder / place}: Not a directory"


def test_help_of_a_training_on_data_needs_no_data() -> None:
    result = telic("train", "train.objective=goal", "--help")
    assert result.code == 0 and result.err == ""
    for line in (r"data=\(required\) +folder of the dataset", r"planner\.horizon=8 +control steps"):
        assert re.search(f"^  {line}", result.out, re.MULTILINE), line


def test_version() -> None:
    assert re.fullmatch(r"telic [\d.]+\S*\n", telic("--version").out)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ([], "no command; choose from train, sweep, collect"),
        (["contrl"], "unknown command 'contrl'; did you mean 'control'?"),
        (["train", "--seed=3"], "unknown argument '--seed=3'; options are written key=value"),
        (["train", "--config"], "argument --config: expected one argument"),
        (["train", "seed"], "'seed' is not an option; write key=value, such as seed=2"),
        (["train", "env=dmc/cartpole-swngup"], "did you mean 'dmc/cartpole-swingup'?"),
        (["train", "env=gym/FrozenLake-v1"], "FrozenLake-v1 has observation Discrete(16)"),
        (["train", "env=nowhere/x"], "environment 'nowhere/x' is unknown"),
        (["train", "planner=grap"], "unknown planner 'grap'; did you mean 'grasp'?"),
        (["train", "sed=3"], "unknown option 'sed'; did you mean 'seed'?"),
        (["train", "train.frame=3"], "did you mean 'train.frames'?"),
        (["train", "planner=cem", "planner.noise=1"], "unknown option 'planner.noise'"),
        (["train", "planner.horizon=-1"], "planner.horizon must be at least 1 control step"),
        (["train", "train.frames=0"], "train.frames must be at least 1, got 0"),
        (["train", "train.frames=many"], "train.frames must be a whole number, got 'many'"),
        (["train", "train=3"], "train is a group of options, not a value"),
        (["train", "threads=0"], "threads must be at least 1, got 0"),
        (["train", "device=cud"], "device must be auto, cpu, cuda or mps, got 'cud'"),
        (["train", "device=mps"], "device 'mps' is not available on this machine"),
        (["train", "--config", "debg"], "no config file 'debg'; did you mean 'debug'?"),
        (["train", "--config", "no.yaml"], "no config file 'no.yaml'"),
        (["train", "replay.capacity=500"], "replay.capacity must be at least 503 to hold an epi"),
        (["train", "train.whole_after=1", "replay.capacity=250"], "must be at least 253 to hold"),
        (["train", "env.episode_frames=8"], "loss.horizon must be at most the 2 control steps"),
        (["train", "agent.replan_every=4"], "agent.replan_every must be at most planner.horizon"),
        (["train", "resume=none"], "none is not a run folder: no such folder"),
        (["control"], "run=... is required"),
        (["control", "run=none"], "none is not a run folder: no such folder"),
        (["control", "run=007"], "007 is not a run folder: no such folder"),
        (["train", "resume=007"], "007 is not a run folder: no such folder"),
        (["train", "resume=007", "--help"], "007 is not a run folder: no such folder"),
        (["list", "planer"], "telic list takes one of planners, envs, models, configs, got"),
        (["doctor", "seed=3"], "telic doctor takes no options, got 'seed=3'"),
        (["check-env", "env=gym/FrozenLake-v1"], "FrozenLake-v1 has observation Discrete(16)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], refusal: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal in telic(*words).error
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["control", "episodes=0"], "episodes must be at least 1, got 0"),
        (["control", "threads=0"], "threads must be at least 1, got 0"),
        (
            ["control", "env=dmc/walker-walk"],
            "was trained on dmc/cartpole-swingup, not on dmc/walk",
        ),
        (["control", "env.action_repeat=4"], "with action_repeat 2, not 4"),
        (["control", "planner=policy,cem"], "control takes one planner; telic evaluate compares"),
        (["control", "planner=policy", "planner.samples=3"], "unknown option 'planner.samples'"),
        (["control", "planner=5"], "planner must be a name or a list of names, got 5"),
        (["control", "planner=[]"], "planner must be a name or a list of names, got []"),
        (["control", "checkpoint=none"], "no checkpoint folder none"),
        (["control", "loss.lr=1"], "unknown option 'loss'"),
        (["evaluate", "planner=cem,grap"], "unknown planner 'grap'; did you mean 'grasp'?"),
        (["evaluate", "planner.horizon=-1"], "planner.horizon must be at least 1 control step"),
        (["evaluate", "planner=cem", "planner.sample=9"], "did you mean 'planner.samples'?"),
        (["evaluate", "planner.name=null"], "must be a name or a list of names, got None"),
        (["evaluate", "planner=[cem,5]"], "must be a name or a list of names, got ['cem', 5]"),
        (["evaluate", "planner.deadline_ms=9"], "planner.deadline_ms is not for telic evaluate; u"),
        (["evaluate", "checkpoint=000040000"], "no checkpoint folder 000040000"),
        (["evaluate", "episodes=0"], "episodes must be at least 1, got 0"),
        (["evaluate", "agent.replan_every=4"], "agent.replan_every must be at most planner.hor"),
    ],
)
def test_a_mistake_about_a_run_is_one_line_and_leaves_it_alone(
    trained_run: Path, words: list[str], refusal: str
) -> None:
    before = tree(trained_run)
    assert refusal in telic(words[0], f"run={trained_run}", *words[1:]).error
    assert tree(trained_run) == before


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["planner=cem"], "planner cannot change when a run is resumed; only train, wandb, dev"),
        (["seed=2", "train.frames=800"], "seed cannot change when a run is resumed"),
        (["--config", "debug"], "planner cannot change when a run is resumed"),
        (["train.frames=-1"], "train.frames must be at least 1, got -1"),
    ],
)
def test_resume_refuses_to_change_what_must_stay(
    trained_run: Path, words: list[str], refusal: str
) -> None:
    before = tree(trained_run)
    assert refusal in telic("train", f"resume={trained_run}", *words).error
    assert tree(trained_run) == before


def test_a_folder_that_holds_a_run_is_refused(trained_run: Path) -> None:
    before = tree(trained_run)
    again = telic("train", *DEBUG, f"runs={trained_run.parent}", f"name={trained_run.name}")
    assert f"already holds a run; resume it with `telic train resume={trained_run}`" in again.error
    assert tree(trained_run) == before


def test_a_folder_that_another_process_writes_is_refused(trained_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained_run, tmp_path / "run"))
    other = RunFolder.open(folder)
    other.lock()
    before = tree(folder)
    result = telic("train", f"resume={folder}", "train.frames=800")
    assert result.error == f"{folder} is being written by another telic process"
    assert tree(folder) == before
    other.release()


@pytest.mark.parametrize("runs", ["file/runs", "/proc/runs"])
def test_an_unwritable_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert f"cannot write to {runs}/a: " in telic("train", *DEBUG, f"runs={runs}", "name=a").error
    assert tree(tmp_path) == {"file": b""}


def damage(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size - 1)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
@pytest.mark.parametrize("file", ["model.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("command", ["train", "control"])
def test_a_damaged_checkpoint_is_refused(
    trained_run: Path, tmp_path: Path, command: str, file: str, how: str
) -> None:
    folder = Path(shutil.copytree(trained_run, tmp_path / "run"))
    damage(folder / "checkpoints" / "000000400" / file, how)
    before = tree(folder)
    words = ["train.frames=800"] if command == "train" else []
    refusal = telic(command, f"{'resume' if words else 'run'}={folder}", *words).error
    assert str(folder / "checkpoints" / "000000400") in refusal
    assert re.search("is missing|is damaged|is no checkpoint", refusal)
    assert tree(folder) == before


def test_a_damaged_run_is_refused(trained_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained_run, tmp_path / "run"))
    damage(folder / "episodes" / "000001.safetensors", "truncated")
    refusal = telic("train", f"resume={folder}", "train.frames=800").error
    assert f"{folder / 'episodes' / '000001.safetensors'} is damaged" in refusal
    (folder / "config.yaml").write_text("sed: 1")
    refusal = telic("control", f"run={folder}").error
    assert refusal.startswith(f"{folder / 'config.yaml'}: unknown option 'sed'")
    shutil.rmtree(folder / "checkpoints")
    (folder / "config.yaml").write_text("seed: 1")
    refusal = telic("train", f"resume={folder}").error
    assert refusal == f"no checkpoint in {folder / 'checkpoints'}"


def test_control_without_opengl_goes_on_without_a_video(trained_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained_run, tmp_path / "run")
    result = run_telic("control", f"run={folder}", "video=true", MUJOCO_GL="nonsense")
    assert result.code == 0
    assert re.fullmatch(r"warning: no video: cannot render: MUJOCO_GL=nonsense .*\n", result.err)
    assert "return " in result.out and ".mp4" not in result.out


def test_training_without_a_compiler_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _warn_of_missing_compiler.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    words = (*DEBUG, f"runs={tmp_path}", "loss.compile=true", "train.frames=140")
    result = telic("train", *words)
    assert result.code == 0
    assert re.fullmatch(r"warning: no C\+\+ compiler found .*\n", result.err)


@pytest.mark.parametrize("command", ["control", "evaluate"])
def test_ctrl_c_while_controlling_is_one_line(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    act = MPCAgent.act

    def interrupted(agent: MPCAgent, *arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return act(agent, *arguments, **options)

    monkeypatch.setattr(MPCAgent, "act", interrupted)
    before = tree(trained_run)
    result = telic(command, f"run={trained_run}", "planner=zero")
    assert result.code == 130
    assert result.err == f"interrupted: telic {command} stopped at once\n"
    assert tree(trained_run) == before


def test_a_crash_is_told_with_its_traceback(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("the planner fell over")

    monkeypatch.setattr(PLANNERS["zero"], "search", crash)
    result = telic("control", f"run={trained_run}", "planner=zero")
    assert result.code == 1
    assert result.err.startswith("error: telic control failed\nTraceback")
    assert result.err.endswith("RuntimeError: the planner fell over\n")


def test_output_without_a_terminal_is_plain_lines(trained_run: Path) -> None:
    text = (trained_run.parent / "stdout.txt").read_text()
    assert not has_control_characters(text)
    kinds = [line.split(":")[0].split(" ")[-2:] for line in text.splitlines()]
    assert len(kinds) == 8, text  # start, two evaluations, five lines of summary
    assert re.search(r"^ +200 frames: return -?[\d.]+ ± [\d.]+ over 2 episodes$", text, re.M)
    assert "learning in float32, env frames 0 to " in text.splitlines()[0]  # not compiled
    number = r"\d+\.\d"
    parts = f"decide {number}, environment {number}, update {number}"
    assert re.search(rf"^per control step: {number} ms \({parts}\) on 1 thread", text, re.M)


def test_a_terminal_gets_a_bar_with_rate_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = importlib.import_module("scripts.train")
    monkeypatch.setattr(train, "make_console", lambda: Console(force_terminal=True, width=120))
    text = telic("train", *DEBUG, f"runs={tmp_path}", "train.frames=160").out
    assert has_control_characters(text)
    assert re.search(r"100%.* \d+ frames/s .*\d:\d\d:\d\d.* .*\d:\d\d:\d\d", text)


def test_terminated_process_saves_like_ctrl_c(tmp_path: Path) -> None:
    """SIGTERM is what schedulers send."""
    folder = tmp_path / "run"
    process = start_telic("train", *DEBUG, f"runs={tmp_path}", "name=run", "train.frames=100000")
    with process:
        wait_for(lambda: (folder / "checkpoints" / "000000000").is_dir(), process)
        second = telic("train", f"resume={folder}")
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert second.error == f"{folder} is being written by another telic process"
    assert process.returncode == 130 and err == ""
    assert "everything saved; go on: telic train resume=" in out
