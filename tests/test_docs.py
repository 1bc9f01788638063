"""The reference page names every planner and option, with the default that it has."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mpc import PLANNERS, Plan, PlannerConfig, Problem, Registry, WarmStart, forget

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "planners.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", PAGE, flags=re.M)[1:]}
BUILT_IN = [name for name in PLANNERS.names() if PLANNERS[name].__module__.startswith("mpc.")]


def text_of(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def described(name: str, option: str, default: Any) -> bool:
    """Whether some row or sentence about planner `name` gives `option` this default."""
    shared = {field.name for field in dataclasses.fields(PlannerConfig)}
    sections = [
        text
        for title, text in SECTIONS.items()
        if (option in shared) == (title == "All planners")
        and (option in shared or name in title or (name == "latco" and title == "grasp"))
    ]
    value = re.escape(text_of(default))
    row = rf"\| `{option}` \| (?:[^|]*?)(?<![\w.]){value}(?![\w.])[^|]*\|"
    sentence = rf"`{option}` {value}(?![\w.]\d)"
    return any(re.search(row, text) or re.search(sentence, text) for text in sections)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_option_is_described_with_its_default(name: str) -> None:
    fields = dataclasses.fields(PLANNERS[name].Config)
    missing = [f"{f.name}={f.default}" for f in fields if not described(name, f.name, f.default)]
    assert not missing


def test_the_check_finds_a_wrong_default() -> None:
    assert described("grasp", "lookahead", 1) and not described("grasp", "lookahead", 10)
    assert described("icem", "elites", 16) and not described("cem", "elites", 64)
    assert not described("grasp", "look", 3)


def test_no_option_is_described_that_does_not_exist() -> None:
    known = {option for name in BUILT_IN for option in PLANNERS[name].Config.options()}
    assert set(re.findall(r"^\| `(\w+)` \| ", PAGE, flags=re.M)) - {*BUILT_IN} == known


def test_the_planner_of_the_readme_keeps_the_contract(
    latent_task: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans without a graph, and cold where rows were forgotten."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = [x for x in re.findall(r"```python\n(.*?)```", text, re.S) if "@register" in x]
    known: Registry[Any] = Registry("planner", "telic.none")
    monkeypatch.setattr("mpc.register", known.register)
    found: dict[str, Any] = {}
    exec(code, found)
    planner = found["Coast"](PlannerConfig(horizon=5))

    def plan(warm: WarmStart | None) -> Plan:
        return planner.plan(latent_task, warm, torch.Generator())

    cold = plan(None)
    assert not cold.cost.requires_grad and not cold.states.requires_grad
    moving = WarmStart(torch.full_like(cold.actions, 0.5))
    warm = plan(forget(moving, torch.tensor([False, True, False])))
    assert warm.actions[:, 0, 0].tolist() == [0.5, 0.0, 0.5]
