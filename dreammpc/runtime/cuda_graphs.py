"""A function of tensors as one captured CUDA graph; elsewhere the same function, called on the same buffers.

A captured graph repeats kernels on fixed memory at the price of one launch. So inputs are copied to buffers
that stay where they are, what the function changes it changes in place, and random numbers come from streams
that the graph knows. Nothing of this is seen from outside: a call gives what the function would have given.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.interfaces import RunError, first_line

WARM_UP = 3
"""Calls before the capture, in which libraries and compilers choose and load their kernels."""
ALIGNMENT = 16
"""Bytes to a multiple of which a tensor begins in a buffer."""
LARGE = 1 << 20
"""Bytes from which a tensor that is pinned already is not copied once more on the host."""


class Graphed:
    """Calls `function` as a graph that is captured at the first call.

    The calls before the capture leave no trace: what they changed is put back, random streams included, so
    that every call a user makes is a replay, and a resumed run repeats one that was not stopped.

    Args:
        function: takes and returns tensors, TensorDicts, and tuples and dicts of them. It must read no
            tensor's value and copy nothing from or to the host.
        device: where it runs.
        state: all tensors that a call changes in place. Those that a first call makes must begin as zeros.
        to_host: results are copied to the host, in one transfer; else they stay in place until the next call.
        what: what is captured, as an error message names it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        state: Callable[[], Iterable[Tensor]] = tuple,
        to_host: bool = False,
        what: str = "what was asked for",
    ):
        self.device = torch.empty(0, device=device).device  # with its index
        self.function, self.state = function, state
        self.to_host, self.what = to_host, what
        self._inputs: tuple[Buffer, Any] | None = None
        self._results: tuple[Buffer, Any] | None = None
        self._output: Any = None
        self._graph: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """What `function` gives for `arguments`, which may be anywhere.

        Raises:
            ValueError: they have other shapes or types than those of the first call.
            RunError: the capture was refused.
        """
        given = tree_leaves(arguments)
        if self._inputs is None:
            buffer = Buffer(given, self.device)
            self._inputs = buffer, tree_unflatten(arguments, buffer.here)
        buffer, static = self._inputs
        if self.device.type != "cuda":
            buffer.fill(given)
            self._output = self._run(static)
        else:
            with torch.cuda.device(self.device):  # whose stream events and replays are put on
                buffer.fill(given)
                if self._graph is None:
                    self._capture(static)
                self._graph.replay()
        if not self.to_host:
            return self._output
        assert self._results is not None
        results, template = self._results
        return tree_unflatten(template, results.fetch())

    def _run(self, static: Any) -> Any:
        output = self.function(*static)
        if self.to_host:
            found = tree_leaves(output)
            if self._results is None:
                self._results = Buffer(found, self.device), output
            torch._foreach_copy_(self._results[0].here, found)
        return output

    def _capture(self, static: Any) -> None:
        before = copies(self.state())
        stream = torch.cuda.get_rng_state(self.device)
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._run(static)
        finally:  # of a call that failed, too: what it changed must not be saved
            torch.cuda.current_stream(self.device).wait_stream(side)
            put_back(before, self.state())
            torch.cuda.set_rng_state(stream, self.device)
        del before
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # nodes in cycles, too
        # On `side` cuBLAS has its workspace by now. Other threads, such as a logger's, may do what they do.
        # Without the second context a refused capture would leave `side` the current stream.
        with (
            self._explained(),
            torch.cuda.stream(torch.cuda.current_stream(self.device)),
            torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"),
        ):
            self._output = self._run(static)
        self._graph = graph

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a capture refuses into one line."""
        try:
            yield
        except RuntimeError as error:
            first: BaseException = error
            while first.__context__ is not None:  # that the capture had failed comes last
                first = first.__context__
            reason = first_line(first)
            raise RunError(
                f"{self.what} cannot be a CUDA graph ({reason}); choose trainer.compile=default"
            ) from error


def copies(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each tensor with a copy that autograd knows nothing of.

    Others would keep the nodes that add up gradients, which belong to the stream on which they were made, and
    the backward pass of a capture may touch no stream but its own.
    """
    return [(tensor, tensor.detach().clone()) for tensor in tensors]


def put_back(before: list[tuple[Tensor, Tensor]], now: Iterable[Tensor]) -> None:
    """Set tensors to what they were; those of `now` that are not among them to zero."""
    known = {id(tensor) for tensor, _ in before}
    with torch.no_grad():
        for tensor, value in before:
            tensor.copy_(value)
        for tensor in now:
            if id(tensor) not in known:
                tensor.zero_()


