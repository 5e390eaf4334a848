"""TD-MPC2's world model: values of state and action, tanh-Gaussian policy (arXiv 2310.16828, §3.1)."""

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.models.latent import LatentModel


class TDMPC2Model(LatentModel):
    """Value heads Q(z, a) and the policy tanh(μ + σ·noise); arguments: see `LatentModel`."""

    log_std_limits = (-10.0, 2.0)

    def value_input(self, z: Tensor, action: Tensor) -> Tensor:
        """Latent and action."""
        return torch.cat([z, action], -1)

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """tanh(μ + σ·noise): [M, A]."""
        mean, log_std = self.policy_stats(latent["z"])
        return torch.tanh(mean + log_std.exp() * noise)
