"""Settings: layers of YAML and dotted overrides, and one clear line for every mistake."""

from dataclasses import make_dataclass
from pathlib import Path

import pytest

from agents import AgentConfig
from mpc import PLANNERS, PlannerConfig
from scripts.option_help import comments, option_rows
from scripts.options import read_yaml, typed
from scripts.run_folder import RunFolder
from scripts.settings import GoalSettings, Settings, TrainConfig, load, read_run_options
from scripts.usage import UsageError, usage_errors


def refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as info:
        load(Settings, (), overrides)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("planner=cem", "planner.horizon=5"),
        ("planner.horizon=5", "planner=cem"),
        ("planner={name: cem, horizon: 5}",),
        ("planner.name=cem", "planner.horizon=5"),
    ],
)
def test_planner_and_its_options_in_any_order(overrides: tuple[str, ...]) -> None:
    planner = load(Settings, (), overrides).planner
    assert (planner.name, planner.horizon, planner.elites) == ("cem", 5, 32)


@pytest.mark.parametrize("planner", PLANNERS.names())
def test_plans_towards_goals_are_longer_unless_told(planner: str) -> None:
    words = (f"planner={planner}", "data=folder")
    assert load(GoalSettings, (), words).planner.horizon == 8
    assert load(GoalSettings, (), (*words, "planner.horizon=5")).planner.horizon == 5
    assert load(Settings, (), words[:1]).planner.horizon == 3


def test_grasp_looks_further_ahead_towards_goals() -> None:
    assert load(GoalSettings, (), ("data=folder",)).planner.lookahead == 3
    assert load(GoalSettings, (), ("data=folder", "planner=latco")).planner.lookahead == 1
    assert load(Settings, (), ()).planner.lookahead == 1


def test_models_of_pictures_are_trained_for_fewer_updates() -> None:
    words = ("data=folder",)
    assert load(GoalSettings, (), words).total == 20_000
    assert load(GoalSettings, ("pixels",), words).total == 10_000
    assert load(GoalSettings, ("pixels",), (*words, "train.updates=7")).total == 7
    with pytest.raises(UsageError, match="updates must be at least 1, got 0"):
        load(GoalSettings, (), (*words, "train.updates=0"))


def test_disagreement_takes_an_ensemble() -> None:
    words = ["data=folder", "goal.disagreement=2"]
    with pytest.raises(UsageError, match=r"model\.ensemble must be above 1"):
        load(GoalSettings, (), words)
    assert load(GoalSettings, (), [*words, "model.ensemble=3"]).goal.disagreement == 2


def test_a_planner_keeps_its_own_horizon_for_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    cem = PLANNERS["cem"]
    config = make_dataclass("Long", [("horizon", int, 11)], bases=(cem.Config,), frozen=True)
    monkeypatch.setattr(cem, "Config", config)
    assert load(Settings, (), ["planner=cem"]).planner.horizon == 11


