"""What the world models of TD-MPC2 and BMPC share: encoder, latent dynamics, reward, ensemble of value heads.

Decoder-free and deterministic (Hansen et al., ICLR 2024, arXiv 2310.16828, §3.1). A model adds what its value
heads see and how its policy makes an action.

Shapes: M a flat batch, D latent width, A action dimension, K value heads, O observation width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from dreammpc.interfaces import FRAME_SHAPE, MEMORY, OBS_KEYS, Outcome, UsageError
from dreammpc.models.encoders import make_encoder, no_frames, with_frame
from dreammpc.nn import MLP, Normalizer, StackedMLP, TwoHot, simnorm
from dreammpc.nn.layers import SIMNORM_GROUP


@dataclass(frozen=True)
class Size:
    """Widths of one model size (arXiv 2310.16828, Table 10; nano is ours, for CPUs and tests)."""

    enc_dim: int
    mlp_dim: int
    latent_dim: int
    num_heads: int
    num_enc_layers: int


SIZES = {
    "nano": Size(128, 128, 64, 2, 2),
    "1M": Size(256, 384, 128, 2, 2),
    "5M": Size(256, 512, 512, 5, 2),
    "19M": Size(1024, 1024, 768, 5, 3),
    "48M": Size(1792, 1792, 768, 5, 4),
    "317M": Size(4096, 4096, 1376, 8, 5),
}


class LatentModel(nn.Module):
    """Encoder, latent dynamics, reward, value heads with slow targets, policy and (if episodic) termination.

    Args:
        obs_dim: O; 0 where only pixels are observed.
        action_dim: A.
        discount: γ per agent step.
        enc_dim, mlp_dim, latent_dim, num_heads, num_enc_layers: widths and counts, see `SIZES`.
        num_bins, min_bin, max_bin: the two-hot code of rewards and values, in symlog units.
        episodic: learn a termination head; without it `outcome` returns a constant discount.
        obs: what is observed: `state`, `pixels` or `both`.
        channels: of a frame, three for each camera.
        normalize: scale the vector that is observed by running statistics, which training updates.

    Raises:
        ValueError: no such `obs`; a width that SimNorm's groups of 8 do not divide; a width or a number
            below 1.
    """

    log_std_limits: tuple[float, float]
    """Between which the log-std of the policy is squashed."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        discount: float = 0.99,
        enc_dim: int = 256,
        mlp_dim: int = 512,
        latent_dim: int = 512,
        num_heads: int = 5,
        num_enc_layers: int = 2,
        num_bins: int = 101,
        min_bin: float = -10.0,
        max_bin: float = 10.0,
        episodic: bool = False,
        obs: str = "state",
        normalize: bool = False,
        channels: int = 3,
    ):
        super().__init__()
        self.size = Size(enc_dim, mlp_dim, latent_dim, num_heads, num_enc_layers)
        for name, value in vars(self.size).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if latent_dim % SIMNORM_GROUP:
            raise ValueError(
                f"latent_dim must be a multiple of {SIMNORM_GROUP} (SimNorm's groups), got {latent_dim}"
            )
        self.obs_dim, self.action_dim, self.latent_dim = obs_dim, action_dim, latent_dim
        self.num_heads, self.mlp_dim = num_heads, mlp_dim
        self.discount, self.episodic = discount, episodic
        pair, hidden = latent_dim + action_dim, [mlp_dim, mlp_dim]
        self.two_hot = TwoHot(num_bins, min_bin, max_bin)
        self.normalizer = Normalizer(obs_dim) if normalize and obs != "pixels" else None
        self.encoder = make_encoder(obs, obs_dim, enc_dim, latent_dim, num_enc_layers, channels)
        self.obs, self.obs_keys, self.channels = obs, OBS_KEYS[obs], channels
        self.dynamics = MLP([pair, *hidden, latent_dim], output=simnorm)
        self.reward = MLP([pair, *hidden, num_bins])
        nn.init.zeros_(self.reward.linears[-1].get_parameter("weight"))
        seen = self.value_input(torch.empty(0, latent_dim), torch.empty(0, action_dim)).shape[-1]
        self.value_heads = StackedMLP(num_heads, [seen, *hidden, num_bins])
        self.target_heads = StackedMLP(num_heads, [seen, *hidden, num_bins])
        self.target_heads.load_state_dict(self.value_heads.state_dict())
        self.target_heads.requires_grad_(False)
        self.actor = MLP([latent_dim, *hidden, 2 * action_dim])
        self.termination = MLP([latent_dim, *hidden, 1]) if episodic else None

    # ---- what a model adds ----------------------------------------------------------------------------

    def value_input(self, z: Tensor, action: Tensor) -> Tensor:
        """What the value heads see of `z` [..., D] and `action` [..., A]."""
        raise NotImplementedError

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """Policy action [M, A] for standard-normal `noise` [M, A]; zero noise gives the mode."""
        raise NotImplementedError

    # ---- the waist: what planners and the agent see ---------------------------------------------------

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with zeros `z` [B, D], which nothing reads; with pixels, a memory of no frames."""
        belief = self.latent(torch.zeros(batch_size, self.latent_dim, device=device))
        if self.obs != "state":
            belief[MEMORY] = no_frames(batch_size, device, self.channels)
        return belief

    def observe(self, obs: TensorDictBase, prev_action: Tensor, belief: TensorDictBase) -> TensorDictBase:
        """Encode `obs` [B] into a belief [B]: of the state alone, or of the frames that the belief remembers.

        `obs` has `observation` [B, O] or `pixels`, bytes [B, 3, 64, 64], or both. The action is not needed.

        Raises:
            UsageError: an entry that is missing, or of another shape.
        """
        shapes = {"observation": (self.obs_dim,), "pixels": (self.channels, *FRAME_SHAPE[1:])}
        for key in self.obs_keys:
            x, shape = obs.get(key, None), [*obs.batch_size, *shapes[key]]
            got = "none" if x is None else list(x.shape)
            if got != shape or obs.batch_dims != 1:
                wanted = ", ".join(["B", *map(str, shapes[key])])
                raise UsageError(f"{key}: expected the shape [{wanted}], got {got}")
        if self.obs == "state":
            return self.encode(obs)
        memory = with_frame(belief[MEMORY], obs["pixels"])
        after = self.encode(obs.select(*self.obs_keys).set("pixels", memory["frames"]))
        return after.set(MEMORY, memory)

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """Latent dynamics d(z, a) (arXiv 2310.16828, eq. 1)."""
        return self.latent(self.dynamics(torch.cat([latent["z"], action], -1)))

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """Decoded reward R(z, a) and γ·(1 - c(z')), with c the termination probability: both [M]."""
        reward = self.two_hot.decode(self.reward(torch.cat([latent["z"], action], -1)))
        if self.termination is None:
            return Outcome(reward, torch.full_like(reward, self.discount))
        ends = self.termination(next_latent["z"]).squeeze(-1).float().sigmoid()
        return Outcome(reward, self.discount * (1 - ends))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """Return-to-go per head: [M, K]."""
        logits = self.value_heads(self.value_input(latent["z"], action))
        return self.two_hot.decode(logits).transpose(0, 1)

    # ---- what the update uses -------------------------------------------------------------------------

    def inputs(self, obs: TensorDictBase) -> Any:
        """What the encoder reads of observations [...]: the tensor of states, or else a TensorDict."""
        if self.obs == "state":
            x = obs["observation"].float()
            return x if self.normalizer is None else self.normalizer(x)
        seen = obs.select(*self.obs_keys)
        if self.normalizer is not None:
            seen["observation"] = self.normalizer(seen["observation"].float())
        return seen

    def encode(self, obs: TensorDictBase) -> TensorDictBase:
        """The latent [M] of `obs` [M], whose `pixels`, if any, are stacks of frames [M, 9, 64, 64]."""
        return self.latent(self.encoder(self.inputs(obs)))

    def policy_stats(self, z: Tensor, limits: tuple[float, float] | None = None) -> tuple[Tensor, Tensor]:
        """What the actor says of `z` [M, D]: a mean as it comes, and a log-std within `limits`, both [M, A].

        Args:
            limits: of the log-std; `None` takes the model's own.
        """
        mean, log_std = self.actor(z).float().chunk(2, -1)
        low, high = self.log_std_limits if limits is None else limits
        return mean, low + 0.5 * (high - low) * (torch.tanh(log_std) + 1)

    @torch.no_grad()
    def update_targets(self, rate: float, finite: Tensor | None = None) -> None:
        """Move the target heads by `rate` towards the value heads (exponential moving average).

        Args:
            finite: bool scalar on their device: if it is false they stay. `None` is true.
        """
        ours: list[Tensor] = list(self.target_heads.parameters())
        theirs: list[Tensor] = list(self.value_heads.parameters())
        if finite is None:
            torch._foreach_lerp_(ours, theirs, rate)
        else:
            weight = rate * finite.to(ours[0].dtype)
            torch._foreach_lerp_(ours, theirs, [weight] * len(ours))

    @staticmethod
    def latent(z: Tensor) -> TensorDictBase:
        """`z` [M, D] as the TensorDict [M] that planners hand around."""
        return TensorDict({"z": z}, z.shape[:-1], device=z.device)
