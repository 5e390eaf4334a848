"""Planners: they improve a policy's actions inside any model that satisfies the narrow waist."""

from dreammpc.planning.gradient import DreamMPC
from dreammpc.planning.imagination import Imagination, Objective
from dreammpc.planning.mppi import MPPI
from dreammpc.planning.policy import Policy
from dreammpc.planning.registry import PLANNERS, make_planner, register_planner

__all__ = [
    "MPPI",
    "PLANNERS",
    "DreamMPC",
    "Imagination",
    "Objective",
    "Policy",
    "make_planner",
    "register_planner",
]
