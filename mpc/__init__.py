"""Planners, objectives and their contracts. Imports none of telic's other packages."""

from mpc import baselines, gradient, grasp, icem, latco, sampling
from mpc.actions import ActionSpace, BoxActions, CategoricalActions, action_space
from mpc.contracts import (
    Diagnostics,
    Objective,
    Plan,
    Problem,
    Transition,
    WarmStart,
    WorldModel,
)
from mpc.objectives import (
    Disagreement,
    Effort,
    GoalDistance,
    Reward,
    TemporalDistance,
    Weighted,
)
from mpc.planner import Planner, PlannerConfig
from mpc.registry import PLANNERS, Registry, make_planner, nearest, register
from mpc.rollout import trajectory_cost
from mpc.warm_start import first_actions, forget, shift

__all__ = [
    "PLANNERS",
    "ActionSpace",
    "BoxActions",
    "CategoricalActions",
    "Diagnostics",
    "Disagreement",
    "Effort",
    "GoalDistance",
    "Objective",
    "Plan",
    "Planner",
    "PlannerConfig",
    "Problem",
    "Registry",
    "Reward",
    "TemporalDistance",
    "Transition",
    "WarmStart",
    "Weighted",
    "WorldModel",
    "action_space",
    "baselines",
    "first_actions",
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
