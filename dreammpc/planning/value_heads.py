"""How an ensemble of value heads becomes one number, in plans and in TD targets alike."""

import math
from typing import Annotated

import torch
from torch import Tensor

from dreammpc.plugins.settings import one_of

REDUCTIONS = ("mean", "min", "min2", "mean-std")
ValueReduction = Annotated[str, one_of(*REDUCTIONS)]


def reduce_heads(heads: Tensor, reduction: str = "mean", std_weight: float = 1.0) -> Tensor:
    """Values of K heads, [..., K], as one number each, [...].

    Args:
        reduction: `mean`; `min`; `min2`, the expected minimum of two heads drawn at random (of TD-MPC2's
            target, arXiv 2310.16828, §3.1, the mean over draws); `mean-std`, mean - w·std.
        std_weight: w of `mean-std`.

    Raises:
        ValueError: no such reduction.
    """
    if reduction == "mean":
        return heads.mean(-1)
    if reduction == "min":
        return heads.amin(-1)
    if reduction == "min2":
        return mean_pair_minimum(heads)
    if reduction == "mean-std":
        return heads.mean(-1) - std_weight * sample_std(heads)
    raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def mean_pair_minimum(heads: Tensor) -> Tensor:
    """The mean of the lesser of two different heads over all pairs, [..., K] → [...]; of one head, itself."""
    count = heads.shape[-1]
    if count == 1:
        return heads[..., 0]
    # Of pairs that each is least of there are:
    greater = torch.arange(count - 1, -1, -1, device=heads.device, dtype=heads.dtype)
    return (heads.sort(-1).values * greater).sum(-1) / math.comb(count, 2)


def sample_std(heads: Tensor) -> Tensor:
    """Sample standard deviation over heads, [..., K] → [...]; 1e-6 for a single head.

    Its gradient stays finite where all heads agree (there that of `Tensor.std` is NaN).
    """
    count = max(heads.shape[-1] - 1, 1)
    variance = (heads - heads.mean(-1, keepdim=True)).square().sum(-1) / count
    return (variance + 1e-12).sqrt()
