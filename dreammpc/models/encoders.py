"""From what is observed to a latent: of the state, of frames, or of both; and the memory of recent frames.

Shapes: M a flat batch, B environments, O observation width, D latent width, C channels of 3 frames.
"""

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from dreammpc.interfaces import FRAME_SHAPE, OBS_KEYS, STACK
from dreammpc.nn import MLP, ConvFeatures, mish, simnorm


def make_encoder(
    obs: str, obs_dim: int, enc_dim: int, latent_dim: int, num_layers: int, channels: int = 3
) -> nn.Module:
    """The encoder of what is observed; see `MLP`, `PixelEncoder` and `FusedEncoder`.

    Raises:
        ValueError: no such choice of `obs`.
    """
    hidden = [enc_dim] * max(num_layers - 1, 1)
    if obs == "state":
        return MLP([obs_dim, *hidden, latent_dim], output=simnorm)
    if obs == "pixels":
        return PixelEncoder(latent_dim, channels)
    if obs == "both":
        return FusedEncoder([obs_dim, *hidden], latent_dim, channels)
    raise ValueError(f"obs must be one of {', '.join(OBS_KEYS)}, got {obs!r}")


class PixelEncoder(nn.Module):
    """Convolutions → SimNorm (arXiv 2310.16828, App. H).

    As published the features are the latent, of width 512; a model of another width gets a linear layer and
    LayerNorm in between.
    """

    def __init__(self, latent_dim: int, channels: int = 3):
        super().__init__()
        self.conv = ConvFeatures(channels * STACK, STACK)
        self.head = (
            None if latent_dim == self.conv.features else MLP([self.conv.features, latent_dim], simnorm)
        )

    def forward(self, obs: TensorDictBase) -> Tensor:
        """`pixels`, bytes [M, C, 64, 64] → [M, D]."""
        features = self.conv(obs["pixels"])
        return simnorm(features) if self.head is None else self.head(features)


class FusedEncoder(nn.Module):
    """Frames and proprioception in one latent: both become features, which one linear layer joins.

    Joined before SimNorm, every group of the latent can read from either. (Averaging two finished latents, as
    the published program does, would have both encoders agree on one code, and half of each is lost where one
    of them cannot know what the other sees.) Each part is normalized first, and begins with the same weight,
    however wide it is: a few joint angles would drown in 512 features.

    Args:
        sizes: widths of the proprioceptive part, O first.
        latent_dim: D.
        channels: of a frame.
    """

    def __init__(self, sizes: list[int], latent_dim: int, channels: int = 3):
        super().__init__()
        self.conv = ConvFeatures(channels * STACK, STACK)
        self.norm = nn.LayerNorm(self.conv.features)
        nn.init.constant_(self.norm.weight, (sizes[-1] / self.conv.features) ** 0.5)
        self.body = MLP(sizes, output=mish)
        self.head = MLP([self.conv.features + sizes[-1], latent_dim], output=simnorm)

    def forward(self, obs: TensorDictBase) -> Tensor:
        """`pixels`, bytes [M, C, 64, 64], and `observation` [M, O] → [M, D]."""
        parts = [self.norm(self.conv(obs["pixels"])), self.body(obs["observation"].float())]
        features: Tensor = self.head(torch.cat(parts, -1))
        return features


def no_frames(batch_size: int, device: torch.device | None = None, channels: int = 3) -> TensorDictBase:
    """Memory before an episode's first frame: `frames` [B, C, 64, 64] and `seen` [B, 1], false."""
    content = {
        "frames": torch.zeros(
            batch_size, channels * STACK, *FRAME_SHAPE[1:], dtype=torch.uint8, device=device
        ),
        "seen": torch.zeros(batch_size, 1, dtype=torch.bool, device=device),
    }
    return TensorDict(content, [batch_size], device=device)


def with_frame(memory: TensorDictBase, frame: Tensor) -> TensorDictBase:
    """Memory after one more `frame` [B, C/3, 64, 64]; an episode's first one stands for those before it."""
    seen = memory["seen"].view(-1, 1, 1, 1)
    moved = torch.cat([memory["frames"][:, frame.shape[1] :], frame], 1)
    frames = torch.where(seen, moved, frame.repeat(1, STACK, 1, 1))
    content = {"frames": frames, "seen": torch.ones_like(memory["seen"])}
    return TensorDict(content, memory.batch_size, device=frames.device)
