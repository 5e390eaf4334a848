"""Which sequence is executed: the best, the Gaussian's mean, or a draw among the elites."""

from dataclasses import dataclass, replace

import torch

from dreammpc.planning import gaussian
from dreammpc.planning.checks import check_at_least
from dreammpc.planning.search import Choice, Problem, Search, rows


@dataclass(frozen=True)
class Best:
    """The candidate of the highest J.

    Args:
        rescore: by J of the candidates as they stand; without it, by that of before the last gradient step.
        keep_policy: the un-optimised policy rollouts are in the running, so that by the model's own J the
            plan is never worse than the policy.
    """

    rescore: bool = True
    keep_policy: bool = True

    def __call__(self, problem: Problem, search: Search) -> Choice:
        """Up to `(N + P) · H` model steps, of what is not scored yet."""
        if search.scores is not None and not self.rescore:
            search = replace(search, fresh=True)  # as good as fresh, for this choice
        if self.rescore or self.keep_policy or search.scores is None:
            search = search.evaluated(problem)
        sequences, scores = search.candidates, search.scores
        assert scores is not None
        if self.keep_policy and search.policy_scores is not None:
            sequences = torch.cat([sequences, search.policy], 1)
            scores = torch.cat([scores, search.policy_scores], 1)
        value, index = scores.max(1)
        return Choice(rows(sequences, index.unsqueeze(1)).squeeze(1), value, value, search)


@dataclass(frozen=True)
class Mean:
    """The Gaussian's mean (CEM), or that of the candidates where there is no Gaussian."""

    def __call__(self, problem: Problem, search: Search) -> Choice:
        """`H` model steps for its J, and those of what is not scored yet."""
        search = search.evaluated(problem)
        assert search.scores is not None
        sequence = search.candidates.mean(1) if search.mean is None else search.mean
        value = problem.score(sequence.unsqueeze(1)).squeeze(1)
        best = torch.maximum(value, search.scores.amax(1))
        search = replace(search, evaluations=search.evaluations + problem.horizon)
        return Choice(sequence, value, best, search)


@dataclass(frozen=True)
class Draw:
    """One of the candidates, each with a probability in proportion to exp(temperature·J) (MPPI in TD-MPC2).

    Args:
        temperature: 0 draws uniformly.
    """

    temperature: float = 0.5

    def __post_init__(self):
        check_at_least("temperature", self.temperature, 0)

    def __call__(self, problem: Problem, search: Search) -> Choice:
        """No model steps after a `Refit`."""
        search = search.evaluated(problem)
        assert search.scores is not None
        weights = gaussian.elite_weights(search.scores, self.temperature)
        gumbel = -torch.empty_like(weights).exponential_().log()
        index = (weights.log() + gumbel).argmax(1, keepdim=True)
        value = search.scores.gather(1, index).squeeze(1)
        sequence = rows(search.candidates, index).squeeze(1)
        return Choice(sequence, value, search.scores.amax(1), search)
