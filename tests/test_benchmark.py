"""`telic benchmark`: what it measures, what it makes of it, and that nothing finished is lost."""

import datetime
import json
import os
import platform
import re
import shutil
import signal
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_helpers import telic, tree
from test_plots import assert_picture

from mpc import PLANNERS, PlannerConfig, Problem
from scripts.benchmark import make_suite
from scripts.benchmarks import latency, truth
from scripts.benchmarks.calibration import Yardstick, calibrate
from scripts.benchmarks.dmc import TASKS, at_time, final_interval, targets_at
from scripts.benchmarks.horizon import Horizon, horizon_targets
from scripts.benchmarks.store import CellStore
from scripts.benchmarks.suite import Target
from scripts.hardware import cpu_name
from scripts.options import Options
from scripts.version import CODE

TINY_MODEL = ("model.latent_dim=8", "model.hidden_dim=8", "model.bins=5")
TINY_LATENCY = (
    *("suite=latency", "horizons=4,6", "batches=1,2", "compile=false", "repeats=2"),
    *("planner=grasp,gradient,zero", *TINY_MODEL),
)
TINY_TRUTH = (
    *("suite=truth", "iterations=1,2", "budgets=1e-6", "starts=3", "search=2", "repeats=1"),
    *("horizon=3", "planner=zero,policy,gradient"),
)


def results(folder: Path, suite: str) -> dict[str, Any]:
    """The JSON of a suite; checks that the text and the pictures are there too."""
    text = (folder / f"{suite}.md").read_text()
    found: dict[str, Any] = json.loads((folder / f"{suite}.json").read_text())
    assert f"`{found['command']}`, {found['date']}, " in text
    assert found["basis"]["machine"]["torch"] == torch.__version__ and torch.__version__ in text
    assert all(t["text"] in text for t in found["targets"])
    pictures = sorted(folder.glob(f"{suite}*.png"))
    assert pictures
    for picture in pictures:
        alone = folder / "alone" / picture.name
        alone.parent.mkdir(exist_ok=True)
        picture.rename(alone)
        assert_picture(alone)
        alone.unlink()
    return found


def test_latency_measures_every_planner_at_every_size(tmp_path: Path) -> None:
    run = telic("benchmark", *TINY_LATENCY, f"out={tmp_path}")
    assert run.code == 0, run
    found = results(tmp_path, "latency")
    assert "repeats=2" in found["command"] and found["basis"]["settings"]["repeats"] == 2
    cells = {json.dumps(row["cell"]): row["result"] for row in found["cells"]}
    assert len(cells) == 2 * 3 + 2 * 2 + 1
    for horizon in (4, 6):
        for batch in ("1", "2"):
            size = {"horizon": horizon, "compile": False}
            whole = [
                cells[json.dumps({"kind": "plans", "planner": name, **size})][batch]
                for name in ("grasp", "gradient", "zero")
            ]
            assert all(len(one["ms"]) == 2 and min(one["ms"]) > 0 for one in whole)
            # Warm plans from one restart: 5 steps through the rollout, and no search.
            assert [one["backward"] for one in whole[1:]] == [5 * horizon, 0]
            key = {"kind": "iterations", "batch": int(batch), **size}
            found = cells[json.dumps(key)]
            # GRASP's iterations are without sync, so six of them cost three times two.
            assert found["grasp 1"]["backward"] == 3 * found["grasp 0"]["backward"] > 0
            assert "zero 0" not in found
    growth = cells[json.dumps({"kind": "growth", "compile": False})]
    # No sequential call: the number does not depend on the horizon.
    assert growth["4"]["forward"] == growth["6"]["forward"]


def test_an_iteration_takes_the_slope_between_plans() -> None:
    assert latency.slope([10.0, 12.0, 99.0], [18.0, 20.0], 4) == 2.0


def test_plans_in_turn_stop_when_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str, ms: float) -> None:
            self.name, self.ms = name, ms

        def once(self) -> float:
            order.append(self.name)
            return self.ms

    plans: Any = {"a": Fake("a", 1.0), "b": Fake("b", 400.0)}
    taken = latency.interleave(plans, repeats=8, enough=1.0)
    assert order[:10] == ["a", "b"] * 5  # the fewest that are made
    assert taken == {"a": [1.0] * 8, "b": [400.0] * 5}


def test_a_slow_planner_is_skipped_and_named(tmp_path: Path) -> None:
    assert telic("benchmark", *TINY_LATENCY, "cap=1e-9", f"out={tmp_path}").code == 0
    found = results(tmp_path, "latency")
    assert {t["met"] for t in found["targets"]} == {None}
    text = (tmp_path / "latency.md").read_text()
    assert "planner=zero, horizon=4, compile=False, B = 2: one plan took" in text


