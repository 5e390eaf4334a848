"""`Composed`, the planner that runs any stages: propose → refine → select, every step or every few.

Letters: see `dreammpc.interfaces`; K decisions, H unless each holds for several steps (see `blocks`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dreammpc.interfaces import Plan
from dreammpc.planning import trust, warm_start
from dreammpc.planning.blocks import Interpolation, check_within, later, make_blocks, num_decisions
from dreammpc.planning.constraints import (
    carried_by_costs,
    check_treatments,
    final_report,
)
from dreammpc.planning.context import PlanningContext
from dreammpc.planning.imagination import Imagination, Objective
from dreammpc.planning.objective_terms import term_inputs
from dreammpc.planning.search import SearchState, SelectBest, Selection
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
from dreammpc.plugins.settings import NonNegative, NonNegativeOrInf, Positive, check, one_of
from dreammpc.runtime.devices import tensor_device

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
        replan_every: steps for which a plan is executed before the next one is made, at most the horizon.
            Each row of a batch counts for itself; a call in which no row's plan has run out makes none.
        action_block: steps for which a decision holds, at most the horizon: stages see K decisions instead of
            H actions.
        interpolation: what lies between two decisions: `hold`, `linear` or `cubic` (see `blocks`).
        measured_trust: gradient steps are the shorter the more the model's last predictions were wrong, in
            each row by itself (see `dreammpc.planning.trust`). It takes one model step more.

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
    max_ms: NonNegativeOrInf = torch.inf
    non_finite: NonFinite = "lose"
    replan_every: Positive = 1
    action_block: Positive = 1
    interpolation: Interpolation = "hold"
    measured_trust: bool = False

    def __post_init__(self) -> None:
        check_stages(self.propose, self.refine, self.select)
        check(self)
        check_within(self.horizon, replan_every=self.replan_every, action_block=self.action_block)
        check_treatments(self.objective.constraints, self.refine)
        object.__setattr__(self, "refine", tuple(self.refine))  # a list, where it comes from YAML
        self._carry_shapes()

    def _carry_shapes(self) -> dict[str, tuple[int, ...]]:
        decisions = num_decisions(self.horizon, self.action_block, self.interpolation)
        shapes = carry_shapes(self.propose, self.refine, decisions, self.action_dim)
        count = candidate_count(self.propose, self.refine)
        if self.replan_every > 1:
            plan = self.horizon, self.action_dim
            shapes = merged(shapes, {"followed": plan, "followed_std": plan, "age": (1,)})
        if self.measured_trust:
            shapes = merged(shapes, trust.SHAPES)
        return merged(shapes, carried_by_costs(self.objective, count, self.action_dim))

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with what the stages carry, as `candidates` [B, N, K, A] or `mean` [B, K, A]."""
        return warm_start.initial(batch_size, device, **self._carry_shapes())

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """Propose, refine, select; or follow the last plan, in rows where it goes on (`replan_every`).

        Raises:
            ValueError: the model has another action dimension; a latent or a warm start of another form.
        """
        imagination.check_action_dim(self.action_dim)
        warm_start.check(latent, state, self._carry_shapes())
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():  # vjp of torch 2.11 records nothing in it
                return self.plan(imagination, latent.clone(), state.clone())
        if self.measured_trust:
            state = state.copy().update(trust.measured(imagination, latent, state))
        context = self._context(imagination, latent, state)
        if self.replan_every == 1:
            return self._search(context)
        due = self.due(state)
        if on_host(due) and not due.any():
            return self._follow(context)
        planned = self._search(context)
        return planned if on_host(due) and due.all() else chosen_rows(due, planned, self._follow(context))

    def due(self, state: TensorDictBase) -> Tensor:
        """Which rows make a new plan from the warm start `state`, bool [B]."""
        first = state["started"][:, 0] == 0
        if self.replan_every == 1:
            return torch.ones_like(first)
        due: Tensor = first | (state["age"][:, 0] >= self.replan_every)
        return due

    def _context(
        self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase
    ) -> PlanningContext:
        device = tensor_device(latent)
        limited = self.max_ms != torch.inf and not torch.compiler.is_compiling()
        more: dict[str, Any] = {
            **term_inputs(self.objective.costs, imagination, state, device),
            "non_finite_score": 0.0 if self.non_finite == "zero" else -torch.inf,
            "deadline": time.perf_counter() + 1e-3 * self.max_ms if limited else torch.inf,
        }
        if self.measured_trust:
            more["trust"] = trust.trust({name: state[name] for name in trust.SHAPES})
        if self.replan_every > 1 or self.action_block > 1:
            more["blocks"] = make_blocks(self.horizon, self.action_block, self.interpolation, device)
        return PlanningContext(imagination, latent, state, self.horizon, self.objective, **more)

    def _search(self, context: PlanningContext) -> Plan:
        """A new plan."""
        state = context.warm_start
        search = self.propose(context)
        if context.trust is not None:
            steps = search.statistics.model_steps + trust.model_steps(context.imagination)
            search = replace(search, statistics=replace(search.statistics, model_steps=steps))
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
        kept = {**self.propose.carry(search, sequence), **search.carry}
        report: dict[str, Tensor] = {}
        if context.trust is not None:
            kept |= {name: state[name] for name in trust.SHAPES}
            report["trust"] = context.trust
        if context.blocks is not None:
            sequence, std = context.blocks.actions(sequence), context.blocks.spread(std)
        action, value = sequence[:, 0].clamp(-1, 1), finite(chosen.value)
        if self.replan_every > 1:
            kept |= {"followed": sequence, "followed_std": std, "age": torch.ones_like(state["started"])}
        if self.objective.costs:
            kept |= {"last_action": action, "time": state["time"] + 1}
        if self.objective.constraints:
            value, report["violation"], kept["multipliers"], steps = final_report(context, chosen)
            usable, value = usable & value.isfinite(), finite(value)
            counted = search.statistics.after(chosen.best[:, None], steps)
            chosen = chosen._replace(state=replace(search, statistics=counted))
        carry = warm_start.following(state, **kept)
        return Plan(action, sequence, std, value, carry, diagnostics(chosen, usable).update(report))

    def _follow(self, context: PlanningContext) -> Plan:
        """The rest of the last plan, its last action repeated; J is what it is worth from here."""
        state = context.warm_start
        at = later(self.horizon, state["age"][:, 0])[..., None].expand_as(state["followed"])
        sequence, std = state["followed"].gather(1, at), state["followed_std"].gather(1, at)
        only = sequence.unsqueeze(1)
        found = replace(context, blocks=None).imagined(only)
        value, action = found.objective[:, 0], sequence[:, 0].clamp(-1, 1)
        measured = 0 if context.trust is None else trust.model_steps(context.imagination)
        statistics = SearchStatistics(self.horizon + measured, value)
        search = SearchState(only, only, policy_scores=found.objective, statistics=statistics)
        report = diagnostics(Selection(sequence, value, value, search), value.isfinite())
        if context.trust is not None:
            report["trust"] = context.trust
        kept = {**dict(state.items()), "age": state["age"] + 1}
        if self.objective.costs:
            kept |= {"last_action": action, "time": state["time"] + 1}
        if found.unconstrained is not None and found.violations is not None:
            value = found.unconstrained[:, 0]
            report["violation"] = found.violations[:, 0].amax(-1).clamp(min=0).nan_to_num(0.0)
        return Plan(action, sequence, std, finite(value), warm_start.following(state, **kept), report)


def on_host(values: Tensor) -> bool:
    """Whether Python may look at a tensor's values: not while they are compiled, recorded or captured."""
    if values.is_meta or torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return False
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())


def chosen_rows(mask: Tensor, one: Plan, other: Plan) -> Plan:
    """Rows of `one` where `mask` [B] is true, of `other` elsewhere."""
    values = zip(one, other, strict=True)
    return Plan(*(torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in values))
