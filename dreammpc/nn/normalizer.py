"""Observations scaled by running statistics of those that were learned from."""

import torch
from torch import Tensor, nn

CLIP = 10.0
"""Standard deviations beyond which an entry is cut."""
SMALLEST = 1e-3
"""Standard deviation that an entry is taken to have at least: one that hardly moves is not blown up."""
WINDOW = 10_000
"""Updates after which a new one weighs no less: statistics follow what is learned from, ever more slowly."""


class Normalizer(nn.Module):
    """(x - mean) / std for each entry of a vector, cut at `CLIP`; before the first `update` x as it is.

    Args:
        size: O, entries.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """[..., O] → [..., O]."""
        return ((x - self.mean) / self.variance.sqrt().clamp(min=SMALLEST)).clamp(-CLIP, CLIP)

    @torch.no_grad()
    def update(self, moments: Tensor) -> None:
        """Take in the `moments` of a batch, perhaps averaged over several."""
        mean, square = moments.to(self.mean.device)
        variance = (square - mean.square()).clamp(min=0)
        self.count += 1
        share = 1.0 / self.count.clamp(max=WINDOW).double()
        away = mean - self.mean
        self.variance.copy_(
            torch.lerp(self.variance.double(), variance, share) + share * (1 - share) * away**2
        )
        self.mean.copy_(self.mean + share * away)


def moments(x: Tensor) -> Tensor:
    """Mean and mean square of each entry of [..., O], float64 [2, O]."""
    flat = x.flatten(0, -2).double()
    return torch.stack([flat.mean(0), flat.square().mean(0)])