@pytest.mark.parametrize(
    ("compile", "slow", "skipped"),
    [(False, 0, True), (True, 0, False), (True, 1, False), (True, 2, True)],
)
def test_time_spent_compiling_skips_nothing(compile: bool, slow: int, skipped: bool) -> None:
    """Which takes the first plan, a cold one, and the second, the first warm one."""

    class Fake(latency.WarmPlans):
        def __init__(self) -> None:
            self.planner = PLANNERS["grasp"](PLANNERS["grasp"].Config(compile=compile))
            self.taken = iter(5000.0 if i == slow else 1.0 for i in range(latency.WARM_UP))

        def once(self) -> float:
            return next(self.taken)

    assert (Fake().warm_up(cap=1.0) is not None) == skipped


def test_only_what_holds_compiled_code_is_measured_compiled() -> None:
    def made(name: str, horizon: int) -> Any:
        return PLANNERS[name](PLANNERS[name].Config(horizon=horizon, compile=True))

    assert latency.compiles(made("grasp", 50))
    assert latency.compiles(made("cem", 8))
    assert not latency.compiles(made("cem", 9))
    assert not latency.compiles(made("zero", 3))


def plan_row(name: str, horizon: int, **ms: float) -> dict[str, Any]:
    cell = {"kind": "plans", "planner": name, "horizon": horizon, "compile": False}
    return {"cell": cell, "result": {b[1:]: {"ms": [value] * 3} for b, value in ms.items()}}


def iteration_row(horizon: int, grasp: float, gradient: float) -> dict[str, Any]:
    """Plans of 2 and 6 iterations that take so long each, and 7 ms beside."""
    cell = {"kind": "iterations", "horizon": horizon, "batch": 1, "compile": False}
    result = {
        f"{name} {i}": {"ms": [7.0 + n * ms]}
        for name, ms in (("grasp", grasp), ("gradient", gradient))
        for i, n in enumerate((2, 6))
    }
    return {"cell": cell, "result": result}


def test_latency_targets_of_hand_made_numbers() -> None:
    growth = {"cell": {"kind": "growth", "compile": False}}
    growth["result"] = {"25": {"ms": [2.0, 2.0, 50.0]}, "200": {"ms": [6.0, 5.0, 6.2]}}
    rows = [
        iteration_row(50, 2.0, 10.0),
        iteration_row(200, 2.0, 23.0),
        growth,
        plan_row("cem", 10, _1=1.0, _64=20.0),
        plan_row("cem", 25, _1=1.0, _64=32.5),
        plan_row("grasp", 10, _1=1.0, _64=32.0),
        plan_row("mppi", 10, _1=1.0),
    ]
    found = latency.targets(rows, (2, 6))
    assert [target.met for target in found] == [True, False, True, False, True, None]
    assert [target.measured for target in found] == [
        "5.0 times (2.00 and 10.00 ms)",
        "11.5 times (2.00 and 23.00 ms)",
        "3.00 times (2.00 and 6.00 ms)",
        "0.508 at H = 25, the worst",
        "0.500 at H = 10, the worst",
        "–",
    ]
    assert found[0].line().startswith("- [x] eager: an iteration of grasp at B = 1, H = 50")
    assert found[1].line().endswith("(MISSED)") and found[5].line().endswith("(open)")


class Machine:
    """Says how long plans take: a fixed part, and a part per iteration and sample."""

    def __init__(self, once: float, iteration: float, sample: float = 0.0) -> None:
        self.once, self.iteration, self.sample = once, iteration, sample
        self.asked: list[Options] = []

    def __call__(self, options: Options) -> float:
        self.asked.append(options)
        each = self.iteration + self.sample * options.get("samples", 128)
        return self.once + each * options.get("iterations", 0)


GRADIENT, CEM = PLANNERS["gradient"].Config(), PLANNERS["cem"].Config()


@pytest.mark.parametrize("each", [0.7, 1.0, 3.9, 17.0, 35.0])
def test_calibration_finds_the_largest_count_that_fits(each: float) -> None:
    clock = Machine(5.0, each)
    found = calibrate(clock, 40.0, GRADIENT)
    assert found.fits and found.options == {"iterations": int(35.0 / each + 1e-9)}
    assert found.milliseconds == clock(found.options)
    assert len(clock.asked) <= 2 + 2 * 7


def test_calibration_ends_at_the_most() -> None:
    assert calibrate(Machine(1.0, 1e-6), 40.0, GRADIENT, most=300).options == {"iterations": 300}
    assert calibrate(Machine(1.0, 1e-6), 40.0, GRADIENT, most=1).options == {"iterations": 1}


def test_calibration_halves_samples_or_restarts_only_where_one_iteration_is_too_much() -> None:
    found = calibrate(Machine(0.0, 0.0, 0.1), 13.0, CEM)
    assert found.options == {"iterations": 1}
    found = calibrate(Machine(0.0, 0.0, 0.1), 7.0, CEM)
    fewer = {"samples": 64, "elites": 16, "policy_samples": 12}
    assert found.options == {"iterations": 1, **fewer} and found.fits
    clock = Machine(0.0, 0.0, 1.0)
    found = calibrate(clock, 7.0, CEM)
    assert found.options["samples"] == 32 and not found.fits and found.milliseconds == 32.0
    assert [options.get("samples") for options in clock.asked] == [None, 64, 32]
    clock = Machine(1.0, 8.0)
    assert not calibrate(clock, 5.0, GRADIENT).fits
    assert clock.asked == [{"iterations": 1}, {"iterations": 1, "restarts": 2}]


