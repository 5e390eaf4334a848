"""A function by the tensor operations of an earlier call: the same bits, and no Python in between."""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from dreammpc.runtime.compiling import compile_mode, compiled
from dreammpc.runtime.cuda_graphs import tree_leaves, tree_unflatten
from dreammpc.runtime.devices import forked_rng

ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
"""Operations that only autograd has use for."""


class Recorded:
    """Notes the operations of `function` in a first call, and from then on repeats these.

    What happens between two operations (TensorDicts, `torch.func`, stages of a planner) is a third of the
    time of a small plan on a CPU. Weights are read where they are, so that updates are seen. Random numbers
    come from torch's own stream as in a call of `function`; noting takes none of them.

    Args:
        function: of tensors and TensorDicts, and of other arguments, for each of which it is noted anew. What
            it does must depend neither on values of tensors nor on the clock. No gradient goes through it.
    """

    def __init__(self, function: Callable[..., list[Tensor]]):
        self.function = function
        self._recordings: dict[tuple, tuple[fx.GraphModule, tuple]] = {}
        """With the arguments, which must not go while something is known by their identity."""

    def __call__(self, *arguments: Any) -> list[Tensor]:
        tensors = [leaf for argument in arguments if varies(argument) for leaf in tree_leaves(argument)]
        fixed = tuple(a if isinstance(a, int | float) else id(a) for a in arguments if not varies(a))
        kinds = ((one.shape, one.dtype, one.device) for one in tensors)
        key = (fixed, *map(torch.is_autocast_enabled, ("cpu", "cuda")), *kinds)
        if key not in self._recordings:
            self._recordings[key] = self._record(arguments, tensors), arguments
        with torch.no_grad():
            return self._recordings[key][0](*tensors)

    def _record(self, arguments: tuple, tensors: list[Tensor]) -> fx.GraphModule:
        def call(*tensors: Tensor) -> list[Tensor]:
            rest = iter(tensors)
            return self.function(*(tree_unflatten(a, rest) if varies(a) else a for a in arguments))

        with torch.no_grad(), forked_rng(tensors[0].device):
            recording = make_fx(call)(*(tensor.clone() for tensor in tensors))
        for node in [node for node in recording.graph.nodes if node.target in ALIASES]:
            node.replace_all_uses_with(node.args[0])
        recording.graph.eliminate_dead_code()
        recording.recompile()
        return recording


def prepared(function: Callable, mode: bool | str, planner: Any) -> Callable:
    """`function`, which plans, as `mode` says (see `runtime.compiling.MODES`).

    A planner that looks at the clock (`max_ms`) is not recorded.
    """
    if compile_mode(mode) != "recorded":
        return compiled(function, mode)
    return function if getattr(planner, "max_ms", torch.inf) != torch.inf else Recorded(function)


def varies(argument: Any) -> bool:
    """Whether an argument is given anew at every call."""
    return isinstance(argument, Tensor | TensorDictBase)
