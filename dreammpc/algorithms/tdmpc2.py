"""The TD-MPC2 update (Hansen et al., ICLR 2024, arXiv 2310.16828, §3.2) as a LightningModule.

`model_loss` encodes, computes the TD target, and sums the losses of a latent rollout (`losses.rollout_loss`);
`policy_loss` follows on the rolled-out latents.

Shapes: B slices of a batch, H transitions in a slice, D latent width, A action dimension, K value heads.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.agent import Agent
from dreammpc.algorithms.latent_algorithm import LatentAlgorithm
from dreammpc.algorithms.losses import (
    Coefficients,
    HeadReduction,
    action_mask,
    masked_mean,
    rollout_loss,
    running_scale,
    time_major,
    time_weights,
)
from dreammpc.models import TDMPC2Model

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class UpdateNoise(NamedTuple):
    """Every random number of one update, drawn before the losses so that these are deterministic."""

    target_noise: Tensor  # [H·B, A]
    target_heads: Tensor  # [2], or as many as the target looks at
    dropout: Tensor | None  # [K, H·B, mlp_dim]
    policy_noise: Tensor  # [(H+1)·B, A]
    policy_heads: Tensor  # [2], or fewer if K < 2
    shift: Tensor | None = None  # [(H+1)·B, 2], with pixels


LEAST = HeadReduction("min")


def td_target(
    model: TDMPC2Model,
    next_z: Tensor,
    reward: Tensor,
    terminated: Tensor,
    noise: UpdateNoise,
    bootstrap: HeadReduction = LEAST,
) -> Tensor:
    """r + γ·(1 - terminated)·V of random target heads at an action of the policy: [H·B].

    As published V is the minimum of two heads (§3.1). The heads are drawn before they are computed, which
    has the same distribution as computing all K. A model without a termination head takes every end for a
    time limit: it bootstraps there as well.
    """
    mean, log_std = model.policy_stats(next_z)
    action = torch.tanh(mean + log_std.exp() * noise.target_noise)
    logits = model.target_heads(torch.cat([next_z, action], -1), heads=noise.target_heads)
    value = bootstrap(model.two_hot.decode(logits))
    goes_on = 1.0 if model.termination is None else 1 - terminated
    return reward + model.discount * goes_on * value


def model_loss(
    model: TDMPC2Model,
    batch: TensorDictBase,
    noise: UpdateNoise,
    coef: Coefficients,
    bootstrap: HeadReduction = LEAST,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The world model's losses on slices [B, H]; see `rollout_loss` and, for the batch, `time_major`."""
    slices = time_major(model, batch, noise.shift)
    with torch.no_grad():
        next_z = model.encoder(slices.next_observation)
        target = td_target(model, next_z, slices.reward, slices.terminated, noise, bootstrap)
    return rollout_loss(model, slices, next_z, target, noise.dropout, coef)


def log_tanh_slope(x: Tensor) -> Tensor:
    """log(1 - tanh²(x)), also where tanh rounds to 1."""
    return 2 * (math.log(2) - x - F.softplus(-2 * x))


def policy_loss(
    model: TDMPC2Model,
    zs: Tensor,
    noise: UpdateNoise,
    scale: Tensor,
    coef: Coefficients,
    scale_rate: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Maximize the mean of two random heads, divided by a running scale, plus entropy (eq. 4).

    The entropy is that of the action, after tanh, times A. In the released program the correction for tanh
    cancels out, which leaves the entropy of the Gaussian before it: that grows without end with σ, and where
    values do not differ yet the policy ends at its largest σ, which is noise between -1 and 1 that tanh
    saturates, and no gradient leads back from there.

    Args:
        zs: latents [H+1, B, D] without gradient.
        scale: running 5-95 percentile range of Q, scalar.
        mask: [H+1, B], 0 for latents that count as zeros (see `action_mask`).

    Returns:
        The scalar loss, the new scale, and scalar metrics.
    """
    steps, size = zs.shape[:2]
    z = zs.flatten(0, 1)
    mean, log_std = model.policy_stats(z)
    before = mean + log_std.exp() * noise.policy_noise
    logits = model.value_heads(torch.cat([z, torch.tanh(before)], -1), heads=noise.policy_heads, frozen=True)
    q = model.two_hot.decode(logits).mean(0)

    scale = running_scale(scale, q[:size], scale_rate)
    gaussian = -0.5 * noise.policy_noise.square() - log_std - LOG_SQRT_2PI
    log_prob = (gaussian - log_tanh_slope(before)).sum(-1)
    entropy = -log_prob * model.action_dim
    objective = (q / scale + coef.entropy * entropy).unflatten(0, (steps, size))
    counted = None if mask is None else mask.flatten()
    if mask is not None:
        objective = objective * mask
    loss = -(objective.mean(-1) * time_weights(coef.rho, steps, q)).mean()
    metrics = {
        "loss/policy": loss.detach(),
        "policy/entropy": masked_mean(-log_prob.detach(), counted),
        "value/policy": masked_mean(q.detach(), counted),
        "value/scale": scale,
    }
    return loss, scale, metrics


class TDMPC2(LatentAlgorithm):
    """World model, policy and planner of TD-MPC2; arguments: see `LatentAlgorithm`."""

    name = "tdmpc2"
    model_class = TDMPC2Model
    model_loss = staticmethod(model_loss)
    policy_loss = staticmethod(policy_loss)
    bootstrap = LEAST
    value_scale: Tensor

    def __init__(self, agent: Agent, **settings: Any):
        super().__init__(agent, **settings)
        self.register_buffer("value_scale", torch.ones(()))

    def sample_noise(self, batch: TensorDictBase) -> UpdateNoise:
        """Random numbers for one update on `batch` [B, H]."""
        size, horizon = batch.shape
        target_noise, heads, dropout = self.sample_target_noise(batch)
        device = target_noise.device
        policy_noise = torch.randn((horizon + 1) * size, self.model.action_dim, device=device)
        policy_heads, shift = self.sample_heads(2, device), self.sample_shift(batch)
        return UpdateNoise(target_noise, heads, dropout, policy_noise, policy_heads, shift)

    def update_policy(
        self, batch: TensorDictBase, zs: Tensor, noise: UpdateNoise, *variant: bool
    ) -> dict[str, Tensor]:
        """Maximize the value of the policy's actions."""
        metrics: dict[str, Tensor]
        loss, scale, metrics = self._policy_loss(
            self.model, zs, noise, self.value_scale, self.coef, self.settings.scale_rate, action_mask(batch)
        )
        self.guard.update_scale(self.value_scale, scale)
        metrics["grad_norm/policy"] = self.gradient_step(loss, 1, self.policy_parameters)
        return metrics
