"""Pictures and videos come out whole, and the published figures are what was published."""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from matplotlib.figure import Figure

from scripts import plots
from scripts.reference import published_return, reference_curves
from scripts.statistics import Interval
from scripts.video import write_video


def assert_picture(path: Path) -> None:
    """A PNG that decodes, is large enough to read, and isn't a blank page."""
    image = imageio.imread(path)
    assert image.shape[0] >= 300 and image.shape[1] == 1200
    assert (image[..., :3] < 128).any(axis=-1).mean() > 0.002
    assert list(path.parent.iterdir()) == [path]


def test_tdmpc2_on_cartpole_swingup_is_as_published() -> None:
    assert published_return("dmc/cartpole-swingup") == pytest.approx(839, abs=1)
    assert published_return("dmc/cartpole-swingup", frames=70_000) is None
    assert published_return("dmc/cartpole-swingup", method="grasp") is None


def test_dm_control_names_find_their_published_task() -> None:
    assert published_return("dmc/ball_in_cup-catch") == pytest.approx(981, abs=1)
    assert reference_curves("dmc/cartpole-swingup_sparse")["tdmpc2"].seeds[0] == 3
    assert reference_curves("gym/cartpole-swingup") == {}
    assert reference_curves("dmc/lqr-lqr_2_1") == {}


def test_published_curves_are_from_states_in_ascending_frames_within_the_possible_range() -> None:
    curves = reference_curves("dmc/walker-walk")
    assert set(curves) == {"tdmpc2", "tdmpc", "sac", "dreamerv3", "d4pg", "dmpo"}
    for curve in curves.values():
        assert list(curve.frames) == sorted(set(curve.frames))
        assert all(0 <= mean <= 1000 for mean in curve.mean)
        assert "vision" not in curve.source and "pixels" not in curve.source


@pytest.mark.parametrize("environment", ["dmc/walker-walk", "gym/Pendulum-v1"])
def test_learning_curve(tmp_path: Path, environment: str) -> None:
    frames, returns = [0.0, 5_000.0, 10_000.0], [np.nan, -200.0, 100.0]
    banded = plots.Line("grasp", frames, returns, [-np.inf, -210.0, 90.0], [np.nan, -190.0, 110.0])
    path = tmp_path / "curve.png"
    for lines in ([banded], [banded, plots.Line("cem", frames[:1], [3.0])], []):
        plots.learning_curve(path, lines, reference_curves(environment), "run")
        assert_picture(path)


def test_legends_say_what_bands_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str | None] = []

    def save(figure: Figure, _: Path) -> None:
        found = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        titles.extend(legend.get_title().get_text() for legend in found if legend is not None)

    monkeypatch.setattr(plots, "_save", save)
    ends = [0.0, 1.0], [0.2, 0.3], [0.1, 0.2], [0.3, 0.4]
    plain, usual = plots.Line("a", *ends[:2]), plots.Line("b", *ends)
    other = plots.Line("c", *ends, band="range")
    path = tmp_path / "curve.png"
    for lines in ([plain, usual], [other]):
        plots.learning_curve(path, lines, {}, "run")
        plots.success_curve(path, lines, "run")
        plots.line_panels(path, [plots.Panel("", "x", "y", lines)], "run")
    plots.line_panels(path, [plots.Panel("", "x", "y", [plain])], "run")
    assert titles == ["band: 95 % interval"] * 3 + ["band: range"] * 3


