from dataclasses import dataclass

import torch
from tensordict import TensorDict

from dreammpc.interfaces import Plan
from dreammpc.planning import Objective


@dataclass(frozen=True)
class BestOf:
    """The best of several policy rollouts.

    Args:
        num_candidates: rollouts N.
        horizon: H.
        gain: scale of the policy's noise in the rollouts.

    Raises:
        ValueError: a setting out of range.
    """

    action_dim: int
    num_candidates: int = 16
    horizon: int = 3
    gain: float = 1.0

    def __post_init__(self):
        for name in ("action_dim", "num_candidates", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def initial_state(self, batch_size, device=None):
        return TensorDict({}, [batch_size], device=device)  # nothing is remembered

    def plan(self, imagination, latent, state):
        size = latent.shape[0]
        shape = (size, self.num_candidates, self.horizon, self.action_dim)
        noise = self.gain * torch.randn(shape, device=latent.device)
        candidates = imagination.propose(latent, noise)  # [B, N, H, A]
        scores = imagination.score(latent, candidates, Objective()).objective  # [B, N]
        scores = torch.where(scores.isfinite(), scores, -torch.inf)
        value, best = scores.max(1)
        mean = candidates[torch.arange(size, device=latent.device), best].nan_to_num(0.0)  # [B, H, A]
        std = candidates.nan_to_num(0.0).std(1, unbiased=False)
        steps = self.num_candidates * (2 * self.horizon - 1)  # of the model: to propose, and to score
        diagnostics = {"objective": value, "evaluations": torch.full_like(value, steps)}
        diagnostics = TensorDict(diagnostics, [size])
        return Plan(mean[:, 0], mean, std, value, state.clone(), diagnostics)
