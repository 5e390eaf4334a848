"""Scalars as distributions over symlog-spaced bins (arXiv 2301.04104; 2310.16828, §3.1)."""

import torch
from torch import Tensor, nn


def symlog(x: Tensor) -> Tensor:
    """sign(x)·log(1 + |x|)."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(x.abs())


class TwoHot(nn.Module):
    """Encodes scalars on `num_bins` bins evenly spaced over [low, high] of symlog(x).

    Between two bins the target's mass is shared linearly, so each bin's weight is a triangle around it,
    max(0, 1 - |symlog(x) - bin| / spacing): dense arithmetic without a scatter.
    """

    bins: Tensor

    def __init__(self, num_bins: int = 101, low: float = -10.0, high: float = 10.0):
        super().__init__()
        self.low, self.high = low, high
        self.spacing = (high - low) / (num_bins - 1)
        self.register_buffer("bins", torch.linspace(low, high, num_bins), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """[...] → weights [..., num_bins] that sum to one; values out of range fall on the last bin."""
        position = symlog(x).clamp(self.low, self.high).unsqueeze(-1)
        return (1 - (position - self.bins).abs() / self.spacing).clamp(min=0)

    def decode(self, logits: Tensor) -> Tensor:
        """[..., num_bins] → [...] in return units: symexp of the distribution's mean."""
        return symexp((logits.float().softmax(-1) * self.bins).sum(-1))

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy [...] of `logits` [..., num_bins] against the two-hot code of `target` [...]."""
        logits = logits.float()
        return logits.logsumexp(-1) - (self.encode(target) * logits).sum(-1)