def test_a_time_counts_that_was_taken_at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine that others use: its speed changes from one look at it to the next."""
    slowness = iter([1.0, 1.1, *[2.0] * 4, 1.0, 3.0, 1.05, 1.1, *[1.0] * 9])
    now = [1.0]

    def work() -> float:
        now[0] = next(slowness)
        return now[0]

    monkeypatch.setattr(Yardstick, "PATIENCE", 20.0)
    monkeypatch.setattr(Yardstick, "LOOKS", 2)
    stick = Yardstick(work)
    # After the slow looks twice at full speed before; the first time not so afterwards.
    taken = [7.0, 5.0]
    assert stick.measure(lambda: taken.pop(0)) == 5.0 and not taken
    # A machine that stays slow is waited for no longer than that.
    monkeypatch.setattr(Yardstick, "PATIENCE", 0.0)
    slow = Yardstick(iter([1.0, *[2.0] * 9]).__next__)
    assert slow.measure(lambda: 9.0) == 9.0


def test_calibration_of_what_cannot_do_less() -> None:
    found = calibrate(Machine(9.0, 1.0), 5.0, PlannerConfig())
    assert found.options == {} and found.milliseconds == 9.0 and not found.fits


@pytest.mark.parametrize("task", sorted(truth.TASKS))
def test_starts_of_exact_problems_are_worth_planning(task: str) -> None:
    """Something is to be gained from each; and they are the same for every planner."""
    found = truth.TASKS[task]
    starts = [found.starts(20, 25, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*starts) and len(starts[0].unique(dim=0)) == 20
    problem = found.problem(starts[0], 25)
    plan = PLANNERS["gradient"](PLANNERS["gradient"].Config(horizon=25, iterations=60)).plan(
        problem, None, torch.Generator().manual_seed(0)
    )
    cost = truth.true_cost(problem, plan.actions)
    still = truth.true_cost(problem, torch.zeros(1, 1, problem.actions.dim).double())
    torch.testing.assert_close(cost, plan.cost)
    assert (cost < 0.99 * still).all()
    if task == "lq":
        least = -problem.model.value(problem.state)
        assert (cost >= least * (1 - 1e-9)).all() and (cost < 1.2 * least).all()
        assert (still > least).all()


def test_truth_knows_the_optimum_and_what_doing_nothing_costs(tmp_path: Path) -> None:
    assert telic("benchmark", *TINY_TRUTH, f"out={tmp_path}").code == 0
    rows = results(tmp_path, "truth")["cells"]
    for task in truth.TASKS:
        known, still = truth.best_known(rows, task), truth.still(rows, task)
        for row in rows:
            if row["cell"]["problem"] != task:
                continue
            if "costs" in row["result"]:
                pairs = zip(row["result"]["costs"], known, strict=True)
                assert all(cost >= best for cost, best in pairs)
            if row["cell"].get("planner") == "zero":
                assert row["result"]["costs"] == pytest.approx(still)
                gap = truth.gap_interval(row["result"], known, still)
                assert gap is not None and gap.point == pytest.approx(100.0)
            if row["cell"].get("planner") == "policy":
                assert "needs a model with a policy" in row["result"]["skipped"]
    text = (tmp_path / "truth.md").read_text()
    assert "3 by Riccati equation" in text
    # Nothing is done in a nanosecond, so every planner makes one iteration and gets its star.
    row = r"^\| gradient \| [\d.e+]+ \(.*\), 1 it\. of 2 restarts \* \|$"
    assert re.search(row, text, re.MULTILINE)
    assert "- policy on lq: planner 'policy' needs a model with a policy" in text


def test_a_long_search_finds_what_closed_forms_say() -> None:
    """The search that is trusted for the other problems reaches the Riccati cost."""
    raw = {"suite": "truth", "starts": 3, "search": 60, "problems": "lq", "horizon": 15}
    suite: Any = make_suite(raw)
    problem: Problem = suite.problem("lq")
    least = -problem.model.value(problem.state)
    for name, options in (truth.SEARCHES["cem"], truth.SEARCHES["gradient"]):
        found = suite._search(problem, name, options)
        torch.testing.assert_close(found, least, rtol=2e-3, atol=0.0)


def test_cells_of_other_planner_defaults_are_never_mixed_in(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the planner's own have changed, or those that a run was trained with."""

    def hashes() -> list[str]:
        choice = {"planner": {"name": "zero"}}
        latency_suite = make_suite({"suite": "latency", **choice})
        trained = make_suite({"suite": "horizon", "runs": [str(trained_run)], **choice})
        return [latency_suite.hash, trained.hash]

    before = hashes()
    assert before == hashes()
    config = trained_run / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("  restarts: 2", "  restarts: 3"))
    try:
        retrained = hashes()
    finally:
        config.write_text(text)
    assert retrained[0] == before[0] and retrained[1] != before[1]

    @dataclass(frozen=True)
    class Longer(PlannerConfig):
        horizon: int = 4

    monkeypatch.setattr(PLANNERS["zero"], "Config", Longer)
    assert all(one != other for one, other in zip(hashes(), before, strict=True))


