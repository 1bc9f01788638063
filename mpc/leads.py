"""Leads: rollouts of the policy prior under noise, with the best of which restarts begin."""

from __future__ import annotations

import torch
from torch import Tensor

from mpc.contracts import Problem, WarmStart
from mpc.descent import Start
from mpc.rollout import Rollouts, finite_or_worst, pick, repeat
from mpc.warm_start import fill, known_rows


def best_leads(
    problem: Problem,
    rollouts: Rollouts,
    noise: Tensor,
    count: int,
    elites: int = 1,
    mode_first: bool = False,
) -> tuple[Tensor, Tensor]:
    """The `count` cheapest leads over n control steps, in order; n model calls.

    `noise` (leads, n, A) is added to the policy's actions. With `elites` above 1 the mean of so
    many comes before them, as a refit of the cross-entropy method takes it: the best of many by a
    value is too often one that the value is wrong about, and their mean is smoother. With
    `mode_first` the first lead, to which `noise` should add none, comes before all others.
    -> actions (B, count, n, A), states (B, count, n + 1, Z).
    """
    model = (problem.model, problem.objective, problem.discount)
    window = repeat(problem.state, len(noise))
    draw = noise.expand(problem.batch, -1, -1, -1)
    cost, actions, states = rollouts.noisy(*model, problem.actions, window, draw)
    cost = finite_or_worst(cost)
    least, best = cost.topk(max(count, elites), largest=False)
    best = torch.where(least.isfinite(), best, best[:, :1])

    def chosen(tried: Tensor) -> Tensor:
        found = pick(tried, best)
        front = [tried[:, :1]] if mode_first else []
        if elites > 1:
            # As deviations from the first, so that what is the same for all, s_0, stays exact.
            deviations = found[:, :elites] - found[:, :1]
            front.append(found[:, :1] + deviations.mean(1, keepdim=True))
        return torch.cat([*front, found], 1)[:, :count]

    return chosen(actions), chosen(states)


def led_restarts(
    problem: Problem,
    warm_start: WarmStart | None,
    rollouts: Rollouts,
    noise: Tensor,
    count: int,
    mode_first: bool = False,
) -> Start:
    """`count` restarts that are leads over the whole horizon, of which a warm start replaces one.

    It is the first then, and the last lead is left out. `noise` (leads, H, A), `mode_first`: see
    `best_leads`.
    """
    actions, states = best_leads(problem, rollouts, noise, count, mode_first=mode_first)
    if warm_start is not None:
        known = known_rows(warm_start, problem.batch, problem.state.device)
        warm = torch.cat([warm_start.actions.unsqueeze(1), actions[:, :-1]], 1)
        actions = fill(known, problem.actions.project(warm), actions)
        states = fill(known, torch.cat([states[:, :1], states[:, :-1]], 1), states)
    return Start(actions, states[..., :-1, :], problem.horizon)


def restarts_along(
    problem: Problem,
    warm_start: WarmStart,
    noise: Tensor,
    leads: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Restarts that share the virtual states of a renewed warm start after a lead of their own.

    The first has its actions. The others begin with `leads` (`best_leads`), then do what the
    policy prior does at the virtual states; without leads they are the first. `noise` (K - 1, H, A)
    is added to actions that are not a lead's.
    -> actions (B, K, H, A), states (B, K, H + 1, Z).
    """
    first, states = warm_start.actions.unsqueeze(1), warm_start.states
    assert states is not None
    paths = repeat(states, len(noise) + 1)
    if leads is None:
        actions = first + noise
    else:
        actions, led = leads
        lead = actions.shape[2]
        policy = problem.model.policy(states[:, lead:-1]).unsqueeze(1)
        actions = torch.cat([actions, policy + noise[:, lead:]], 2)
        others = torch.cat([led, paths[:, 1:, lead + 1 :]], 2)
        paths = torch.cat([paths[:, :1], others], 1)
    return problem.actions.project(torch.cat([first, actions], 1)), paths
