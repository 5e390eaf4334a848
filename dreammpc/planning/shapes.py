"""What a model's methods return, held against what they promise: shapes alone, which no device is asked for.

Letters: see `dreammpc.interfaces`. What is compiled is not looked at: an agent's first plan never is.
"""

from typing import Any, NoReturn, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Outcome, UsageError


def check_latent(model: Any, found: Any, latent: TensorDictBase, entries: bool) -> None:
    """Raise UsageError unless what `step` returned has the batch, and `entries`, of `latent` [M]."""
    if not isinstance(found, TensorDictBase) or found.batch_size != latent.batch_size:
        refuse(model, "step", f"a TensorDict {list(latent.batch_size)}", found)
    for key, before in latent.items(True, True) if entries else ():
        after = found.get(key, None)
        if after is None or after.shape != before.shape:
            refuse(model, "step", f"a latent whose {key!r} is {list(before.shape)}", after)


def checked_outcome(model: Any, found: Any, size: int) -> Outcome:
    """What `outcome` returned. Raises UsageError unless it is a reward and a discount [M], `size` of them."""
    if not isinstance(found, tuple) or len(found) != 2:
        refuse(model, "outcome", "an Outcome(reward, discount)", found)
    reward, discount = found
    checked_tensor(model, "outcome", reward, size, what="a reward ")
    checked_tensor(model, "outcome", discount, size, what="a discount ")
    return Outcome(reward, discount)


def checked_tensor(model: Any, method: str, found: Any, *shape: int | str, what: str = "") -> Tensor:
    """What a method returned. Raises UsageError unless it is a tensor [M] or [M, …]; `K` fits any size."""
    if torch.compiler.is_compiling():
        return cast(Tensor, found)
    fits = isinstance(found, Tensor) and found.ndim == len(shape) and found.shape[0] == shape[0]
    if not fits or shape[-1] not in ("K", found.shape[-1]):
        refuse(model, method, f"{what}[{', '.join(map(str, shape))}]", found)
    return cast(Tensor, found)


def refuse(model: Any, method: str, expected: str, found: Any) -> NoReturn:
    """Raise UsageError."""
    got = list(found.shape) if isinstance(found, Tensor | TensorDictBase) else type(found).__name__
    raise UsageError(f"model {type(model).__name__}: {method} must give {expected}, got {got}")
