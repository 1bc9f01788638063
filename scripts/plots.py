"""Pictures of a run: learning curve, plan, decisions of an episode, planners side by side.

Figures are drawn through matplotlib's objects, never pyplot, so nothing global is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from scripts.reference import Curve
from scripts.statistics import Interval

INK, FAINT, GRID = "#22262e", "#7b818c", "#e6e8ec"
OURS, WARM, DARK = "#1668c7", "#e07b28", "#30353f"
ACTION_COLOURS = (OURS, WARM, "#2e8b57", "#8e5bb5")  # more actions become a heat map
LINE_COLOURS = (
    OURS,
    WARM,
    "#2e8b57",
    "#8e5bb5",
    "#c2185b",
    "#8d7b4f",
    "#5b7083",
    "#30353f",
    "#12a5a5",
    "#d4b106",
)
LINE_STYLES = ("-", "--", ":")  # of lines beyond the number of colours
METHOD_COLOURS = {
    "tdmpc2": "#c2185b",
    "tdmpc": "#d9822b",
    "dreamerv3": "#7b52ab",
    "sac": "#2e8b57",
    "d4pg": "#5b7083",
    "dmpo": "#8d7b4f",
}


@dataclass(frozen=True)
class PlannerScore:
    """One line of a planner comparison."""

    planner: str
    returns: Interval
    milliseconds: float  # per decision, median


@dataclass(frozen=True)
class Line:
    """A curve with its band, where it has one."""

    label: str  # lines of one label look alike in all panels
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    band: str = field(default="95 % interval", kw_only=True)  # what `low` and `high` are


def lines_through(label: str, points: Sequence[Sequence[float]]) -> list[Line]:
    """The line through points (x, y), or (x, y, low, high) at 95 %; none where there are none."""
    return [Line(label, *map(list, zip(*points, strict=True)))] if points else []


@dataclass(frozen=True)
class Panel:
    """Curves over the same axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


def learning_curve(
    path: Path, lines: Sequence[Line], references: Mapping[str, Curve], title: str
) -> None:
    """Draw returns over env frames among published curves, with the bands of the lines.

    Runs from pictures stand among them too, so it says that those are from states.
    """
    figure, (axes,) = _figure(1, (8.0, 4.6), title)
    # Most published curves begin at 50k or 100k, so a short run still shows where they start.
    longest = max((x for line in lines for x in line.x), default=0.0)
    right = 1.06 * max(longest, 100_000.0 if references else 1.0)
    shown = [v for n in lines for v in (*n.y, *(n.low or ()), *(n.high or ()))]
    seen = [v for v in shown if np.isfinite(v)]
    ends = []
    for method, curve in references.items():
        colour = METHOD_COLOURS.get(method, FAINT)
        axes.plot(curve.frames, curve.mean, "o-", color=colour, lw=1.2, ms=4, mec="white", mew=0.6)
        if curve.frames[0] <= right:
            end = float(np.interp(right, curve.frames, curve.mean))
            ends.append((end, method, colour))
            seen += [m for f, m in zip(curve.frames, curve.mean, strict=True) if f <= right]
    _draw_lines(axes, lines)
    low, high = min([*seen, 0.0]), max([*seen, 0.0])
    room = 0.05 * max(high - low, 1e-6)
    axes.set(xlim=(0, right), ylim=(low - room if low < 0 else 0.0, high + room))
    x_label = "env frames (published curves: from states)" if references else "env frames"
    axes.set(xlabel=x_label, ylabel="episode return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _label_ends(axes, ends)
    if lines:
        axes.legend(loc="best", frameon=False, title=_bands(lines), alignment="left")
    _save(figure, path)


def success_curve(path: Path, lines: Sequence[Line], title: str) -> None:
    """Draw success rates from 0 to 1 over updates, with their bands."""
    figure, (axes,) = _figure(1, (8.0, 4.2), title)
    _draw_lines(axes, lines)
    axes.set(xlabel="updates", ylabel="success rate", ylim=(-0.02, 1.02))
    axes.set_xlim(left=0)
    if len(lines) > 1 or _bands(lines):
        axes.legend(loc="best", frameon=False, title=_bands(lines), alignment="left")
    _save(figure, path)


def _bands(lines: Iterable[Line]) -> str | None:
    """What the bands are, as the title of a legend; None where there are none."""
    kinds = dict.fromkeys(line.band for line in lines if line.low is not None)
    return f"band: {', '.join(kinds)}" if kinds else None


def _draw_band(axes: Axes, line: Line, colour: str) -> None:
    """Draw the band of a line, where it has one; that of a single point is a bar."""
    if line.low is None or line.high is None:
        return
    if len(line.x) == 1:
        axes.vlines(line.x, line.low, line.high, color=colour, alpha=0.4, lw=2.8)
    else:
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, lw=0)


