"""What a planner carries from one step to the next, as TensorDicts [B] that reset by mask.

A fresh state is all zeros; `started` [B, 1] turns to one after the first plan of an episode, so that no
Python branch depends on it.
"""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.interfaces import UsageError
from dreammpc.planning.imagination import device_of


def fresh(batch_size: int, device: torch.device | None = None, **shapes: tuple[int, ...]) -> TensorDictBase:
    """Zeros for every named shape (without the batch dimension), plus `started`."""
    zeros = {name: torch.zeros(batch_size, *shape, device=device) for name, shape in shapes.items()}
    zeros["started"] = torch.zeros(batch_size, 1, device=device)
    return TensorDict(zeros, [batch_size], device=device)


def check(latent: Any, state: Any, shapes: dict[str, tuple[int, ...]] | None = None) -> None:
    """Raise UsageError unless a plan can be made for `latent` [B] from the warm start `state`.

    Args:
        shapes: of what `fresh` was asked for, without the batch dimension.
    """
    fits = isinstance(latent, TensorDictBase) and latent.batch_dims == 1 and not latent.is_empty()
    if not fits or not latent.shape[0]:
        raise UsageError(
            f"latent: expected a TensorDict of batch size [B], as a model makes it, got {seen(latent)}"
        )
    size = latent.shape[0]
    advice = f"; the planner's initial_state({size}) makes one"
    if not isinstance(state, TensorDictBase) or state.batch_size != latent.batch_size:
        raise UsageError(
            f"state: expected a warm start of batch size [{size}], as the latent's, got {seen(state)}{advice}"
        )
    for name, shape in {**(shapes or {}), "started": (1,)}.items():
        value = state.get(name, None)
        if not isinstance(value, Tensor) or value.shape[1:] != shape or not value.is_floating_point():
            wanted = f"a warm start with {name!r} {[size, *shape]}, float32"
            raise UsageError(f"state: expected {wanted}, got {seen(value)}{advice}")
        if value.device != device_of(latent):
            raise UsageError(
                f"state: expected {name!r} on {device_of(latent)}, as the latent, got {value.device}"
            )


def seen(value: Any) -> str:
    """What came, as an error tells it."""
    if isinstance(value, TensorDictBase):
        return f"batch size {list(value.batch_size)}" + (" and no entries" if value.is_empty() else "")
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return "none" if value is None else type(value).__name__


def carry_on(state: TensorDictBase, **values: Tensor) -> TensorDictBase:
    """The next state with `values` and `started` at one; no gradient flows from one call into the next."""
    content = {name: value.detach() for name, value in values.items()}
    content["started"] = torch.ones_like(state["started"])
    return TensorDict(content, state.batch_size, device=state.device)


def shift(sequence: Tensor) -> Tensor:
    """Drop the first action and repeat the last: [..., H, A]."""
    return torch.cat([sequence[..., 1:, :], sequence[..., -1:, :]], -2)
