"""MPPI as TD-MPC2 plans (Hansen et al., ICLR 2024, arXiv 2310.16828, §3.3; Williams et al. 2015)."""

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Plan
from dreammpc.planning import warm_start
from dreammpc.planning.imagination import Imagination, Objective, check_at_least
from dreammpc.planning.registry import register_planner

LARGE_ACTION_DIM = 20
"""From this action dimension on the released programs plan with two more iterations."""


@register_planner("mppi")
@dataclass(frozen=True)
class MPPI:
    """Sample, score, refit a Gaussian over action sequences by exponentiated return, repeat.

    Args:
        horizon: H.
        num_samples: sequences per iteration, policy rollouts included.
        num_policy: how many of them are policy rollouts.
        iterations: refits; two more from 20 action dimensions on.
        num_elites: sequences that take part in a refit.
        min_std, max_std: bounds of the Gaussian's std; it starts at `max_std`.
        temperature: of the elites' weights, exp(temperature·(J - max J)).
        uncertainty_coef, value_reduction: see `Objective`.

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

    def __post_init__(self):
        for name in ("horizon", "num_samples", "iterations", "num_elites", "action_dim"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("num_policy", self.num_policy, 0)
        check_at_least("num_samples", self.num_samples, max(self.num_elites, self.num_policy))
        check_at_least("min_std", self.min_std, 0)
        check_at_least("max_std", self.max_std, self.min_std)
        check_at_least("temperature", self.temperature, 0)
        self.objective  # noqa: B018 (validates the choices)

    @property
    def objective(self) -> Objective:
        return Objective(self.uncertainty_coef, "std", self.value_reduction)

    @property
    def num_iterations(self) -> int:
        return self.iterations + (2 if self.action_dim >= LARGE_ACTION_DIM else 0)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with the previous mean [B, H, A]."""
        return warm_start.fresh(batch_size, device, mean=(self.horizon, self.action_dim))

    def plan(
        self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase, noise_scale: float
    ) -> Plan:
        """`iterations · num_samples · horizon` model evaluations, and those of the policy rollouts."""
        size, shape = latent.shape[0], (self.horizon, self.action_dim)
        device = latent.device
        mean = warm_start.shift(state["mean"])
        std = torch.full_like(mean, self.max_std)
        proposals = imagination.propose(latent, torch.randn(size, self.num_policy, *shape, device=device))
        proposals = proposals.nan_to_num(0.0)  # as an elite of weight 0 a NaN would still spoil the refit
        num_random = self.num_samples - self.num_policy
        for _ in range(self.num_iterations):
            noise = torch.randn(size, num_random, *shape, device=device)
            sampled = (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)
            actions = torch.cat([proposals, sampled], 1)
            scored = imagination.score(latent, actions, self.objective).objective
            objective, index = torch.where(scored.isfinite(), scored, -torch.inf).topk(self.num_elites, 1)
            elites = actions.gather(1, index[..., None, None].expand(-1, -1, *shape))
            weights = elite_weights(objective, self.temperature)
            mean, std = refit(elites, weights)
            std = std.clamp(self.min_std, self.max_std)

        # A Gumbel draw among the elites picks each in proportion to its weight.
        gumbel = -torch.empty_like(weights).exponential_().log()
        chosen = (weights.log() + gumbel).argmax(1)
        rows = torch.arange(size, device=device)
        sequence = elites[rows, chosen]
        noise = torch.randn_like(sequence[:, 0]) * noise_scale
        action = (sequence[:, 0] + std[:, 0] * noise).clamp(-1, 1)
        value = objective[rows, chosen]
        policy_best = torch.where(scored.isfinite(), scored, -torch.inf)[:, : max(self.num_policy, 1)].amax(1)
        diagnostics = TensorDict(
            {
                "objective": value,
                "objective_policy": policy_best,
                "fallback": (~objective[:, 0].isfinite()).to(value.dtype),
                "evaluations": torch.full_like(value, float(self._evaluations())),
            },
            [size],
        )
        return Plan(action, sequence, std, value, warm_start.carry_on(state, mean=mean), diagnostics)

    def _evaluations(self) -> int:
        """Model steps per environment and call, all of them (the paper's 9,216 omit the policy rollouts)."""
        return self.num_iterations * self.num_samples * self.horizon + self.num_policy * (self.horizon - 1)


def elite_weights(objective: Tensor, temperature: float) -> Tensor:
    """exp(temperature·(J - max J)) normalised over the elites, [B, E]; -inf weighs nothing.

    The maximum is subtracted first, so no J overflows. If no elite is finite, all weigh the same.
    """
    best = objective.amax(1, keepdim=True)
    weights = torch.exp(temperature * (objective - torch.where(best.isfinite(), best, 0.0)))
    weights = torch.where(best.isfinite(), weights, torch.ones_like(weights))
    return weights / weights.sum(1, keepdim=True)


def refit(elites: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation [B, H, A] of `elites` [B, E, H, A] under `weights` [B, E]."""
    weights = weights[..., None, None]
    mean = (weights * elites).sum(1)
    variance = (weights * (elites - mean.unsqueeze(1)).square()).sum(1)
    return mean, variance.sqrt()
