"""An ensemble of probabilistic networks whose particles are carried along a plan (PETS, arXiv 1805.12114).

Shapes: M a flat batch, P particles, E members, D state width, A action dimension.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from dreammpc.interfaces import Outcome, UsageError
from dreammpc.nn import GaussianEnsemble

STEPS = 64
"""After as many steps of a plan the random numbers repeat."""


class ProbabilisticEnsemble(nn.Module):
    """Plans with particles, each of which a member of the ensemble moves and spreads.

    The latent has the particles `x` [M, P, D], their last `reward` and `gain`, by how much each one's rewards
    so far exceed the mean, [M, P], and the steps of the plan, `time` [M, 1]. A reward is the particles' mean;
    the value heads are the particles, gain and value of each. So their spread is that of returns, and a
    planner's `uncertainty_coef` and `value_reduction=min` weigh risk. All candidates share random numbers.

    Args:
        networks: of E members.
        state_dim, action_dim: D and A.
        reward: (x, a, x') → [M], of batches; by default the networks' last output.
        value: x → [M], what lies beyond the horizon; none by default.
        particles: P, a multiple of E.
        propagation: `tsinf` keeps each particle with one member, `ts1` deals them out anew at each step.
        input_mean, input_std: of states and actions side by side, [D + A].
        delta: networks predict the change of the state.
        discount: γ per step, above 0.
        policy_std: standard deviation of proposals, around zero.
        seed: of the random numbers.

    Raises:
        UsageError: sizes that do not fit together; here, or where a state is of another width.
    """

    def __init__(
        self,
        networks: GaussianEnsemble,
        state_dim: int,
        action_dim: int,
        reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        *,
        value: Callable[[Tensor], Tensor] | None = None,
        particles: int = 20,
        propagation: str = "tsinf",
        input_mean: Any = 0.0,
        input_std: Any = 1.0,
        delta: bool = True,
        discount: float = 1.0,
        policy_std: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        members, inside, outside = networks.members, networks.in_features, networks.out_features
        wanted = state_dim + (reward is None)
        if inside != state_dim + action_dim or outside != wanted:
            raise UsageError(
                f"networks map {inside} numbers to {outside}, expected {state_dim} + {action_dim} to {wanted}"
                f" (state_dim, action_dim, and {'a learned' if reward is None else 'the given'} reward)"
            )
        if propagation not in ("ts1", "tsinf"):
            raise UsageError(f"propagation must be ts1 or tsinf, got {propagation!r}")
        if particles < 1 or particles % members:
            raise UsageError(f"particles must be a multiple of the {members} members, got {particles}")
        if not 0 < discount <= 1:
            raise UsageError(f"discount must be above 0 and at most 1, got {discount}")
        if not 0 <= policy_std < math.inf:
            raise UsageError(f"policy_std must be a number of at least 0, got {policy_std}")
        self.networks = networks
        self.state_dim, self.action_dim, self.members = state_dim, action_dim, members
        self.reward_fn, self.value_fn = reward, value
        self.delta, self.discount, self.policy_std, self.particles = delta, discount, policy_std, particles
        random = torch.Generator().manual_seed(seed)
        deals = [torch.randperm(particles, generator=random) for _ in range(STEPS)]
        deals = deals if propagation == "ts1" else [torch.arange(particles)] * STEPS
        self.noise: Tensor
        self.deal: Tensor
        self.input_mean: Tensor
        self.input_std: Tensor
        self.register_buffer("noise", torch.randn(STEPS, particles, outside, generator=random))
        self.register_buffer("deal", torch.stack(deals))
        for name, given in (("input_mean", input_mean), ("input_std", input_std)):
            self.register_buffer(name, torch.as_tensor(given, dtype=torch.float32).expand(inside).clone())
        self.requires_grad_(False)

    def latent(self, x: Tensor) -> TensorDictBase:
        """The latent [M] of states `x` [M, D], all particles at one place."""
        if x.ndim != 2 or x.shape[1] != self.state_dim:
            raise UsageError(f"observation: expected the shape [B, {self.state_dim}], got {list(x.shape)}")
        x = x.float().unsqueeze(1).expand(-1, self.particles, -1).clone()
        zeros, time = torch.zeros_like(x[..., 0]), torch.zeros_like(x[:, 0, :1], dtype=torch.long)
        return self._latent(x, zeros, torch.zeros_like(zeros), time)

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] of zeros, which nothing reads."""
        return self.latent(torch.zeros(batch_size, self.state_dim, device=device))

    def observe(self, obs: TensorDictBase, prev_action: Tensor, belief: TensorDictBase) -> TensorDictBase:
        """The latent [B] of `observation` [B, D]; the rest is not needed."""
        return self.latent(obs["observation"])

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """All particles one step on."""
        x, time = latent["x"], latent["time"].squeeze(-1) % STEPS
        deal = self.deal[time].unsqueeze(-1)
        a = action.unsqueeze(1).expand(-1, self.particles, -1)
        inputs = (torch.cat([x, a], -1) - self.input_mean) / self.input_std
        dealt = inputs.gather(1, deal.expand_as(inputs)).unflatten(1, (self.members, -1))
        mean, std = self.networks(dealt.transpose(0, 1).flatten(1, 2))  # [E, M·P/E, …]
        both = torch.stack([mean, std], -1).unflatten(1, (len(x), -1)).transpose(0, 1).flatten(1, 2)
        both = both.gather(1, deal.argsort(1).unsqueeze(-1).expand_as(both))
        sample = both[..., 0] + both[..., 1] * self.noise[time]
        after = sample[..., : self.state_dim] + (x if self.delta else 0)
        if self.reward_fn is None:
            reward = sample[..., -1]
        else:
            given = (part.flatten(0, 1) for part in (x, a, after))
            reward = self.reward_fn(*given).view(x.shape[:2])
        gain = (latent["gain"] + reward - reward.mean(1, keepdim=True)) / self.discount
        return self._latent(after, reward, gain, latent["time"] + 1)

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """Mean reward over particles, and γ: both [M]."""
        reward = next_latent["reward"].mean(1)
        return Outcome(reward, torch.full_like(reward, self.discount))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """Per particle, by how much its rewards so far exceed the mean, and its value: [M, P]."""
        gain: Tensor = latent["gain"]
        x = latent["x"]
        return gain if self.value_fn is None else gain + self.value_fn(x.flatten(0, 1)).view(gain.shape)

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """The model has no policy: clamped noise [M, A]."""
        return (self.policy_std * noise).clamp(-1, 1)

    def goal_distance(self, latents: TensorDictBase, goals: TensorDictBase) -> Tensor:
        """Mean square of the difference of states, over particles: [...]."""
        distance: Tensor = (latents["x"] - goals["x"]).square().mean((-2, -1))
        return distance

    @staticmethod
    def _latent(x: Tensor, reward: Tensor, gain: Tensor, time: Tensor) -> TensorDictBase:
        content = {"x": x, "reward": reward, "gain": gain, "time": time}
        return TensorDict(content, x.shape[:1], device=x.device)
