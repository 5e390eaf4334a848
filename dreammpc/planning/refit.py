"""Sampling planners' refinement: draw from the Gaussian, score, refit it to the elites, repeat."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreammpc.planning import gaussian, warm_start
from dreammpc.planning.checks import check_at_least, check_at_most, check_count
from dreammpc.planning.search import Problem, Search, rows


@dataclass(frozen=True)
class Refit:
    """CEM, MPPI and iCEM, by settings. Candidates that come in take part in every iteration; elites come out.

    Args:
        num_samples: sequences per iteration, those that come in and kept elites included.
        iterations: refits.
        num_elites: sequences that take part in a refit.
        temperature: weight of an elite, exp(temperature·(J - max J)); 0 weighs all the same (CEM).
        min_std, max_std: bounds of the Gaussian's std.
        momentum: share of the old mean and std in the new ones.
        noise_beta: colour β of the noise over time, see `gaussian.coloured`; 0 is white.
        keep_elites: share of the elites that take part in the next iteration, and shifted in the next call.
        decay: each iteration draws that many times fewer samples than the one before, at least twice
            `num_elites`.
        add_mean: in the last iteration the mean itself takes part.
    """

    num_samples: int = 512
    iterations: int = 6
    num_elites: int = 64
    temperature: float = 0.0
    min_std: float = 0.05
    max_std: float = 2.0
    momentum: float = 0.0
    noise_beta: float = 0.0
    keep_elites: float = 0.0
    decay: float = 1.0
    add_mean: bool = False

    def __post_init__(self):
        check_count("num_samples", self.num_samples, 1)
        check_count("num_elites", self.num_elites, 1)
        if self.num_samples < self.num_elites:
            raise ValueError(
                f"num_samples must be at least num_elites, {self.num_elites}, got {self.num_samples}"
            )
        check_count("iterations", self.iterations, 1)
        for name in ("temperature", "min_std", "momentum", "noise_beta", "keep_elites"):
            check_at_least(name, getattr(self, name), 0)
        check_at_least("max_std", self.max_std, self.min_std)
        check_at_least("decay", self.decay, 1)
        check_at_most("momentum", self.momentum, 1)
        check_at_most("keep_elites", self.keep_elites, 1)

    @property
    def num_kept(self) -> int:
        return math.ceil(self.keep_elites * self.num_elites)

    def count(self, incoming: int) -> int:
        check_at_least("num_samples", self.num_samples, incoming)
        return self.num_elites

    def memory(self, incoming: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """`elites` [kept, H, A], if any are kept."""
        return {"elites": (self.num_kept, horizon, action_dim)} if self.num_kept else {}

    def __call__(self, problem: Problem, search: Search) -> Search:
        """`iterations · num_samples · H` model steps without decay."""
        incoming, mean, std = search.candidates, search.mean, search.std
        if mean is None or std is None:  # nothing but candidates came in: the Gaussian that fits them
            mean, std = incoming.nan_to_num(0.0).mean(1), incoming.nan_to_num(0.0).std(1, unbiased=False)
            std = std.clamp(self.min_std, self.max_std)
        before, policy_scores, evaluations = search.before, search.policy_scores, search.evaluations
        elites, scores = incoming, search.scores
        stopped = False
        for i in range(self.iterations):
            stopped = i > 0 and problem.out_of_time()
            if stopped:
                break
            population = torch.cat([incoming, self._draw(problem, incoming, elites, mean, std, i)], 1)
            size = population.shape[1]
            ride = policy_scores is None and search.policy is not incoming
            found = problem.score(torch.cat([population, search.policy], 1) if ride else population)
            evaluations += found.shape[1] * problem.horizon
            if policy_scores is None:
                policy_scores = found[:, size:] if ride else found[:, : incoming.shape[1]]
            before = found[:, :size].amax(1) if before is None else before
            scores, index = found[:, :size].topk(self.num_elites, 1)
            elites = rows(population, index)
            # As an elite of weight 0 a NaN would still spoil the refit.
            new = gaussian.refit(elites.nan_to_num(0.0), gaussian.elite_weights(scores, self.temperature))
            mean = new[0] if self.momentum == 0 else self.momentum * mean + (1 - self.momentum) * new[0]
            std = new[1] if self.momentum == 0 else self.momentum * std + (1 - self.momentum) * new[1]
            std = std.clamp(self.min_std, self.max_std)
        memory = search.memory
        if self.num_kept:
            memory = {**memory, "elites": elites[:, : self.num_kept].nan_to_num(0.0)}
        return replace(
            search,
            candidates=elites,
            scores=scores,
            fresh=True,
            policy_scores=policy_scores,
            before=before,
            origin=None,
            mean=mean,
            std=std,
            evaluations=evaluations,
            stopped_early=search.stopped_early or stopped,
            memory=memory,
        )

    def _draw(
        self, problem: Problem, incoming: Tensor, elites: Tensor, mean: Tensor, std: Tensor, iteration: int
    ) -> Tensor:
        """What joins the incoming candidates in an iteration: samples, kept elites, perhaps the mean."""
        least = min(2 * self.num_elites, self.num_samples)
        total = max(round(self.num_samples / self.decay**iteration), least)
        num = max(total - incoming.shape[1], 0)
        drawn = gaussian.sample(mean, std, gaussian.coloured(problem.noise(num), self.noise_beta))
        kept = min(self.num_kept, num)
        if kept:
            if iteration == 0:  # the last call's, in rows that had one
                started = problem.state["started"][..., None, None].bool()
                last = warm_start.shift(problem.state["elites"])
                elites = torch.where(started, last[:, :kept], drawn[:, :kept])
            drawn = torch.cat([elites[:, :kept], drawn[:, kept:]], 1)
        if self.add_mean and iteration == self.iterations - 1 and num > kept:
            drawn = torch.cat([drawn[:, :-1], mean.unsqueeze(1)], 1)
        return drawn
