"""The stages of sampling planners (MPPI, CEM, iCEM): sample a Gaussian, score, refit it to the elites.

Letters: see `dreammpc.interfaces`; P policy rollouts, E elites.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from dreammpc.planning.constraints import REJECTED
from dreammpc.planning.context import PlanningContext
from dreammpc.planning.search import SearchState, Selection, take
from dreammpc.planning.statistics import SearchStatistics
from dreammpc.plugins.settings import Count, Fraction, NonNegative, Positive, at_least, check, one_of

Distribution = Annotated[str, one_of("normal", "uniform")]


@dataclass(frozen=True)
class GaussianProposal:
    """A Gaussian over action sequences, centered where the last call ended; policy rollouts if wanted.

    Args:
        num_samples: sequences drawn at once as candidates; a `GaussianRefit` that follows draws its own.
        num_policy: policy rollouts among the candidates, which come first.
        std: of the Gaussian; what is drawn is clamped to [-1, 1].
        warm_start: centered on the last call's plan, shifted by one step: on the mean that its Gaussian ended
            with, or on the executed sequence if it ended without one; else on zero at every call.
        include_center: the first drawn sequence is the center itself.
        distribution: `uniform` draws the candidates over [-1, 1], wherever the center is.
    """

    num_samples: Count = 0
    num_policy: Count = 0
    std: NonNegative = 1.0
    warm_start: bool = True
    include_center: bool = False
    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        check(self)

    def count(self) -> int:
        return self.num_policy + self.num_samples

    def carry_shapes(self, final: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """`mean` [H, A], the next call's center before it is shifted."""
        return {"mean": (horizon, action_dim)} if self.warm_start else {}

    def carry(self, state: SearchState, sequence: Tensor) -> dict[str, Tensor]:
        if not self.warm_start:
            return {}
        return {"mean": sequence if state.mean is None else state.mean}

    def __call__(self, context: PlanningContext) -> SearchState:
        """`(H - 1) · max(num_policy, 1)` model steps; with no rollouts wanted, the mode's is the fallback."""
        noise = context.noise(self.num_policy) if self.num_policy else context.zeros(1)
        policy = context.policy_rollouts(noise)
        statistics = SearchStatistics(model_steps=policy.shape[1] * (context.horizon - 1))
        candidates = policy if self.num_policy else policy[:, :0]
        mean = context.shifted("mean") if self.warm_start else context.zeros(1)[:, 0]
        std = torch.full_like(mean, self.std)
        first = self.num_policy > 0
        if self.num_samples == 0:
            return SearchState(candidates, policy, first, mean=mean, std=std, statistics=statistics)
        candidates = torch.cat([candidates, self._draw(context, mean, std)], 1)
        return SearchState(candidates, policy, first, statistics=statistics)

    def _draw(self, context: PlanningContext, mean: Tensor, std: Tensor) -> Tensor:
        if self.distribution == "uniform":
            drawn = torch.rand_like(context.zeros(self.num_samples)) * 2 - 1
        else:
            drawn = sample_gaussian(mean, std, context.noise(self.num_samples))
        return torch.cat([mean.unsqueeze(1), drawn[:, 1:]], 1) if self.include_center else drawn


