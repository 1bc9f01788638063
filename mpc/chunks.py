"""Long horizons in overlapping chunks, planned one after the other, around any planner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mpc.contracts import Diagnostics, Plan, Problem, WarmStart
from mpc.history import push
from mpc.rollout import defect, follow

# Plans a chunk, told which share of the whole will be planned then.
Search = Callable[[Problem, WarmStart | None, float], Plan]


def chunks(horizon: int, size: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """(first step, steps planned, steps kept) of each chunk; all but the last overlap the next."""
    first = 0
    while first + size < horizon:
        yield first, size, size - overlap
        first += size - overlap
    yield first, horizon - first, horizon - first


def plan_in_chunks(
    search: Search, problem: Problem, warm_start: WarmStart | None, size: int, overlap: int
) -> Plan:
    """Plan chunks of `size` control steps in turn and stitch them together.

    Every chunk aims at the objective's own end and begins where the actions of the one before it
    lead after all but its last `overlap` steps, which exist so that no chunk is short-sighted. What
    is rolled out on the way, in H model calls, is the whole plan, and gives its cost (`follow`).
    """
    window, plans, kept_steps = problem.state, [], []
    ahead, pending = chunks(problem.horizon, size, overlap), deque[Tensor]()

    def choose(t: int, z: Tensor) -> Tensor:
        nonlocal window
        window = push(problem.model, window, z) if t else window
        if not pending:
            first, steps, kept = next(ahead)
            part = replace(problem, state=window, horizon=steps)
            warm = None if warm_start is None else cut(warm_start, first, steps)
            plans.append(search(part, warm, (first + steps) / problem.horizon))
            kept_steps.append(kept)
            pending.extend(plans[-1].actions[:, :kept].unbind(1))
        return pending.popleft()

    cost, _ = follow(
        problem.model,
        problem.objective,
        problem.discount,
        problem.state,
        problem.horizon,
        choose,
    )

    def stitched(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([x[:, :k] for x, k in zip(parts, kept_steps, strict=True)], 1)

    actions = stitched([plan.actions for plan in plans])
    states = stitched([plan.states for plan in plans])
    states = torch.cat([states, plans[-1].states[:, -1:]], 1)
    found = [plan.diagnostics for plan in plans]
    lifted = found[0].defect is not None
    traced = [name for name in found[0].trace if all(name in f.trace for f in found)]
    diagnostics = Diagnostics(
        iterations=sum(f.iterations for f in found),
        forward_calls=sum(f.forward_calls for f in found) + problem.horizon + lifted,
        backward_calls=sum(f.backward_calls for f in found),
        # Of the whole path, which may jump where one chunk ends and the next begins.
        defect=defect(problem.model, problem.state, states, actions) if lifted else None,
        trace={name: torch.cat([f.trace[name] for f in found]) for name in traced},
    )
    spreads = [std for plan in plans if (std := plan.warm_start.std) is not None]
    after = WarmStart(
        stitched([plan.warm_start.actions for plan in plans]),
        states,
        std=stitched(spreads) if spreads else None,
    )
    return Plan(actions, cost, states, after, diagnostics)


def cut(warm_start: WarmStart, first: int, steps: int) -> WarmStart:
    """The part of a warm start that belongs to a chunk; what only a whole plan has is left out."""

    def part(x: Tensor | None, length: int) -> Tensor | None:
        return None if x is None else x[:, first : first + length]

    made_up = warm_start.actions.shape[1] - warm_start.filled  # first step that a shift made up
    return WarmStart(
        warm_start.actions[:, first : first + steps],
        states=part(warm_start.states, steps + 1),
        std=part(warm_start.std, steps),
        known=warm_start.known,
        filled=max(0, first + steps - max(first, made_up)),
    )