@pytest.mark.parametrize(
    "text", ["planner: cem", "planner: {name: cem}", "planner:\n  name: cem\ntrain:\n"]
)
def test_yaml_names_a_planner(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    settings = load(Settings, [str(tmp_path / "a.yaml")], ["planner.horizon=5"])
    assert (settings.planner.name, settings.planner.horizon) == ("cem", 5)
    assert settings.train == TrainConfig()


def test_later_layers_win_and_another_planner_drops_foreign_options(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 5\nplanner: {name: cem, elites: 8}\ntrain: {frames: 7}")
    (tmp_path / "b.yaml").write_text("seed: 6")
    files = ["debug", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]
    settings = load(Settings, files, ["train.log_every=3"])
    assert (settings.seed, settings.train.frames, settings.train.log_every) == (6, 7, 3)
    assert settings.train.random_steps == 60  # of debug
    assert settings.planner.elites == 8
    assert load(Settings, files, ["planner=grasp"]).planner.name == "grasp"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("planner.horizon=-1", "planner.horizon must be at least 1 control step, got -1"),
        ("train.frames=0", "train.frames must be at least 1, got 0"),
        ("train.updates_per_step=-1", "train.updates_per_step must be at least 0, got -1"),
        ("train.updates_fall_after=1.5", "train.updates_fall_after must be at most 1, got 1.5"),
        ("train.episode_share=0", "train.episode_share must be above 0, got 0.0"),
        ("train.episode_share=1.5", "train.episode_share must be at most 1, got 1.5"),
        ("train.whole_after=0", "train.whole_after must be above 0, got 0.0"),
        ("train.whole_after=1.5", "train.whole_after must be at most 1, got 1.5"),
        ("train.disturbed=-0.1", "train.disturbed must be at least 0, got -0.1"),
        ("train.frames=many", "train.frames must be a whole number, got 'many'"),
        ("train.frames=1.5", "train.frames must be a whole number, got 1.5"),
        ("train.frames=null", "train.frames must be a whole number, got None"),
        ("train.frames=[1]", "train.frames must be a whole number, got [1]"),
        ("seed=true", "seed must be a whole number, got True"),
        ("seed=-1", "seed must be at least 0 and below 2**31, got -1"),
        ("threads=0", "threads must be at least 1, got 0"),
        ("loss.lr=fast", "loss.lr must be a number, got 'fast'"),
        ("loss.lr=nan", "loss.lr must be a finite number, got nan"),
        ("loss.compile=perhaps", "loss.compile must be true or false, got 'perhaps'"),
        ("env.action_repeat=x", "env.action_repeat must be a whole number or null, got 'x'"),
        ("env.action_repeat=0", "env.action_repeat must be at least 1 or null, got 0"),
        ("wandb.tags=a", "wandb.tags must be a list such as [a,b], got 'a'"),
        ("wandb.mode=of", "wandb.mode must be one of auto, online, offline, disabled, got 'of'"),
        ("model.bins=1", "model.bins must be at least 3, got 1"),
        ("model.simplex=3", "model.latent_dim must be a multiple of simplex = 3, got 64"),
        ("agent.replan_every=9", "agent.replan_every must be at most planner.horizon = 3, got 9"),
        ("name=..", "name must be the name of a folder, got '..'"),
        ("train=3", "train is a group of options, not a value; write train.frames=..."),
        ("planner=grap", "unknown planner 'grap'; did you mean 'grasp'?"),
        ("planner=", "'planner=' names no planner; see `telic list planners`"),
        ("planer=cem", "unknown option 'planer'; did you mean 'planner'?"),
        ("sed=", "unknown option 'sed'; did you mean 'seed'?"),
        ("runs=", "runs must be text, got None"),
        ("train.frame=3", "unknown option 'train.frame'; did you mean 'train.frames'?"),
        ("planner.horizn=3", "unknown option 'planner.horizn'; did you mean 'planner.horizon'?"),
        ("env={name: dmc/x, foo: 1}", "unknown option 'env.foo' (options of env dmc/x: "),
        ("frames", "'frames' is not an option; write key=value, such as seed=2"),
        ("seed=[1", "'seed=[1' cannot be read as key=value"),
        ("runs=${nowhere}", "runs: Interpolation key 'nowhere' not found"),
    ],
)
def test_a_mistake_is_one_line_with_the_dotted_name(override: str, words: str) -> None:
    assert refusal(override).startswith(words)


@pytest.mark.parametrize("text", ["2026_11_30", "007", "12:30", "1.50", "1e3", "true", "a: [b"])
def test_text_is_what_stands_behind_the_equals_sign(text: str) -> None:
    words = [f"name={text}", f"runs={text}", f"wandb.project={text}"]
    settings = load(Settings, (), words)
    assert (settings.name, settings.runs, settings.wandb.project) == (text, text, text)


