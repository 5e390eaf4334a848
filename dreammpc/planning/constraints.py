"""Constraints on imagined trajectories: an objective term that must stay below a limit.

Letters: see `dreammpc.interfaces`; C constraints, g = cost - limit, which should be at most 0.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from dreammpc.interfaces import UsageError
from dreammpc.planning.objective_terms import Trajectory, cost, make_term, readable, term_name
from dreammpc.plugins.settings import at_least, between, check, checked_settings, one_of, settings_of

if TYPE_CHECKING:
    from dreammpc.planning.context import PlanningContext
    from dreammpc.planning.search import Selection

log = logging.getLogger(__name__)

REJECTED = -1e8
"""J of a rejected candidate, less the more it violates; down to twice this."""
MAX_MULTIPLIER = 1e4
"""Largest Lagrange multiplier, in units of J per unit of cost."""


@dataclass(frozen=True)
class Constraint:
    """An objective term whose cost must be at most `limit`.

    Args:
        term: an objective term, as in `terms=[…]`; its own weight does not matter.
        limit: g = cost - limit must be at most 0.
        treatment: `penalty` subtracts weight·max(g, 0) from J; `lagrangian` is an augmented Lagrangian
            (Rockafellar 1973) with a multiplier for each candidate, which is carried from call to call;
            `reject` ranks every candidate that violates behind every one that does not, and is for planners
            that only sample.
        weight: of the penalty, or ρ of the Lagrangian.
        risk: of a term that gives a cost for each of K heads, [M, K]: `mean`, `worst`, or `cvar`, the mean of
            the worst.
        level: share of the heads that `cvar` averages.

    Raises:
        ValueError: a setting out of range.
    """

    term: Any
    limit: float = 0.0
    treatment: Annotated[str, one_of("penalty", "lagrangian", "reject")] = "penalty"
    weight: Annotated[float, at_least(1e-9)] = 100.0
    risk: Annotated[str, one_of("mean", "worst", "cvar")] = "mean"
    level: Annotated[float, between(1e-9, 1)] = 0.25

    def __post_init__(self) -> None:
        object.__setattr__(self, "term", make_term(self.term))
        check(self)
        for name, value in (("limit", self.limit), ("weight", self.weight)):
            if not math.isfinite(value):
                raise UsageError(f"constraint on {term_name(self.term)}: {name} must be finite, got {value}")

    def violation(self, trajectory: Trajectory, reference: Any) -> Tensor:
        """g of each candidate, [M]. Raises UsageError for a `risk` over heads of a term that gives none."""
        found = cost(self.term, trajectory, reference, heads=True)
        if found.ndim == 1 and self.risk != "mean":
            named, wants = term_name(self.term), "for terms that give a cost per head, [M, K]"
            raise UsageError(f"constraint on {named}: risk={self.risk} is {wants}; this one gives [M]")
        if found.ndim == 2 and self.risk == "cvar":
            count = max(round(self.level * found.shape[1]), 1)
            found = found.topk(count, 1).values.mean(1)
        elif found.ndim == 2:
            found = found.amax(1) if self.risk == "worst" else found.mean(1)
        return found - self.limit


def make_constraints(given: Any) -> tuple[Constraint, ...]:
    """Constraints from dictionaries of their settings, or as they are.

    Raises:
        UsageError: an unknown setting or term, or what is no constraint.
    """
    if isinstance(given, str | dict) or not isinstance(given, Sequence):
        raise UsageError(f"constraints must be a list of constraints, got {given!r}")
    made = []
    for each in given:
        if isinstance(each, dict):
            each = Constraint(**checked_settings("constraint", settings_of(Constraint), each))
        if not isinstance(each, Constraint):
            raise UsageError(f"constraints: expected {{term: …, limit: …}}, got {each!r}")
        made.append(each)
    return tuple(made)


def check_treatments(constraints: Sequence[Constraint], refine: Sequence[Any]) -> None:
    """Raise UsageError if candidates are to be rejected by a planner that takes gradient steps."""
    climbs = any(getattr(stage, "needs_gradient", False) for stage in refine)
    for constraint in constraints:
        if climbs and constraint.treatment == "reject":
            raise UsageError(
                f"constraints: {term_name(constraint.term)} has the treatment reject, which is for planners"
                " that only sample; a gradient planner takes penalty or lagrangian"
            )


def carried_by_costs(objective: Any, count: int, action_dim: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes, without [B], of what terms and constraints want in the next call's warm start."""
    shapes: dict[str, tuple[int, ...]] = {}
    if objective.costs:
        shapes |= {"last_action": (action_dim,), "time": (1,)}
    if objective.constraints:
        shapes["multipliers"] = (count, len(objective.constraints))
    return shapes


