"""What flows between the stages of a planner, and what every stage needs: scores, noise, the clock.

A planner is propose → refine → select. A proposal makes a `Search` out of a `Problem`, each refinement turns
it into a better one, a selection makes a `Choice`. Stages are frozen dataclasses of settings; all that they
know of a call is in these values (letters: see `dreammpc.interfaces`; P policy rollouts).
"""

import time
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.planning.imagination import Imagination, Objective, device_of


@dataclass(frozen=True)
class Problem:
    """What one call of a planner is given; stages only read it."""

    imagination: Imagination
    latent: TensorDictBase
    """TensorDict [B]."""
    state: TensorDictBase
    """The warm start, TensorDict [B]."""
    horizon: int
    objective: Objective
    lost: float = -torch.inf
    """What a J that is not finite counts as."""
    deadline: float = torch.inf
    """On the clock of `time.perf_counter`, seconds."""

    @property
    def batch_size(self) -> int:
        return self.latent.shape[0]

    @property
    def action_dim(self) -> int:
        return self.imagination.action_dim

    @property
    def device(self) -> torch.device:
        return device_of(self.latent)

    def zeros(self, num: int) -> Tensor:
        """[B, num, H, A]."""
        return torch.zeros(self.batch_size, num, self.horizon, self.action_dim, device=self.device)

    def noise(self, num: int) -> Tensor:
        """Standard-normal noise [B, num, H, A]."""
        return torch.randn(self.batch_size, num, self.horizon, self.action_dim, device=self.device)

    def score(self, actions: Tensor) -> Tensor:
        """J [B, N] of `actions` [B, N, H, A]; what is not finite counts as `lost`."""
        scores = self.imagination.score(self.latent, actions, self.objective).objective
        return torch.where(scores.isfinite(), scores, self.lost)

    def out_of_time(self) -> bool:
        """Whether the deadline has passed; never under `torch.compile`, where a plan is one graph."""
        if torch.compiler.is_compiling() or self.deadline == torch.inf:
            return False
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() >= self.deadline


@dataclass(frozen=True)
class Search:
    """Candidates on their way from proposal to choice."""

    candidates: Tensor
    """[B, N, H, A]."""
    policy: Tensor
    """Policy rollouts as they came, [B, P, H, A], P ≥ 1: the fallback, and what a gain is over."""
    scores: Tensor | None = None
    """J of the candidates, [B, N], or of what they were before the last step; None before any scoring."""
    fresh: bool = False
    """Whether `scores` are those of the candidates as they stand."""
    policy_scores: Tensor | None = None
    """J of the policy rollouts, [B, P], once known."""
    before: Tensor | None = None
    """Best J of the first candidates that were scored, [B]."""
    origin: Tensor | None = None
    """Which of the last call's candidates each one continues, [B, N]; None if none does."""
    mean: Tensor | None = None
    """[B, H, A] of the Gaussian that the candidates were drawn from, if any."""
    std: Tensor | None = None
    """[B, H, A]."""
    gradient_norm: Tensor | None = None
    """[B], mean over candidates at the last gradient step."""
    clipped: Tensor | None = None
    """[B], share of the candidates whose last gradient was clipped."""
    evaluations: int = 0
    """Model steps so far, per environment."""
    stopped_early: bool = False
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What refinements want back at the next call, each [B, …]."""

    def evaluated(self, problem: Problem) -> "Search":
        """With J of candidates and policy rollouts as they stand: what is not known yet, in one batch."""
        same = self.candidates is self.policy
        missing = [] if self.fresh else [self.candidates]
        if self.policy_scores is None and not (same and missing):
            missing.append(self.policy)
        if not missing:
            return self
        actions = torch.cat(missing, 1)
        found = problem.score(actions)
        scores, policy = self.scores, self.policy_scores
        if not self.fresh:
            scores, found = found[:, : self.candidates.shape[1]], found[:, self.candidates.shape[1] :]
        assert scores is not None
        if policy is None:
            policy = scores if same else found
        return replace(
            self,
            scores=scores,
            fresh=True,
            policy_scores=policy,
            before=scores.amax(1) if self.before is None else self.before,
            evaluations=self.evaluations + actions.shape[1] * problem.horizon,
        )


class Choice(NamedTuple):
    """What a selection gives."""

    sequence: Tensor
    """[B, H, A]."""
    value: Tensor
    """J of the sequence, [B]."""
    best: Tensor
    """Best J of all that could have been chosen, [B]."""
    search: Search
    """As it stands at the end."""


class Proposal(Protocol):
    """The first stage: where candidates come from."""

    def count(self) -> int:
        """N."""
        ...

    def memory(self, final: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes, without [B], of what it wants back, for `final` candidates in the end."""
        ...

    def remember(self, search: Search, sequence: Tensor) -> dict[str, Tensor]:
        """Those values, given the final search and the chosen sequence [B, H, A]."""
        ...

    def __call__(self, problem: Problem) -> Search: ...


class Refinement(Protocol):
    """A stage between: better candidates. What it wants back is in `Search.memory`."""

    def count(self, incoming: int) -> int:
        """Candidates out for candidates in.

        Raises:
            ValueError: a number of candidates that it cannot take.
        """
        ...

    def memory(self, incoming: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes, without [B], of what it puts into `Search.memory`."""
        ...

    def __call__(self, problem: Problem, search: Search) -> Search: ...


class Selection(Protocol):
    """The last stage: which sequence is executed."""

    def __call__(self, problem: Problem, search: Search) -> Choice: ...


def rows(values: Tensor, index: Tensor) -> Tensor:
    """The candidates [B, E, H, A] that `index` [B, E] names among `values` [B, N, H, A]."""
    return values.gather(1, index[..., None, None].expand(-1, -1, *values.shape[2:]))