def _draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw learning curves in colours of their own."""
    for i, line in enumerate(lines):
        colour = LINE_COLOURS[i % len(LINE_COLOURS)]
        _draw_band(axes, line, colour)
        axes.plot(
            line.x, line.y, "o-", color=colour, lw=2.8, ms=5, label=fill(line.label, 40), zorder=5
        )


def plan_picture(
    path: Path,
    virtual_states: ArrayLike,
    model_rollout: ArrayLike,
    happened: ArrayLike | None,
    actions: ArrayLike,
    labels: Sequence[str],
    title: str,
) -> None:
    """Draw a plan over control steps: one panel per coordinate, then the actions.

    virtual_states and model_rollout (H+1, D); happened (T+1, D), any T, or None; actions (H, A);
    `labels` names the D coordinates. Raises ValueError when the number of labels isn't D.
    """
    virtual, rollout = np.asarray(virtual_states), np.asarray(model_rollout)
    plan = np.asarray(actions)
    if virtual.shape != rollout.shape or virtual.shape[1] != len(labels):
        raise ValueError(
            f"shapes differ: virtual {virtual.shape}, rollout {rollout.shape}, {len(labels)} labels"
        )
    count = len(labels) + 1
    figure, panels = _figure(count, (8.0, 1.2 + 1.45 * count), title, share_x=True)
    for d, (axes, label) in enumerate(zip(panels[:-1], labels, strict=True)):
        if happened is not None:
            real = np.asarray(happened)[:, d]
            axes.plot(real, color=DARK, lw=5.0, alpha=0.22, label="what happened")
        axes.plot(rollout[:, d], color=WARM, lw=1.8, label="model rollout of the actions")
        axes.plot(virtual[:, d], "o", color=OURS, ms=3.2, label="virtual states", zorder=4)
        axes.set_ylabel(label)
    panels[0].legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, frameon=False)
    _draw_actions(figure, panels[-1], plan)
    panels[-1].set_xlabel("control step of the plan")
    panels[-1].set_xlim(-0.01 * len(plan), 1.01 * len(plan))
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def decision_trace(
    path: Path,
    rewards: ArrayLike,
    latency_ms: ArrayLike,
    control_period_ms: float,
    title: str,
    quantity: str = "reward",
) -> None:
    """Draw an episode: reward and planning latency (milliseconds), both (T,), per control step.

    Latency is NaN where nothing was planned. Instead of rewards another `quantity`, of which no
    sum is taken.
    """
    reward, latency = np.asarray(rewards, dtype=float), np.asarray(latency_ms, dtype=float)
    steps, planned = np.arange(len(reward)), latency[~np.isnan(latency)]
    total = f"{title}: return {reward.sum():.1f}" if quantity == "reward" else title
    figure, (above, below) = _figure(2, (8.0, 4.6), total, share_x=True)
    edges = np.arange(len(reward) + 1) - 0.5
    above.stairs(reward, edges, fill=True, color=OURS, alpha=0.18, lw=0)
    above.stairs(reward, edges, baseline=None, color=OURS, lw=1.4)
    above.set_ylabel(quantity)
    # A compiling first decision may take seconds; it mustn't flatten all others.
    top = 1.35 * max(control_period_ms, float(np.percentile(planned, 99)))
    colours = np.where(latency > control_period_ms, WARM, OURS)
    fits, over = latency <= top, latency > top
    below.scatter(steps[fits], latency[fits], s=8, color=colours[fits], lw=0)
    below.plot(steps[over], np.full(over.sum(), top), "^", color=WARM, ms=6, clip_on=False)
    below.axhline(control_period_ms, color=DARK, lw=1.2, ls=(0, (5, 3)))
    right = below.get_yaxis_transform()
    below.text(1.01, control_period_ms, "control\nperiod", transform=right, va="center", color=DARK)
    below.set(xlabel="control step", ylabel="plan latency, ms", ylim=(0, top))
    below.set_xlim(edges[0], edges[-1])
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    # The first decision is cold in every cache.
    which, warm = ("after the first: ", planned[1:]) if len(planned) > 1 else ("", planned)
    note = (
        f"{which}median {np.median(warm):.1f} ms, slowest {warm.max():.1f} ms, "
        f"{(warm > control_period_ms).sum()} of {len(warm)} over the control period of "
        f"{control_period_ms:g} ms"
    )
    below.set_title(note, loc="left", fontsize=9, color=FAINT)
    _save(figure, path)


def planner_table_plot(
    path: Path, rows: Sequence[PlannerScore], title: str, quantity: str = "episode return"
) -> None:
    """Draw each planner's estimate with its interval, best on top, and its time per decision."""
    ordered = sorted(rows, key=lambda row: row.returns.point)
    figure, (axes,) = _figure(1, (8.0, 1.5 + 0.42 * len(rows)), title)
    for y, row in enumerate(ordered):
        score = row.returns
        axes.barh(y, score.point, height=0.62, color=OURS, alpha=0.16)
        axes.plot([score.low, score.high], [y, y], color=OURS, lw=2.4, solid_capstyle="butt")
        axes.plot(score.point, y, "o", color=OURS, ms=6, clip_on=False)
        _write_beside(axes, 55.0, y, f"{score.point:.4g}", INK, "right")
        _write_beside(axes, 125.0, y, f"{row.milliseconds:.3g} ms", INK, "right")
    _write_beside(axes, 55.0, len(rows) - 0.4, "estimate", FAINT, "right")
    _write_beside(axes, 125.0, len(rows) - 0.4, "per decision", FAINT, "right")
    axes.set_yticks(range(len(ordered)), [row.planner for row in ordered])
    axes.set_xlabel(f"{quantity}, 95 % interval")
    axes.grid(visible=False, axis="y")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    _save(figure, path)


