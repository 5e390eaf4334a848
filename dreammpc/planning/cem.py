"""The cross-entropy family: random shooting and predictive sampling, CEM, iCEM, CEM with gradient steps."""

from dataclasses import dataclass, field, replace
from typing import Annotated

import torch

from dreammpc.planning.composed import Composed
from dreammpc.planning.factory import register_planner
from dreammpc.planning.gradient_ascent import GradientAscent, Optimizer, StepRule
from dreammpc.planning.preset import PlannerPreset
from dreammpc.planning.sampling import GaussianProposal, GaussianRefit, SelectMean
from dreammpc.planning.search import SelectBest
from dreammpc.plugins.settings import Count, Fraction, NonNegative, NonNegativeOrInf, Positive, at_least


@register_planner("random_shooting")
@dataclass(frozen=True)
class RandomShooting(PlannerPreset):
    """The best of many random sequences: the plain baseline; or predictive sampling.

    Predictive sampling (Howell et al. 2022, arXiv 2212.00541, §3) draws around the last plan, which stays
    in the running.

    Args:
        num_samples: sequences.
        predictive: draw from a Gaussian around the last plan shifted by one step; otherwise uniformly over
            [-1, 1], without a memory.
        std: of that Gaussian.

    Raises:
        ValueError: a setting out of range.
    """

    num_samples: Positive = 512
    predictive: bool = False
    std: NonNegative = 0.3
    max_ms: float = field(default=torch.inf, init=False)  # one iteration: none to stop after

    def composed(self) -> Composed:
        propose = GaussianProposal(
            num_samples=self.num_samples,
            std=self.std,
            warm_start=self.predictive,
            include_center=self.predictive,
            distribution="normal" if self.predictive else "uniform",
        )
        return self.from_stages(propose, [], SelectBest(keep_policy=False))


@register_planner("cem")
@dataclass(frozen=True)
class CEM(PlannerPreset):
    """The cross-entropy method: refit a Gaussian to unweighted elites; the mean's first action executes.

    Rubinstein 1999; in a learned model see PlaNet (Hafner et al. 2019, arXiv 1811.04551, Algorithm 2).

    Args:
        num_samples: sequences per iteration, policy rollouts included.
        num_policy: how many of them are policy rollouts.
        iterations: refits.
        num_elites: sequences that a refit is made of.
        init_std: standard deviation that a call starts with.
        warm_start: start from the last call's mean, shifted by one step.

    Raises:
        ValueError: a setting out of range.
    """

    num_samples: Positive = 512
    num_policy: Count = 0
    iterations: Positive = 6
    num_elites: Positive = 64
    init_std: NonNegative = 1.0
    warm_start: bool = True

    def refit(self) -> GaussianRefit:
        return GaussianRefit(
            num_samples=self.num_samples,
            iterations=self.iterations,
            num_elites=self.num_elites,
            min_std=self.min_std,
            max_std=max(self.init_std, self.min_std),
        )

    def composed(self) -> Composed:
        propose = GaussianProposal(num_policy=self.num_policy, std=self.init_std, warm_start=self.warm_start)
        return self.from_stages(propose, [self.refit()], SelectMean())


@register_planner("icem")
@dataclass(frozen=True)
class ICEM(CEM):
    """CEM with colored noise and a memory of elites; the best sequence executes.

    iCEM (Pinneri et al. 2020, arXiv 2008.06389, §3). Settings not named here are those of `cem`.

    Args:
        num_samples: sequences of the first iteration.
        noise_beta: color β of the noise over time: 0 is white, larger is smoother.
        keep_elites: share of the elites that take part in the next iteration, and shifted in the next call.
        decay: each iteration draws that many times fewer sequences, at least twice `num_elites`.
        momentum: share of the old mean and std in the new ones.
        init_std: standard deviation that a call starts with.

    Raises:
        ValueError: a setting out of range.
    """

    num_samples: Positive = 128
    num_elites: Positive = 10
    init_std: NonNegative = 0.5
    noise_beta: NonNegative = 2.5
    keep_elites: Fraction = 0.3
    decay: Annotated[float, at_least(1)] = 1.25
    momentum: Fraction = 0.1

    def refit(self) -> GaussianRefit:
        return replace(
            super().refit(),
            momentum=self.momentum,
            noise_beta=self.noise_beta,
            keep_elites=self.keep_elites,
            decay=self.decay,
            add_mean=True,
        )

    def composed(self) -> Composed:
        return replace(super().composed(), select=SelectBest(keep_policy=False))


@register_planner("cem_grad")
@dataclass(frozen=True)
class CEMGrad(CEM):
    """CEM for a few iterations finds the region, then gradient steps on the elites find the point in it.

    After Bharadhwaj et al. 2020 (arXiv 2004.08763), who take gradient steps within every CEM iteration.
    Settings not named here are those of `cem`.

    Args:
        grad_iterations: gradient steps.
        step_size: α, with `adam` the length of a step per coordinate of the action.
        step_rule: `backtracking` and `line_search` never leave an elite worse than CEM found it; also
            `fixed`, `normalized`.
        optimizer: `adam`, which the scale of returns does not matter to and whose moments start anew at every
            call; or `sgd`.
        clip: norm at which an elite's gradient is clipped.

    Raises:
        ValueError: a setting out of range.
    """

    num_samples: Positive = 128
    iterations: Positive = 3
    num_elites: Positive = 8
    grad_iterations: Count = 5
    step_size: NonNegative = 0.1
    step_rule: StepRule = "backtracking"
    optimizer: Optimizer = "adam"
    clip: NonNegativeOrInf = 20.0

    def composed(self) -> Composed:
        ascent = GradientAscent(
            self.grad_iterations, self.step_size, self.step_rule, self.optimizer, self.clip
        )
        return replace(
            super().composed(), refine=(self.refit(), ascent), select=SelectBest(keep_policy=False)
        )
