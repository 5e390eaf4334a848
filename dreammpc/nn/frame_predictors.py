"""Encoders of frames and predictors of what they become, as LeWM and DINO-WM have them.

Shapes: M a flat batch, T frames of history, P patches, D width, A action dimension, O width of a vector.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreammpc.nn.transformer import Block, VisionTransformer


class ClassToken(nn.Module):
    """Encoder: the class token of a vision transformer, projected."""

    def __init__(self, vision: VisionTransformer, projector: nn.Module):
        super().__init__()
        self.vision, self.projector = vision, projector

    def forward(self, frames: Tensor) -> Tensor:
        """[M, 3, S, S] → [M, D]."""
        embedding: Tensor = self.projector(self.vision(frames)[:, 0])
        return embedding


class ConditionedPredictor(nn.Module):
    """Embeddings of T frames, each block conditioned on the actions that leave them; causal."""

    def __init__(self, sizes: tuple[int, int, int, int], blocks: list[Block], actions: nn.Module):
        super().__init__()
        length, width, hidden, out = sizes
        self.positions = nn.Parameter(torch.zeros(1, length, width))
        self.blocks, self.norm, self.actions = nn.ModuleList(blocks), nn.LayerNorm(hidden), actions
        same = hidden == width
        self.input_proj: nn.Module = nn.Identity() if same else nn.Linear(width, hidden)
        self.cond_proj: nn.Module = nn.Identity() if same else nn.Linear(width, hidden)
        self.output_proj: nn.Module = nn.Identity() if out == hidden else nn.Linear(hidden, out)

    def forward(self, z: Tensor, actions: Tensor) -> Tensor:
        """[M, T, D] and [M, T, A] → [M, T, D]."""
        length = z.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=z.device).tril()
        x = self.input_proj(z + self.positions[:, :length])
        condition = self.cond_proj(self.actions(actions))
        for block in self.blocks:
            x = block(x, causal, condition)
        predicted: Tensor = self.output_proj(self.norm(x))
        return predicted


class Projected(nn.Module):
    """A predictor whose embeddings go through an MLP with batch normalization."""

    def __init__(self, predictor: nn.Module, projector: nn.Module):
        super().__init__()
        self.predictor, self.projector = predictor, projector

    def forward(self, z: Tensor, actions: Tensor) -> Tensor:
        x = self.predictor(z, actions)
        projected: Tensor = self.projector(x.flatten(0, 1)).view(*x.shape[:2], -1)
        return projected


class PatchEncoder(nn.Module):
    """DINOv2's patches of a frame, each with the embedding of the observed vector behind it."""

    def __init__(self, vision: VisionTransformer, proprio: nn.Module, size: int, repeats: int):
        super().__init__()
        self.vision, self.proprio, self.size, self.repeats = vision, proprio, size, repeats

    def forward(self, frames: Tensor, observation: Tensor) -> Tensor:
        """[M, 3, S, S] and [M, O] → [M, P, D]."""
        frames = F.interpolate(frames, (self.size, self.size), mode="bilinear", antialias=True)
        patches = self.vision(frames)[:, 1:]
        appended = self.proprio(observation).repeat(1, self.repeats).unsqueeze(1)
        return torch.cat([patches, appended.expand(-1, patches.shape[1], -1)], -1)


class PatchPredictor(nn.Module):
    """All patches of T frames at once; a frame's patches see those of its own and of earlier frames."""

    def __init__(self, length: int, width: int, blocks: list[Block], actions: nn.Module, repeats: int):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, length, width))
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(width)
        self.actions, self.repeats = actions, repeats

    def forward(self, z: Tensor, actions: Tensor) -> Tensor:
        """[M, T, P, D] and [M, T, A] → [M, T, P, D]."""
        length, count = z.shape[1:3]
        appended = self.actions(actions).repeat(1, 1, self.repeats).unsqueeze(2).expand(-1, -1, count, -1)
        x = torch.cat([z, appended], -1).flatten(1, 2) + self.positions[:, : length * count]
        frame = torch.arange(length, device=z.device).repeat_interleave(count)
        mask = frame.unsqueeze(1) >= frame
        for block in self.blocks:
            x = block(x, mask)
        predicted: Tensor = self.norm(x).unflatten(1, (length, count))[..., : z.shape[-1]]
        return predicted
