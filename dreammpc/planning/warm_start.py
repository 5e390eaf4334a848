"""The warm start that a planner carries from one call to the next: a TensorDict [B] that resets by mask.

At an episode's first step it is all zeros; `started` [B, 1] turns to one after the first plan, so that no
Python branch depends on it.
"""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.interfaces import UsageError
from dreammpc.runtime.devices import tensor_device


def initial(batch_size: int, device: torch.device | None = None, **shapes: tuple[int, ...]) -> TensorDictBase:
    """Zeros for every named shape (without the batch dimension), plus `started`."""
    zeros = {name: torch.zeros(batch_size, *shape, device=device) for name, shape in shapes.items()}
    zeros["started"] = torch.zeros(batch_size, 1, device=device)
    return TensorDict(zeros, [batch_size], device=device)


def following(state: TensorDictBase, **values: Tensor) -> TensorDictBase:
    """The warm start after `state`: `values`, and `started` at one; no gradient flows from call to call."""
    content = {name: value.detach() for name, value in values.items()}
    content["started"] = torch.ones_like(state["started"])
    return TensorDict(content, state.batch_size, device=state.device)


def check(latent: Any, state: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
    """Raise UsageError unless a plan can be made for `latent` [B] from the warm start `state`.

    Args:
        latent: what a model made of observations.
        state: the warm start.
        shapes: of its entries, without the batch dimension.
    """
    fits = isinstance(latent, TensorDictBase) and latent.batch_dims == 1 and not latent.is_empty()
    if not fits or not latent.shape[0]:
        raise UsageError(
            f"latent: expected a TensorDict of batch size [B], as a model makes it, got {description(latent)}"
        )
    size = latent.shape[0]
    advice = f"; the planner's initial_state({size}) makes one"
    if not isinstance(state, TensorDictBase) or state.batch_size != latent.batch_size:
        wanted = f"a warm start of batch size [{size}], as the latent's"
        raise UsageError(f"state: expected {wanted}, got {description(state)}{advice}")
    for name, shape in {**(shapes or {}), "started": (1,)}.items():
        value = state.get(name, None)
        if not isinstance(value, Tensor) or value.shape[1:] != shape or not value.is_floating_point():
            wanted = f"a warm start with {name!r} {[size, *shape]}, float32"
            raise UsageError(f"state: expected {wanted}, got {description(value)}{advice}")
        if value.device != tensor_device(latent):
            raise UsageError(
                f"state: expected {name!r} on {tensor_device(latent)}, as the latent, got {value.device}"
            )


def description(value: Any) -> str:
    """`value` in an error's words."""
    if isinstance(value, TensorDictBase):
        return f"batch size {list(value.batch_size)}" + (" and no entries" if value.is_empty() else "")
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "none" if value is None else type(value).__name__
