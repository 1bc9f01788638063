"""Plain collocation in latent space: GRASP's machine without what makes it GRASP."""

from __future__ import annotations

from dataclasses import dataclass

from mpc.grasp import Grasp, GraspConfig
from mpc.registry import register


@dataclass(frozen=True)
class LatCoConfig(GraspConfig):
    """Options of LatCo: the full gradient of the cost along the path, defects as a penalty."""

    iterations: int = 20  # steps on states and actions
    restarts: int = 3  # paths that are improved side by side; the best is the plan
    action_lr: float = 0.1  # of Adam on the actions
    leads: int = 0  # rollouts of the policy prior, with the best of which restarts begin; 0: none
    stop_gradient: bool = False  # no gradient into the virtual states that enter the model
    shaping: float = 0.0  # weight of the cost of a short lookahead from every virtual state
    path_cost: float = 1.0  # weight of the objective along the virtual states
    defect: float = 10.0  # weight of the distance of predictions to virtual states
    noise: float = 0.0  # standard deviation of the state noise over the spread of latents
    state_optimizer: str = "adam"  # sgd or adam
    state_lr: float = 0.05  # with sgd and mse, 1 moves a state onto its prediction
    # Iterations between synchronisations with the true rollout; 0: never.
    sync_every: int | None = 0
    select: str = "rollout"  # cost by which a restart is the plan: rollout, lifted, lookahead, auto


@register("latco")
class LatCo(Grasp):
    """Collocation over latent states and actions (Rybkin et al. 2021, arXiv:2106.13229).

    With a fixed weight of the defects where the paper adapts one by dual descent.
    """

    Config = LatCoConfig
