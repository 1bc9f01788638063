"""The MPC agent: encode, plan from a warm start, act, remember."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mpc import Objective, Plan, Planner, Problem, WarmStart, WorldModel, forget, shift
from mpc.history import newest, push
from mpc.warm_start import fill, known_rows

WARM_STARTS = ("all", "actions", "nothing")


@dataclass(frozen=True)
class AgentConfig:
    """How plans are turned into actions."""

    replan_every: int = 1  # control steps for which a plan is executed
    # Least std of exploration noise for planners that have no spread; of discrete actions, the
    # chance of any choice in place of the planned one.
    exploration: float = 0.3
    warm_start: str = "all"  # what a plan is handed of the last one: all, actions (alone), nothing

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.replan_every < 1:
            raise ValueError(f"replan_every must be at least 1, got {self.replan_every}")
        if self.warm_start not in WARM_STARTS:
            choices = ", ".join(WARM_STARTS)
            raise ValueError(f"warm_start must be one of {choices}, got {self.warm_start!r}")
        if self.exploration < 0:
            raise ValueError(f"exploration must be at least 0, got {self.exploration}")


@dataclass(frozen=True)
class Memory:
    """What the agent carries from one control step to the next, for B environments."""

    rng: torch.Generator
    window: Tensor | None = None  # (B, h * Z), the latest latents, for models with a history
    fresh: Tensor | None = None  # (B,) bool, rows whose window begins anew; None: none of them
    warm_start: WarmStart | None = None  # of the last plan, not yet shifted
    age: int = 0  # control steps of that plan that have been executed
    plan: Plan | None = None  # the last plan, None after a resume
    seconds: float = 0.0  # how long the last decision took
    fallbacks: int = 0  # rows of plans, so far, that were not finite and not executed
    overruns: int = 0  # plans, so far, that took longer than the planner's deadline

    def state(self) -> dict[str, Tensor]:
        """Everything but the last plan as tensors, for a checkpoint."""
        tensors = {
            "rng": self.rng.get_state(),
            "counts": torch.tensor([self.age, self.fallbacks, self.overruns]),
        }
        if self.warm_start is not None:
            for name in ("actions", "states", "std", "elites", "known"):
                value = getattr(self.warm_start, name)
                if value is not None:
                    tensors[f"warm_start.{name}"] = value
            tensors |= {f"moments.{name}": x for name, x in self.warm_start.moments.items()}
        for name in ("window", "fresh"):
            value = getattr(self, name)
            if value is not None:
                tensors[f"seen.{name}"] = value
        return tensors

    def rows(self, kept: Sequence[int]) -> Memory:
        """The memory of some of the environments; it knows no last plan."""
        index = torch.tensor(kept, device=self.rng.device)
        warm, window, fresh = self.warm_start, self.window, self.fresh
        return replace(
            self,
            window=None if window is None else window[index],
            fresh=None if fresh is None else fresh[index],
            warm_start=None if warm is None else warm.rows(index),
            plan=None,
        )

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Memory:
        """The memory that `state` described."""
        rng = torch.Generator(device=device)
        rng.set_state(tensors["rng"].cpu())

        def part(prefix: str) -> dict[str, Any]:
            found = (
                (k.removeprefix(prefix), x) for k, x in tensors.items() if k.startswith(prefix)
            )
            return {name: x.to(device) for name, x in found}

        warm, moments = part("warm_start."), part("moments.")
        age, fallbacks, overruns = tensors["counts"].tolist()
        known = WarmStart(**warm, moments=moments) if warm else None
        counts = {"age": age, "fallbacks": fallbacks, "overruns": overruns}
        return cls(rng, warm_start=known, **part("seen."), **counts)


class MPCAgent:
    """Wraps a planner around a world model; replans as it goes, with explicit memory."""

    def __init__(
        self,
        model: WorldModel,
        planner: Planner[Any],
        objective: Objective,
        discount: float,
        config: AgentConfig | None = None,
    ) -> None:
        self.model, self.planner, self.objective = model, planner, objective
        self.discount, self.config = discount, config or AgentConfig()
        self._actions = model.action_space
        if self.config.replan_every > planner.config.horizon:
            raise ValueError(
                f"replan_every must be at most the horizon {planner.config.horizon}, "
                f"got {self.config.replan_every}"
            )

    def start(self, seed: int, device: torch.device | str = "cpu") -> Memory:
        """An empty memory with its own random numbers."""
        return Memory(torch.Generator(device=device).manual_seed(seed))

    @torch.no_grad()
    def act(
        self, obs: NDArray[np.float32], memory: Memory, explore: ArrayLike = 0.0
    ) -> tuple[NDArray[np.float32], Memory]:
        """Actions (B, A) for observations (B, O), and the memory for the next control step.

        Replans every `replan_every` control steps, and at once when a row has been forgotten.
        With `explore`, a share for all rows or (B,), adds normal noise: of `explore` times the
        planner's own spread where it has one, else of the spread of the policy prior, which is
        wide where values tell actions hardly apart, and at least of standard deviation
        `explore * exploration`. Of discrete actions, the chance that a choice is replaced by any
        is `explore * exploration`.
        """
        started = time.perf_counter()
        z = self.model.encode(torch.as_tensor(obs, device=memory.rng.device))
        if self.model.history > 1:
            memory = self._remember(z, memory)
        warm = memory.warm_start
        due = (
            warm is None
            or memory.age >= self.config.replan_every
            or (warm.known is not None and not bool(warm.known.all()))
        )
        if due:
            memory = self._replan(z if memory.window is None else memory.window, memory)
        warm, age = memory.warm_start, memory.age
        assert warm is not None
        action = self._actions.execute(warm.actions[:, age])
        if np.any(explore):
            share = torch.as_tensor(explore, dtype=z.dtype, device=z.device).expand(len(z))[:, None]
            if warm.std is None:
                amount = self._uncertainty(z, share * self.config.exploration)
            else:
                amount = share * warm.std[:, age]
            amount = amount.masked_fill(share == 0, 0.0)
            action = self._actions.explore(action, amount, memory.rng)
        # A copy: what is done to it must not reach the plan in memory.
        result = action.to("cpu", torch.float32, copy=True).numpy()
        seconds = time.perf_counter() - started
        return result, replace(memory, age=age + 1, seconds=seconds)

    def _uncertainty(self, z: Tensor, least: Tensor) -> Tensor:
        """Amount of exploration (B, A): the policy prior's deviation, or `least` (B, 1)."""
        amount = least.expand(-1, self._actions.dim)
        known = self.model.supports("policy") and self.model.policy_has_spread
        if not (self._actions.averages and known):
            return amount
        one = torch.ones_like(amount)
        if self.model.for_problems(torch.arange(len(z), device=z.device)) is self.model:
            above, below = self.model.policy(z.expand(2, -1, -1), torch.stack([one, -one]))
        else:  # one call would need axis 0, which has to be B
            above, below = self.model.policy(z, one), self.model.policy(z, -one)
        # Where the policy is not finite its spread tells nothing.
        return torch.maximum(amount, (0.5 * (above - below)).nan_to_num(0.0, 0.0, 0.0))

    def forget(self, memory: Memory, done: NDArray[np.bool_]) -> Memory:
        """Drop the plans of rows whose episode ended, `done` (B,); the others stay warm."""
        if memory.warm_start is None:
            return memory
        rows = torch.as_tensor(done, device=memory.rng.device)
        fresh = None
        if memory.window is not None:
            fresh = rows if memory.fresh is None else rows | memory.fresh
        return replace(memory, warm_start=forget(memory.warm_start, rows), fresh=fresh)

    def _remember(self, z: Tensor, memory: Memory) -> Memory:
        """The memory with latent `z` (B, Z) in its window; before the first one, z repeats."""
        window = z.repeat(1, self.model.history)
        if memory.window is not None:
            fresh = torch.zeros_like(z[:, 0], dtype=torch.bool)
            fresh = fresh if memory.fresh is None else memory.fresh
            window = fill(fresh, window, push(self.model, memory.window, z))
        return replace(memory, window=window, fresh=None)

    def _replan(self, state: Tensor, memory: Memory) -> Memory:
        previous = memory.warm_start
        warm = None if previous is None else shift(previous, memory.age)
        problem = Problem(
            self.model,
            self.objective,
            state,
            self.planner.config.horizon,
            self._actions,
            self.discount,
            self.config.replan_every,
        )
        plan = self.planner.plan(problem, self._handed(warm), memory.rng)
        finite = plan.actions.isfinite().flatten(1).all(1) & plan.cost.isfinite()
        after = plan.warm_start
        fallbacks = memory.fallbacks
        if not bool(finite.all()):
            after = self._fall_back(problem, warm, after, finite)
            fallbacks += int((~finite).sum())
        overruns = memory.overruns + plan.diagnostics.overrun
        return replace(
            memory, warm_start=after, age=0, plan=plan, fallbacks=fallbacks, overruns=overruns
        )

    def _handed(self, warm: WarmStart | None) -> WarmStart | None:
        """What the planner is given of a shifted warm start; a fallback may use all of it."""
        if warm is None or self.config.warm_start == "nothing":
            return None
        if self.config.warm_start == "actions":
            return WarmStart(warm.actions, known=warm.known, filled=warm.filled)
        return warm

    def _fall_back(
        self, problem: Problem, warm: WarmStart | None, after: WarmStart, finite: Tensor
    ) -> WarmStart:
        """Replace rows that are not finite: shifted previous plan, else policy prior, else zeros.

        The zeros are rounded: of discrete actions, the first choice.

        Rows without a previous plan are not known to the next one, which starts cold for them.
        """
        action = torch.zeros_like(after.actions[:, 0])
        if problem.model.supports("policy"):
            state = newest(problem.model, problem.state)
            action = problem.model.policy(state).nan_to_num(nan=0.0)
        safe = self._actions.round(action).unsqueeze(1).expand_as(after.actions)
        usable = torch.zeros_like(finite)
        if warm is not None:
            usable = known_rows(warm, problem.batch, finite.device)
            usable = usable & warm.actions.isfinite().flatten(1).all(1)
            safe = fill(usable, warm.actions, safe)

        def mend(x: Tensor | None, previous: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            return fill(finite, x, torch.zeros_like(x) if previous is None else previous)

        return replace(
            after,
            actions=fill(finite, after.actions, safe),
            states=mend(after.states, None if warm is None else warm.states),
            std=mend(after.std, None if warm is None else warm.std),
            elites=mend(after.elites, None if warm is None else warm.elites),
            moments={k: fill(finite, x, torch.zeros_like(x)) for k, x in after.moments.items()},
            known=finite | usable,
        )