def coverage_picture(
    path: Path,
    paths: Sequence[ArrayLike],
    shown: int,
    walls: Sequence[tuple[float, float, float]],
    names: tuple[str, str],
    title: str,
) -> None:
    """Draw where `paths` (T, 2) have been: how often on the left, the first `shown` on the right.

    `walls` are squares: lower left corner and width.
    """
    figure, (left, right) = _figure(1, (9.0, 4.4), title, columns=2)
    points = np.concatenate([np.asarray(one) for one in paths])
    counts, x, y = np.histogram2d(points[:, 0], points[:, 1], bins=60)
    seen = np.ma.masked_equal(counts.T, 0)
    left.pcolormesh(x, y, seen, cmap="Blues", norm="log", rasterized=True)
    left.set_title("visits, from few to many", loc="left", fontsize=9, color=FAINT)
    for one in paths[:shown]:
        right.plot(*np.asarray(one).T, color=OURS, lw=0.8, alpha=0.6)
    right.set_title(f"{min(shown, len(paths))} episodes", loc="left", fontsize=9, color=FAINT)
    for axes in (left, right):
        _draw_floor(axes, walls, names)
    _save(figure, path)


def path_picture(
    path: Path,
    paths: Mapping[str, ArrayLike],
    goal: ArrayLike,
    walls: Sequence[tuple[float, float, float]],
    names: tuple[str, str],
    title: str,
) -> None:
    """Draw a plan seen from above: named paths (T, 2), the first of which began first, a goal (2,).

    `walls` are squares: lower left corner and width.
    """
    figure, (axes,) = _figure(1, (8.6, 5.6), title)
    looks = ((FAINT, "-", 1.6, ""), (OURS, "-", 1.6, "."), (WARM, "--", 1.8, ""))
    for (name, points), (colour, style, width, marker) in zip(paths.items(), looks, strict=True):
        x, y = np.asarray(points).T
        axes.plot(x, y, style, color=colour, lw=width, marker=marker, ms=6, label=name)
    first = np.asarray(next(iter(paths.values())))[0]
    axes.plot(*first, "o", color=INK, ms=8, label="start")
    axes.plot(*np.asarray(goal), "*", color="#2e8b57", ms=16, label="goal")
    _draw_floor(axes, walls, names)
    axes.set_aspect("equal")
    figure.legend(loc="outside right center", frameon=False)
    _save(figure, path)


def film_strip(
    path: Path, rows: Mapping[str, np.ndarray], columns: Sequence[str], title: str
) -> None:
    """Pictures (T, height, width, 3) uint8 in rows, all of them under the names of the columns."""
    size = 6.8 / len(columns)  # inches of a picture
    figure, panels = _figure(
        len(rows), (8.0, 0.8 + (size + 0.05) * len(rows)), title, columns=len(columns)
    )
    for i, (axes, picture) in enumerate(
        zip(panels, np.concatenate(list(rows.values())), strict=True)
    ):
        row, column = divmod(i, len(columns))
        axes.imshow(picture)
        axes.grid(False)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if row == 0:
            axes.set_title(columns[column], fontsize=9, color=INK)
        if column == 0:
            name = list(rows)[row]
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    _save(figure, path)


