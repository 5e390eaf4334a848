"""Transformer blocks as vision models and predictors of frames have them: normalization before each part.

Shapes: M a flat batch, T tokens, D width, C width of a condition.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention of several heads over tokens [M, T, D].

    Args:
        dim: D.
        heads, head_dim: how many heads there are, and how wide each is.
        bias: whether queries, keys and values have one.
        project: whether a linear layer follows; without it heads·head_dim must be D.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, bias: bool = True, project: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * heads * head_dim, bias=bias)
        self.out: nn.Module = nn.Linear(heads * head_dim, dim) if project else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [T, T] is true where a token (row) sees another (column); by default everywhere."""
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        joined: Tensor = self.out(seen.transpose(1, 2).flatten(-2))
        return joined


class Block(nn.Module):
    """Attention, then two linear layers, each behind LayerNorm and added to what came in.

    Args:
        dim, heads, head_dim, bias, project: see `Attention`.
        hidden: width between the two linear layers.
        eps: of LayerNorm.
        scaled: each part is multiplied by a learned vector before it is added (LayerScale).
        conditioned: a condition of width D shifts, scales and gates both parts (AdaLN, arXiv 2212.09748).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        hidden: int,
        *,
        bias: bool = True,
        project: bool = True,
        eps: float = 1e-6,
        scaled: bool = False,
        conditioned: bool = False,
    ):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.attention = Attention(dim, heads, head_dim, bias, project)
        self.feed = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.scale1 = nn.Parameter(torch.ones(dim)) if scaled else None
        self.scale2 = nn.Parameter(torch.ones(dim)) if scaled else None
        self.modulation = nn.Linear(dim, 6 * dim) if conditioned else None

    def forward(self, x: Tensor, mask: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """[M, T, D] → [M, T, D]; `condition` is [M, T, D], `mask` see `Attention`."""
        if self.modulation is not None and condition is not None:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, -1)
            x = x + gate1 * self.attention(self.norm1(modulated(x, shift1, scale1)), mask)
            changed: Tensor = x + gate2 * self.feed(self.norm2(modulated(x, shift2, scale2)))
            return changed
        parts = self.attention(self.norm1(x), mask)
        x = x + (parts if self.scale1 is None else self.scale1 * parts)
        parts = self.feed(self.norm2(x))
        return x + (parts if self.scale2 is None else self.scale2 * parts)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without weights, then scaled by 1 + scale and shifted."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class VisionTransformer(nn.Module):
    """Frames → tokens: one of the class, then the patches (arXiv 2010.11929).

    Args:
        dim: D.
        patch: width of a patch in pixels.
        positions: patches along one side of the pictures that the positions were learned on.
        eps: of the blocks' and the last LayerNorm.
        blocks: the transformer's.
        offset: what published DINOv2 adds to the number of patches when positions are interpolated.
    """

    def __init__(
        self,
        dim: int,
        patch: int,
        positions: int,
        blocks: list[Block],
        eps: float = 1e-6,
        offset: float | None = None,
    ):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, positions**2 + 1, dim))
        self.blocks, self.norm = nn.ModuleList(blocks), nn.LayerNorm(dim, eps)
        self.side, self.offset = positions, offset

    def forward(self, frames: Tensor) -> Tensor:
        """[M, 3, S, S] → [M, 1 + patches, D], normalized, the class token first."""
        patches = self.patches(frames)
        side = patches.shape[-1]
        x = torch.cat([self.cls.expand(len(frames), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
        x = x + self.positions_for(side)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens

    def positions_for(self, side: int) -> Tensor:
        """Positions of side × side patches, interpolated (bicubic) where they were learned on others."""
        if side == self.side:
            return self.positions
        grid = self.positions[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        if self.offset is None:
            grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
        else:
            factor = (side + self.offset) / self.side
            grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        return torch.cat([self.positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)
