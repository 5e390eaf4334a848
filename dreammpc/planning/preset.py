"""A named planner: a dataclass of flat settings that says which stages they mean."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Plan
from dreammpc.planning.blocks import Interpolation
from dreammpc.planning.composed import Composed
from dreammpc.planning.imagination import Imagination, Objective, make_costs
from dreammpc.planning.stages import Proposal, Refinement, Selector
from dreammpc.planning.value_heads import ValueReduction
from dreammpc.plugins.settings import Fraction, NonNegative, NonNegativeOrInf, Positive, check


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
        replan_every: steps for which a plan is executed before the next one is made, at most the horizon.
        action_block: steps for which one decision holds, at most the horizon.
        interpolation: what lies between two decisions: `hold` (the first of both), `linear` or `cubic`.
        value_lambda: below 1, J is a λ-return, for longer horizons; see `Objective`.

    Raises:
        ValueError: a setting out of range.
    """

    action_dim: Positive
    horizon: Positive = 3
    _: KW_ONLY
    value_reduction: ValueReduction = "mean"
    value_std_weight: NonNegative = 1.0
    min_std: NonNegative = 0.05
    max_ms: NonNegativeOrInf = torch.inf
    terms: tuple[Any, ...] = ()
    terminal_value: bool = True
    constraints: tuple[Any, ...] = ()
    replan_every: Positive = 1
    action_block: Positive = 1
    interpolation: Interpolation = "hold"
    value_lambda: Fraction = 1.0

    def __post_init__(self) -> None:
        make_costs(self)
        check(self)
        self.made  # noqa: B018 (what does not fit together is refused here)

    def composed(self) -> Composed:
        """The planner that these settings mean."""
        raise NotImplementedError

    @cached_property
    def made(self) -> Composed:
        """`composed()`: stages are made and checked once, and not in every plan."""
        return self.composed()

    def from_stages(
        self, propose: Proposal, refine: Sequence[Refinement], select: Selector, non_finite: str = "lose"
    ) -> Composed:
        """These stages with the settings that all presets have; without an `uncertainty_coef` λ is 0."""
        objective = Objective(
            uncertainty_coef=getattr(self, "uncertainty_coef", 0.0),
            uncertainty=getattr(self, "uncertainty", "std"),
            value_reduction=self.value_reduction,
            value_std_weight=self.value_std_weight,
            terms=self.terms,
            terminal_value=self.terminal_value,
            constraints=self.constraints,
            value_lambda=self.value_lambda,
        )
        return Composed(
            self.action_dim,
            propose,
            refine,
            select,
            horizon=self.horizon,
            objective=objective,
            min_std=self.min_std,
            max_ms=self.max_ms,
            non_finite=non_finite,
            replan_every=self.replan_every,
            action_block=self.action_block,
            interpolation=self.interpolation,
            measured_trust=bool(getattr(self, "measured_trust", False)),
        )

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """Warm start of an episode's first step, TensorDict [B]; see `Composed.initial_state`."""
        return self.made.initial_state(batch_size, device)

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """See `Composed.plan`."""
        return self.made.plan(imagination, latent, state)

    def due(self, state: TensorDictBase) -> Tensor:
        """Which rows make a new plan from the warm start `state`, bool [B]."""
        return self.made.due(state)
