"""A sampled batch as the losses read it: time first, images moved, rows past an episode's end marked.

Shapes: B slices of a batch, H transitions in a slice, O observation width, A action dimension.
"""

from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.models import LatentModel
from dreammpc.nn import random_shift


class Slices(NamedTuple):
    """A batch [B, H] in time order, time first. Observations as the encoder reads them (`model.inputs`)."""

    first: Any  # [B, O] or TensorDict [B], the observations that the slices begin with
    action: Tensor  # [H, B, A]
    next_observation: Any  # [H·B, O] or TensorDict [H·B]
    reward: Tensor  # [H·B]
    terminated: Tensor  # [H·B], 1 where the episode terminated
    valid: Tensor | None  # [H·B], 0 past the end of the slice's episode; None if every slice is whole


def time_first(model: LatentModel, batch: TensorDictBase, shift: Tensor | None = None) -> Slices:
    """From a TensorDict [B, H]: what is observed before and, in `next`, after each `action`, and its result.

    An entry `valid` [B, H, 1], if there is one, says which steps belong to the episode of the slice's first.

    Args:
        shift: how far each image moves, for `random_shift`, [(H+1)·B, 2]: the first ones, then the next ones.
    """
    first = model.inputs(batch)[:, 0]
    after = model.inputs(batch["next"]).transpose(0, 1).flatten(0, 1)
    if shift is not None:
        size = first.shape[0]
        first, after = shifted(first, shift[:size]), shifted(after, shift[size:])
    valid = batch.get("valid", None)
    return Slices(
        first=first,
        action=batch["action"].transpose(0, 1),
        next_observation=after,
        reward=batch["next", "reward"].squeeze(-1).t().flatten(),
        terminated=batch["next", "terminated"].squeeze(-1).t().flatten().float(),
        valid=None if valid is None else valid.squeeze(-1).t().flatten().float(),
    )


def acting(batch: TensorDictBase) -> Tensor | None:
    """In which states of slices [B, H] there is something to do, 1 or 0: [H+1, B]; None if in all.

    Not past the end of an episode, and not where it terminated; a state that a time limit cut off counts.
    """
    valid = batch.get("valid", None)
    if valid is None:
        return None
    after = valid & ~batch["next", "terminated"]
    return torch.cat([valid[:, :1], after], 1).squeeze(-1).t().float()


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `x` where `mask`, of the same shape, is 1: scalar."""
    return x.mean() if mask is None else (x * mask).sum() / mask.sum()


def shifted(obs: TensorDictBase, shift: Tensor) -> TensorDictBase:
    """`obs` [M] with its images moved by `shift` [M, 2], see `random_shift`."""
    return obs.replace(pixels=random_shift(obs["pixels"], shift))
