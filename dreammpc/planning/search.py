"""A planner is propose → refine → select: what its stages share, and `Composed`, which runs them.

A proposal makes a `SearchState` from a `PlanningContext`, each refinement returns a better one, a selector
makes a `Selection`. Stages are frozen dataclasses of settings (their protocols: `dreammpc.planning.stages`);
all that they know of a call is in these values. Letters: see `dreammpc.interfaces`; P policy rollouts.
"""

import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Plan
from dreammpc.planning import warm_start
from dreammpc.planning.constraints import (
    candidate_multipliers,
    carried_by_costs,
    check_treatments,
    final_report,
    make_constraints,
)
from dreammpc.planning.imagination import Imagination, Objective, PlanningContext, device_of
from dreammpc.planning.objective_terms import make_terms, term_inputs
from dreammpc.planning.stages import (
    Proposal,
    Refinement,
    Selector,
    candidate_count,
    carry_shapes,
    check_stages,
    merged,
)
from dreammpc.planning.statistics import SearchStatistics, diagnostics, finite
from dreammpc.planning.value_heads import ValueReduction
from dreammpc.plugins.settings import NonNegative, Positive, check, one_of


@dataclass(frozen=True)
class SearchState:
    """Candidates between two stages, with what is known of them."""

    candidates: Tensor
    """[B, N, H, A]."""
    policy_rollouts: Tensor
    """The policy's own sequences, [B, P, H, A], P ≥ 1: the fallback, and the baseline of the gain."""
    starts_with_policy: bool = False
    """Whether the first P candidates are the policy rollouts, so that a score counts for both."""
    scores: Tensor | None = None
    """J of the candidates, [B, N], if they are scored."""
    scores_before_step: Tensor | None = None
    """J of what the candidates were before the last gradient step, [B, N]; set where `scores` is not."""
    policy_scores: Tensor | None = None
    """J of the policy rollouts, [B, P], if they are scored."""
    parents: Tensor | None = None
    """Which candidate of the last call each one continues, [B, N]; None if none does."""
    mean: Tensor | None = None
    """[B, H, A] of the Gaussian that the candidates were drawn from, if any."""
    std: Tensor | None = None
    """[B, H, A]."""
    carry: dict[str, Tensor] = field(default_factory=dict)
    """What refinements want in the next call's warm start, each [B, …]."""
    statistics: SearchStatistics = field(default_factory=SearchStatistics)

    def score(
        self,
        context: PlanningContext,
        sequences: Tensor,
        starts_with_policy: bool = False,
        multipliers: Tensor | None = None,
    ) -> tuple[Tensor, "SearchState"]:
        """J [B, S] of `sequences` [B, S, H, A], and the state with J of the policy rollouts.

        Rollouts without a score join the batch, unless the sequences start with them.
        """
        count, policy = sequences.shape[1], self.policy_scores
        join = policy is None and not starts_with_policy
        if join:
            sequences = torch.cat([sequences, self.policy_rollouts], 1)
            if multipliers is not None:
                rest = candidate_multipliers(
                    context.warm_start["multipliers"], None, self.policy_rollouts.shape[1]
                )
                multipliers = torch.cat([multipliers, rest], 1)
        found = context.score(sequences, multipliers)
        scores, steps = found[:, :count], found.shape[1] * context.horizon
        if policy is None:
            policy = found[:, count:] if join else found[:, : self.policy_rollouts.shape[1]]
        return scores, replace(self, policy_scores=policy, statistics=self.statistics.after(scores, steps))

    def scored(self, context: PlanningContext) -> "SearchState":
        """With J of the candidates and of the policy rollouts; what is not known is scored in one batch."""
        if self.scores is None:
            scores, state = self.score(context, self.candidates, self.starts_with_policy)
            return replace(state, scores=scores)
        if self.policy_scores is not None:
            return self
        if self.starts_with_policy:
            return replace(self, policy_scores=self.scores[:, : self.policy_rollouts.shape[1]])
        return self.score(context, self.candidates[:, :0])[1]