class Buffer:
    """Room for tensors side by side on a device, and as much pinned on the host: one transfer moves them all.

    Large ones that are pinned themselves, such as frames, go straight to a place of their own.

    Args:
        examples: tensors of the shapes and types that will be held.
        device: of the room.
    """

    def __init__(self, examples: Sequence[Tensor], device: torch.device):
        self.device = device
        straight = [tensor.nbytes >= LARGE and tensor.is_pinned() for tensor in examples]
        together = [tensor for tensor, alone in zip(examples, straight, strict=True) if not alone]
        size = sum(room(tensor) for tensor in together)
        self._bytes = torch.empty(size, dtype=torch.uint8, device=device)
        shared = iter(views(self._bytes, together))
        self.here = [
            torch.empty(tensor.shape, dtype=tensor.dtype, device=device) if alone else next(shared)
            for tensor, alone in zip(examples, straight, strict=True)
        ]
        """The tensors on the device."""
        # Two on the host: one is filled while the other may still be under way.
        pinned = device.type == "cuda"
        self._hosts = [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        places = [iter(views(host, together)) for host in self._hosts]
        self._there = [[None if alone else next(place) for alone in straight] for place in places]
        self._sent: list[Any] = [None, None]
        self._turn = 0

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Set the tensors on the device.

        Raises:
            ValueError: another number of them, or another shape or type.
        """
        if len(tensors) != len(self.here) or any(
            new.shape != old.shape or new.dtype != old.dtype
            for new, old in zip(tensors, self.here, strict=False)
        ):
            raise ValueError("a graph is captured for fixed shapes and types, and these are others")
        if not tensors:
            return
        there = [tensor.device.type == self.device.type for tensor in tensors]
        if not all(there):
            self._send(tensors, there)
        for mine, tensor, is_there in zip(self.here, tensors, there, strict=True):
            if is_there:
                mine.copy_(tensor)

    def _send(self, tensors: Sequence[Tensor], there: Sequence[bool]) -> None:
        self._turn = 1 - self._turn
        if self._sent[self._turn] is not None:
            self._sent[self._turn].synchronize()
        for mine, host, tensor, is_there in zip(
            self.here, self._there[self._turn], tensors, there, strict=True
        ):
            if host is None:
                mine.copy_(tensor, non_blocking=True)
            elif not is_there:
                host.copy_(tensor)
        self._bytes.copy_(self._hosts[self._turn], non_blocking=True)
        if self.device.type == "cuda":
            self._sent[self._turn] = torch.cuda.Event()
            self._sent[self._turn].record()

    def fetch(self) -> list[Tensor]:
        """The tensors as copies on the host."""
        self._hosts[0].copy_(self._bytes)
        copy = self._hosts[0].clone()
        return views(copy, self.here)


def room(tensor: Tensor) -> int:
    """Bytes that a tensor takes in a buffer."""
    size = tensor.numel() * tensor.element_size()
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def views(content: Tensor, examples: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like `examples`, one after the other in the bytes `content`."""
    found, start = [], 0
    for tensor in examples:
        size = tensor.numel() * tensor.element_size()
        found.append(content[start : start + size].view(tensor.dtype).view(tensor.shape))
        start += room(tensor)
    return found


def tree_leaves(tree: Any) -> list[Tensor]:
    """All tensors of nested TensorDicts, tuples, lists and dicts, by the order of keys."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, TensorDictBase | dict):
        return [leaf for key in sorted(tree.keys()) for leaf in tree_leaves(tree[key])]
    return [] if tree is None else [leaf for child in tree for leaf in tree_leaves(child)]


def tree_unflatten(tree: Any, tensors: Iterable[Tensor]) -> Any:
    """`tree` with other tensors, in the order of `tree_leaves`; its TensorDicts name no device."""
    rest = iter(tensors)

    def rebuilt(part: Any) -> Any:
        if isinstance(part, Tensor):
            return next(rest)
        if isinstance(part, TensorDictBase):
            return TensorDict({k: rebuilt(v) for k, v in sorted(part.items())}, part.batch_size)
        if isinstance(part, dict):
            return {key: rebuilt(value) for key, value in sorted(part.items())}
        if isinstance(part, tuple) and hasattr(part, "_fields"):
            return type(part)(*(rebuilt(value) for value in part))
        if isinstance(part, tuple | list):
            return type(part)(rebuilt(value) for value in part)
        return part

    return rebuilt(tree)
