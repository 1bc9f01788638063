"""`telic report`, and the linear readout behind the pictures of plans."""

import json
import shutil
from pathlib import Path

import torch
from cli_helpers import telic

from scripts.readout import fit_readout
from world_models import LatentModel, ModelConfig


def test_a_report_has_the_curve_the_latest_evaluation_and_the_files(
    trained_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained_run, tmp_path / "run")
    before = telic("report", f"run={folder}")
    assert before.code == 0 and "no evaluation yet" in before.out
    telic("evaluate", f"run={folder}", "planner=policy,zero", "episodes=2", "decisions=3")
    result = telic("report", f"run={folder}")
    assert result.code == 0
    (stored,) = (folder / "evaluations").iterdir()
    scores = json.loads(stored.read_text())["scores"]
    for score in scores:
        row = next(line for line in result.out.splitlines() if f"│ {score['planner']} " in line)
        assert f"{score['interval']['point']:.1f}" in row
    assert "tdmpc2, published" in result.out and "839.4" in result.out
    for picture in (folder / "plots").iterdir():
        assert str(picture) in result.out


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    result = telic("report", f"run={tmp_path / 'none'}")
    assert result.code == 2 and "is not a run folder" in result.err


def test_a_readout_finds_what_is_linear_in_the_latent() -> None:
    torch.manual_seed(0)
    model = LatentModel(4, 1, ModelConfig(latent_dim=16, hidden_dim=16))
    # Two numbers that move, one that hardly does, and noise that no latent could tell.
    obs = torch.randn(500, 4) * torch.tensor([1.0, 1.0, 1e-6, 1.0])
    readout = fit_readout(model, obs, count=2)
    assert 2 not in readout.columns and len(readout.columns) == 2
    with torch.no_grad():
        read = readout(model.encode(obs))
    for i, (column, quality) in enumerate(zip(readout.columns, readout.quality, strict=True)):
        truth = obs[:, column]
        measured = 1 - ((read[:, i] - truth) ** 2).mean() / truth.var()
        assert abs(measured - quality) < 1e-3
