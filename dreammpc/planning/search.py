"""A planner is propose → refine → select: what its stages share.

The search is over whole sequences of actions; there is no tree, as in mctx. A proposal makes a `SearchState`
from a `PlanningContext`, each refinement returns a better one, a selector makes a `Selection`. Stages are
frozen dataclasses of settings (their protocols: `dreammpc.planning.stages`); all that they know of a call is
in these values. Letters: see `dreammpc.interfaces`; P policy rollouts.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dreammpc.planning.constraints import (
    candidate_multipliers,
)
from dreammpc.planning.context import PlanningContext
from dreammpc.planning.statistics import SearchStatistics


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


def take(values: Tensor, index: Tensor) -> Tensor:
    """The candidates [B, E, H, A] that `index` [B, E] names among `values` [B, N, H, A]."""
    return values.gather(1, index[..., None, None].expand(-1, -1, *values.shape[2:]))
