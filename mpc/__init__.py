"""Planners, objectives and their contracts. Imports none of telic's other packages."""

from mpc import baselines, gradient, grasp, icem, latco, sampling
from mpc.contracts import (
    BoxActions,
    Diagnostics,
    Objective,
    Plan,
    Planner,
    PlannerConfig,
    Problem,
    Transition,
    WarmStart,
    WorldModel,
)
from mpc.objectives import Effort, GoalDistance, Reward, Weighted
from mpc.registry import PLANNERS, Registry, make_planner, nearest, register
from mpc.rollout import trajectory_cost
from mpc.warm_start import forget, shift

__all__ = [
    "PLANNERS",
    "BoxActions",
    "Diagnostics",
    "Effort",
    "GoalDistance",
    "Objective",
    "Plan",
    "Planner",
    "PlannerConfig",
    "Problem",
    "Registry",
    "Reward",
    "Transition",
    "WarmStart",
    "Weighted",
    "WorldModel",
    "baselines",
    "forget",
    "gradient",
    "grasp",
    "icem",
    "latco",
    "make_planner",
    "nearest",
    "register",
    "sampling",
    "shift",
    "trajectory_cost",
]