def test_horizon_compares_planners_in_equal_time(trained_run: Path, tmp_path: Path) -> None:
    """Without a deadline, also where the training had one."""
    run = tmp_path / "debug"
    shutil.copytree(trained_run, run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("deadline_ms: null", "deadline_ms: 0.01"))
    words = (
        *("suite=horizon", f"runs={run}", "horizons=2,6", "budgets=1e6", "episodes=3"),
        *("decisions=1", "trials=1", "most=2", "planner=grasp,cem,policy", "planner.samples=40"),
        *("planner.elites=4", "planner.policy_samples=4", "env.episode_frames=10"),
    )
    assert telic("benchmark", *words, "workers=1", f"out={tmp_path / 'a'}").code == 0
    found = results(tmp_path / "a", "horizon")
    assert len(found["targets"]) == 3
    kinds = [row["cell"]["kind"] for row in found["cells"]]
    assert kinds == ["calibration"] * 6 + ["return"] * 6, "no episode runs beside a calibration"
    episodes = found["cells"][6:]
    for row in episodes:
        result, name = row["result"], row["cell"]["planner"]
        assert len(result["returns"]) == 3 and result["calibration"]["fits"]
        assert result["options"]["horizon"] == row["cell"]["horizon"]
        assert result["options"].get("deadline_ms") is None
        assert result["options"].get("iterations") == (None if name == "policy" else 2)
    # The policy's actions do not depend on how far it is rolled out.
    near, far = (r["result"]["returns"] for r in episodes if r["cell"]["planner"] == "policy")
    assert near == pytest.approx(far, abs=1e-4)
    # Fixed counts: returns repeat, also in processes of their own.
    assert telic("benchmark", *words, "workers=2", f"out={tmp_path / 'b'}").code == 0
    again = json.loads((tmp_path / "b" / "horizon.json").read_text())
    assert again["hash"] == found["hash"]
    for one, other in zip(episodes, again["cells"][6:], strict=True):
        assert one["cell"] == other["cell"]
        assert one["result"]["returns"] == other["result"]["returns"]


def test_planners_that_are_too_slow_plan_less_often(trained_run: Path, tmp_path: Path) -> None:
    """As if that had been asked for."""
    words = ("suite=horizon", f"runs={trained_run}", "horizons=2", "episodes=2", "decisions=1")
    words += ("trials=1", "workers=1", "planner=policy", "env.episode_frames=20")
    found = []
    for name, budget, *more in (
        ("late", "budgets=1e-6"),
        ("told", "budgets=1e6", "agent.replan_every=2"),
        ("fast", "budgets=1e6"),
    ):
        out = tmp_path / name
        assert telic("benchmark", *words, budget, *more, f"out={out}").code == 0
        found.append(results(out, "horizon")["cells"][1]["result"])
    late, told, fast = found
    assert [one["replan_every"] for one in found] == [2, 2, 1]
    assert late["returns"] == told["returns"] != fast["returns"]
    assert "| every 2 steps, " in (tmp_path / "late" / "horizon.md").read_text()


