"""MPPI as TD-MPC2 plans (Hansen et al., ICLR 2024, arXiv 2310.16828, §3.3; Williams et al. 2015)."""

from dataclasses import dataclass

import torch

from dreammpc.planning.checks import check_count
from dreammpc.planning.composed import Composed, Named, more_iterations
from dreammpc.planning.factory import register_planner
from dreammpc.planning.proposals import Gaussian
from dreammpc.planning.refit import Refit
from dreammpc.planning.selection import Draw


@register_planner("mppi")
@dataclass(frozen=True)
class MPPI(Named):
    """Sample, score, refit a Gaussian over action sequences by exponentiated return, repeat; draw an elite.

    Args:
        horizon: H.
        num_samples: sequences per iteration, policy rollouts included.
        num_policy: how many of them are policy rollouts.
        iterations: refits; two more from 20 action dimensions on.
        num_elites: sequences that take part in a refit.
        min_std: least standard deviation of the Gaussian, hence of exploration noise.
        max_std: its largest, with which it starts.
        temperature: of the elites' weights, exp(temperature·(J - max J)); 0 weighs all the same.
        uncertainty_coef: λ, how much the value heads' disagreement along the way costs.
        value_reduction: of the terminal value's heads: `mean`, `min` or `mean-std`.
        value_std_weight: w of `mean-std`, mean - w·std.
        max_ms: time for a call in milliseconds, looked at between refits; no effect when compiled.

    Raises:
        ValueError: a setting out of range.
    """

    action_dim: int
    horizon: int = 3
    num_samples: int = 512
    num_policy: int = 24
    iterations: int = 6
    num_elites: int = 64
    min_std: float = 0.05
    max_std: float = 2.0
    temperature: float = 0.5
    uncertainty_coef: float = 0.0
    value_reduction: str = "mean"
    value_std_weight: float = 1.0
    max_ms: float = torch.inf

    @property
    def num_iterations(self) -> int:
        return self.iterations + more_iterations(self.action_dim)

    def composed(self) -> Composed:
        check_count("iterations", self.iterations, 1)
        refit = Refit(
            num_samples=self.num_samples,
            iterations=self.num_iterations,
            num_elites=self.num_elites,
            temperature=self.temperature,
            min_std=self.min_std,
            max_std=self.max_std,
        )
        return Composed(
            self.action_dim,
            Gaussian(num_policy=self.num_policy, std=self.max_std),
            (refit,),
            Draw(self.temperature),
            horizon=self.horizon,
            objective=self.objective,
            max_ms=self.max_ms,
        )
