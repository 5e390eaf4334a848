"""E networks that each predict a Gaussian: mean and standard deviation of the next (arXiv 1805.12114, §4)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GaussianEnsemble(nn.Module):
    """Linear layers with an activation between them, stacked; log-variances are bounded softly.

    Args:
        weights, biases: of each layer, [E, in, out] and [E, 1, out]; the last gives mean and log-variance.
        bounds: the least and the greatest log-variance, [2, out].
        activation: between layers.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        bounds: Tensor,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ):
        super().__init__()
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.activation = activation
        self.members, self.in_features = weights[0].shape[:2]
        self.out_features = weights[-1].shape[2] // 2
        self.bounds: Tensor
        self.register_buffer("bounds", bounds)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[E, N, in] → mean and standard deviation, each [E, N, out]."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            x = self.activation(x) if layer < len(self.weights) - 1 else x
        mean, log_variance = x.chunk(2, -1)
        log_variance = self.bounds[1] - F.softplus(self.bounds[1] - log_variance)
        log_variance = self.bounds[0] + F.softplus(log_variance - self.bounds[0])
        return mean, (0.5 * log_variance).exp()