def _draw_floor(
    axes: Axes, walls: Sequence[tuple[float, float, float]], names: tuple[str, str]
) -> None:
    """Draw squares, lower left corner and width, in equal scales, and name the axes."""
    for x, y, width in walls:
        axes.add_patch(Rectangle((x, y), width, width, facecolor=GRID, zorder=0))
    axes.set_aspect("equal" if walls else "auto")
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.grid(visible=False)


def line_panels(
    path: Path,
    panels: Sequence[Panel],
    title: str,
    log: str = "",
    inches: float = 3.0,
    columns: int = 1,
) -> None:
    """Draw panels of height `inches` in `columns`, row by row, with one legend.

    There is none for a single label without a band. `log` names axes with logarithmic scale.
    """
    rows = math.ceil(len(panels) / columns)
    figure, drawn = _figure(rows, (8.0, 1.0 + inches * rows), title, columns=columns)
    for axes in drawn[len(panels) :]:
        axes.set_axis_off()
    drawn = drawn[: len(panels)]
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    shown = {}
    for axes, panel in zip(drawn, panels, strict=True):
        for line in panel.lines:
            i = labels.index(line.label)
            colour = LINE_COLOURS[i % len(LINE_COLOURS)]
            style = LINE_STYLES[i // len(LINE_COLOURS) % len(LINE_STYLES)]
            (shown[line.label],) = axes.plot(
                line.x, line.y, marker="o", ms=4, lw=1.8, color=colour, ls=style
            )
            _draw_band(axes, line, colour)
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
        if all(float(x).is_integer() for line in panel.lines for x in line.x):
            axes.xaxis.set_major_locator(MaxNLocator(10 if columns == 1 else 4, integer=True))
        if "x" in log:
            axes.set_xscale("log")
            places = sorted({x for line in panel.lines for x in line.x})
            if len(places) <= 8:
                axes.set_xticks(places, [f"{x:g}" for x in places])
                axes.xaxis.set_minor_formatter(NullFormatter())
        if "y" in log:
            axes.set_yscale("log")
    bands = _bands(line for panel in panels for line in panel.lines)
    if len(labels) > 1 or bands:
        figure.legend(
            [shown[label] for label in labels],
            labels,
            loc="outside right upper",
            frameon=False,
            fontsize=9,
            title=bands,
            title_fontsize=9,
            alignment="left",
        )
    _save(figure, path)


def _figure(
    rows: int,
    inches: tuple[float, float],
    title: str,
    share_x: bool = False,
    columns: int = 1,
) -> tuple[Figure, list[Axes]]:
    """A titled grid of panels in the common look; the panels row by row."""
    figure = Figure(figsize=inches, dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, sharex=share_x, squeeze=False).flat)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
    return figure, panels


def _draw_actions(figure: Figure, axes: Axes, plan: np.ndarray) -> None:
    """Actions (H, A) as steps, or as a heat map when there are many."""
    edges = np.arange(len(plan) + 1)
    if plan.shape[1] <= len(ACTION_COLOURS):
        for a, colour in enumerate(ACTION_COLOURS[: plan.shape[1]]):
            axes.stairs(plan[:, a], edges, baseline=None, color=colour, lw=1.8, label=f"a{a}")
        axes.set_ylabel("action")
        if plan.shape[1] > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
        return
    limit = max(float(np.abs(plan).max()), 1e-6)
    rows = np.arange(plan.shape[1] + 1)
    mesh = axes.pcolormesh(edges, rows, plan.T, cmap="PuOr", vmin=-limit, vmax=limit)
    bar = figure.colorbar(mesh, cax=axes.inset_axes((1.01, 0.0, 0.012, 1.0)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=FAINT)
    axes.set_ylabel(f"{plan.shape[1]} actions")
    axes.set_yticks([])


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Write names beside the right ends of curves, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.05 * (high - low)
    ordered = sorted(ends)
    # Pushing up from below and down from above both keep the gap; so does their mean, centred.
    up = [value for value, *_ in ordered]
    down = list(up)
    for i in range(1, len(ordered)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-1 - i] = min(down[-1 - i], down[-i] - gap)
    for (_, name, colour), a, b in zip(ordered, up, down, strict=True):
        _write_beside(axes, 6.0, (a + b) / 2, name, colour, "left")


def _write_beside(axes: Axes, right: float, y: float, text: str, colour: str, align: str) -> None:
    """Write beside the panel: `right` points off its right edge, at y in data units."""
    axes.annotate(
        text,
        (1.0, y),
        xycoords=("axes fraction", "data"),
        xytext=(right, 0.0),
        textcoords="offset points",
        color=colour,
        ha=align,
        va="center",
        fontsize=9,
    )


def _save(figure: Figure, path: Path) -> None:
    """Write the PNG whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.new.png")
    figure.savefig(draft)
    draft.replace(path)
