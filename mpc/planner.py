"""The base of all planners: one verb, `plan`, and the options that all of them have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Generic, TypeVar

import torch

from mpc.bounded import Bounded
from mpc.chunks import plan_in_chunks
from mpc.contracts import Plan, Problem, WarmStart, expect
from mpc.pace import Pace


@dataclass(frozen=True)
class PlannerConfig:
    """Options that every planner has."""

    horizon: int = 3  # control steps
    compile: bool | None = None  # compile the model calls; null: only while training
    deadline_ms: float | None = None  # of a plan: iterations end early to keep it; null: never
    max_batch: int | None = None  # rows of a model call, to bound memory; not compiled; null: any
    chunk: int = 200  # control steps; a longer horizon is planned in chunks, one after the other
    overlap: int = 20  # control steps that a chunk looks beyond its end

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        self.require("horizon", self.horizon >= 1, "at least 1 control step")
        positive = self.deadline_ms is None or self.deadline_ms > 0
        self.require("deadline_ms", positive, "above 0 ms, or null")
        bounded = self.max_batch is None or self.max_batch >= 1
        self.require("max_batch", bounded, "at least 1 row, or null")
        self.require("chunk", self.chunk >= 1, "at least 1 control step")
        fits = 0 <= self.overlap < self.chunk
        self.require("overlap", fits, f"at least 0 and below chunk = {self.chunk}")

    @property
    def compiles(self) -> bool:
        """Whether model calls are to be compiled."""
        return bool(self.compile) and self.max_batch is None

    def require(self, option: str, holds: bool, what: str) -> None:
        """Raise ValueError naming `option`, its value and `what` it must be, unless `holds`."""
        if not holds:
            raise ValueError(f"{option} must be {what}, got {getattr(self, option)!r}")

    def one_of(self, option: str, choices: tuple[str, ...]) -> None:
        """Raise ValueError unless the value of `option` is one of `choices`."""
        self.require(option, getattr(self, option) in choices, "one of " + ", ".join(choices))

    @classmethod
    def options(cls) -> list[str]:
        """Names of all options, for error messages and help."""
        return [f.name for f in fields(cls)]


C = TypeVar("C", bound=PlannerConfig)


class Planner(ABC, Generic[C]):
    """One verb, `plan`: pure, batched over B, deterministic given the generator.

    With a deadline the number of iterations depends on the clock, and only that.
    """

    name: ClassVar[str]
    Config: ClassVar[type[PlannerConfig]] = PlannerConfig

    def __init__(self, config: C) -> None:
        self.config = config
        self._pace = Pace(config.deadline_ms)

    @torch.no_grad()
    def plan(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Best actions found. Same arguments and generator state, same plan.

        `warm_start` is an already shifted `Plan.warm_start`. Raises ValueError if it does not
        fit the problem.
        """
        self._pace.begin(problem.state.device)
        if warm_start is not None:
            self._check(problem, warm_start)
        cfg = self.config
        if cfg.max_batch is not None:
            problem = replace(problem, model=Bounded(problem.model, cfg.max_batch))
        if problem.horizon > cfg.chunk:

            def search(part: Problem, warm: WarmStart | None, progress: float) -> Plan:
                self._pace.share = progress
                return self.search(part, warm, rng)

            plan = plan_in_chunks(search, problem, warm_start, cfg.chunk, cfg.overlap)
        else:
            plan = self.search(problem, warm_start, rng)
        seconds = self._pace.end()
        overrun = self._pace.limit is not None and seconds > self._pace.limit
        found = replace(plan.diagnostics, seconds=seconds, overrun=overrun)
        return replace(plan, diagnostics=found)

    @staticmethod
    def _check(problem: Problem, warm_start: WarmStart) -> None:
        batch, horizon, dim = problem.batch, problem.horizon, problem.actions.dim
        expect("warm start actions", warm_start.actions, batch, horizon, dim)
        shapes = {
            "states": (batch, horizon + 1, problem.model.latent_dim),
            "std": (batch, horizon, dim),
            "elites": (batch, horizon, None, dim),
            "known": (batch,),
        }
        for name, shape in shapes.items():
            value = getattr(warm_start, name)
            if value is not None:
                expect(f"warm start {name}", value, *shape)

    def iterations(self, count: int) -> Iterator[int]:
        """What a planner loops over: 0 .. count - 1, ending early to keep the deadline."""
        return self._pace.iterations(count)

    @abstractmethod
    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """What a planner implements; `plan` checks and times it.

        It runs without gradients; one that needs them takes `mpc.optim.gradients`, or
        `torch.enable_grad`.
        """