def test_decisions_after_a_calibration_in_a_slow_moment_count(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(_agent: Any, _env: Any, _protocol: Any, count: int, _device: str) -> Any:
        return [2.0 if count == 1 else 0.5] * count, (0, 0)

    monkeypatch.setattr("scripts.benchmarks.horizon.time_decisions", seconds)
    found = []
    for budget in (250.0, 500.0):
        words = {"horizons": [5], "budgets": [budget], "trials": 1, "decisions": 3}
        raw = {"suite": "horizon", "runs": [str(trained_run)], "planner": {"name": "policy"}}
        first = make_suite({**raw, **words}).cells()[0].measure()
        found.append((first["calibration"]["milliseconds"], first["replan_every"]))
        assert first["calibration"]["fits"] == (budget == 500.0)
    assert found == [(500.0, 2), (500.0, 1)]


def met(found: list[Target]) -> list[bool | None]:
    return [target.met for target in found]


def test_horizon_targets_of_hand_made_numbers() -> None:
    base = {
        ("grasp", 3): [100.0, 102.0, 104.0],
        ("grasp", 25): [99.0, 101.0, 103.0],
        ("cem", 3): [101.0, 103.0, 105.0],
        ("cem", 25): [90.0, 91.0, 95.0],
    }
    assert met(horizon_targets("x", base, set())) == [True, True, True]
    # Below 95 % of 102 at one horizon, and so more than 3 % behind the best.
    falling = base | {("grasp", 50): [95.0, 96.0, 97.0]}
    assert met(horizon_targets("x", falling, set())) == [False, True, False]
    # Better on average, but not surely.
    unsure = base | {("mppi", 25): [50.0, 100.0, 104.0]}
    found = horizon_targets("x", unsure, set())
    assert met(found) == [True, False, True]
    assert "1 of 2 comparisons, not mppi at H = 25 by " in found[1].measured
    # Best elsewhere: 3 % of 104.2 below is 101.07; GRASP's worst is 101.
    elsewhere = base | {("cem", 6): [104.2] * 3}
    assert met(horizon_targets("x", elsewhere, set())) == [True, True, False]
    # More time than allowed is no way to meet a target; the others may have had it.
    assert met(horizon_targets("x", base, {("grasp", 3)})) == [False, True, False]
    assert met(horizon_targets("x", base, {("grasp", 25)})) == [False, False, False]
    assert met(horizon_targets("x", base, {("cem", 25)})) == [True, True, True]
    # Returns below zero: 95 % of the best is 5 % of its size further down.
    negative = {("grasp", 3): [-100.0, -100.0], ("grasp", 6): [-104.0, -104.0]}
    assert met(horizon_targets("x", negative, set())) == [True, None, None]
    negative[("grasp", 6)] = [-106.0, -106.0]
    assert met(horizon_targets("x", negative, set())) == [False, None, None]


def test_an_interrupted_benchmark_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, int]] = []
    plans = latency.Latency._plans

    def watched(stop: int) -> Callable[..., Any]:
        def measure(suite: Any, name: str, horizon: int, compile: bool) -> Any:
            if len(measured) == stop:
                os.kill(os.getpid(), signal.SIGINT)
            measured.append((name, horizon))
            return plans(suite, name, horizon, compile)

        return measure

    words = ("benchmark", *TINY_LATENCY, "batches=1", "horizons=2", f"out={tmp_path}")
    monkeypatch.setattr(latency.Latency, "_plans", watched(2))
    result = telic(*words)
    assert result.code == 130 and "2 of 5 cells kept in " in result.err
    assert "the same command goes on" in result.err and result.err.count("\n") == 1
    (kept,) = (tmp_path / "cells").glob("latency-*.jsonl")
    before = kept.read_text()
    assert len(before.splitlines()) == 3 and not (tmp_path / "latency.json").exists()
    kept.write_text(before + '{"cell": {"kind": "pl')  # as a killed process leaves it
    measured.clear()
    monkeypatch.setattr(latency.Latency, "_plans", watched(-1))
    result = telic(*words)
    assert result.code == 0 and "2 of 5 cells are finished already" in result.out
    assert measured == [("zero", 2)]
    assert kept.read_text().startswith(before)
    found = json.loads((tmp_path / "latency.json").read_text())
    assert [json.dumps(row) for row in found["cells"]] == kept.read_text().splitlines()[1:]
    # Other settings begin anew, in a file of their own, and what is finished stays.
    measured.clear()
    assert telic(*words, "seed=2").code == 0
    assert len(measured) == 3 and len(list((tmp_path / "cells").iterdir())) == 2
    # So do other planner options, and a file that claims to be for others is refused.
    head, rest = kept.read_text().split("\n", 1)
    kept.write_text(head.replace(json.loads(head)["hash"], "0" * 12) + "\n" + rest)
    assert "holds cells of other settings" in telic(*words).error


def test_results_go_to_the_checkout_or_a_folder_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("benchmark", "suite=truth", "problems=lq", "planner=zero", "starts=1", "repeats=1")
    monkeypatch.chdir(tmp_path)
    assert telic(*words, "budgets=10").code == 0
    assert (tmp_path / "benchmarks" / "truth.md").is_file()
    (tmp_path / "benchmarks" / "results").mkdir()
    assert telic(*words, "budgets=10").code == 0
    assert (tmp_path / "benchmarks" / "results" / "truth.md").is_file()


def test_help_lists_the_options_of_a_suite() -> None:
    for suite, own in (("latency", "repeats=30"), ("truth", "search=500"), ("horizon", "trials=")):
        text = telic("benchmark", f"suite={suite}", "--help").out
        assert own in text and "out=null" in text and "planner=grasp," in text
        assert ("env.OPTION" in text) == (suite == "horizon")


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ([], "suite=... is required; choose from latency, truth, horizon"),
        (["suite=truht"], "unknown suite 'truht'; did you mean 'truth'?"),
        (["suite=latency", "horizon=3"], "unknown option 'horizon'; did you mean 'horizons'?"),
        (["suite=latency", "horizons=3,x"], "horizons[1]: Value 'x' of type 'str' could not be"),
        (["suite=latency", "horizons=3,3"], "horizons must list different values from 1 on"),
        (["suite=latency", "batches=0"], "batches must list different values from 1 on, got [0]"),
        (["suite=latency", "counts=6,2"], "counts must be two ascending numbers, got [6, 2]"),
        (["suite=latency", "cap=0"], "cap must be above 0, got 0.0"),
        (["suite=latency", "planner=grap"], "unknown planner 'grap'; did you mean 'grasp'?"),
        (["suite=latency", "planner.horizon=3"], "planner.horizon is set by suite=latency; use"),
        (["suite=latency", "planner.samples=1"], "planner.samples must be at least 2, got 1"),
        (["suite=latency", "planner.restarts=many"], "planner.restarts must be a whole number"),
        (["suite=latency", "model.latent_dim=9"], "model.latent_dim must be a multiple of simplex"),
        (["suite=latency", "device=cud"], "device must be auto, cpu, cuda or mps, got 'cud'"),
        (["suite=truth", "problems=lqr"], "problems must be among lq, pendulum, point_mass"),
        (["suite=truth", "budgets=-1"], "budgets must be above 0 ms, got [-1.0]"),
        (["suite=truth", "env.action_repeat=2"], "unknown option 'env'"),
        (["suite=horizon"], "runs=... is required"),
        (["suite=horizon", "runs=a,a"], "runs must list different run folders, got ['a', 'a']"),
        (["suite=horizon", "runs=none"], "none is not a run folder: no such folder"),
        (["suite=latency", "out=/proc/none"], "cannot write to /proc/none/cells: "),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], refusal: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal in telic("benchmark", *words).error
    assert tree(tmp_path) == {}


