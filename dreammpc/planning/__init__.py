"""Planners: they improve a policy's actions inside any model that satisfies `dreammpc.interfaces`.

Each is a composition propose → refine → select; `Composed` runs any other one.
"""

from dreammpc.planning.builtin_terms import ActionRate, Energy, Goal, Tracking, Uncertainty
from dreammpc.planning.cem import CEM, ICEM, CEMGrad, RandomShooting
from dreammpc.planning.composed import Composed
from dreammpc.planning.constraints import Constraint
from dreammpc.planning.context import PlanningContext
from dreammpc.planning.dream_mpc import DreamMPC, DreamMPCPaper, GradMPC
from dreammpc.planning.factory import PLANNERS, make_planner, register_planner
from dreammpc.planning.gradient_ascent import GradientAscent
from dreammpc.planning.imagination import Imagination, Objective
from dreammpc.planning.mppi import MPPI
from dreammpc.planning.objective_terms import TERMS, ObjectiveTerm, Trajectory, register_term
from dreammpc.planning.policy import Policy
from dreammpc.planning.policy_rollouts import PolicyRollouts
from dreammpc.planning.sampling import GaussianProposal, GaussianRefit, SampleElite, SelectMean
from dreammpc.planning.search import SearchState, SelectBest, Selection

__all__ = [
    "CEM",
    "ICEM",
    "MPPI",
    "PLANNERS",
    "TERMS",
    "ActionRate",
    "CEMGrad",
    "Composed",
    "Constraint",
    "DreamMPC",
    "DreamMPCPaper",
    "Energy",
    "GaussianProposal",
    "GaussianRefit",
    "Goal",
    "GradMPC",
    "GradientAscent",
    "Imagination",
    "Objective",
    "ObjectiveTerm",
    "PlanningContext",
    "Policy",
    "PolicyRollouts",
    "RandomShooting",
    "SampleElite",
    "SearchState",
    "SelectBest",
    "SelectMean",
    "Selection",
    "Tracking",
    "Trajectory",
    "Uncertainty",
    "make_planner",
    "register_planner",
    "register_term",
]
