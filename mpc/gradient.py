"""Direct backpropagation through the rollout, from several restarts at once."""

from __future__ import annotations

import torch

from mpc.contracts import Diagnostics, Plan, Problem, WarmStart
from mpc.descent import RestartConfig, descend, restarts
from mpc.planner import Planner
from mpc.registry import register
from mpc.rollout import cheapest_of, pick, rollouts_for


@register("gradient")
class Gradient(Planner[RestartConfig]):
    """Adam on the actions, by backpropagation through the whole rollout."""

    Config = RestartConfig

    def __init__(self, config: RestartConfig) -> None:
        super().__init__(config)
        self._rollouts = rollouts_for(config.compiles, config.horizon)

    def search(self, problem: Problem, warm_start: WarmStart | None, rng: torch.Generator) -> Plan:
        """Improve all restarts; the plan is the cheapest sequence met on the way."""
        cfg = self.config
        shape = (cfg.restarts - 1, problem.horizon, problem.actions.dim)
        noise = problem.normal(shape, rng)
        start = restarts(problem, warm_start, cfg, self._rollouts, noise)
        iterations = self.iterations(cfg.iterations)
        found = descend(self._rollouts, problem, start.actions, cfg, iterations)
        best = cheapest_of(found.cost)
        actions, states = pick(found.actions, best), pick(found.states, best)
        done = len(found.trace["action_gradient"])
        diagnostics = Diagnostics(
            iterations=done,
            forward_calls=start.calls + (done + 1) * problem.horizon,
            backward_calls=done * problem.horizon,
            trace=found.trace,
        )
        warm = WarmStart(actions, states)
        executed = problem.actions.execute(actions)
        return Plan(executed, pick(found.cost, best), states, warm, diagnostics)