def test_a_wrong_planner_option_is_refused_before_anything_runs(
    trained_run: Path, tmp_path: Path
) -> None:
    words = ("benchmark", "suite=horizon", f"runs={trained_run}", f"out={tmp_path / 'out'}")
    assert "planner.restarts must be at least 1" in telic(*words, "planner.restarts=0").error
    assert "planner.deadline_ms is set by" in telic(*words, "planner.deadline_ms=9").error
    assert "replan_every must be at most" in telic(*words, "agent.replan_every=4").error
    assert tree(tmp_path) == {}


def test_all_registered_planners_take_part() -> None:
    for suite, left_out in (
        (latency.Latency, set()),
        (truth.Truth, {"policy"}),
        (Horizon, {"zero", "random"}),
    ):
        assert set(suite.default_planners()) == set(PLANNERS.names()) - left_out
        assert suite.default_planners()[0] == "grasp"


def test_warm_plans_follow_the_predicted_states(integrator: Problem) -> None:
    planner = PLANNERS["zero"](PLANNERS["zero"].Config(horizon=5))
    plans = latency.WarmPlans(planner, integrator, seed=0)
    taken = [plans.once() for _ in range(3)]
    assert statistics.median(taken) > 0 and plans.calls == (5, 0)
    state = integrator.state
    for _ in range(3):
        state = integrator.model.step(state, torch.zeros(3, 1, dtype=torch.float64))
    torch.testing.assert_close(plans.problem.state, state)


TINY_DMC = (
    *("suite=dmc", "tasks=cartpole-balance,pendulum-swingup", "frames=200", "episodes=2"),
    *("env.episode_frames=40", "train.random_steps=20", "train.first_updates=1"),
    *("train.eval_every=100", "train.checkpoint_every=100", "loss.batch_size=4"),
    *("loss.compile=false", "planner.compile=false", *TINY_MODEL),
)


