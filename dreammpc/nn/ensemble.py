"""K equal MLPs as stacked weights: one batched product per layer in place of K small ones."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreammpc.nn.layers import init_linear_, mish


class StackedMLP(nn.Module):
    """An ensemble of K MLPs (linear → dropout → LayerNorm → Mish hidden layers, plain linear output).

    Dropout is a mask that the caller hands in, never a mode of the module: planning inside a module in
    training mode stays deterministic, and a compiled graph draws no random numbers.

    Args:
        heads: K.
        sizes: widths from input to output.
        zero_output: start with the last layer's weights at zero (TD-MPC2's value heads).
    """

    def __init__(self, heads: int, sizes: Sequence[int], zero_output: bool = True):
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.heads, self.sizes, self.zero_output = heads, tuple(sizes), zero_output
        self.weights = nn.ParameterList(torch.empty(heads, i, o) for i, o in pairs)
        self.biases = nn.ParameterList(torch.empty(heads, 1, o) for _, o in pairs)
        self.scales = nn.ParameterList(torch.ones(heads, 1, o) for _, o in pairs[:-1])
        self.shifts = nn.ParameterList(torch.zeros(heads, 1, o) for _, o in pairs[:-1])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            init_linear_(weight, bias)
        if self.zero_output:
            nn.init.zeros_(self.weights[-1])
        for scale, shift in zip(self.scales, self.shifts, strict=True):
            nn.init.ones_(scale)
            nn.init.zeros_(shift)

    def forward(
        self,
        x: Tensor,
        heads: Tensor | None = None,
        dropout: Tensor | None = None,
        frozen: bool = False,
    ) -> Tensor:
        """[M, in] → [K, M, out].

        Args:
            heads: indices of the heads to compute; `None` computes all.
            dropout: multiplier [K, M, width] after the first linear layer (0 or 1/(1-p)).
            frozen: treat the weights as constants: gradients reach only `x`.
        """

        def pick(weight: Tensor) -> Tensor:
            weight = weight.detach() if frozen else weight
            return weight if heads is None else weight.index_select(0, heads)

        last = len(self.weights) - 1
        count = self.heads if heads is None else heads.shape[0]
        x = x.unsqueeze(0).expand(count, *x.shape)
        for i in range(last + 1):
            x = torch.baddbmm(pick(self.biases[i]), x, pick(self.weights[i]))
            if i < last:
                if i == 0 and dropout is not None:
                    x = x * dropout
                x = mish(F.layer_norm(x, x.shape[-1:]) * pick(self.scales[i]) + pick(self.shifts[i]))
        return x


def dropout_mask(shape: Sequence[int], p: float, like: Tensor) -> Tensor:
    """A multiplier for inverted dropout: 0 with probability `p` (rounded to 1/65536), else 1/(1-p).

    Draws one 64-bit integer for four elements: eight times as fast on CPU as a Bernoulli draw each.
    """
    count = 1
    for size in shape:
        count *= size
    raw = torch.empty((count + 3) // 4, dtype=torch.int64, device=like.device).random_(-(2**63), None)
    keep = raw.view(torch.int16)[:count].view(*shape) >= round(p * 65536) - 32768
    return keep.to(like.dtype) * (1 / (1 - p))
