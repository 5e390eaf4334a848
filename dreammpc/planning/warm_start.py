"""What a planner carries from one step to the next, as TensorDicts [B] that reset by mask.

A fresh state is all zeros; `started` [B, 1] turns to one after the first plan of an episode, so that no
Python branch depends on it.
"""

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor


def fresh(batch_size: int, device: torch.device | None = None, **shapes: tuple[int, ...]) -> TensorDictBase:
    """Zeros for every named shape (without the batch dimension), plus `started`."""
    zeros = {name: torch.zeros(batch_size, *shape, device=device) for name, shape in shapes.items()}
    zeros["started"] = torch.zeros(batch_size, 1, device=device)
    return TensorDict(zeros, [batch_size], device=device)


def carry_on(state: TensorDictBase, **values: Tensor) -> TensorDictBase:
    """The next state with `values` and `started` at one; no gradient flows from one call into the next."""
    content = {name: value.detach() for name, value in values.items()}
    content["started"] = torch.ones_like(state["started"])
    return TensorDict(content, state.batch_size, device=state.device)


def shift(sequence: Tensor) -> Tensor:
    """Drop the first action and repeat the last: [..., H, A]."""
    return torch.cat([sequence[..., 1:, :], sequence[..., -1:, :]], -2)