@dataclass(frozen=True)
class GaussianRefit:
    """CEM, MPPI and iCEM, by settings. Candidates that come in take part in every iteration; elites come out.

    Args:
        num_samples: sequences per iteration, those that come in and kept elites included.
        iterations: refits.
        num_elites: sequences that take part in a refit.
        temperature: weight of an elite, exp(temperature·(J - max J)); 0 weighs all the same (CEM).
        min_std, max_std: bounds of the Gaussian's std.
        momentum: share of the old mean and std in the new ones.
        noise_beta: color β of the noise over time, see `colored_noise`; 0 is white.
        keep_elites: share of the elites that take part in the next iteration, and shifted in the next call.
        decay: each iteration draws that many times fewer samples than the one before, at least twice
            `num_elites`.
        add_mean: in the last iteration the mean itself takes part.
    """

    num_samples: Positive = 512
    iterations: Positive = 6
    num_elites: Positive = 64
    temperature: NonNegative = 0.0
    min_std: NonNegative = 0.05
    max_std: float = 2.0
    momentum: Fraction = 0.0
    noise_beta: NonNegative = 0.0
    keep_elites: Fraction = 0.0
    decay: Annotated[float, at_least(1)] = 1.0
    add_mean: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.num_samples < self.num_elites:
            raise ValueError(
                f"num_samples must be at least num_elites, {self.num_elites}, got {self.num_samples}"
            )
        if not self.max_std >= self.min_std:
            raise ValueError(f"max_std must be at least min_std, {self.min_std}, got {self.max_std}")

    @property
    def num_kept(self) -> int:
        return math.ceil(self.keep_elites * self.num_elites)

    def count(self, incoming: int) -> int:
        if self.num_samples < incoming:
            raise ValueError(f"num_samples must be at least {incoming}, got {self.num_samples}")
        return self.num_elites

    def carry_shapes(self, incoming: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """`elites` [kept, H, A], if any are kept."""
        return {"elites": (self.num_kept, horizon, action_dim)} if self.num_kept else {}

    def __call__(self, context: PlanningContext, state: SearchState) -> SearchState:
        """`iterations · num_samples · H` model steps without decay."""
        incoming, mean, std = state.candidates, state.mean, state.std
        if mean is None or std is None:  # nothing but candidates came in: the Gaussian that fits them
            mean, std = incoming.nan_to_num(0.0).mean(1), incoming.nan_to_num(0.0).std(1, unbiased=False)
            std = std.clamp(self.min_std, self.max_std)
        elites, scores = incoming, state.scores
        stopped = False
        for i in range(self.iterations):
            stopped = i > 0 and context.out_of_time()
            if stopped:
                break
            population = torch.cat([incoming, self._draw(context, incoming, elites, mean, std, i)], 1)
            found, state = state.score(context, population, state.starts_with_policy)
            scores, index = found.topk(self.num_elites, 1)
            elites = take(population, index)
            weights = elite_weights(scores, self.temperature)
            if context.objective.rejects:  # until all elites keep the constraints they count alike, as in
                # constrained cross-entropy (Wen & Topcu 2018): by weights the least violation would be all
                rejected = (scores <= REJECTED).any(1, keepdim=True)
                weights = torch.where(rejected, elite_weights(scores, 0.0), weights)
            # As an elite of weight 0 a NaN would still spoil the fit.
            new = fit_gaussian(elites.nan_to_num(0.0), weights)
            mean = new[0] if self.momentum == 0 else self.momentum * mean + (1 - self.momentum) * new[0]
            std = new[1] if self.momentum == 0 else self.momentum * std + (1 - self.momentum) * new[1]
            std = std.clamp(self.min_std, self.max_std)
        kept = {"elites": elites[:, : self.num_kept].nan_to_num(0.0)} if self.num_kept else {}
        stopped = state.statistics.stopped_early or stopped
        return replace(
            state,
            candidates=elites,
            starts_with_policy=False,
            scores=scores,
            scores_before_step=None,
            parents=None,
            mean=mean,
            std=std,
            carry={**state.carry, **kept},
            statistics=replace(state.statistics, stopped_early=stopped),
        )

    def _draw(
        self, context: PlanningContext, incoming: Tensor, elites: Tensor, mean: Tensor, std: Tensor, i: int
    ) -> Tensor:
        """What joins the incoming candidates in iteration i: samples, kept elites, perhaps the mean."""
        least = min(2 * self.num_elites, self.num_samples)
        total = max(round(self.num_samples / self.decay**i), least)
        num = max(total - incoming.shape[1], 0)
        drawn = sample_gaussian(mean, std, colored_noise(context.noise(num), self.noise_beta))
        kept = min(self.num_kept, num)
        if kept:
            if i == 0:  # the last call's, in rows that had one
                started = context.warm_start["started"][..., None, None].bool()
                elites = torch.where(started, context.shifted("elites")[:, :kept], drawn[:, :kept])
            drawn = torch.cat([elites[:, :kept], drawn[:, kept:]], 1)
        add_mean = (self.add_mean and i == self.iterations - 1) or context.objective.rejects
        if add_mean and num > kept:
            drawn = torch.cat([drawn[:, :-1], mean.unsqueeze(1)], 1)
        return drawn


@dataclass(frozen=True)
class SelectMean:
    """The Gaussian's mean (CEM), or that of the candidates where there is no Gaussian."""

    def __call__(self, context: PlanningContext, state: SearchState) -> Selection:
        """`H` model steps for its J, and those of what is not scored yet."""
        state = state.scored(context)
        assert state.scores is not None
        sequence = state.candidates.mean(1) if state.mean is None else state.mean
        best = state.scores.amax(1)
        value, state = state.score(context, sequence.unsqueeze(1))
        value = value.squeeze(1)
        return Selection(sequence, value, torch.maximum(value, best), state)


@dataclass(frozen=True)
class SampleElite:
    """One of the candidates, each with a probability in proportion to exp(temperature·J) (MPPI in TD-MPC2).

    Args:
        temperature: 0 draws uniformly.
    """

    temperature: NonNegative = 0.5

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, context: PlanningContext, state: SearchState) -> Selection:
        """No model steps after a `GaussianRefit`."""
        state = state.scored(context)
        assert state.scores is not None
        weights = elite_weights(state.scores, self.temperature)
        gumbel = -torch.empty_like(weights).exponential_().log()
        index = (weights.log() + gumbel).argmax(1, keepdim=True)
        value = state.scores.gather(1, index).squeeze(1)
        return Selection(take(state.candidates, index).squeeze(1), value, state.scores.amax(1), state)


