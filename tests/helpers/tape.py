"""A stand-in for CUDA graphs on the CPU: the operations of one call, repeated on the same memory.

As in a captured graph nothing else of the call is repeated: what Python did in between, such as counting, has
no effect any more, and what reads a tensor's value is an error. It knows nothing of streams or of memory that
is used again.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dreammpc.runtime import cuda_graphs


class Tape(TorchDispatchMode):
    """Notes what is done within it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []
        """Operation, arguments and result; that all of them are kept makes each tensor's id its own."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a capture reads no tensor's value")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Do it again; what came of it is then where it was the first time, as in a graph's memory."""
        known: dict[int, tuple[Tensor, Tensor]] = {}
        for func, args, kwargs, result in self.calls:
            now = tree_map(lambda x: known[id(x)][1] if id(x) in known else x, (args, kwargs))
            again = func(*now[0], **now[1])
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                known[id(old)] = old, new
        for old, new in known.values():
            if isinstance(old, Tensor) and old is not new and not old._is_view():
                old.copy_(new)


class Taped(cuda_graphs.Graphed):
    """`Graphed` that captures on the CPU, by a tape."""

    def _run(self, static: Any) -> Any:
        if self._graph is None:
            self._graph = Tape()
            before, stream = cuda_graphs.copies(self.state()), torch.get_rng_state()
            for context in (*[nullcontext()] * cuda_graphs.WARM_UP, self._graph):
                with self._explained(), context:
                    self._output = super()._run(static)
                cuda_graphs.put_back(before, self.state())
                torch.set_rng_state(stream)
        self._graph.replay()
        return self._output
