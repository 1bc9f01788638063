"""Run folders: refusals leave no trace, and one run has one writer."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.run_folder import RunFolder

HOLD = """
import sys, pathlib
from scripts.run_folder import RunFolder
RunFolder.open(pathlib.Path(sys.argv[1])).lock()
sys.stdout.write("locked\\n"); sys.stdout.flush()
sys.stdin.read()
"""


def tree(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*")}


def test_created_run_can_be_opened(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "a", "seed: 1\n")
    folders = {"checkpoints", "episodes", "videos", "plots", "wandb"}
    assert tree(run.path) == {*folders, "config.yaml", ".lock"}
    again = RunFolder.open(run.path)
    assert again.config.read_text() == "seed: 1\n" and again.name == "a"


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a", "seed: 1\n").release()
    with pytest.raises(ValueError, match=r"already holds a run; resume it with `telic train res"):
        RunFolder.create(tmp_path / "a", "seed: 2\n")
    assert (tmp_path / "a" / "config.yaml").read_text() == "seed: 1\n"


def test_foreign_and_unwritable_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files"):
        RunFolder.create(tmp_path / "home", "")
    with pytest.raises(ValueError, match=r"cannot write to .*: Not a directory"):
        RunFolder.create(tmp_path / "home" / "thesis.tex" / "run", "")
    assert tree(tmp_path) == {"home", "home/thesis.tex"}


def test_leftovers_of_a_creation_killed_halfway_do_not_block_the_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "plots").mkdir(parents=True)
    (tmp_path / "a" / ".lock").touch()
    (tmp_path / "a" / ".config.yaml.new").write_text("se")
    assert RunFolder.create(tmp_path / "a", "seed: 1\n").config.read_text() == "seed: 1\n"


def test_open_names_the_nearest_runs(tmp_path: Path) -> None:
    for name in ("cartpole-grasp", "cartpole-cem", "walker"):
        RunFolder.create(tmp_path / name, "").release()
    with pytest.raises(
        ValueError, match=r"no such folder; nearest runs: \S*cartpole-grasp"
    ) as info:
        RunFolder.open(tmp_path / "cartpol-grasp")
    assert "\n" not in str(info.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"it has no config.yaml"):
        RunFolder.open(tmp_path / "empty")


def test_second_writer_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a", "")
    run.release()
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(ValueError, match="is being written by another telic process"):
            run.lock()
        holder.kill()
        holder.wait()
    run.lock()
