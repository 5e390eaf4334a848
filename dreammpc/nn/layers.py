"""The MLP of TD-MPC2: linear → LayerNorm → Mish, and SimNorm for latents (arXiv 2310.16828, §3.1, App. H)."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SIMNORM_GROUP = 8


def mish(x: Tensor) -> Tensor:
    """Mish, x·tanh(softplus(x)).

    torch's own kernel takes 5 ns an element on CPU, for log1p and tanh, and as much again for its gradient.
    Compiled, and on large tensors, it is written with a single exponential instead: tanh(softplus(x)) =
    n / (n + 2) with n = u(u + 2) and u = eˣ.
    """
    if torch.compiler.is_compiling():
        u = torch.exp(torch.clamp(x, max=LARGEST))
        n = u * (u + 2)
        return x * (n / (n + 2))
    if is_large_update(x):
        return LargeMish.apply(x)
    if torch.is_grad_enabled() or x.numel() < LARGE or x.device.type != "cpu":
        return F.mish(x)
    u = x.clamp(max=LARGEST).exp_()
    n = u.add(2).mul_(u)
    return n.div_(torch.add(n, 2, out=u)).mul_(x)


LARGEST = 20.0
"""tanh(softplus(20)) is 1 in float32; beyond 44 the square of eˣ would overflow."""
LARGE = 8192
"""Elements from which a few passes over a tensor take less time on a CPU than one slow kernel."""


def is_large_update(x: Tensor) -> bool:
    """Whether the gradient of a large tensor will be wanted, on a CPU, from plain autograd."""
    return (
        x.numel() >= LARGE
        and torch.is_grad_enabled()
        and x.requires_grad
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not in_transform()
    )


@torch.compiler.assume_constant_result
def in_transform() -> bool:
    """Whether a function transform such as vjp is under way: asked while a graph is made, not in it."""
    return torch._C._functorch.maybe_current_level() is not None


class LargeMish(torch.autograd.Function):
    """`mish` with t = n / (n + 2) and its derivative t + x·u(u + 1)(1 - t)²."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        u = x.clamp(max=LARGEST).exp_()
        t = u.add(2).mul_(u)
        t.div_(t + 2)
        ctx.save_for_backward(x, u, t)
        return t * x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, u, t = ctx.saved_tensors
        slope = 1 - t
        return slope.mul_(slope).mul_(u).mul_(u + 1).mul_(x).add_(t).mul_(grad)


def simnorm(x: Tensor) -> Tensor:
    """Softmax within groups of 8 along the last dimension (arXiv 2310.16828, eq. 5)."""
    groups = x.unflatten(-1, (-1, SIMNORM_GROUP))
    soft = LargeSoftmax.apply(groups) if is_large_update(x) else groups.softmax(-1)
    return soft.flatten(-2)


class LargeSoftmax(torch.autograd.Function):
    """Softmax along a last dimension that is short: torch's kernel takes 20 ns an element there on CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = (x - x.amax(-1, keepdim=True)).exp_()
        y.div_(y.sum(-1, keepdim=True))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        slope = grad * y
        return slope.sub_(y * slope.sum(-1, keepdim=True))


class MLP(nn.Module):
    """Hidden layers of linear → LayerNorm → Mish, then a linear layer.

    Args:
        sizes: widths from input to output, e.g. `[17, 256, 512]`.
        output: applied to LayerNorm of the last layer (e.g. `simnorm`); `None` leaves it plain linear.
    """

    def __init__(self, sizes: Sequence[int], output: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(sizes))
        normed = sizes[1:] if output is not None else sizes[1:-1]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in normed)
        self.output = output
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        for linear in self.linears:
            assert isinstance(linear, nn.Linear)
            init_linear_(linear.weight, linear.bias)
        for norm in self.norms:
            assert isinstance(norm, nn.LayerNorm)
            norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """[..., sizes[0]] → [..., sizes[-1]]."""
        last = len(self.linears) - 1
        for i, linear in enumerate(self.linears):
            x = linear(x)
            if i < last:
                x = mish(self.norms[i](x))
        return x if self.output is None else self.output(self.norms[last](x))


def init_linear_(weight: Tensor, bias: Tensor) -> None:
    """TD-MPC2's initialization in place: weights truncated normal with std 0.02, biases zero."""
    nn.init.trunc_normal_(weight, std=0.02)
    nn.init.zeros_(bias)
