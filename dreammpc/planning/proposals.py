"""Where candidates come from: rollouts of the policy, or a Gaussian around the last plan."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dreammpc.planning import gaussian, warm_start
from dreammpc.planning.checks import check_at_least, check_at_most, check_choice, check_count
from dreammpc.planning.search import Problem, Search, rows

REUSE_STRATEGIES = ("index", "best", "matched", "none")
DISTRIBUTIONS = ("normal", "uniform")


@dataclass(frozen=True)
class PolicyRollouts:
    """Rollouts of the policy, each mixed with a candidate of the last call (arXiv 2605.04568, Algorithm 1).

    Args:
        num_candidates: N.
        include_mode: the first rollout is the policy's noise-free one.
        reuse: weight ρ of the last call's candidates, shifted by one step.
        reuse_strategy: which of them a rollout is mixed with: `index` the one of its own number; `best` the
            sequence that was executed; `matched` the nearest by Euclidean distance between the shifted
            candidate's actions and the rollout's; `none` is no warm start.
    """

    num_candidates: int = 5
    include_mode: bool = True
    reuse: float = 0.1
    reuse_strategy: str = "index"

    def __post_init__(self):
        check_count("num_candidates", self.num_candidates, 1)
        check_at_least("reuse", self.reuse, 0)
        check_at_most("reuse", self.reuse, 1)
        check_choice("reuse_strategy", self.reuse_strategy, REUSE_STRATEGIES)

    def count(self) -> int:
        return self.num_candidates

    def memory(self, final: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """`candidates` [final, H, A] after optimisation; of `best`, the executed one alone."""
        if self.reuse_strategy == "none":
            return {}
        return {"candidates": (1 if self.reuse_strategy == "best" else final, horizon, action_dim)}

    def remember(self, search: Search, sequence: Tensor) -> dict[str, Tensor]:
        if self.reuse_strategy == "none":
            return {}
        kept = sequence.unsqueeze(1) if self.reuse_strategy == "best" else search.candidates
        return {"candidates": kept.nan_to_num(0.0)}

    def __call__(self, problem: Problem) -> Search:
        """`num_candidates · (H - 1)` model steps."""
        noise = problem.noise(self.num_candidates)
        if self.include_mode:
            noise = torch.cat([torch.zeros_like(noise[:, :1]), noise[:, 1:]], 1)
        policy = problem.imagination.propose(problem.latent, noise)
        evaluations = self.num_candidates * (problem.horizon - 1)
        if self.reuse_strategy == "none":
            return Search(policy, policy, evaluations=evaluations)
        last, origin = warm_start.shift(problem.state["candidates"]), None
        if self.reuse_strategy == "index":
            # Where a refinement left another number of candidates, they are taken in turns.
            index = torch.arange(self.num_candidates, device=last.device) % last.shape[1]
            origin = index.expand(policy.shape[:2])
        elif self.reuse_strategy == "matched":
            origin = nearest(policy, last)
        if origin is not None and (self.reuse_strategy, last.shape[1]) != ("index", self.num_candidates):
            last = rows(last, origin)
        reuse = self.reuse * problem.state["started"][..., None, None]
        candidates = reuse * last + (1 - reuse) * policy
        return Search(candidates, policy, origin=origin, evaluations=evaluations)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian over action sequences, centred where the last call ended; the policy's rollouts if wanted.

    Args:
        num_samples: sequences drawn at once as candidates; a `Refit` that follows draws its own.
        num_policy: policy rollouts among the candidates, which come first.
        std: of the Gaussian; what is drawn is clamped to [-1, 1].
        warm_start: centred on the last call's plan, shifted by one step: on the mean that its Gaussian ended
            with, or on the executed sequence if it ended without one; else on zero at every call.
        include_centre: the first drawn sequence is the centre itself.
        distribution: `uniform` draws the candidates over [-1, 1], wherever the centre is.
    """

    num_samples: int = 0
    num_policy: int = 0
    std: float = 1.0
    warm_start: bool = True
    include_centre: bool = False
    distribution: str = "normal"

    def __post_init__(self):
        check_count("num_samples", self.num_samples, 0)
        check_count("num_policy", self.num_policy, 0)
        check_at_least("std", self.std, 0)
        check_choice("distribution", self.distribution, DISTRIBUTIONS)

    def count(self) -> int:
        return self.num_policy + self.num_samples

    def memory(self, final: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """`mean` [H, A], the next call's centre before it is shifted."""
        return {"mean": (horizon, action_dim)} if self.warm_start else {}

    def remember(self, search: Search, sequence: Tensor) -> dict[str, Tensor]:
        if not self.warm_start:
            return {}
        return {"mean": sequence if search.mean is None else search.mean}

    def __call__(self, problem: Problem) -> Search:
        """`(H - 1) · max(num_policy, 1)` model steps; with no rollouts wanted, the mode's is the fallback."""
        noise = problem.noise(self.num_policy) if self.num_policy else problem.zeros(1)
        policy = problem.imagination.propose(problem.latent, noise)
        evaluations = policy.shape[1] * (problem.horizon - 1)
        candidates = policy if self.num_policy else policy[:, :0]
        mean = warm_start.shift(problem.state["mean"]) if self.warm_start else problem.zeros(1)[:, 0]
        std = torch.full_like(mean, self.std)
        if self.num_samples == 0:
            return Search(candidates, policy, mean=mean, std=std, evaluations=evaluations)
        candidates = torch.cat([candidates, self._draw(problem, mean, std)], 1)
        return Search(candidates, policy, evaluations=evaluations)

    def _draw(self, problem: Problem, mean: Tensor, std: Tensor) -> Tensor:
        if self.distribution == "uniform":
            drawn = torch.rand_like(problem.zeros(self.num_samples)) * 2 - 1
        else:
            drawn = gaussian.sample(mean, std, problem.noise(self.num_samples))
        return torch.cat([mean.unsqueeze(1), drawn[:, 1:]], 1) if self.include_centre else drawn


def nearest(actions: Tensor, others: Tensor) -> Tensor:
    """Which of `others` [B, N', H, A] is nearest to each of `actions` [B, N, H, A]: [B, N]."""
    distance = (actions.unsqueeze(2) - others.unsqueeze(1)).square().sum((-2, -1))
    return distance.argmin(2)
