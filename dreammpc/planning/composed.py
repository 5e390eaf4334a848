"""The planner that all others are made of: propose → refine → select.

A hybrid of your own in Python::

    planner = Composed(
        action_dim,
        propose=PolicyRollouts(num_candidates=16),
        refine=(Refit(num_samples=64, iterations=2, num_elites=8), Ascend(step_rule="backtracking")),
    )

and the same in YAML, each stage by its `_target_`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Plan
from dreammpc.planning import warm_start
from dreammpc.planning.checks import check_at_least, check_choice, check_count
from dreammpc.planning.imagination import Imagination, Objective
from dreammpc.planning.search import Choice, Problem, Proposal, Refinement, Selection
from dreammpc.planning.selection import Best

LARGE_ACTION_DIM = 20
"""From this action dimension on the released programs plan with two more iterations."""


@dataclass(frozen=True)
class Composed:
    """Runs its stages one after another.

    Args:
        propose: where candidates come from (`dreammpc.planning.proposals`).
        refine: what makes them better (`dreammpc.planning.refit`, `dreammpc.planning.ascend`), in order.
        select: which sequence is executed (`dreammpc.planning.selection`).
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

    action_dim: int
    propose: Proposal
    refine: Sequence[Refinement] = ()
    select: Selection = field(default_factory=Best)
    horizon: int = 3
    objective: Objective = field(default_factory=Objective)
    min_std: float = 0.2
    max_ms: float = torch.inf
    non_finite: str = "lose"

    def __post_init__(self):
        check_count("action_dim", self.action_dim, 1)
        check_count("horizon", self.horizon, 1)
        check_at_least("min_std", self.min_std, 0)
        check_at_least("max_ms", self.max_ms, 0)
        check_choice("non_finite", self.non_finite, ("lose", "zero"))
        check_stage("propose", self.propose, "remember", "PolicyRollouts()")
        if not isinstance(self.refine, Sequence) or isinstance(self.refine, str):
            raise ValueError(f"refine must be a list of refinements, got {self.refine!r}")
        for stage in self.refine:
            check_stage("refine", stage, "memory", "Refit() or Ascend()", not_a="remember")
        check_stage("select", self.select, "__call__", "Best()", not_a="memory")
        object.__setattr__(self, "refine", tuple(self.refine))  # a list, where it comes from YAML
        self._memory()

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with what the stages want back, as `candidates` [B, N, H, A] or `mean` [B, H, A]."""
        return warm_start.fresh(batch_size, device, **self._memory())

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """Propose, refine, select.

        Raises:
            ValueError: the model has another action dimension; a latent or a warm start of another form.
        """
        imagination.check_action_dim(self.action_dim)
        warm_start.check(latent, state, self._memory())
        lost = 0.0 if self.non_finite == "zero" else -torch.inf
        limited = self.max_ms != torch.inf and not torch.compiler.is_compiling()
        deadline = time.perf_counter() + 1e-3 * self.max_ms if limited else torch.inf
        problem = Problem(imagination, latent, state, self.horizon, self.objective, lost, deadline)
        search = self.propose(problem)
        for stage in self.refine:
            search = stage(problem, search)
        choice = self.select(problem, search)
        search = choice.search

        usable = choice.value.isfinite() & choice.sequence.isfinite().flatten(1).all(1)
        sequence = torch.where(usable[:, None, None], choice.sequence, search.policy[:, 0]).nan_to_num(0.0)
        std = search.std
        if std is None:
            std = search.candidates.nan_to_num(0.0).std(1, unbiased=False).clamp(min=self.min_std)
        action = sequence[:, 0].clamp(-1, 1)
        carry = warm_start.carry_on(state, **self.propose.remember(search, sequence), **search.memory)
        value = finite(choice.value)
        return Plan(action, sequence, std, value, carry, self._diagnostics(choice, usable))

    def _memory(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the warm start; checks on the way that the stages fit together."""
        memory: dict[str, tuple[int, ...]] = {}
        count = self.propose.count()
        for stage in self.refine:
            memory = merged(memory, stage.memory(count, self.horizon, self.action_dim))
            count = stage.count(count)
        if count < 1:
            raise ValueError("no candidates to choose from: the proposal must draw some, or a Refit follow")
        return merged(self.propose.memory(count, self.horizon, self.action_dim), memory)

    def _diagnostics(self, choice: Choice, usable: Tensor) -> TensorDictBase:
        search, zeros = choice.search, torch.zeros_like(choice.value)
        return diagnostics(
            objective=choice.best,
            objective_before=choice.best if search.before is None else search.before,
            objective_policy=None if search.policy_scores is None else search.policy_scores.amax(1),
            gradient_norm=zeros if search.gradient_norm is None else search.gradient_norm,
            clipped=zeros if search.clipped is None else search.clipped,
            evaluations=zeros + float(search.evaluations),
            fallback=(~usable).to(zeros.dtype),
            stopped_early=zeros + float(search.stopped_early),
        )


def check_stage(place: str, stage: object, method: str, example: str, not_a: str = "") -> None:
    """Raise ValueError if `stage` is of another kind than belongs in its place."""
    fits = (
        hasattr(stage, method) and not isinstance(stage, type | str) and not (not_a and hasattr(stage, not_a))
    )
    if not fits:
        raise ValueError(f"{place} takes {example} or the like, got {stage!r}")


def merged(
    memory: dict[str, tuple[int, ...]], other: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    twice = sorted(set(memory) & set(other))
    if twice:
        raise ValueError(f"two stages want to carry {twice[0]!r}; only one of a planner's stages may")
    return {**memory, **other}


def diagnostics(
    objective: Tensor, objective_before: Tensor, objective_policy: Tensor | None, **others: Tensor
) -> TensorDictBase:
    """What every planner reports (`dreammpc.interfaces.Plan.diagnostics`), from values [B]."""
    objective, before = finite(objective), finite(objective_before)
    unknown = objective_policy is None
    policy = torch.full_like(objective, torch.nan) if objective_policy is None else finite(objective_policy)
    gain = policy if unknown else objective - policy
    content = {"objective": objective, "objective_before": before, "objective_policy": policy, "gain": gain}
    return TensorDict({**content, **others}, [objective.shape[0]])


def finite(values: Tensor) -> Tensor:
    """`values` with 0 where they are not finite: no candidate had a finite J, and `fallback` says so."""
    return torch.where(values.isfinite(), values, 0.0)


def more_iterations(action_dim: int) -> int:
    """What large action spaces get on top, in Dream-MPC's and TD-MPC2's released programs alike."""
    return 2 if action_dim >= LARGE_ACTION_DIM else 0


class Named:
    """A planner of flat settings: `composed` says which stages they mean."""

    def __post_init__(self):
        self.composed()

    value_reduction: str
    value_std_weight: float

    def composed(self) -> Composed:
        raise NotImplementedError

    @property
    def objective(self) -> Objective:
        """J by the planner's settings; without settings for uncertainty, uncertainty costs nothing."""
        return Objective(
            getattr(self, "uncertainty_coef", 0.0),
            getattr(self, "uncertainty", "std"),
            self.value_reduction,
            self.value_std_weight,
        )

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """Warm start of an episode's first step, TensorDict [B]; see `Composed.initial_state`."""
        return self.composed().initial_state(batch_size, device)

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """See `Composed.plan`."""
        return self.composed().plan(imagination, latent, state)
