"""GRASP: gradient-based planning over lifted ("virtual") states, parallel over time.

Psenka, Rabbat, Krishnapriyan, LeCun and Bar 2026, arXiv:2602.00475. The states s_1..s_H of a plan
are free variables beside its actions, so that all B * K * H one-step predictions of an iteration
are one batched model call. No gradient flows into the state input of the model: a state moves
only because the prediction before it pulls, an action because of its own step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpc.actions import ActionSpace
from mpc.compilation import compiled
from mpc.contracts import (
    Diagnostics,
    Objective,
    Plan,
    Problem,
    WarmStart,
    WorldModel,
)
from mpc.descent import rate_at, restarts
from mpc.leads import best_leads, led_restarts, restarts_along
from mpc.lifting import Lifted, LiftedConfig, lifted_cost, lifted_loss
from mpc.optim import Adam, annealed, clip_norm, gradients
from mpc.planner import Planner
from mpc.registry import PLANNERS, make_planner, register
from mpc.rollout import cheapest_of, defect, pick, repeat, rollouts_for
from mpc.virtual_states import (
    SCHEDULES,
    STATE_STARTS,
    TAILS,
    draw_for,
    initial_states,
    noise_scale,
    pin,
    renew,
    warm_rows,
)
from mpc.warm_start import fill, known_rows

PARALLEL = ("lifted", "lookahead")  # choices that need no rollout over the horizon


@dataclass(frozen=True)
class GraspConfig(LiftedConfig):
    """Options of GRASP. The defaults suit warm plans of a few control steps; docs/planners.md."""

    iterations: int = 2  # steps on states and actions
    tolerance: float = 0.0  # iterations end when the loss changes by a smaller share; 0: never
    restarts: int = 2  # paths that are improved side by side; the best is the plan
    init_std: float = 0.3  # spread of the other restarts
    # Rollouts of the policy prior under noise, with the best of which the other restarts begin:
    # over `lead_steps` where a warm plan is chosen by them, else over the horizon; 0: none.
    leads: int = 24
    lead_std: float = 0.5  # spread of the widest of them around the policy prior
    lead_steps: int = 6  # control steps of a lead; what plans are compared by begins with as many
    lead_elites: int = 6  # best leads with whose mean the second restart of a warm plan begins
    margin: float = 0.0  # cost by which a warm plan must beat the policy's own lead to be taken
    states_init: str = "rollout"  # cold virtual states: rollout, random, interpolate, noise
    state_optimizer: str = "sgd"  # sgd or adam
    state_lr: float = 1.0  # with sgd and mse, 1 moves a state onto its prediction
    state_clip: float = 1.0  # largest gradient norm of one virtual state
    noise: float = 0.1  # standard deviation of the state noise over the spread of latents
    noise_schedule: str = "linear"  # how it falls: constant, linear, cosine, exponential
    noise_until: float = 0.5  # share of the iterations after which there is no noise
    noise_every: int = 1  # iterations for which one draw of the noise is held
    # Iterations between synchronisations with the true rollout; 0: never; null: never where values
    # judge what comes later, else after every iteration.
    sync_every: int | None = None
    sync_steps: int = 1  # descent steps through the rollout at each synchronisation
    sync_planner: str = "gradient"  # what makes them: this one, or any planner for the best restart
    select: str = "auto"  # cost by which a restart is the plan: rollout, lifted, lookahead, auto
    select_steps: int = 8  # of a lead and the policy prior after it, by which plans compare
    select_decay: float = 0.7  # lambda of the lambda-return over them
    # Spread of the noise on actions under which rollouts are compared where more than one control
    # step of a plan is executed; 0: none.
    select_std: float = 0.1
    select_draws: int = 8  # rollouts of each restart under that noise
    blend: int = 5  # first states over which a warm start spreads the surprise in s_0
    tail: str = "policy"  # actions of steps that a warm start lacks: policy, repeat, zero
    keep_moments: bool = False  # hand the optimisers' moments to the next plan

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        self.one_of("states_init", STATE_STARTS)
        self.one_of("state_optimizer", ("sgd", "adam"))
        self.one_of("noise_schedule", SCHEDULES)
        self.one_of("select", ("auto", "rollout", *PARALLEL))
        self.one_of("tail", TAILS)
        self.one_of("sync_planner", tuple(PLANNERS.names()))
        for option in ("tolerance", "noise", "margin", "select_std"):
            self.require(option, getattr(self, option) >= 0, "at least 0")
        known = self.sync_every is None or self.sync_every >= 0
        self.require("sync_every", known, "at least 0, or null")
        for option in ("state_lr", "state_clip"):
            self.require(option, getattr(self, option) > 0, "above 0")
        counts = ("noise_every", "sync_steps", "blend", "select_draws", "lead_steps", "lead_elites")
        for option in counts:
            self.require(option, getattr(self, option) >= 1, "at least 1")
        for option in ("leads", "select_steps"):
            self.require(option, getattr(self, option) >= 0, "at least 0")
        for option in ("noise_until", "select_decay"):
            self.require(option, 0 <= getattr(self, option) <= 1, "in [0, 1]")
        self.require("lead_std", self.lead_std >= 0, "at least 0")


class Path(NamedTuple):
    """What GRASP iterates on."""

    actions: Tensor  # (B, K, H, A)
    states: Tensor  # (B, K, H + 1, Z)
    action_moments: Adam
    state_moments: Adam  # of states[..., 1:, :]


class Rates(NamedTuple):
    """Step lengths; tensors, so that compiled code is made once for all iterations."""

    action: Tensor
    state: Tensor
    noise: Tensor  # standard deviation, relative to the spread of latents


def schedule(cfg: GraspConfig) -> Rates:
    """The rates of all iterations, (iterations,) each."""
    rates = []
    noisy = int(cfg.noise_until * cfg.iterations)  # iterations that add noise
    for i in range(cfg.iterations):
        progress = i / cfg.iterations
        action = annealed(cfg.action_lr, progress, cfg.final_lr)
        # A step onto a prediction is no less right late in a plan, so SGD is not annealed.
        state = cfg.state_lr
        if cfg.state_optimizer == "adam":
            state = annealed(cfg.state_lr, progress, cfg.final_lr)
        share = noise_scale(cfg.noise_schedule, i / noisy) if i < noisy else 0.0
        rates.append((action, state, cfg.noise * cfg.state_lr * share))
    return Rates(*torch.tensor(rates).T)


def iterate(
    model: WorldModel,
    objective: Objective,
    discount: float,
    space: ActionSpace,
    cfg: GraspConfig,
    window: Tensor,
    path: Path,
    rates: Rates,
    noise: Tensor,
) -> tuple[Path, Lifted, Tensor]:
    """One iteration: batched model calls, a step on actions and states, noise on the states.

    `noise` (K, H, Z) is scaled to the spread of latents. Also returns the loss at the old path
    and the mean gradient norms of actions and states, (2,).
    """
    start = path.states[..., :1, :]

    def loss(actions: Tensor, free: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        states = torch.cat([start, free], -2)
        executed = space.execute(actions)
        lifted = lifted_loss(model, objective, discount, cfg, window, states, executed)
        return lifted.loss.sum(), lifted

    free = path.states[..., 1:, :]
    found, lifted = gradients(loss, path.actions, free)
    norms = torch.stack([gradient.flatten(2).norm(dim=-1).mean() for gradient in found])
    action_gradient, state_gradient = found
    step, action_moments = path.action_moments.step(
        clip_norm(action_gradient, cfg.action_clip), rates.action
    )
    actions = path.actions - step
    state_gradient, state_moments = clip_norm(state_gradient, cfg.state_clip), path.state_moments
    if cfg.state_optimizer == "adam":
        step, state_moments = state_moments.step(state_gradient, rates.state)
    else:
        step = rates.state * state_gradient
    states = torch.cat([start, free - step + rates.noise * noise], -2)
    after = Path(actions, pin(states, objective.goal()), action_moments, state_moments)
    return after, Lifted(*lifted), norms


@register("grasp")
class Grasp(Planner[GraspConfig]):
    """Virtual states and actions optimised together, one batched model call per iteration."""

    Config = GraspConfig

    def __init__(self, config: GraspConfig) -> None:
        super().__init__(config)
        self._rollouts = rollouts_for(config.compiles, config.horizon)
        self._ahead = rollouts_for(config.compiles, max(config.lead_steps, config.select_steps))
        self._iterate = compiled(iterate, config.compiles)
        self._schedule = schedule(config)
        self._syncing: Planner[Any] | None = None
        if config.sync_every != 0 and config.sync_planner != "gradient":
            known = PLANNERS[config.sync_planner].Config.options()
            options = {"iterations": config.sync_steps} if "iterations" in known else {}
            shared = {"horizon": config.horizon, "compile": config.compile}
            self._syncing = make_planner(config.sync_planner, **shared, **options)

    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Iterate on states and actions; the cheapest restart is the plan."""
        cfg, space = self.config, problem.actions
        model = (problem.model, problem.objective, problem.discount)
        spread, sync_every = problem.model.latent_spread(), self._sync_every(problem)
        in_parallel = self._chosen_in_parallel(problem, warm_start)
        path, forward = self._start(problem, warm_start, in_parallel, rng)
        start, backward, done = path, 0, 0
        calls = min(cfg.lookahead, problem.horizon) if cfg.shaping else 1  # per iteration
        noise = torch.zeros_like(path.states[0, :, 1:])
        rates = [x.to(problem.state.device) for x in self._schedule]
        losses: list[Tensor] = []
        norms = []
        # Iterations of each problem, fewer where it settles.
        ends = torch.full((problem.batch,), cfg.iterations, device=problem.state.device)
        for i in self.iterations(cfg.iterations):
            before = path
            if self._schedule.noise[i] and i % cfg.noise_every == 0:
                noise = spread * problem.normal(noise.shape, rng)
            present = Rates(*(x[i] for x in rates))
            path, lifted, norm = self._iterate(
                *model, space, cfg, problem.state, path, present, noise
            )
            path = path._replace(actions=space.project(path.actions))
            forward, backward, done = forward + calls, backward + calls, i + 1
            losses.append(torch.stack(lifted))
            norms.append(norm)
            if sync_every and done % sync_every == 0:
                path, synced_calls = self._synchronise(problem, path, rng)
                forward, backward = forward + synced_calls[0], backward + synced_calls[1]
            if cfg.tolerance:
                path = held(ends < done, before, path)
                # While there is noise none may end: it would draw less of it than beside others.
                # What a synchronising planner draws may still differ.
                if i and not self._schedule.noise[i]:
                    settled = self._settled(losses[-2][0], losses[-1][0])
                    ends = torch.where(settled, ends.clamp_max(done), ends)
                if (ends <= done).all():
                    break
        errors = None
        if problem.executed > 1 and cfg.select_std:
            errors = self._errors(problem, rng)  # drawn even if no row needs them now
        actions, states, cost, ranked, last_calls = self._candidates(
            problem, path, start, in_parallel, ends.clamp_max(done), errors
        )
        if cfg.margin and self._leads(problem) and self._looks_ahead(problem):
            led = in_parallel & warm_rows(problem, warm_start)
            ranked = ranked.clone()
            ranked[:, cfg.restarts + 1] -= cfg.margin * led  # what the second restart began with
        best = cheapest_of(ranked)
        moments = self._moments(path, best) if cfg.keep_moments else {}
        actions, states = pick(actions, best), pick(states, best)
        executed = space.execute(actions)
        diagnostics = Diagnostics(
            iterations=done,
            forward_calls=forward + last_calls + 1,
            backward_calls=backward,
            defect=defect(problem.model, problem.state, states, executed),
            trace=self._trace(losses, norms),
        )
        after = WarmStart(actions, states, moments=moments)
        return Plan(executed, pick(cost, best), states, after, diagnostics)

    def _sync_every(self, problem: Problem) -> int:
        """Iterations between synchronisations, 0 for never."""
        if self.config.sync_every is not None:
            return self.config.sync_every
        return 0 if problem.judged else 1

    def _chosen_in_parallel(self, problem: Problem, warm_start: WarmStart | None) -> Tensor:
        """Rows (B,) bool whose plan is chosen without a rollout.

        None where only the end of a plan counts: a way round pays late, and a choice by the first
        few control steps never leaves a place from which every way on looks longer at first.
        """
        whole = self._sync_every(problem) or problem.objective.terminal_only()
        if self.config.select == "auto" and not whole:
            return warm_rows(problem, warm_start)
        row = torch.tensor(self.config.select in PARALLEL, device=problem.state.device)
        return row.expand(problem.batch)

    def _parallel_costs(
        self, problem: Problem, states: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Costs (B, C), and those to choose by, with model calls that are batched over time.

        Of the whole lifted path, or where values judge what comes later, of a rollout of the first
        `lead_steps`, which is not made up at all. Then the policy prior goes on for a few control
        steps, and the choice is by the lambda-return over them (Sutton and Barto 2018,
        equation 12.3): the cheapest of many plans by a single value is too often one whose value
        is wrong, and errors at several states average out.
        """
        cfg = self.config
        model = (problem.model, problem.objective, problem.discount)
        if not self._looks_ahead(problem):
            cost = lifted_cost(*model, cfg, problem.state, states, actions)
            return cost, cost
        window, steps = repeat(problem.state, actions.shape[1]), self._onward(problem)
        costs = self._ahead.onward(*model, window, actions[..., : cfg.lead_steps, :], steps)
        shares = [(1.0 - cfg.select_decay) * cfg.select_decay**k for k in range(steps)]
        weights = costs.new_tensor([*shares, cfg.select_decay**steps])
        return costs[..., 0], (weights * costs).sum(-1)

    def _looks_ahead(self, problem: Problem) -> bool:
        cfg = self.config
        judged = cfg.shaping > 0 and problem.judged
        return cfg.select == "lookahead" or (cfg.select == "auto" and judged)

    def _onward(self, problem: Problem) -> int:
        """Control steps of the policy prior after a lead, when plans are compared by it."""
        if not (self._looks_ahead(problem) and problem.model.supports("policy")):
            return 0
        return max(0, self.config.select_steps - self._lead_steps(problem))

    def _lead_steps(self, problem: Problem) -> int:
        """Control steps of a lead."""
        return min(self.config.lead_steps, problem.horizon)

    def _leads(self, problem: Problem) -> bool:
        """Whether restarts begin with leads of the policy prior."""
        cfg = self.config
        return cfg.leads > 0 and cfg.restarts > 1 and problem.model.supports("policy")

    def _start(
        self,
        problem: Problem,
        warm_start: WarmStart | None,
        in_parallel: Tensor,
        rng: torch.Generator,
    ) -> tuple[Path, int]:
        """Where the iterations begin, and the model calls that took."""
        cfg, calls = self.config, 0
        # All numbers are drawn at once and always: no row depends on how another one starts.
        shape = (cfg.restarts - 1, problem.horizon, problem.actions.dim)
        noise = problem.normal(shape, rng)
        leads = max(cfg.leads, cfg.restarts)
        # From the mode of the policy to wide, so that no width need be right for all tasks.
        widths = torch.linspace(0.0, cfg.lead_std, leads).to(noise)
        shape = (leads, problem.horizon, problem.actions.dim)
        lead_noise = widths[:, None, None] * problem.normal(shape, rng)
        draw = draw_for(problem, cfg.states_init, cfg.restarts, rng)
        mode_first = cfg.margin > 0  # what others must beat by it has to be there
        if warm_start is not None:
            warm_start, calls = renew(problem, warm_start, cfg.blend, cfg.tail)
        parallel = in_parallel & warm_rows(problem, warm_start)
        if not parallel.all():
            if self._leads(problem):
                start = led_restarts(
                    problem, warm_start, self._rollouts, lead_noise, cfg.restarts, mode_first
                )
            else:
                start = restarts(problem, warm_start, cfg, self._rollouts, noise)
            states, more = initial_states(
                problem, warm_start, start, cfg.states_init, self._rollouts, draw
            )
            actions, calls = start.actions, calls + start.calls + more
        if parallel.any():
            assert warm_start is not None
            led = None
            if self._leads(problem):
                steps = self._lead_steps(problem)
                lead_noise = lead_noise[:, :steps]
                count, elites = cfg.restarts - 1, min(cfg.lead_elites, leads)
                led = best_leads(problem, self._ahead, lead_noise, count, elites, mode_first)
                calls += steps
            lifted = restarts_along(problem, warm_start, cfg.init_std * noise, led)
            whole = bool(parallel.all())
            actions = lifted[0] if whole else fill(parallel, lifted[0], actions)
            states = lifted[1] if whole else fill(parallel, lifted[1], states)
        states = pin(states, problem.objective.goal())
        moments = Adam.zeros(actions), Adam.zeros(states[..., 1:, :])
        if warm_start is not None and warm_start.moments:
            known = known_rows(warm_start, problem.batch, states.device)
            moments = (
                remembered(warm_start, known, "action", moments[0]),
                remembered(warm_start, known, "state", moments[1]),
            )
        return Path(actions, states, *moments), calls

    def _synchronise(
        self, problem: Problem, path: Path, rng: torch.Generator
    ) -> tuple[Path, tuple[int, int]]:
        """Steps of a rollout planner on the actions, whose rollout the virtual states then follow.

        The states are those of the actions before the last step; one iteration brings them up.
        Also returns the model calls, forward and backward.
        """
        cfg, horizon = self.config, problem.horizon
        model = (problem.model, problem.objective, problem.discount)
        window, actions, states = repeat(problem.state, cfg.restarts), path.actions, path.states
        if self._syncing is not None:
            executed = problem.actions.execute(actions)
            cost, states = self._rollouts.cost(*model, window, executed)
            best = cheapest_of(cost)
            start = WarmStart(pick(actions, best), pick(states, best))
            plan = self._syncing.plan(problem, start, rng)
            chosen = torch.nn.functional.one_hot(best, cfg.restarts).bool()[..., None, None]
            actions = torch.where(chosen, plan.actions.unsqueeze(1), actions)
            states = torch.where(chosen, plan.states.unsqueeze(1), states)
            found = plan.diagnostics
            calls = horizon + found.forward_calls, found.backward_calls
        else:
            moments = Adam.zeros(actions)
            for i in range(cfg.sync_steps):
                rate = rate_at(cfg, i, cfg.sync_steps, actions.device)
                step = self._rollouts.descend(
                    *model, problem.actions, window, actions, moments, rate, cfg.action_clip
                )
                actions, states = problem.actions.project(step.actions), step.states
                moments = step.moments
            calls = cfg.sync_steps * horizon, cfg.sync_steps * horizon
        goal = problem.objective.goal()
        return path._replace(actions=actions, states=pin(states, goal)), calls

    def _settled(self, before: Tensor, now: Tensor) -> Tensor:
        """Problems (B,) none of whose losses (B, K) has changed by more than is tolerated."""
        return ((before - now).abs() <= self.config.tolerance * before.abs()).all(1)

    def _candidates(
        self,
        problem: Problem,
        path: Path,
        start: Path,
        in_parallel: Tensor,
        ends: Tensor,
        errors: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """What there is to choose from, and the model calls.

        Actions, virtual states, costs, and the costs to choose by, (B, K, ...) each, or 2 K: what
        the restarts began with takes part, so that no plan is worse than its warm start, or than a
        lead from which a step went too far. Not so by the lifted cost, which is low for any path
        whose states are made up well. `ends` (B,) are the iterations of each problem; with a sync
        at the end its virtual states are the rollout's. `errors` as in `_rolled`.
        """
        goal, calls, count = problem.objective.goal(), 0, path.states.shape[1]
        actions, states, ahead = path.actions, path.states, self._looks_ahead(problem)
        guarded = ahead or not in_parallel.all()
        if guarded:
            actions = torch.cat([actions, start.actions], 1)
            states = torch.cat([states, start.states], 1)
        cost = ranked = actions.new_zeros(actions.shape[:2])
        if in_parallel.any():
            executed = problem.actions.execute(actions)
            cost, ranked = self._parallel_costs(problem, states, executed)
            calls = 1
            if ahead:
                calls = self._lead_steps(problem) + self._onward(problem)
            if guarded and not ahead:
                ranked[:, count:] = torch.inf
        if not in_parallel.all():
            true, under, rolled = self._rolled(problem, actions, errors)
            rolled, calls = pin(rolled, goal), calls + problem.horizon
            feasible = torch.cat([path.states, rolled[:, count:]], 1)
            sync_every = self._sync_every(problem)
            if sync_every:
                feasible = fill(ends % sync_every == 0, rolled, feasible)
            cost, ranked = fill(in_parallel, cost, true), fill(in_parallel, ranked, under)
            states = fill(in_parallel, states, feasible)
        return actions, states, cost, ranked, calls

    def _errors(self, problem: Problem, rng: torch.Generator) -> Tensor:
        """Noise on actions (draws, H, A), which stands for what the model may get wrong.

        Half of its variance is held over the plan, as a model errs.
        """
        draws, dim = self.config.select_draws, problem.actions.dim
        white = problem.normal((draws, problem.horizon, dim), rng)
        held = problem.normal((draws, 1, dim), rng)
        return self.config.select_std * math.sqrt(0.5) * (white + held)

    def _rolled(
        self, problem: Problem, actions: Tensor, errors: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Costs (B, C) of actions (B, C, H, A), those to choose by, and states; H model calls.

        With `errors` (draws, H, A) the choice is by the mean cost under them: what is executed
        without looking must bear errors, and an optimised plan may cost little just as it is, and
        much right beside. Those rollouts are rows of the same model calls.
        """
        tried = actions.unsqueeze(2)
        if errors is not None:
            tried = torch.cat([tried, problem.actions.project(tried + errors)], 2)
        count, tried = tried.shape[2], problem.actions.execute(tried.flatten(1, 2))
        model = (problem.model, problem.objective, problem.discount)
        cost, states = self._rollouts.cost(*model, repeat(problem.state, tried.shape[1]), tried)
        cost, states = cost.unflatten(1, (-1, count)), states.unflatten(1, (-1, count))[:, :, 0]
        true = cost[..., 0]
        return true, true if errors is None else cost[..., 1:].mean(-1), states

    def _moments(self, path: Path, best: Tensor) -> dict[str, Tensor]:
        """Moments of the chosen restart for the warm start; of the one not iterated on, zeros."""
        known = best < self.config.restarts
        moments = {}
        pairs = {"action": path.action_moments, "state": path.state_moments}
        for name, adam in pairs.items():
            for part, x in adam._asdict().items():
                if part == "steps":
                    x = x.expand(*best.shape, self.config.restarts, 1, 1)
                x = pick(x, best.clamp_max(self.config.restarts - 1))
                moments[f"{name}_{part}"] = fill(known, x, torch.zeros_like(x))
        return moments

    def _trace(self, losses: list[Tensor], norms: list[Tensor]) -> dict[str, Tensor]:
        """Means over B and K by iteration, for the log."""
        parts = dict(zip(Lifted._fields, torch.stack(losses, 1).mean((-2, -1)), strict=True))
        actions, states = torch.stack(norms, 1)
        sigma = self._schedule.noise[: len(losses)]
        return {**parts, "action_gradient": actions, "state_gradient": states, "noise": sigma}


def held(rows: Tensor, before: Path, after: Path) -> Path:
    """`after`, but for `rows` (B,) bool, which stay as they were `before`."""

    def kept(x: Tensor, y: Tensor) -> Tensor:
        # Fresh moments have seen equally many gradients in all rows.
        x, y = (z if z.dim() else z.expand(len(rows), 1, 1, 1) for z in (x, y))
        return fill(rows, x, y)

    def moments(x: Adam, y: Adam) -> Adam:
        return Adam(*map(kept, x, y))

    return Path(
        kept(before.actions, after.actions),
        kept(before.states, after.states),
        moments(before.action_moments, after.action_moments),
        moments(before.state_moments, after.state_moments),
    )


def remembered(warm_start: WarmStart, known: Tensor, name: str, fresh: Adam) -> Adam:
    """`fresh` moments (B, K, ...) whose first restart goes on with those of the warm start."""
    moments = []
    for part, x in fresh._asdict().items():
        x = x.expand(*fresh.mean.shape[:2], 1, 1) if part == "steps" else x
        first = fill(known, warm_start.moments[f"{name}_{part}"], x[:, 0])
        moments.append(torch.cat([first.unsqueeze(1), x[:, 1:]], 1))
    return Adam(*moments)
