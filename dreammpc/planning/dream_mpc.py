"""Planners that climb the model's gradient: Dream-MPC, its released behavior, and one without a prior.

Letters: see `dreammpc.interfaces`.
"""

from dataclasses import dataclass
from typing import Annotated

from dreammpc.planning.composed import Composed, NonFinite
from dreammpc.planning.factory import register_planner
from dreammpc.planning.gradient_ascent import ClipOver, GradientAscent, Optimizer, StepRule
from dreammpc.planning.imagination import UncertaintyKind
from dreammpc.planning.policy_rollouts import PolicyRollouts, ReuseStrategy
from dreammpc.planning.preset import PlannerPreset
from dreammpc.planning.sampling import GaussianProposal, released_iterations
from dreammpc.planning.search import SelectBest
from dreammpc.planning.value_heads import ValueReduction
from dreammpc.plugins.settings import Count, Finite, Fraction, NonNegative, NonNegativeOrInf, Positive, one_of

Ranking = Annotated[str, one_of("rescored", "before_last_step")]


@register_planner("dream_mpc")
@dataclass(frozen=True)
class DreamMPC(PlannerPreset):
    """Policy rollouts improved by gradient ascent (Spieler & Behnke, ICML 2026, arXiv 2605.04568).

    Two presets share this class: `dream_mpc`, our default, and `dream_mpc_paper`, what the released program
    does, which differs from the paper's text in several places. Ours takes a step ten times as long as the
    paper's α = 0.1 and lets backtracking shorten it, trusts the lowest value head, and looks at the heads'
    disagreement only where a candidate ends: docs/ablations.md has what that gained.

    Args:
        num_candidates: N policy rollouts.
        iterations: gradient steps I; two more from 20 action dimensions on, as in the released program.
        step_size: α.
        step_rule: `fixed` adds α·∇J; `normalized` moves every candidate by α per coordinate (root mean
            square) along its gradient; `backtracking` tries α, α/2, α/4, α/8 in one batch and takes the best
            by J, or stays: safe with large α, at five times the model steps; `line_search` does so along the
            gradient scaled as in `normalized`: as far on a flat J as on a steep one.
        optimizer: `sgd`, or `adam` with moments carried from call to call: steps of like length in every
            coordinate, whatever the scale of returns; wants a smaller α.
        clip: norm at which gradients are clipped.
        clip_over: `candidate` clips each by itself; `all` uses one norm over an environment's candidates,
            so that one exploding candidate flattens the rest (released behavior).
        reuse: weight ρ of the previous candidates, shifted by one step, in the warm start.
        reuse_strategy: which previous candidate a rollout is mixed with: `index` that of its own number,
            `best` the executed one, `matched` the nearest by distance between sequences of actions, `none`.
        include_mode: the first candidate is the policy's noise-free rollout.
        selection: `rescored` takes the best by J after the last step; `before_last_step` ranks by J from
            before the last step and projects on [-1, 1] only at the end (released behavior).
        keep_policy: the un-optimized policy rollouts stay in the running, so that by the model's own J the
            plan is never worse than the policy.
        non_finite: `lose` drops candidates whose J is not finite and falls back on the policy if none
            is; `zero` sets such J to 0, which can win when returns are negative (released behavior).
        within_policy: candidates stay within the range of the policy rollouts' actions, no further than the
            policy itself would try: for agents whose model or value is wrong there (docs/hard_tasks.md).
        measured_trust: α is multiplied by max(0, 1 - e). e is how far the model's predictions of this episode
            were from what came, over how far the latent moved (see `dreammpc.planning.trust`).
        uncertainty_coef: λ, how much the value heads' disagreement costs.
        uncertainty: `std`, along the way and at its end, is differentiable and discounted; `terminal` is that
            at the end alone and costs next to nothing; `released` only re-ranks, see `Objective`.

    Raises:
        ValueError: a setting out of range.
    """

    num_candidates: Positive = 5
    iterations: Count = 1
    step_size: NonNegative = 1.0
    step_rule: StepRule = "backtracking"
    optimizer: Optimizer = "sgd"
    clip: NonNegativeOrInf = 20.0
    clip_over: ClipOver = "candidate"
    reuse: Fraction = 0.1
    reuse_strategy: ReuseStrategy = "index"
    include_mode: bool = True
    selection: Ranking = "rescored"
    keep_policy: bool = True
    non_finite: NonFinite = "lose"
    min_std: NonNegative = 0.2
    uncertainty_coef: Finite = 0.01
    uncertainty: UncertaintyKind = "terminal"
    value_reduction: ValueReduction = "min"
    within_policy: bool = False
    measured_trust: bool = False

    @property
    def num_iterations(self) -> int:
        return released_iterations(self.iterations, self.action_dim)

    def composed(self) -> Composed:
        rescored = self.selection == "rescored"
        ascent = GradientAscent(
            iterations=self.num_iterations,
            step_size=self.step_size,
            step_rule=self.step_rule,
            optimizer=self.optimizer,
            clip=self.clip,
            clip_over=self.clip_over,
            project=rescored,
            within_policy=self.within_policy,
        )
        propose = PolicyRollouts(self.num_candidates, self.include_mode, self.reuse, self.reuse_strategy)
        return self.from_stages(propose, [ascent], SelectBest(rescored, self.keep_policy), self.non_finite)


@register_planner("dream_mpc_paper")
@dataclass(frozen=True)
class DreamMPCPaper(DreamMPC):
    """Dream-MPC with the released program's behavior in every point where it differs from our default.

    It never scores the un-optimized policy rollouts, so it cannot tell its gain over the policy (NaN).
    """

    step_size: NonNegative = 0.1
    step_rule: StepRule = "fixed"
    clip_over: ClipOver = "all"
    include_mode: bool = False
    selection: Ranking = "before_last_step"
    keep_policy: bool = False
    non_finite: NonFinite = "zero"
    uncertainty: UncertaintyKind = "released"
    value_reduction: ValueReduction = "mean"


@register_planner("grad_mpc")
@dataclass(frozen=True)
class GradMPC(PlannerPreset):
    """Gradient ascent from Gaussian-random sequences: no prior, no reuse, no uncertainty.

    The known weak baseline that Dream-MPC argues with (arXiv 2605.04568, §4).

    Args:
        num_candidates: N random sequences.
        iterations: gradient steps; two more from 20 action dimensions on.
        step_size: α.
        step_rule: `fixed`, `normalized`, `backtracking` or `line_search`, see `DreamMPC`.
        optimizer: `sgd` or `adam`, whose moments start anew at every call.
        clip: norm at which a candidate's gradient is clipped.
        init_std: of the random sequences, which are clamped to [-1, 1].

    Raises:
        ValueError: a setting out of range.
    """

    num_candidates: Positive = 5
    iterations: Count = 10
    step_size: NonNegative = 0.1
    step_rule: StepRule = "fixed"
    optimizer: Optimizer = "sgd"
    clip: NonNegativeOrInf = 20.0
    init_std: NonNegative = 0.5
    min_std: NonNegative = 0.2

    @property
    def num_iterations(self) -> int:
        return released_iterations(self.iterations, self.action_dim)

    def composed(self) -> Composed:
        ascent = GradientAscent(
            self.num_iterations, self.step_size, self.step_rule, self.optimizer, self.clip
        )
        propose = GaussianProposal(self.num_candidates, std=self.init_std, warm_start=False)
        return self.from_stages(propose, [ascent], SelectBest(keep_policy=False))
