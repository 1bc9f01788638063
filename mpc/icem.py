"""iCEM: the cross-entropy method made sample-efficient enough for real time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpc.actions import Distribution
from mpc.contracts import Problem
from mpc.registry import register
from mpc.rollout import EAGER, cheapest_of, pick
from mpc.sampling import CEM, EliteConfig


@dataclass(frozen=True)
class ICEMConfig(EliteConfig):
    """Options of iCEM."""

    elites: int = 16  # best candidates, to which the distribution is refitted
    sample_decay: float = 1.25  # every iteration has that many times fewer; only 1 can be compiled
    noise_beta: float = 2.0  # power of the noise falls as 1 / frequency^beta; 0: white, 2: slow
    keep_elites: float = 0.3  # share of them that competes again, also in the next plan
    momentum: float = 0.1  # share of the old distribution in the next one

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        self.require("sample_decay", self.sample_decay >= 1, "at least 1")
        half = self.samples // 2
        self.require("elites", 1 <= self.elites <= half, f"1 to {half}, half of samples")
        super().__post_init__()

    def count(self, iteration: int) -> int:
        """max(samples / sample_decay^iteration, 2 * elites), rounded down."""
        return max(int(self.samples * self.sample_decay**-iteration), 2 * self.elites)


@register("icem")
class ICEM(CEM):
    """CEM with coloured noise, kept elites and ever fewer samples (Pinneri 2020, 2008.06389).

    The best sequence found is executed, not the mean; the next plan begins around it.
    """

    Config = ICEMConfig

    def __init__(self, config: ICEMConfig) -> None:
        super().__init__(config)
        if config.sample_decay > 1:
            # Every number of samples would be compiled for itself, which takes minutes.
            self._rollouts = EAGER

    def finish(
        self, problem: Problem, dist: Distribution, candidates: Tensor, cost: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The cheaper of the best candidate and the new mean, in one rollout of both."""
        best = pick(candidates, cheapest_of(cost))
        last = torch.stack([best, problem.actions.round(dist.mean)], 1)
        cost, states = self._roll_out(problem, last)
        chosen = cheapest_of(cost)
        return pick(last, chosen), pick(cost, chosen), pick(states, chosen)