class Selection(NamedTuple):
    """What a selector chose."""

    sequence: Tensor
    """[B, H, A]."""
    value: Tensor
    """J of the sequence, [B]."""
    best: Tensor
    """Best J of all that could have been chosen, [B]."""
    state: SearchState
    """As it stands at the end."""


@dataclass(frozen=True)
class SelectBest:
    """The candidate of the highest J.

    Args:
        rescore: by J of the candidates as they stand; without it, by that of before the last gradient step.
        keep_policy: the un-optimized policy rollouts are in the running, so that by the model's own J the
            plan is never worse than the policy.
    """

    rescore: bool = True
    keep_policy: bool = True

    def __call__(self, context: PlanningContext, state: SearchState) -> Selection:
        """Up to `(N + P) · H` model steps, of what is not scored yet."""
        if not self.rescore and state.scores is None:
            state = replace(state, scores=state.scores_before_step)
        if self.rescore or self.keep_policy or state.scores is None:
            state = state.scored(context)
        sequences, scores = state.candidates, state.scores
        assert scores is not None
        if self.keep_policy and state.policy_scores is not None:
            sequences = torch.cat([sequences, state.policy_rollouts], 1)
            scores = torch.cat([scores, state.policy_scores], 1)
        value, index = scores.max(1)
        return Selection(take(sequences, index.unsqueeze(1)).squeeze(1), value, value, state)


NonFinite = Annotated[str, one_of("lose", "zero")]