def test_text_may_be_null_or_in_a_list_and_numbers_stay_numbers() -> None:
    words = ["name=null", "wandb.tags=[007,12:30]", "wandb.group=a", "train.frames=1_000"]
    settings = load(Settings, (), [*words, "wandb.group=", "loss.lr=1e-2"])
    assert settings.name is None and settings.wandb.group is None
    assert settings.wandb.tags == ["007", "12:30"]
    assert (settings.train.frames, settings.loss.lr) == (1000, 0.01)


class Silent:
    def __post_init__(self) -> None:
        raise ValueError


def test_a_mistake_that_says_nothing_is_told_by_its_kind() -> None:
    with pytest.raises(UsageError, match=r"^ValueError$"), usage_errors():
        raise ValueError
    group = make_dataclass("Group", [("size", int, 1)], bases=(Silent,))
    with pytest.raises(UsageError, match=r"^ValueError$"):
        typed(group, {})


def test_option_of_another_planner_names_the_planner() -> None:
    words = refusal("planner.elites=3")
    assert words.startswith(
        "unknown option 'planner.elites'; did you mean 'planner.lead_elites'? (options "
    )
    words = refusal("planner=policy", "planner.elites=3")
    shared = ", ".join(PlannerConfig.options())
    assert words.endswith(f"(options of planner policy: {shared}, name)")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: 1\ntrain: [1", r", line 3: not valid YAML: .*expected ',' or ']'"),
        (b"seed: 1\nseed: 2", r"not valid YAML: found duplicate key seed"),
        (b"- seed", r": expected a mapping such as `seed: 2`, got a list"),
        (b"\xff\xfe\x00", r": not valid YAML: "),
    ],
)
def test_broken_yaml_is_one_line_with_the_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as info:
        read_yaml(str(path))
    assert str(info.value).startswith(str(path)) and "\n" not in str(info.value)


def test_missing_config_names_the_bundled_ones() -> None:
    with pytest.raises(UsageError, match=r"no config file 'debg'; did you mean 'debug'.*: debug"):
        read_yaml("debg")


@pytest.mark.parametrize("planner", PLANNERS.names())
def test_help_says_what_every_option_means(planner: str) -> None:
    rows = option_rows(load(Settings, [], [f"planner={planner}"]))
    assert [option for option, _, note in rows if not note] == []


def test_help_takes_comments_above_a_field_too() -> None:
    assert comments(AgentConfig)["exploration"].startswith("Least std of exploration noise")
    assert comments(AgentConfig)["replan_every"] == "control steps for which a plan is executed"


def test_help_rows_hold_every_option_with_default_and_comment() -> None:
    rows = {option: (default, note) for option, default, note in option_rows(load(Settings))}
    assert rows["train.frames"] == ("100000", "env frames, action repeat included")
    assert rows["name"][0] == "null" and rows["loss.compile"][0] == "true"
    assert rows["planner"] == ("grasp", "see `telic list planners`")
    assert rows["planner.horizon"] == ("3", "control steps")  # of a base class
    assert comments(TrainConfig).keys() == vars(TrainConfig()).keys()


def test_what_a_run_of_an_earlier_version_does_not_say_is_as_it_was_then(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", "env: {name: gym/Pendulum-v1}\n")
    found = read_run_options(folder)
    assert found["train"] == {"episode_share": 1.0, "whole_after": 1.0}
    assert found["loss"] == {"precision": "float32", "reconstruction": 0.0}
    folder.write_config("train: {episode_share: 0.5, frames: 70}\nloss: {precision: auto}\n")
    assert read_run_options(folder)["train"]["episode_share"] == 0.5
    assert read_run_options(folder)["loss"]["precision"] == "auto"
    goals = "data: folder\ntrain: {objective: goal}\n"
    folder.write_config(goals)
    assert "loss" not in read_run_options(folder)
    folder.write_config("loss: [1]\n")
    with pytest.raises(UsageError, match=r"config.yaml: loss is a group of options"):
        read_run_options(folder)
