"""The package on the page docs/plugins.md: built, installed elsewhere, and used by its names."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import DEBUG, telic

from envs import make_env, spec_of
from mpc import PLANNERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "plugins.md").read_text()
# Its own debug sizes: what is tested is that the names and options arrive.
TINY = ("train.frames=120", "train.random_steps=40", "train.eval_every=0", "train.eval_episodes=1")


def block(after: str) -> str:
    """The first block of code after the text `after`."""
    found = re.search(r"```\w+\n(.*?)```", PAGE.split(after, 1)[1], re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the package of the page has been installed to, without a network."""
    source, target = tmp_path_factory.mktemp("hillside"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "hillside_planner.py", "hillside_env.py"):
        (source / name).write_text(block(f"`{name}`:"))
    quiet = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-compile")
    alone = ("--no-deps", "--no-build-isolation", "--target", str(target))
    run = [sys.executable, "-m", "pip", "install", *quiet, *alone, str(source)]
    subprocess.run(run, check=True, capture_output=True, text=True, timeout=100)
    return target


@pytest.fixture
def found(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process finds the package, as with PYTHONPATH, for the length of a test."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr(PLANNERS, "_entries", dict(PLANNERS._entries))


@pytest.mark.usefixtures("found")
def test_the_commands_know_its_planner_and_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    listed = telic("list", "planners").out
    (line,) = (line for line in listed.splitlines() if "Hill climbing: move to the" in line)
    assert line.split()[1] == "climb"
    assert "shrink=0.7" in listed
    checked = telic("check-env", "env=hillside/valley")
    assert checked.code == 0, checked
    run = (*DEBUG, f"runs={tmp_path}", "name=run", "env=hillside/valley", *TINY)
    refused = telic("train", *run, "planner=climb", "planner.shrink=2")
    assert refused.error == "planner.shrink must be above 0 and at most 1, got 2.0"
    trained = telic("train", *run, "planner=climb", "planner.shrink=0.5")
    assert trained.code == 0, trained
    assert "shrink: 0.5" in (tmp_path / "run" / "config.yaml").read_text()
    words = (f"run={tmp_path / 'run'}", "planner=climb,zero", "planner.shrink=0.9")
    scores = telic("evaluate", *words, "episodes=1", "decisions=1")
    assert scores.code == 0, scores
    assert "climb: return" in scores.out and "zero: return" in scores.out
    shown = telic("control", words[0], "planner=zero", "video=true")
    assert shown.code == 0 and "no video: cannot render" in shown.err, shown


def test_the_conformance_tests_run_over_its_planner(installed: Path) -> None:
    """In a process of its own, because the planners are counted when the tests are collected."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(installed)
    plain = ("-p", "no:xdist", "-p", "no:cacheprovider", "-vv")
    run = [sys.executable, "-m", "pytest", *plain, "tests/test_planners.py", "-k", "climb"]
    result = subprocess.run(
        run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stdout
    passed = re.findall(r"::(test_\w+)\[.*climb.*\] PASSED", result.stdout)
    assert "test_a_batch_plans_like_its_problems_alone" in passed
    assert "test_the_model_calls_are_counted_right" in passed
    assert len(passed) >= 30 and "SKIPPED" not in result.stdout


@pytest.mark.usefixtures("found")
def test_its_model_and_its_planner_reach_the_middle_of_its_valley() -> None:
    """The model of the page is exact: after 60 control steps the cart rests in the middle."""
    page: dict[str, Any] = {}
    exec(block("## A world model"), page)
    agent, memory = page["agent"], page["memory"]
    env = make_env("hillside/valley")
    assert spec_of(env).episode_steps == 100
    obs, _ = env.reset(seed=0)
    assert abs(obs).max() > 0.2
    for _ in range(60):
        actions, memory = agent.act(obs[None], memory)
        obs, _, _, _, _ = env.step(actions[0])
    assert abs(obs).max() < 0.1
