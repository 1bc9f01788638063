"""The registry: duplicates, unknown names and options, and planners of other packages."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch

import mpc.registry
from mpc import PLANNERS, Plan, Planner, PlannerConfig, Problem, Registry, make_planner, nearest


class Thing:
    """A class to register."""


class OtherThing:
    """Another one."""


@pytest.fixture
def things() -> Registry[Any]:
    registry: Registry[Any] = Registry("thing", "telic.things")
    registry.register("first")(Thing)
    return registry


def test_a_class_is_found_by_its_name(things: Registry[Any]) -> None:
    assert things["first"] is Thing and Thing.name == "first"
    assert things.register("second")(OtherThing) is OtherThing
    assert things.names() == ["first", "second"]


def test_a_name_can_be_taken_once(things: Registry[Any]) -> None:
    with pytest.raises(ValueError, match="thing 'first' is already Thing"):
        things.register("first")(OtherThing)
    assert things["first"] is Thing


def test_the_required_planners_are_there() -> None:
    assert {"grasp", "gradient", "cem", "random_shooting"} <= set(PLANNERS.names())


def test_an_unknown_planner_lists_the_choices_and_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown planner 'grsp'; did you mean 'grasp'") as e:
        make_planner("grsp")
    assert all(name in str(e.value) for name in PLANNERS.names())
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="unknown planner 'zzz'") as e:
        make_planner("zzz")
    assert "did you mean" not in str(e.value)


def test_an_unknown_option_lists_the_choices_and_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="'cem' has no option 'elite'; did you mean 'elites'") as e:
        make_planner("cem", elite=3)
    assert all(option in str(e.value) for option in PLANNERS["cem"].Config.options())
    # An option of another planner is no option of this one.
    with pytest.raises(ValueError, match="'gradient' has no option 'elites'"):
        make_planner("gradient", elites=3)


def test_options_reach_the_planner() -> None:
    planner = make_planner("cem", horizon=7, elites=5)
    assert (planner.config.horizon, planner.config.elites) == (7, 5)
    assert make_planner("cem").config.elites != 5
    assert type(planner).name == "cem"


def test_an_impossible_value_names_planner_option_and_value() -> None:
    with pytest.raises(ValueError, match=r"planner 'cem': horizon must be at least 1 .* got 0"):
        make_planner("cem", horizon=0)


def test_nearest_is_silent_when_nothing_is_near() -> None:
    assert nearest("horizn", ["horizon", "samples"]) == "; did you mean 'horizon'?"
    assert nearest("q", ["horizon", "samples"]) == ""


# ---- entry points


@dataclass(frozen=True)
class ForeignConfig(PlannerConfig):
    push: float = 0.5


class ForeignPlanner(Planner[ForeignConfig]):
    """What another package might bring."""

    Config = ForeignConfig

    def search(self, problem: Problem, warm_start: Any, rng: torch.Generator) -> Plan:
        raise NotImplementedError


def install(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    """Make importlib.metadata report `points`, as if packages that declare them were there."""

    def entry_points(group: str) -> list[EntryPoint]:
        return [point for point in points if point.group == group]

    monkeypatch.setattr(mpc.registry, "entry_points", entry_points)
    monkeypatch.setattr(PLANNERS, "_entries", dict(PLANNERS._entries))


FOREIGN = EntryPoint("foreign", "test_registry:ForeignPlanner", "telic.planners")


def test_a_planner_of_another_package_is_listed_and_made(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FOREIGN, EntryPoint("elsewhere", "no_such_module:X", "telic.envs"))
    assert "foreign" in PLANNERS.names() and "elsewhere" not in PLANNERS.names()
    for _ in range(2):
        assert make_planner("foreign", push=0.2).config.push == 0.2
    assert PLANNERS["foreign"].name == "foreign"
    with pytest.raises(ValueError, match="unknown planner 'foregn'; did you mean 'foreign'"):
        make_planner("foregn")


def test_listing_does_not_import_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken third-party package must not break the planners that work."""
    install(monkeypatch, EntryPoint("broken", "no_such_module:X", "telic.planners"))
    assert "broken" in PLANNERS.names()
    assert make_planner("zero").config.horizon == 3
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        make_planner("broken")


def test_a_package_that_registers_itself_is_not_registered_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "selfish.py").write_text(
        "from mpc import register\n"
        "from test_registry import ForeignPlanner\n"
        "@register('selfish')\n"
        "class Selfish(ForeignPlanner):\n"
        "    '''Registers itself when imported.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    install(monkeypatch, EntryPoint("selfish", "selfish:Selfish", "telic.planners"))
    assert type(make_planner("selfish")).__name__ == "Selfish"


def test_another_package_cannot_replace_a_planner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in one stays, and is listed once."""
    install(monkeypatch, EntryPoint("cem", "test_registry:ForeignPlanner", "telic.planners"))
    assert PLANNERS["cem"].Config is not ForeignConfig
    assert PLANNERS.names().count("cem") == 1
