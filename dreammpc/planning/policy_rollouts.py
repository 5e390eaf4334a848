"""Candidates from rollouts of the policy: the proposal of Dream-MPC."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dreammpc.planning.context import PlanningContext
from dreammpc.planning.search import SearchState, take
from dreammpc.planning.statistics import SearchStatistics
from dreammpc.plugins.settings import Fraction, Positive, check, one_of

ReuseStrategy = Annotated[str, one_of("index", "best", "matched", "none")]


@dataclass(frozen=True)
class PolicyRollouts:
    """Rollouts of the policy, each mixed with a candidate of the last call (arXiv 2605.04568, Algorithm 1).

    Args:
        num_candidates: N.
        include_mode: the first rollout is the policy's noise-free one; of several policies, that of each.
        reuse: weight ρ of the last call's candidates, shifted by one step.
        reuse_strategy: which of them a rollout is mixed with: `index` the one of its own number; `best` the
            sequence that was executed; `matched` the nearest by Euclidean distance between the shifted
            candidate's actions and the rollout's; `none` is no warm start.
    """

    num_candidates: Positive = 5
    include_mode: bool = True
    reuse: Fraction = 0.1
    reuse_strategy: ReuseStrategy = "index"

    def __post_init__(self) -> None:
        check(self)

    def count(self) -> int:
        return self.num_candidates

    def carry_shapes(self, final: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """`candidates` [final, H, A] after optimization; of `best`, the executed one alone."""
        if self.reuse_strategy == "none":
            return {}
        return {"candidates": (1 if self.reuse_strategy == "best" else final, horizon, action_dim)}

    def carry(self, state: SearchState, sequence: Tensor) -> dict[str, Tensor]:
        if self.reuse_strategy == "none":
            return {}
        kept = sequence.unsqueeze(1) if self.reuse_strategy == "best" else state.candidates
        return {"candidates": kept.nan_to_num(0.0)}

    def __call__(self, context: PlanningContext) -> SearchState:
        """`num_candidates · (H - 1)` model steps."""
        noise = context.noise(self.num_candidates)
        if self.include_mode:
            count = getattr(context.imagination.model, "num_policies", 1)
            noise = torch.cat([torch.zeros_like(noise[:, :count]), noise[:, count:]], 1)
        policy = context.policy_rollouts(noise)
        statistics = SearchStatistics(model_steps=self.num_candidates * (context.horizon - 1))
        if self.reuse_strategy == "none":
            return SearchState(policy, policy, starts_with_policy=True, statistics=statistics)
        last, parents = context.shifted("candidates"), None
        if self.reuse_strategy == "index":
            # Where a refinement left another number of candidates, they are taken in turns.
            index = torch.arange(self.num_candidates, device=last.device) % last.shape[1]
            parents = index.expand(policy.shape[:2])
        elif self.reuse_strategy == "matched":
            parents = nearest(policy, last)
        if parents is not None and (self.reuse_strategy, last.shape[1]) != ("index", self.num_candidates):
            last = take(last, parents)
        reuse = self.reuse * context.warm_start["started"][..., None, None]
        candidates = reuse * last + (1 - reuse) * policy
        return SearchState(candidates, policy, parents=parents, statistics=statistics)


def nearest(actions: Tensor, others: Tensor) -> Tensor:
    """Which of `others` [B, N', H, A] is nearest to each of `actions` [B, N, H, A]: [B, N]."""
    distance = (actions.unsqueeze(2) - others.unsqueeze(1)).square().sum((-2, -1))
    return distance.argmin(2)
