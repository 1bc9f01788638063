"""The page of `telic report html=...`: one file with its pictures inside, which opens offline."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from scripts.evaluate import Score
from scripts.plots import learning_curve, success_curve
from scripts.reference import published_return, reference_curves
from scripts.run_results import Group, RunResults
from scripts.statistics import span
from scripts.version import code_version

NEWEST = 3  # newest pictures shown of each run
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22262e; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #e6e8ec; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #e6e8ec; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption, small { color: #7b818c; }
code { background: #f4f5f7; padding: 0 .25rem; }
"""
INTERVALS = (
    "Returns are means over runs, which differ in their seeds, of the last evaluation that all of "
    "them have, without exploration noise; bands and brackets are 95 % bootstrap intervals over "
    "runs, too narrow with few of them and absent with one."
)


def page(groups: Sequence[Group], title: str) -> str:
    """The whole document."""
    parts = dict.fromkeys((group.task, group.for_goals) for group in groups)
    body = [f"<h1>{escape(title)}</h1>", f"<p>{INTERVALS}</p>", _table(summary_rows(groups))]
    for task, for_goals in parts:
        chosen = [g for g in groups if (g.task, g.for_goals) == (task, for_goals)]
        both = (task, not for_goals) in parts
        title_of = f"{task}, trained for {'goals' if for_goals else 'reward'}" if both else task
        body.append(f"<h2>{escape(title_of)}</h2>")
        body += _task(chosen, task)
    body.append(f"<p><small>telic {escape(code_version())}</small></p>")
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>"


def summary_rows(groups: Sequence[Group]) -> list[list[str]]:
    """What every group has reached, beside the published return: a heading, then the rows."""
    heading = ["task", "trained with", "runs", "trained for", "return or success"]
    rows = [[*heading, "published at 100k, from states", "of it", "ms per control step"]]
    for group in groups:
        final, spent = group.final(), group.milliseconds()
        published = published_return(group.task)
        share = final.point / published if final is not None and published else None
        run = group.runs[0]
        form = ".0%" if group.for_goals else ".1f"
        rows.append(
            [
                group.task,
                group.label,
                _runs(group),
                "–" if final is None else f"{group.frames()} {run.unit}",
                "" if final is None else span(final, form),
                "" if published is None else f"{published:.0f}",
                "" if share is None else f"{100 * share:.0f} %",
                "" if spent is None else f"{spent:.1f}",
            ]
        )
    return rows


def _runs(group: Group) -> str:
    """How many runs there are, and how many of them the return leaves out."""
    missing = len(group.runs) - len(group.evaluated)
    return f"{len(group.runs)}, {missing} not evaluated" if missing else f"{len(group.runs)}"


def _task(groups: Sequence[Group], task: str) -> list[str]:
    """Learning curves, then evaluations and pictures of every run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curve.png"
        lines = [group.curve() for group in groups]
        if groups[0].for_goals:
            success_curve(path, lines, task)
            caption = "Share of goals reached, closed loop."
        else:
            learning_curve(path, lines, reference_curves(task), task)
            caption = "Learning curves; thin lines are published ones, from states."
        parts = [_picture(path, caption)]
    for run in (run for group in groups for run in group.runs):
        parts += _run(run)
    return parts


def _run(run: RunResults) -> list[str]:
    """The latest evaluation and the newest pictures of a run."""
    parts = [f"<h3>{escape(run.folder.name)}</h3>"]
    latest = run.evaluation()
    if latest is not None:
        _, result, scores = latest
        parts.append(_scores(scores))
        parts.append(
            f"<p><small>Model of {result['frames']} env frames, {len(scores[0].returns)} episodes "
            f"from the same starts, protocol {escape(result['protocol_hash'])}.</small></p>"
        )
    pictures = [p for p in run.folder.plots.glob("*.png") if p.stem != "learning_curve"]
    for path in sorted(pictures, key=lambda p: p.stat().st_mtime)[-NEWEST:]:
        parts.append(_picture(path, path.stem))
    return parts if len(parts) > 1 else []


def _scores(scores: Sequence[Score]) -> str:
    rows = [["planner", "return", f"minus {scores[0].planner}, paired", "ms per decision"]]
    for score in scores:
        gap = "" if score.difference is None else span(score.difference)
        spent = f"{np.median(score.latency_ms):.1f}"
        rows.append([score.planner, span(score.interval), gap, spent])
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *rest = rows
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rest
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    image = f"<img alt='{text}' src='data:image/png;base64,{data}'>"
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