def trained(final: float, middle: float, minutes: float, frames: int = 100_000) -> dict[str, Any]:
    """What a training of the dmc suite leaves, as far as targets depend on it."""
    return {
        "returns": [final, final],
        "frames": [frames // 2, frames],
        "curve": [middle, 0.0],
        "seconds": [30 * minutes, 60 * minutes],
    }


def test_dmc_targets_compare_with_what_is_published() -> None:
    """97 % of 981 (cup-catch) is 951.6, of 838.6 (cartpole-swingup) 813.4."""
    cup, pole = "dmc/ball_in_cup-catch", "dmc/cartpole-swingup"
    found = {
        cup: [trained(1000.0, 900.0, 14.0), trained(905.0, 1000.0, 10.0)],
        pole: [trained(813.0, 840.0, 15.5), trained(813.0, 840.0, 15.0)],
    }
    returns, time = targets_at(100_000, "grasp", found)
    assert returns.text.endswith("on 11 of the 12 tasks")
    assert returns.met is None and returns.measured == "1 of 2, not cartpole-swingup 96.9 %"
    assert time.met is False and time.measured == "15.5 at most"
    returns, time = targets_at(50_000, "grasp", found)
    assert returns.met is None and returns.measured == "1 of 2, not ball_in_cup-catch 96.8 %"
    assert time.met and time.measured == "7.8 at most"
    assert final_interval(found[cup]).point == 952.5
    # The last agent of a shorter training counts for its frames; it says nothing of more.
    short = {cup: [trained(1000.0, 900.0, 8.0, frames=50_000)], pole: found[pole]}
    returns, time = targets_at(50_000, "grasp", short)
    assert returns.met is None and returns.measured == "2 of 2"
    assert time.met and time.measured == "8.0 at most"
    returns, _ = targets_at(100_000, "grasp", short)
    assert returns.measured == "0 of 2, not cartpole-swingup 96.9 %"
    nothing = targets_at(100_000, "grasp", {cup: []})
    assert [target.met for target in nothing] == [None, None]


def test_dmc_targets_are_decided_by_enough_tasks_alone() -> None:
    """At 50,000 frames 8 of the 12 tasks are enough, and 5 that miss are too many."""
    good, bad = [trained(1000.0, 1000.0, 10.0)], [trained(0.0, 0.0, 10.0)]
    for reached, missed, met in ((8, 0, True), (7, 4, None), (7, 5, False), (0, 5, False)):
        kinds = [good] * reached + [bad] * missed
        found = {f"dmc/{task}": kind for task, kind in zip(TASKS, kinds, strict=False)}
        assert targets_at(50_000, "grasp", found)[0].met is met
    others = {f"dmc/made-up-{i}": good for i in range(12)}
    assert targets_at(50_000, "grasp", others)[0].met is None


def test_dmc_compares_planners_at_equal_time() -> None:
    """Half way between evaluations at 5 and 10 minutes; what has ended stays as it is."""
    slow = {**trained(0.0, 400.0, 10.0), "curve": [400.0, 600.0]}
    quick = {**trained(0.0, 300.0, 7.5), "curve": [300.0, 900.0]}
    assert at_time([slow], 450.0) == 500.0
    assert at_time([slow, quick], 450.0) == 700.0


def test_dmc_trains_once_evaluates_and_compares(tmp_path: Path) -> None:
    options = (*TINY_DMC, "tasks=cartpole-balance", "seeds=1,2", "planner=grasp,policy")
    options = (*options, f"runs={tmp_path / 'runs'}", f"out={tmp_path}")
    run = telic("benchmark", *options)
    assert run.code == 0, run
    assert run.out.count("finished: ") == 4
    assert (tmp_path / "dmc-time.png").is_file()
    found = results(tmp_path, "dmc")
    cells = {(row["cell"]["planner"], row["cell"]["seed"]) for row in found["cells"]}
    assert cells == {("grasp", 1), ("grasp", 2), ("policy", 1), ("policy", 2)}
    first = found["cells"][0]["result"]
    assert len(first["returns"]) == 2 and first["frames"] == [100, 200]
    assert 0 < first["seconds"][0] < first["seconds"][1]
    text = (tmp_path / "dmc.md").read_text()
    assert re.search(r"\| cartpole-balance \| 998 \| [\d.]+ \| [\d.]+ \([\d.]+ to [\d.]+\)", text)
    assert re.search(r"## At equal time.*\| cartpole-balance \| [\d.]+ \| [\d.]+ \|", text, re.S)
    again = telic("benchmark", *options)
    assert again.code == 0 and "4 trainings, 4 of them finished before" in again.out
    assert "4 of 4 cells are finished already" in again.out
    # A training made anew is evaluated anew: its minutes may differ, if nothing else does.
    shutil.rmtree(tmp_path / "runs" / "cartpole-balance-grasp-seed1")
    anew = telic("benchmark", *options)
    assert "3 of 4 cells are finished already" in anew.out
    second = results(tmp_path, "dmc")["cells"][0]["result"]
    assert second["returns"] == first["returns"] and second["seconds"] != first["seconds"]
    for option in ("train.updates_per_step", "train.eval_every"):
        refused = telic("benchmark", *options, f"{option}=50")
        assert f"other settings: {option} is" in refused.error


def test_dmc_says_that_nothing_was_learned(tmp_path: Path) -> None:
    options = (*TINY_DMC, "tasks=cartpole-balance", "seeds=1", "train.random_steps=100")
    run = telic("benchmark", *options, f"runs={tmp_path / 'runs'}", f"out={tmp_path}")
    assert run.code == 0, run
    assert "its training ended before anything was learned" in (tmp_path / "dmc.md").read_text()


def test_processors_of_one_name_are_told_apart(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    one = "processor\t: {}\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\n\n"
    info.write_text("".join(one.format(i, 17 + i) for i in range(2)))
    assert cpu_name(info) == "AMD EPYC (family 25, model 17)"
    # What an ARM board tells has no name in it.
    info.write_text("processor\t: 0\nCPU part\t: 0xd0c\n\n")
    python = platform.processor() or platform.machine()
    assert cpu_name(info) == cpu_name(tmp_path / "none") == python


def test_dmc_takes_results_of_other_machines(tmp_path: Path) -> None:
    """Half of a table from a file, whose run is gone; the whole is that of one command."""
    options = (*TINY_DMC, "tasks=cartpole-balance", f"runs={tmp_path / 'runs'}", "workers=2")
    assert telic("benchmark", *options, "seeds=1", f"out={tmp_path / 'a'}").code == 0
    file = tmp_path / "a" / "dmc.json"
    shutil.rmtree(tmp_path / "runs")
    both = (*options, "seeds=2,1", f"out={tmp_path / 'both'}", f"results={file}")
    run = telic("benchmark", *both)
    assert run.code == 0 and "1 of 2 trainings are in the results given" in run.out, run
    assert not (tmp_path / "runs" / "cartpole-balance-grasp-seed1").exists()
    cells = results(tmp_path / "both", "dmc")["cells"]
    assert [row["cell"]["seed"] for row in cells] == [2, 1]
    assert cells[1] == results(tmp_path / "a", "dmc")["cells"][0]
    text = (tmp_path / "both" / "dmc.md").read_text()
    (maker,) = cells[0]["result"]["made_by"]
    took = sorted(row["result"]["seconds"][-1] / 60 for row in cells)
    minutes = f"{took[0]:.1f} to {took[1]:.1f} minutes"
    assert f"{maker['precision']}, 1 at a time (2 trainings, {minutes})" in text
    assert f"(code {maker['code']})" in text and maker["code"] == CODE

    # Files of earlier versions tell less.
    content, changed = json.loads(file.read_text()), tmp_path / "changed.json"
    old = json.loads(file.read_text())
    for name in ("episode_share", "whole_after"):
        del old["basis"]["facts"]["terms"]["grasp"][f"train.{name}"]
    for key in ("date", "code"):
        del old["cells"][0][key]
    for key in ("made_by", "agent"):
        del old["cells"][0]["result"][key]
    (tmp_path / "old.json").write_text(json.dumps(old))
    before = (*options, "seeds=1", f"out={tmp_path / 'old'}", f"results={tmp_path / 'old.json'}")
    assert telic("benchmark", *before, "train.episode_share=1", "train.whole_after=1").code == 0
    text = (tmp_path / "old" / "dmc.md").read_text()
    assert f", {old['date']}, " in text and text.count("(code not noted)") == 2
    assert "Trained on: not noted (1 training, " in text
    assert "is of train.episode_share=1.0, not 0.5" in telic("benchmark", *before).error

    content["cells"][0]["result"]["returns"][0] += 1
    changed.write_text(json.dumps(content))
    refused = (
        (("loss.lr=0.01",), "is of loss.lr=0.001, not 0.01; give the options by which"),
        (("episodes=3",), "is of episodes=2, not 3"),
        ((f"results={file},{changed}",), "changed.json and another file differ in"),
        ((f"results={tmp_path / 'no.json'}",), "no.json: No such file or directory"),
        ((f"results={tmp_path / 'both' / 'dmc.md'}",), "dmc.md is not the dmc.json of a"),
    )
    for more, message in refused:
        run = telic("benchmark", *both, f"runs={tmp_path / 'others'}", *more)
        assert run.code == 2 and message in run.err.replace("\n", " "), run
    del content["basis"]["facts"]["terms"]
    file.write_text(json.dumps(content))
    assert "does not tell by which options grasp was trained" in telic("benchmark", *both).error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("tasks=cartpole-balanc", "did you mean 'dmc/cartpole-balance'?"),
        ("tasks=[]", "tasks must list different tasks, got []"),
        ("seeds=1,1", "seeds must list different values from 0 on, got [1, 1]"),
        ("seeds=-1", "seeds must list different values from 0 on, got [-1]"),
        ("loss.batch_size=0", "batch_size must be at least 1, got 0"),
        ("planner.horizn=3", "did you mean 'planner.horizon'?"),
        ("loss.lr=0.1,0.2", "list values of tasks, seeds and planner only"),
        ("train.frames=100", "train.frames is set by suite=dmc; use frames=50000"),
        ("train.eval_episodes=3", "train.eval_episodes is set by suite=dmc; use episodes=20"),
        ("planner.deadline_ms=9", "planner.deadline_ms is set by suite=dmc; use telic control"),
        ("env.name=dmc/cup-catch", "env.name is set by suite=dmc; use tasks=reacher-easy"),
    ],
)
def test_dmc_refuses_nonsense_before_it_trains(option: str, message: str, tmp_path: Path) -> None:
    run = telic("benchmark", *TINY_DMC, option, f"runs={tmp_path / 'runs'}", f"out={tmp_path}")
    assert run.code == 2 and message in run.err.replace("\n", " "), run
    assert tree(tmp_path) == {}