def test_what_is_known_at_one_point_alone_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval of a single evaluation, and an episode of one control step."""
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, _: drawn.append(figure))
    line = plots.Line("a", [400.0], [0.1], [0.0], [0.3])
    plots.success_curve(tmp_path / "curve.png", [line], "run")
    plots.decision_trace(tmp_path / "trace.png", [4.0], [20.0], 50.0, "run")
    [bar] = drawn[0].axes[0].collections
    assert bar.get_datalim(drawn[0].axes[0].transData).intervaly == pytest.approx([0.0, 0.3])
    filled, outline = drawn[1].axes[0].patches
    assert filled.get_path().get_extents().size.tolist() == [1.0, 4.0]
    assert outline.get_path().get_extents().size.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("numbers", [1, 3, 21])
@pytest.mark.parametrize("happened", [None, 1, 30])
def test_plan_picture_for_any_action_size_and_length_of_the_past(
    tmp_path: Path, numbers: int, happened: int | None
) -> None:
    states = np.linspace(0, 1, 26)[:, None] * [1.0, -2.0]
    real = None if happened is None else np.ones((happened, 2))
    path = tmp_path / "plan.png"
    plan = np.zeros((25, numbers))
    plots.plan_picture(path, states, states + 0.1, real, plan, ["height, m", "speed, m/s"], "plan")
    assert_picture(path)


def test_plan_picture_refuses_labels_that_do_not_fit(tmp_path: Path) -> None:
    states = np.zeros((4, 2))
    with pytest.raises(ValueError, match="1 labels"):
        plots.plan_picture(tmp_path / "p.png", states, states, None, np.zeros((3, 1)), ["x"], "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [1, 500])
def test_decision_trace(tmp_path: Path, steps: int) -> None:
    latency = np.full(steps, 9.0)
    latency[0] = 900.0
    latency[2::3] = np.nan  # carried out an earlier plan
    plots.decision_trace(tmp_path / "trace.png", np.ones(steps), latency, 20.0, "episode")
    assert_picture(tmp_path / "trace.png")


def test_the_first_decision_is_not_counted_where_others_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in what `telic control` prints: it is cold in every cache."""
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "_save", lambda figure, _: drawn.append(figure))
    for latency in ([900.0], [900.0, np.nan, 30.0, 10.0]):
        plots.decision_trace(tmp_path / "t.png", np.ones(len(latency)), latency, 20.0, "episode")
    alone, followed = (figure.axes[1].get_title(loc="left") for figure in drawn)
    assert alone == "median 900.0 ms, slowest 900.0 ms, 1 of 1 over the control period of 20 ms"
    assert followed.startswith("after the first: median 20.0 ms, slowest 30.0 ms, 1 of 2 over")


def test_planner_table(tmp_path: Path) -> None:
    rows = [
        plots.PlannerScore("grasp", Interval(830.0, 815.0, 840.0), 16.6),
        plots.PlannerScore("zero", Interval(0.0, np.nan, np.nan), 0.01),
    ]
    plots.planner_table_plot(tmp_path / "planners.png", rows, "cartpole-swingup")
    assert_picture(tmp_path / "planners.png")


def test_video_plays_back_with_its_length_size_and_brightness(tmp_path: Path) -> None:
    frames = [np.full((121, 161, 3), 25 * i, np.uint8) for i in range(10)]
    path = tmp_path / "videos" / "episode.mp4"
    write_video(path, frames, fps=20)
    played = imageio.mimread(path)
    assert len(played) == 10 and played[0].shape == (120, 160, 3)
    for frame, original in zip(played, frames, strict=True):
        assert abs(float(frame.mean()) - original.mean()) < 4
    assert list(path.parent.iterdir()) == [path]


def test_failed_video_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_video(tmp_path / "v.mp4", [np.zeros((32, 32, 3), np.uint8)], fps=20)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="0 frames"):
        write_video(tmp_path / "v.mp4", [], fps=20)
    with pytest.raises(ValueError, match="float64"):
        write_video(tmp_path / "v.mp4", [np.zeros((32, 32, 3))], fps=20)


def test_film_strips_show_every_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 255, (3, 64, 64, 3), np.uint8) for name in ("plan", "happened")}
    plots.film_strip(tmp_path / "film.png", rows, ["0", "4", "goal"], "a plan")
    assert_picture(tmp_path / "film.png")
