"""MPPI as TD-MPC2 plans (Hansen et al., ICLR 2024, arXiv 2310.16828, §3.3; Williams et al. 2015)."""

from dataclasses import dataclass

from dreammpc.planning.composed import Composed
from dreammpc.planning.factory import register_planner
from dreammpc.planning.preset import PlannerPreset
from dreammpc.planning.sampling import GaussianProposal, GaussianRefit, SampleElite, released_iterations
from dreammpc.plugins.settings import Count, Finite, NonNegative, Positive


@register_planner("mppi")
@dataclass(frozen=True)
class MPPI(PlannerPreset):
    """Sample, score, refit a Gaussian over action sequences by exponentiated return, repeat; draw an elite.

    Args:
        num_samples: sequences per iteration, policy rollouts included.
        num_policy: how many of them are policy rollouts.
        iterations: refits; two more from 20 action dimensions on.
        num_elites: sequences that take part in a refit.
        max_std: largest standard deviation of the Gaussian, with which it starts.
        temperature: of the elites' weights, exp(temperature·(J - max J)); 0 weighs all the same.
        uncertainty_coef: λ, how much the value heads' disagreement along the way costs.

    Raises:
        ValueError: a setting out of range.
    """

    num_samples: Positive = 512
    num_policy: Count = 24
    iterations: Positive = 6
    num_elites: Positive = 64
    max_std: NonNegative = 2.0
    temperature: NonNegative = 0.5
    uncertainty_coef: Finite = 0.0

    @property
    def num_iterations(self) -> int:
        return released_iterations(self.iterations, self.action_dim)

    def composed(self) -> Composed:
        refit = GaussianRefit(
            num_samples=self.num_samples,
            iterations=self.num_iterations,
            num_elites=self.num_elites,
            temperature=self.temperature,
            min_std=self.min_std,
            max_std=self.max_std,
        )
        propose = GaussianProposal(num_policy=self.num_policy, std=self.max_std)
        return self.from_stages(propose, [refit], SampleElite(self.temperature))