def test_what_was_skipped_is_tried_again(tmp_path: Path) -> None:
    path, basis = tmp_path / "cells.jsonl", {"version": "1"}
    store = CellStore(path, basis, "abc")
    store.add({"planner": "cem"}, {"score": 1.0})
    store.add({"planner": "grasp"}, {"skipped": "its training failed"})
    store.close()
    again = CellStore(path, basis, "abc")
    assert again.has({"planner": "cem"}) and not again.has({"planner": "grasp"})
    again.add({"planner": "grasp"}, {"score": 2.0})
    again.close()
    last = CellStore(path, basis, "abc")
    assert [row["result"] for row in last.rows] == [{"score": 1.0}, {"score": 2.0}]
    last.close()


def test_a_cell_measured_again_replaces_the_old_one(tmp_path: Path) -> None:
    path, key = tmp_path / "cells.jsonl", {"planner": "cem"}
    store = CellStore(path, {}, "abc")
    store.add(key, {"score": 1.0})
    store.drop(lambda row: row["result"]["score"] == 1.0)
    assert not store.has(key)
    store.add(key, {"score": 2.0})
    store.give([{"cell": {"planner": "grasp"}, "result": {"score": 3.0}}])
    assert store.has({"planner": "grasp"}) and store.result({"planner": "grasp"}) == {"score": 3.0}
    store.close()
    again = CellStore(path, {}, "abc")
    assert [row["result"]["score"] for row in again.rows] == [2.0]
    assert again.row(key)["date"] == str(datetime.date.today())
    again.close()
