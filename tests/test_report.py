"""`telic report`, and the linear readout behind the pictures of plans."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from cli_helpers import telic
from omegaconf import OmegaConf

from scripts import report_page
from scripts.plots import Line
from scripts.readout import fit_readout, principal_readout
from scripts.run_folder import RunFolder
from scripts.run_results import find_runs, grouped
from scripts.settings import GoalSettings, Settings, load
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


def make_run(path: Path, seed: int, returns: list[float], **options: str) -> None:
    """A run folder with the files that a report reads."""
    changes = [f"{key}={value}" for key, value in options.items()]
    settings = load(Settings, [], ["env=dmc/cup-catch", f"seed={seed}", *changes])
    RunFolder.create(path, OmegaConf.to_yaml(OmegaConf.structured(settings))).release()
    rows = [f"{10_000 * (i + 1)},{value}" for i, value in enumerate(returns)]
    (path / "metrics.csv").write_text("\n".join(["frames,eval/return", *rows]) + "\n")


def test_runs_are_put_together_over_their_seeds(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, [10.0, 500.0, 900.0])
    make_run(tmp_path / "b", 2, [30.0, 700.0])
    make_run(tmp_path / "c", 1, [5.0], planner="cem")
    make_run(tmp_path / "d", 1, [6.0], planner="cem", **{"loss.lr": "0.01"})
    groups = {group.label: group for group in grouped(find_runs([tmp_path]))}
    assert set(groups) == {"grasp", "cem, loss.lr=0.001", "cem, loss.lr=0.01"}
    seeds = groups["grasp"]
    assert [run.options["seed"] for run in seeds.runs] == [1, 2]
    curve = seeds.curve()
    # As far as both have come.
    assert curve.x == [10_000, 20_000] and curve.y == [20.0, 600.0]
    assert curve.low is not None and curve.low[1] <= 600.0 <= (curve.high or [])[1]
    # The mean is of the same training length: one of 30,000 frames says nothing of 20,000.
    final = seeds.final()
    assert final is not None and final.point == 600.0 and seeds.frames() == 20_000
    assert groups["cem, loss.lr=0.01"].curve().low is None, "one seed has no interval"
    table = telic("report", f"run={tmp_path}").out
    row = next(line for line in table.splitlines() if "│ grasp " in line)
    assert "600.0" in row and "20000" in row and "981" in row and "61 %" in row
    alone = telic("report", f"run={tmp_path / 'a'},{tmp_path / 'c'}").out
    assert "900.0" in alone and "30000" in alone


def test_runs_without_an_evaluation_are_told_and_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, [10.0, 500.0])
    make_run(tmp_path / "b", 2, [30.0, 700.0])
    make_run(tmp_path / "c", 3, [])
    (group,) = grouped(find_runs([tmp_path]))
    assert group.curve().y == [20.0, 600.0] and group.curve().label == "grasp, 2 runs"
    page = tmp_path / "page.html"
    assert telic("report", f"run={tmp_path}", f"html={page}").code == 0
    assert "<td>3, 1 not evaluated</td><td>20000 env frames</td><td>600.0 (" in page.read_text()
    # A curve of nothing can be drawn.
    assert telic("report", f"run={tmp_path / 'c'}", f"html={page}").code == 0
    assert "<td>1, 1 not evaluated</td><td>–</td><td></td>" in page.read_text()


def test_a_run_that_is_named_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "a", 1, [10.0])
    make_run(tmp_path / "runs" / "b", 2, [30.0])
    monkeypatch.chdir(tmp_path)
    for words in ("runs/a,runs/b,runs/a", "runs,runs/a", f"runs,{tmp_path}/runs/../runs/b"):
        found = find_runs([Path(word) for word in words.split(",")])
        assert [run.folder.name for run in found] == ["a", "b"]


def test_runs_of_the_same_seed_are_warned_of(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        make_run(tmp_path / name, seed, [10.0])
    found = telic("report", f"run={tmp_path}")
    assert found.code == 0 and found.err == (
        "warning: dmc/cup-catch, grasp: more than one run of seed 1, counted as if independent\n"
    )
    assert telic("report", f"run={tmp_path / 'a'},{tmp_path / 'b'}").err == ""


def test_returns_and_success_are_drawn_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "a", 1, [10.0, 500.0])
    settings = load(GoalSettings, [], ["env=dmc/cup-catch", "data=d", "train.objective=goal"])
    config = OmegaConf.to_yaml(OmegaConf.structured(settings))
    RunFolder.create(tmp_path / "b", config).release()
    (tmp_path / "b" / "metrics.csv").write_text("updates,eval/success\n100,0.5\n")
    drawn = {}
    for name in ("learning_curve", "success_curve"):

        def draw(path: Path, lines: list[Line], *_: object, name: str = name) -> None:
            drawn[name] = [line.y for line in lines]
            path.touch()

        monkeypatch.setattr(report_page, name, draw)
    text = report_page.page(grouped(find_runs([tmp_path])), "page")
    assert drawn == {"learning_curve": [[10.0, 500.0]], "success_curve": [[0.5]]}
    for kind in ("reward", "goals"):
        assert f"<h2>dmc/cup-catch, trained for {kind}</h2>" in text


def test_a_page_in_place_of_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "a", 1, [10.0])
    monkeypatch.chdir(tmp_path)
    for place in (".", "a"):
        refused = telic("report", "run=a", f"html={place}")
        assert refused.error == f"html={place} is a folder; name a file in it"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_latest_evaluation_is_told_by_its_date(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 1, [10.0])
    (run,) = find_runs([tmp_path / "a"])
    folder = tmp_path / "a" / "evaluations"
    folder.mkdir()

    def store(name: str, mtime: float, **date: str) -> None:
        (folder / name).write_text(json.dumps({"scores": [], **date}))
        os.utime(folder / name, (mtime, mtime))

    def latest() -> str:
        found = run.evaluation()
        assert found is not None
        return found[0].name

    # Files of earlier versions without a date.
    store("b.json", 2_000.0)
    store("a.json", 1_000.0)
    assert latest() == "b.json"
    # As copied, in another order than they were made in.
    store("c.json", 4_000.0, date="2026-11-30T10:00:00+00:00")
    store("d.json", 3_000.0, date="2026-11-30T10:00:01+00:00")
    assert latest() == "d.json"


def test_options_that_change_nothing_learned_do_not_part_runs(tmp_path: Path) -> None:
    looked = {"train.log_every": "7", "train.overlap": "false", "train.processes": "true"}
    make_run(tmp_path / "a", 1, [10.0])
    make_run(tmp_path / "b", 2, [30.0], **looked)
    (group,) = grouped(find_runs([tmp_path]))
    assert group.label == "grasp" and len(group.runs) == 2


def test_the_page_opens_offline_and_holds_tables_and_pictures(
    trained_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained_run, tmp_path / "runs" / "debug<1>")
    telic("evaluate", f"run={folder}", "planner=policy,zero", "episodes=2", "decisions=3")
    page = tmp_path / "out" / "page.html"
    done = telic("report", f"run={tmp_path / 'runs'}", f"html={page}")
    assert done.code == 0 and done.out.startswith(f"{page}: 1 run, "), done
    text = page.read_text()
    assert "debug&lt;1&gt;" in text and "<td>policy</td>" in text and "<td>839</td>" in text
    assert text.count("data:image/png;base64,") >= 2
    # Nothing is fetched from anywhere.
    assert not re.findall(r"(?:src|href)='(?!data:)", text) and "http" not in text
    assert "html=" in telic("report", f"run={folder}", f"html={folder}").error


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    result = telic("report", f"run={tmp_path / 'none'}")
    assert result.code == 2 and "is not a run folder" in result.err


def test_a_readout_finds_what_is_linear_in_the_latent() -> None:
    torch.manual_seed(0)
    model = LatentModel(4, 1, ModelConfig(latent_dim=16, hidden_dim=16))
    # Two numbers that move, one that hardly does, and noise that no latent could tell.
    obs = torch.randn(500, 4) * torch.tensor([1.0, 1.0, 1e-6, 1.0])
    readout = fit_readout(model, obs, "abcd", count=2)
    assert readout.columns is not None
    assert 2 not in readout.columns and len(readout.columns) == 2
    assert torch.equal(readout.happened(model, obs), obs[:, readout.columns])
    with torch.no_grad():
        read = readout(model.encode(obs))
    for i, (column, label) in enumerate(zip(readout.columns, readout.labels, strict=True)):
        truth = obs[:, column]
        measured = 1 - ((read[:, i] - truth) ** 2).mean() / truth.var()
        name, quality = label.split("\nR² ")
        assert name == "abcd"[column] and abs(measured - float(quality)) < 6e-3


def test_a_principal_readout_keeps_the_variance_that_it_says() -> None:
    torch.manual_seed(0)
    model = LatentModel(4, 1, ModelConfig(latent_dim=16, hidden_dim=16))
    obs = 30.0 * torch.randn(500, 4)
    readout = principal_readout(model, obs, count=2)
    with torch.no_grad():
        z = model.encode(obs)
    read = readout.happened(model, obs)
    torch.testing.assert_close(read, readout(z))
    torch.testing.assert_close(read.mean(0), torch.zeros(2), atol=1e-4, rtol=0.0)
    share = read.var(0) / z.var(0).sum()
    found = [float(label.rpartition(" ")[2]) for label in readout.labels]
    assert found == pytest.approx(share.tolist(), abs=6e-3) and found[0] > found[1] > 0.0
