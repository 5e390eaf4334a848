"""Planners: they improve a policy's actions inside any model that satisfies the narrow waist.

Each is a composition propose → refine → select; `Composed` runs any other one.
"""

from dreammpc.planning.ascend import Ascend
from dreammpc.planning.cem import CEM, ICEM, CEMGrad, RandomShooting
from dreammpc.planning.composed import Composed
from dreammpc.planning.factory import PLANNERS, make_planner, register_planner
from dreammpc.planning.gradient import DreamMPC, DreamMPCPaper, GradMPC
from dreammpc.planning.imagination import Imagination, Objective
from dreammpc.planning.mppi import MPPI
from dreammpc.planning.policy import Policy
from dreammpc.planning.proposals import Gaussian, PolicyRollouts
from dreammpc.planning.refit import Refit
from dreammpc.planning.selection import Best, Draw, Mean

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "Ascend",
    "Best",
    "CEMGrad",
    "Composed",
    "Draw",
    "DreamMPC",
    "DreamMPCPaper",
    "Gaussian",
    "GradMPC",
    "Imagination",
    "Mean",
    "Objective",
    "Policy",
    "PolicyRollouts",
    "RandomShooting",
    "Refit",
    "make_planner",
    "register_planner",
]
