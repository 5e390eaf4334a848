"""Gradient steps beside a constraint with a penalty, where J has a kink.

Outside, the gradient of J leads across the boundary; inside, that of the penalty leads straight back. Either
step makes J worse, whatever its size, and a search over sizes stays where it is. The step here maximizes J
and the constraints, each made linear, less the square of the way: a proximal linear step (Lewis & Wright
2016, Math. Program. 158, 501-546). Letters: see `dreammpc.interfaces`; C constraints.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SWEEPS = 3
"""Over several constraints, each multiplier given those of the others."""


class Penalties(NamedTuple):
    """Constraints with a penalty as candidates see them."""

    violations: Tensor
    """g [B, N, C]."""
    gradients: tuple[Tensor, ...]
    """∇g of each, [B, N, H, A]."""
    weights: tuple[float, ...]
    """Of each penalty."""

    def beside(self, step: Tensor, scale: Tensor) -> Tensor:
        """`step` [B, N, H, A] less `scale`·Σ λ·∇g, with 0 ≤ λ ≤ weight.

        λ is 0 where the step keeps a constraint as it is, and the weight where nothing less leads back to it.

        Args:
            step: along the gradient of J without penalties.
            scale: how long the step is for each unit of that gradient, [B, N, 1, 1].
        """
        taken = [torch.zeros_like(scale) for _ in self.weights]
        for _ in range(SWEEPS if len(taken) > 1 else 1):
            for i, gradient in enumerate(self.gradients):
                free = step + scale * taken[i] * gradient
                ahead = self.violations[..., i, None, None] + dot(free, gradient)
                needed = ahead / (scale * dot(gradient, gradient) + 1e-12)
                taken[i] = needed.clamp(0, self.weights[i])
                step = free - scale * taken[i] * gradient
        return step


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Over steps and dimensions of actions, [B, N, 1, 1]."""
    return (one * other).sum((-2, -1), keepdim=True)


def length(values: Tensor) -> Tensor:
    """Euclidean norm [B, N, 1, 1], above zero."""
    return dot(values, values).sqrt() + 1e-8
