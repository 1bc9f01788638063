"""Checkpoints: what is saved comes back, a kill leaves no half, damage is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from world_models.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)


def tensors(fill: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    flat = torch.full((6,), fill)
    return {
        "model": {"flat": flat, "head": flat[2:4], "tied": flat, "turned": torch.eye(2, 3).T},
        "optimizer": {"step": torch.tensor(3), "rng": torch.arange(5, dtype=torch.uint8)},
        "agent": {"nothing": torch.zeros(0, 4), "half": torch.ones(2, dtype=torch.bfloat16)},
        "empty": {},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoints" / "000010000"
    save_checkpoint(path, tensors(), {"frames": 10_000, "spec": {"low": [-1.0], "name": "ü"}})
    return path


def test_everything_comes_back_including_views_and_tied_tensors(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.meta == {"frames": 10_000, "spec": {"low": [-1.0], "name": "ü"}}
    assert set(loaded.tensors) == set(tensors())
    for name, group in tensors().items():
        for key, tensor in group.items():
            assert loaded.tensors[name][key].dtype == tensor.dtype
            torch.testing.assert_close(loaded.tensors[name][key], tensor, rtol=0, atol=0)


def test_groups_are_loaded_by_name_and_a_missing_one_is_refused(folder: Path) -> None:
    assert set(load_checkpoint(folder, ["agent"]).tensors) == {"agent"}
    with pytest.raises(CheckpointError, match="has no replay; it has model, optimizer"):
        load_checkpoint(folder, ["agent", "replay"])


@pytest.mark.parametrize("survivors", [0, 1])
def test_failing_rename_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    """The first rename moves the old folder away, the second puts the new one in its place."""
    real, calls = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == survivors + 1:
            raise OSError("disk gone")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="disk gone"):
        save_checkpoint(folder, tensors(fill=2.0), {})
    assert load_checkpoint(folder).tensors["model"]["flat"][0] == 1.0
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_saving_again_replaces_every_file(folder: Path) -> None:
    save_checkpoint(folder, {"model": {"x": torch.ones(1)}}, {"frames": 1})
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.json", "model.safetensors"]
    assert load_checkpoint(folder).meta == {"frames": 1}
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_kill_while_writing_leaves_nothing_that_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process runs no clean-up, so its temporary folder stays until the next prune."""
    monkeypatch.setattr("world_models.checkpoint._remove", lambda folder: None)
    monkeypatch.setattr("world_models.checkpoint._replace", lambda fresh, folder: exit(9))
    with pytest.raises(SystemExit):
        save_checkpoint(folder.with_name("000020000"), tensors(), {})
    monkeypatch.undo()
    assert len(list(folder.parent.iterdir())) == 2
    assert latest_checkpoint(folder.parent) == folder
    prune_checkpoints(folder.parent, keep=1)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def kill_between_renames(folder: Path) -> None:
    """Leave what a save is killed with that has moved the old checkpoint away."""
    shutil.copytree(folder, folder.with_name(f".{folder.name}.new"))
    folder.rename(folder.with_name(f".{folder.name}.old"))


def test_a_kill_between_the_renames_leaves_the_old_checkpoint_to_be_found(folder: Path) -> None:
    before = load_checkpoint(folder).tensors["model"]["flat"]
    kill_between_renames(folder)
    found = latest_checkpoint(folder.parent)
    assert not folder.exists(), "who only reads leaves it where it is"
    assert torch.equal(load_checkpoint(found).tensors["model"]["flat"], before)
    prune_checkpoints(folder.parent, keep=1)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    kill_between_renames(folder)
    save_checkpoint(folder.with_name("000020000"), {}, {})
    prune_checkpoints(folder.parent, keep=2)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["000010000", "000020000"]


def test_a_save_after_such_a_kill_keeps_the_old_checkpoint_until_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("disk gone")
        return real(self, target)

    kill_between_renames(folder)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk gone"):
        patch.setattr(Path, "rename", rename)
        save_checkpoint(folder, tensors(fill=2.0), {})
    assert load_checkpoint(folder).tensors["model"]["flat"][0] == 1.0
    kill_between_renames(folder)
    save_checkpoint(folder, tensors(fill=2.0), {})
    assert load_checkpoint(folder).tensors["model"]["flat"][0] == 2.0
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("where", [0.3, 0.9])
def test_one_altered_byte_names_the_file(folder: Path, name: str, where: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(len(data) * where)] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged") as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_facts_that_read_alike_but_are_written_otherwise_are_refused(folder: Path) -> None:
    save_checkpoint(folder, {}, {"seconds": 0.1})
    index = folder / "checkpoint.json"
    index.write_text(index.read_text().replace("0.1", "0.10"))
    with pytest.raises(CheckpointError, match=r"checkpoint.json is damaged: checksum differs"):
        load_checkpoint(folder)


def test_truncated_and_deleted_files_are_named(folder: Path) -> None:
    model, optimizer = folder / "model.safetensors", folder / "optimizer.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged: \d+ bytes, expected"):
        load_checkpoint(folder)
    optimizer.unlink()
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors is missing"):
        load_checkpoint(folder, ["optimizer"])


def test_what_is_no_checkpoint_is_refused(folder: Path) -> None:
    index = folder / "checkpoint.json"
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_checkpoint(folder / "missing")
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="checkpoint format 99, this telic reads up to 1"):
        load_checkpoint(folder)
    for text, message in (("{", "not JSON"), ("[]", "no format version")):
        index.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"it has no checkpoint.json"):
        load_checkpoint(folder)


def test_latest_and_prune_go_by_frames_not_by_text(folder: Path) -> None:
    root = folder.parent
    for frames in ("000020000", "1000000000"):
        save_checkpoint(root / frames, {}, {})
    (root / "notes").mkdir()
    assert latest_checkpoint(root).name == "1000000000"
    prune_checkpoints(root, keep=2)
    assert sorted(p.name for p in root.iterdir()) == ["000020000", "1000000000", "notes"]
    with pytest.raises(ValueError, match="keep=0"):
        prune_checkpoints(root, keep=0)
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        latest_checkpoint(root / "notes")