def candidate_multipliers(last: Tensor, parents: Tensor | None, num: int) -> Tensor:
    """Multipliers [B, num, C] from the last call's [B, N, C]: those of `parents` [B, num], or the mean."""
    if parents is None:
        return last.mean(1, keepdim=True).expand(-1, num, -1)
    return last.gather(1, parents.unsqueeze(-1).expand(-1, -1, last.shape[-1]))


def constrained(
    objective: Tensor, violations: Tensor, constraints: Sequence[Constraint], multipliers: Tensor | None
) -> Tensor:
    """J [B, N] as candidates are ranked by it, given `violations` g and `multipliers` [B, N, C]."""
    rejected = None
    for i, constraint in enumerate(constraints):
        g = violations[..., i]
        if constraint.treatment == "penalty":
            objective = objective - constraint.weight * g.clamp(min=0)
        elif constraint.treatment == "lagrangian":
            rho = constraint.weight
            known = torch.zeros_like(g) if multipliers is None else multipliers[..., i]
            objective = objective - ((known + rho * g).clamp(min=0).square() - known.square()) / (2 * rho)
        else:
            rejected = g if rejected is None else torch.maximum(rejected, g)
    if rejected is None:
        return objective
    excess = rejected.clamp(min=0)
    return torch.where(rejected > 0, REJECTED * (1 + excess / (1 + excess)), objective)


def final_report(context: "PlanningContext", chosen: "Selection") -> tuple[Tensor, Tensor, Tensor, int]:
    """What a plan says of its constraints, from one more scoring of the candidates and the chosen sequence.

    Returns:
        J of the chosen sequence [B], without what constraints take from it; its largest violation [B], at
        least 0; the next call's multipliers [B, N, C]; model steps.
    """
    state, constraints = chosen.state, context.objective.constraints
    sequences = torch.cat([state.candidates, chosen.sequence.unsqueeze(1)], 1)
    found = context.imagined(sequences)
    assert found.violations is not None and found.unconstrained is not None
    rates = [c.weight if c.treatment == "lagrangian" else 0.0 for c in constraints]
    moved = [rate * found.violations[:, :-1, i] for i, rate in enumerate(rates)]
    multipliers = candidate_multipliers(
        context.warm_start["multipliers"], state.parents, state.candidates.shape[1]
    )
    following = (multipliers + torch.stack(moved, -1)).nan_to_num(0.0).clamp(0, MAX_MULTIPLIER)
    largest = found.violations[:, -1].amax(-1).clamp(min=0).nan_to_num(0.0)
    if readable(largest):
        warn_if_infeasible(context, constraints, largest, found.violations[:, -1])
    return found.unconstrained[:, -1], largest, following, sequences.shape[1] * context.horizon


_warned: set[str] = set()


def warn_if_infeasible(
    context: "PlanningContext", constraints: tuple[Constraint, ...], largest: Tensor, violations: Tensor
) -> None:
    """Say it once if the plan that was chosen violates a constraint."""
    if repr(constraints) in _warned or not (largest > 1e-3).any():
        return
    _warned.add(repr(constraints))
    row = int(largest.argmax())
    i = int(violations[row].argmax())
    log.warning(
        "no plan was found that keeps the constraint on %s: the best one exceeds the limit %g by %.3g"
        " (said once; `violation` in the diagnostics has the others)",
        term_name(constraints[i].term),
        constraints[i].limit,
        float(largest[row]),
    )
