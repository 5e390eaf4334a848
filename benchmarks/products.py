"""The matrix products of a computation, and how long they alone take here: a floor under its time."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {aten.mm.default: 0, aten.bmm.default: 0, aten.addmm.default: 1, aten.baddbmm.default: 1}
"""Operations that multiply matrices, and where the first of the two stands among their arguments."""


class Product(NamedTuple):
    """[K, M, I] times [K, I, N] in `dtype`, with the strides that the matrices had."""

    left: tuple[tuple[int, ...], tuple[int, ...]]
    right: tuple[tuple[int, ...], tuple[int, ...]]
    dtype: torch.dtype

    @property
    def flop(self) -> int:
        *batch, rows, inner = self.left[0]
        return 2 * (batch[0] if batch else 1) * rows * inner * self.right[0][-1]


class Recorder(TorchDispatchMode):
    """Counts the products made while it is entered, in backward passes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if function in PRODUCTS:
            left, right = args[PRODUCTS[function] : PRODUCTS[function] + 2]
            sides = [(tuple(side.shape), tuple(side.stride())) for side in (left, right)]
            self.products[Product(sides[0], sides[1], left.dtype)] += 1
        return function(*args, **(kwargs or {}))


class Floor(NamedTuple):
    """What the products of one call take by themselves."""

    gflop: float
    ms: float

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return 1e3 * self.gflop / self.ms


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` is the processor time of this process, all its threads together: for one thread beside other work."""


def floor(call: Callable[[], Any], device: torch.device, seconds: float = 0.1, clock: str = "wall") -> Floor:
    """Record the products of an eager `call`; time each shape by itself for `seconds` (least of its runs).

    Small matrices then lie in the caches, so that no program can be faster with these products.
    """
    with Recorder() as recorder:
        call()
    return Floor(
        sum(product.flop * count for product, count in recorder.products.items()) / 1e9,
        sum(least_ms(product, device, seconds, clock) * n for product, n in recorder.products.items()),
    )


def least_ms(product: Product, device: torch.device, seconds: float, clock: str = "wall") -> float:
    """Of one product."""
    left, right = (
        torch.empty_strided(shape, stride, dtype=product.dtype, device=device).fill_(0.5)
        for shape, stride in (product.left, product.right)
    )
    out = torch.matmul(left, right)
    return min(_times(left, right, out, seconds, CLOCKS[clock]))


def _times(
    left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, seconds: float, now: Callable[[], float]
) -> Iterator[float]:
    """Milliseconds of a product, averaged over a few in a row, again and again."""
    end = now() + seconds
    repeat = 3
    while True:
        began = now()
        for _ in range(repeat):
            torch.matmul(left, right, out=out)
        if left.is_cuda:
            torch.cuda.synchronize()
        yield 1e3 * (now() - began) / repeat
        if now() > end:
            return