@dataclass(frozen=True)
class Composed:
    """A planner of any stages, run one after another: `Composed(2, PolicyRollouts(), [GradientAscent()])`.

    Args:
        propose: makes the first candidates: `PolicyRollouts` or `GaussianProposal`.
        refine: makes them better, in order: `GaussianRefit`, `GradientAscent`.
        select: chooses the executed sequence: `SelectBest`, `SelectMean` or `SampleElite`.
        horizon: H.
        objective: J.
        min_std: least `std` of a plan where no Gaussian was fitted and the candidates' own spread is taken:
            what exploration noise is in proportion to.
        max_ms: time for a call, in milliseconds. It is looked at between iterations, and when it is over the
            best so far is chosen and `stopped_early` is 1; an iteration that has begun is not cut short.
            Under `torch.compile` a plan is one graph and this setting has no effect.
        non_finite: `lose` drops candidates whose J is not finite and falls back on the policy if none is;
            `zero` sets such J to 0, which can win when returns are negative (Dream-MPC's released program).

    Raises:
        ValueError: a setting out of range, or stages that do not fit together.
    """

    action_dim: Positive
    propose: Proposal
    refine: Sequence[Refinement] = ()
    select: Selector = field(default_factory=SelectBest)
    horizon: Positive = 3
    objective: Objective = field(default_factory=Objective)
    min_std: NonNegative = 0.2
    max_ms: NonNegative = torch.inf
    non_finite: NonFinite = "lose"

    def __post_init__(self) -> None:
        check_stages(self.propose, self.refine, self.select)
        check(self)
        check_treatments(self.objective.constraints, self.refine)
        object.__setattr__(self, "refine", tuple(self.refine))  # a list, where it comes from YAML
        self._carry_shapes()

    def _carry_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = carry_shapes(self.propose, self.refine, self.horizon, self.action_dim)
        count = candidate_count(self.propose, self.refine)
        return merged(shapes, carried_by_costs(self.objective, count, self.action_dim))

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with what the stages carry, as `candidates` [B, N, H, A] or `mean` [B, H, A]."""
        return warm_start.initial(batch_size, device, **self._carry_shapes())

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """Propose, refine, select.

        Raises:
            ValueError: the model has another action dimension; a latent or a warm start of another form.
        """
        imagination.check_action_dim(self.action_dim)
        warm_start.check(latent, state, self._carry_shapes())
        non_finite_score = 0.0 if self.non_finite == "zero" else -torch.inf
        limited = self.max_ms != torch.inf and not torch.compiler.is_compiling()
        deadline = time.perf_counter() + 1e-3 * self.max_ms if limited else torch.inf
        past = term_inputs(self.objective.costs, imagination, state, device_of(latent))
        past |= {"non_finite_score": non_finite_score, "deadline": deadline}
        context = PlanningContext(imagination, latent, state, self.horizon, self.objective, **past)
        search = self.propose(context)
        for refine in self.refine:
            search = refine(context, search)
        chosen = self.select(context, search)
        search = chosen.state

        usable = chosen.value.isfinite() & chosen.sequence.isfinite().flatten(1).all(1)
        fallback = search.policy_rollouts[:, 0]
        sequence = torch.where(usable[:, None, None], chosen.sequence, fallback).nan_to_num(0.0)
        std = search.std
        if std is None:
            std = search.candidates.nan_to_num(0.0).std(1, unbiased=False).clamp(min=self.min_std)
        action, value = sequence[:, 0].clamp(-1, 1), finite(chosen.value)
        kept = {**self.propose.carry(search, sequence), **search.carry}
        if self.objective.costs:
            kept |= {"last_action": action, "time": state["time"] + 1}
        report: dict[str, Tensor] = {}
        if self.objective.constraints:
            value, report["violation"], kept["multipliers"], steps = final_report(context, chosen)
            usable, value = usable & value.isfinite(), finite(value)
            counted = search.statistics.after(chosen.best[:, None], steps)
            chosen = chosen._replace(state=replace(search, statistics=counted))
        carry = warm_start.following(state, **kept)
        return Plan(action, sequence, std, value, carry, diagnostics(chosen, usable).update(report))


def take(values: Tensor, index: Tensor) -> Tensor:
    """The candidates [B, E, H, A] that `index` [B, E] names among `values` [B, N, H, A]."""
    return values.gather(1, index[..., None, None].expand(-1, -1, *values.shape[2:]))


@dataclass(frozen=True)
class PlannerPreset:
    """A named planner: flat settings, from which `composed` makes the stages.

    Args:
        horizon: H, how many steps ahead.
        value_reduction: how the terminal value's heads become one number, see `reduce_heads`.
        value_std_weight: w of `mean-std`.
        min_std: least standard deviation of the plan, hence of exploration noise.
        max_ms: time for a call in milliseconds, looked at between iterations; no effect when compiled.
        terms: further costs in J, as `[energy, {name: action_rate, weight: 0.1}]` (docs/objectives.md).
        terminal_value: without it J ends with the rewards of the horizon.
        constraints: costs with a limit, as `[{term: energy, limit: 1, treatment: lagrangian}]`.

    Raises:
        ValueError: a setting out of range.
    """

    action_dim: Positive
    horizon: Positive = 3
    _: KW_ONLY
    value_reduction: ValueReduction = "mean"
    value_std_weight: NonNegative = 1.0
    min_std: NonNegative = 0.05
    max_ms: NonNegative = torch.inf
    terms: tuple[Any, ...] = ()
    terminal_value: bool = True
    constraints: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", make_terms(self.terms))
        object.__setattr__(self, "constraints", make_constraints(self.constraints))
        check(self)
        self.composed()

    def composed(self) -> Composed:
        """The planner that these settings mean."""
        raise NotImplementedError

    def from_stages(
        self, propose: Proposal, refine: Sequence[Refinement], select: Selector, non_finite: str = "lose"
    ) -> Composed:
        """These stages with the settings that all presets have; without an `uncertainty_coef` λ is 0."""
        coefficient, kind = getattr(self, "uncertainty_coef", 0.0), getattr(self, "uncertainty", "std")
        reduction = self.value_reduction, self.value_std_weight
        objective = Objective(
            coefficient, kind, *reduction, self.terms, self.terminal_value, self.constraints
        )
        rest = self.horizon, objective, self.min_std, self.max_ms, non_finite
        return Composed(self.action_dim, propose, refine, select, *rest)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """Warm start of an episode's first step, TensorDict [B]; see `Composed.initial_state`."""
        return self.composed().initial_state(batch_size, device)

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """See `Composed.plan`."""
        return self.composed().plan(imagination, latent, state)
