"""Whether a plan can be a CUDA graph: watches a call for constants, copies and branches on the host."""

import copy
import sys
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dreammpc.interfaces import MEMORY
from dreammpc.planning.contract import common
from dreammpc.runtime.devices import CPU, module_device, seeded_rng

FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}
NO_HOST = "one that needs neither the host nor another device"
UNKNOWN = "an unknown place"
READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def graphable(planner: Any, model: Any, obs: TensorDictBase | None = None) -> str | None:
    """Why a plan cannot be one captured CUDA graph, in one line; None if nothing speaks against it.

    A graph repeats the same kernels on the same memory. So a plan, and the state that an episode begins with,
    must read no tensor's value (`.item()`, `if tensor`, boolean masks), copy nothing from or to the host
    (constants made of Python numbers), and look at no clock (`max_ms`). One plan is made and watched: where
    the model is, or, for a model on the CPU, on a copy of it without data (device `meta`). Neither planner,
    model nor random state is changed. What a library does below PyTorch's operators is not seen; a capture
    itself still can fail.

    Args:
        planner: of the model's action dimension.
        model: with `initial_belief`, and `observe` if `obs` is given.
        obs: TensorDict [B] of what the model observes; `observe` is watched too. `None` plans from noise
            around `initial_belief`.

    Returns:
        For example `BestOf.plan reads a tensor's value (aten.item) at best_of.py, line 30`.
    """
    named = f"{type(planner).__name__}.plan"
    if getattr(planner, "max_ms", torch.inf) != torch.inf:
        return f"{named} looks at the clock (max_ms={planner.max_ms}), which a graph cannot"
    device = module_device(model) or CPU
    latent = common.example_latent(model, None)
    if device.type == "cpu":
        device = torch.device("meta")
        model, latent = on_device(model, device), latent.to(device)
    with seeded_rng(0, device), torch.no_grad():
        size = latent.shape[0] if obs is None else obs.shape[0]
        if obs is not None:
            obs, belief = obs.to(device), model.initial_belief(size, device)
            action = torch.zeros(size, model.action_dim, device=device)
            watch = Watch(device)
            with watch:
                latent = model.observe(obs, action, belief).exclude(MEMORY)
            if watch.found:
                return f"{type(model).__name__}.observe {watch.found}"
        with Watch(device) as watch:
            state = planner.initial_state(size, device)
        if watch.found:
            return f"{type(planner).__name__}.initial_state {watch.found}"
        with Watch(device) as watch:
            planner.plan(common.imagination_of(model, latent), latent, state)
    return f"{named} {watch.found}" if watch.found else None


def on_device(model: Any, device: torch.device) -> Any:
    """A copy of `model` whose parameters and buffers are on `device`; all else is as it was.

    As after `model.to(device)`: tensors that the model does not know as parameters or buffers stay behind.
    """
    memo: dict[int, Any] = {}
    for tensor in common.weights(model).values():
        moved = tensor.detach().to(device)
        if isinstance(tensor, nn.Parameter):
            moved = nn.Parameter(moved, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = moved
    return copy.deepcopy(model, memo)


class Watch:
    """Notes in `found` the first thing within that needs the host or another device than `device`.

    An exception within ends the watch; it is the finding if there was none before.
    """

    def __init__(self, device: torch.device):
        self.device, self.found = device, ""
        self._modes = _Functions(self), _Operators(self)

    def __enter__(self) -> "Watch":
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        for mode in reversed(self._modes):
            mode.__exit__(None, None, None)
        if isinstance(error, Exception):
            text = str(error).strip().partition("\n")[0]
            self.note(f"fails: {type(error).__name__}: {text}", common.frame_of(error) or UNKNOWN)
        return isinstance(error, Exception)

    def note(self, what: str, place: str | None = None) -> None:
        if not self.found:
            self.found = f"{what} at {_place() if place is None else place}"

    def foreign(self, value: Any) -> bool:
        """Whether `value` is a tensor of several numbers elsewhere (a single one on the CPU is a number)."""
        return (
            isinstance(value, Tensor)
            and value.device.type != self.device.type
            and (value.ndim > 0 or value.device.type != "cpu")
        )


class _Functions(TorchFunctionMode):
    """Sees what never becomes an operator: constants from Python numbers."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        watch = self.watch
        if function in FROM_HOST and result.device.type == watch.device.type:
            given = args[1] if function is Tensor.new_tensor else args[0]
            if not isinstance(given, Tensor):
                watch.note(f"copies a constant from the host ({function.__name__})")
        elif function in INDEXING:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in index):
                watch.note("copies a constant from the host (a list as an index)")
        return result


class _Operators(TorchDispatchMode):
    """Sees every operator, of libraries too."""

    def __init__(self, watch: Watch):
        super().__init__()
        self.watch = watch

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, watch = kwargs or {}, self.watch
        name = f"aten.{function.overloadpacket.__name__.removeprefix('_')}"
        name = name.replace("local_scalar_dense", "item")
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if function is torch.ops.aten.index.Tensor:
            reads = any(x.dtype in (torch.bool, torch.uint8) for x in args[1] if x is not None)
        else:
            reads = not READS.isdisjoint(function.tags)
        target = torch.device(kwargs.get("device") or watch.device)
        if reads:
            watch.note(f"reads a tensor's value ({name})")
        elif function is torch.ops.aten._to_copy.default and target.type != args[0].device.type:
            watch.note(f"copies from {args[0].device.type} to {target.type}")
        elif any(watch.foreign(x) for x in tensors) and any(not watch.foreign(x) for x in tensors):
            where = next(x.device.type for x in tensors if watch.foreign(x))
            watch.note(f"mixes {watch.device.type} with a tensor on {where} ({name})")
        return function(*args, **kwargs)


def _place() -> str:
    """File and line of the innermost frame outside libraries."""
    frame: Any = sys._getframe(1)
    while frame is not None and common.skipped(frame.f_code.co_filename):
        frame = frame.f_back
    return UNKNOWN if frame is None else common.line(frame.f_code.co_filename, frame.f_lineno)
