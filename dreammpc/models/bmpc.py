"""BMPC's world model: TD-MPC2's with values of states and a clamped Gaussian policy.

Bootstrapped Model Predictive Control (Wang et al., ICLR 2025, OpenReview i7jAYFYDcM).
"""

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.models.latent import LatentModel


class BMPCModel(LatentModel):
    """Value heads V(z) and the policy clamp(tanh μ + σ·noise, -1, 1); arguments: see `LatentModel`.

    The published model has two value heads at every size.
    """

    log_std_limits = (-3.0, 1.0)

    def value_input(self, z: Tensor, action: Tensor) -> Tensor:
        """The latent alone: V(z) ignores the action."""
        return z

    def policy_gaussian(self, z: Tensor, limits: tuple[float, float] | None = None) -> tuple[Tensor, Tensor]:
        """Mean tanh μ and log-std [M, A] of the Gaussian before the clamp; see `policy_stats`."""
        mean, log_std = self.policy_stats(z, limits)
        return torch.tanh(mean), log_std

    def policy(
        self, latent: TensorDictBase, noise: Tensor, limits: tuple[float, float] | None = None
    ) -> Tensor:
        """clamp(tanh μ + σ·noise, -1, 1): [M, A]; `limits` of the log-std as in `policy_stats`."""
        mean, log_std = self.policy_gaussian(latent["z"], limits)
        return (mean + log_std.exp() * noise).clamp(-1, 1)
