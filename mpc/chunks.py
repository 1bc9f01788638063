"""Long horizons in overlapping chunks, planned one after the other, around any planner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mpc.contracts import Diagnostics, Plan, Problem, WarmStart
from mpc.history import newest, push
from mpc.rollout import after

# Plans a chunk, told which share of the whole will be planned then.
Search = Callable[[Problem, WarmStart | None, float], Plan]


def chunks(horizon: int, size: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """(first step, steps planned, steps kept) of each chunk; all but the last overlap the next."""
    first = 0
    while first + size < horizon:
        yield first, size, size - overlap
        first += size - overlap
    yield first, horizon - first, horizon - first


@torch.no_grad()
def plan_in_chunks(
    search: Search, problem: Problem, warm_start: WarmStart | None, size: int, overlap: int
) -> Plan:
    """Plan chunks of `size` control steps in turn and stitch them together.

    Every chunk aims at the objective's own end and begins where the actions of the one before it
    lead after all but its last `overlap` steps, which exist so that no chunk is short-sighted. To
    roll them out takes H model calls in all, and gives the cost of the whole (`follow`).
    """
    model, window, plans, kept_steps = problem.model, problem.state, [], []
    weight: Tensor | float = 1.0
    cost: Tensor | float = 0.0
    for first, steps, kept in chunks(problem.horizon, size, overlap):
        part = replace(problem, state=window, horizon=steps)
        warm = None if warm_start is None else cut(warm_start, first, steps)
        plan = search(part, warm, (first + steps) / problem.horizon)
        for action in plan.actions[:, :kept].unbind(1):
            transition = model.predict(window, action)
            cost = cost + weight * problem.objective.stage(transition)
            weight = weight * after(transition, problem.discount)
            window = push(model, window, transition.next)
        plans.append(plan)
        kept_steps.append(kept)

    def stitched(part: Callable[[Plan], Tensor]) -> Tensor:
        return torch.cat([part(p)[:, :k] for p, k in zip(plans, kept_steps, strict=True)], 1)

    actions = stitched(lambda plan: plan.actions)
    states = torch.cat([stitched(lambda plan: plan.states), plans[-1].states[:, -1:]], 1)
    cost = cost + weight * problem.objective.terminal(model, newest(model, window))
    found = [plan.diagnostics for plan in plans]
    defects = [f.defect for f in found if f.defect is not None]
    diagnostics = Diagnostics(
        iterations=sum(f.iterations for f in found),
        forward_calls=sum(f.forward_calls for f in found) + problem.horizon,
        backward_calls=sum(f.backward_calls for f in found),
        defect=torch.stack(defects).amax(0) if defects else None,
        trace=found[-1].trace,
    )
    warm = WarmStart(stitched(lambda plan: plan.warm_start.actions), states)
    return Plan(actions, cost, states, warm, diagnostics)


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