def sample_gaussian(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    """Sequences [B, N, H, A] within [-1, 1] for `mean`, `std` [B, H, A] and standard-normal `noise`."""
    return (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)


def colored_noise(noise: Tensor, beta: float) -> Tensor:
    """White `noise` [B, N, H, A] made smooth in time: a power spectrum of 1/f^β, variance one, period H.

    iCEM (Pinneri et al. 2020, arXiv 2008.06389, §3.1). β = 0 leaves it white; the constant part has the power
    of the slowest wave. The filter is the symmetric root of a circulant covariance, so no FFT is needed.
    """
    horizon = noise.shape[-2]
    if beta == 0 or horizon == 1:
        return noise
    power = [max(min(k, horizon - k), 1) ** -beta for k in range(horizon)]
    scale = math.sqrt(sum(power) / horizon)
    turn = 2 * math.pi / horizon
    taps = [
        sum(math.sqrt(p) * math.cos(turn * k * lag) for k, p in enumerate(power)) / (horizon * scale)
        for lag in range(horizon)
    ]
    step = torch.arange(horizon, device=noise.device)
    lag, matrix = (step[:, None] - step) % horizon, noise.new_zeros(horizon, horizon)
    for k, tap in enumerate(taps):  # on the device: a tensor of Python numbers would be a copy from the host
        matrix = torch.where(lag == k, tap, matrix)
    return (matrix[..., None] * noise.unsqueeze(-3)).sum(-2)  # no matmul: autocast would round it


def elite_weights(objective: Tensor, temperature: float) -> Tensor:
    """exp(temperature·(J - max J)) normalized over the elites, [B, E]; -inf weighs nothing.

    The maximum is subtracted first, so no J overflows. If no elite is finite, all weigh the same; at
    temperature 0 all that are finite do.
    """
    finite, best = objective.isfinite(), objective.amax(1, keepdim=True)
    weights = torch.exp(temperature * torch.where(finite, objective - best, 0.0))
    weights = torch.where(finite | ~best.isfinite(), weights, 0.0)
    return weights / weights.sum(1, keepdim=True)


def fit_gaussian(elites: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation [B, H, A] of `elites` [B, E, H, A] under `weights` [B, E]."""
    weights = weights[..., None, None]
    mean = (weights * elites).sum(1)
    variance = (weights * (elites - mean.unsqueeze(1)).square()).sum(1)
    return mean, variance.sqrt()


LARGE_ACTION_DIM = 20


def released_iterations(iterations: int, action_dim: int) -> int:
    """Two more from 20 action dimensions on, as Dream-MPC's and TD-MPC2's programs have; 0 stays 0."""
    return iterations + (2 if iterations and action_dim >= LARGE_ACTION_DIM else 0)
