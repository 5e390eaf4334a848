"""A foreign device with numbers: `meta` as in a GPU's place, computed on the CPU.

Within `foreign()` a tensor made on or moved to `meta` keeps its numbers, and an operation that mixes it with
a tensor of the CPU is an error, as on a GPU (a scalar of the CPU may ride along). So wiring can be tested
where there is no GPU. What this cannot show: kernels, streams, memory, what is fast.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry, CPUAccelerator
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

FOREIGN = torch.device("meta")
MOVES = {torch.ops.aten.copy_.default}
"""May read a tensor of one device and write one of another."""
INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
"""Of a tensor on a GPU the numbers of rows may be on the CPU; of one on the CPU not on a GPU."""


class ForeignTensor(torch.Tensor):
    """Says that it is on `meta`; its numbers are in `inner`, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "ForeignTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=FOREIGN
        )
        made.inner = inner
        return made

    def __deepcopy__(self, memo: dict) -> torch.Tensor:
        made = ForeignTensor(self.detach().inner.clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:  # in files it is what it is after `map_location="cpu"`
        return self.detach().inner.__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Foreign(TorchDispatchMode):
    """Makes what is asked for on `meta` a `ForeignTensor`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Numbers(TorchFunctionMode):
    """Python's numbers to tensors and back, which torch does before a dispatch mode could see it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.tolist:
            return args[0].detach().cpu().tolist() if isinstance(args[0], ForeignTensor) else func(*args)
        if func is torch.Tensor.new_tensor:
            func, kwargs = torch.tensor, {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            args = args[1:]
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    strange = [x for x in tensors if isinstance(x, ForeignTensor)]
    numbers = args[1] if func in INDEXED and isinstance(args[0], ForeignTensor) else ()
    at_home = [
        x
        for x in tensors
        if not isinstance(x, ForeignTensor) and x.ndim > 0 and not any(x is number for number in numbers)
    ]
    if strange and at_home and func not in MOVES:
        raise RuntimeError(f"{func}: expected all tensors on the same device, got {FOREIGN} and cpu")
    asked = kwargs.get("device")
    goes = bool(strange) if asked is None else torch.device(asked) == FOREIGN
    if not strange and not goes:
        return func(*args, **kwargs)
    inner = {k: torch.device("cpu") if k == "device" else v for k, v in kwargs.items()}
    plain_args, plain = tree_map(lambda x: x.inner if isinstance(x, ForeignTensor) else x, (args, inner))
    result = func(*plain_args, **plain)
    given = {id(x.inner): x for x in strange}  # what is written in place comes back as it was given

    def back(x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or id(x) in given:
            return given.get(id(x), x)
        return ForeignTensor(x) if goes else x

    flat, form = tree_flatten(result)
    return tree_unflatten([back(x) for x in flat], form)


@contextmanager
def foreign() -> Iterator[torch.device]:
    """Within it `meta` is a device with numbers; gives the device."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    fused = "torch.optim.optimizer._get_fused_kernels_supported_devices"
    try:
        with warnings.catch_warnings(), Numbers(), Foreign(), patch(fused, lambda: ["cpu", FOREIGN.type]):
            warnings.filterwarnings("ignore", ".*non-meta parameter.*")  # which here is no no-op
            yield FOREIGN
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


class ForeignAccelerator(CPUAccelerator):
    """Lightning's CPU, for trainings on the foreign device."""

    def setup_device(self, device: torch.device) -> None: ...


@contextmanager
def trained_on_foreign() -> Iterator[torch.device]:
    """`foreign`, and whatever is trained is trained there."""
    with (
        foreign() as device,
        patch("dreammpc.training.trainer.choose_device", lambda *_, **__: device),
        patch("dreammpc.configuration.assembly.choose_device", lambda *_, **__: device),
        patch.dict(AcceleratorRegistry),
    ):
        AcceleratorRegistry.register(device.type, ForeignAccelerator)
        yield device
