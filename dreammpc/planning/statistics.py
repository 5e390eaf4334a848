"""What is counted during a search, and the diagnostics that a plan reports of it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

if TYPE_CHECKING:
    from dreammpc.planning.search import Selection


@dataclass(frozen=True)
class SearchStatistics:
    """What is reported of a search; no stage decides by it."""

    model_steps: int = 0
    """Model steps so far, per environment."""
    initial_objective: Tensor | None = None
    """Best J of the first candidates that were scored, [B]."""
    gradient_norm: Tensor | None = None
    """[B], mean over candidates at the last gradient step."""
    clipped: Tensor | None = None
    """[B], share of the candidates whose last gradient was clipped."""
    stopped_early: bool = False

    def after(self, scores: Tensor, model_steps: int) -> "SearchStatistics":
        """After `model_steps` more of them, which gave candidates these `scores` [B, N]."""
        first = self.initial_objective
        if first is None and scores.shape[1]:
            first = scores.amax(1)
        return replace(self, model_steps=self.model_steps + model_steps, initial_objective=first)


def diagnostics(chosen: "Selection", usable: Tensor) -> TensorDictBase:
    """What a plan reports (`dreammpc.interfaces.Plan.diagnostics`); `usable` [B] is false on fallback."""
    policy, found = chosen.state.policy_scores, chosen.state.statistics
    best, zeros = finite(chosen.best), torch.zeros_like(chosen.best)
    policy = torch.full_like(best, torch.nan) if policy is None else finite(policy.amax(1))
    content = {
        "objective": best,
        "objective_before": best if found.initial_objective is None else finite(found.initial_objective),
        "objective_policy": policy,
        "gain": best - policy,
        "gradient_norm": zeros if found.gradient_norm is None else found.gradient_norm,
        "clipped": zeros if found.clipped is None else found.clipped,
        "evaluations": zeros + float(found.model_steps),
        "fallback": (~usable).to(zeros.dtype),
        "stopped_early": zeros + float(found.stopped_early),
    }
    return TensorDict(content, [best.shape[0]])


def finite(values: Tensor) -> Tensor:
    """`values` with 0 where they are not finite: no candidate had a finite J, and `fallback` says so."""
    return torch.where(values.isfinite(), values, 0.0)
