"""The losses that TD-MPC2 and BMPC share, in the order of the paper (arXiv 2310.16828, §3.2).

1. `time_major` puts a sampled batch in time order.
2. The algorithm encodes the next observations and computes its value target (its `td_target`).
3. `rollout_loss` encodes the first observation, rolls the latent dynamics out along the actions, and sums the
   losses of eq. 3.
4. The algorithm's `policy_loss` follows on the rolled-out latents; `running_scale` is the S it divides by.

All are plain functions of the model, a batch and the noise of an update, so that they can be compiled, tested
on hand-computed numbers and repeated exactly.

Shapes: B slices of a batch, H transitions in a slice, O observation width, D latent width, A action
dimension, K value heads.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.models import LatentModel
from dreammpc.nn import random_shift
from dreammpc.planning.value_heads import reduce_heads


class Coefficients(NamedTuple):
    """Weights of the loss terms; the defaults are those of `UpdateSettings`."""

    consistency: float
    reward: float
    value: float
    termination: float
    entropy: float
    rho: float


class HeadReduction(NamedTuple):
    """How the value heads of a TD target become one number (see `planning.value_heads.reduce_heads`)."""

    reduction: str
    std_weight: float = 1.0

    def __call__(self, values: Tensor) -> Tensor:
        """[K, M] → [M]."""
        return reduce_heads(values.movedim(0, -1), self.reduction, self.std_weight)


class TimeMajorBatch(NamedTuple):
    """A batch [B, H] in time order, time first. Observations as the encoder reads them (`model.inputs`)."""

    first: Any  # [B, O] or TensorDict [B], the observations that the slices begin with
    action: Tensor  # [H, B, A]
    next_observation: Any  # [H·B, O] or TensorDict [H·B]
    reward: Tensor  # [H·B]
    terminated: Tensor  # [H·B], 1 where the episode terminated
    valid: Tensor | None  # [H·B], 0 past the end of the slice's episode; None if every slice is whole


def time_major(model: LatentModel, batch: TensorDictBase, shift: Tensor | None = None) -> TimeMajorBatch:
    """From a TensorDict [B, H]: what is observed before and, in `next`, after each `action`, and its result.

    An entry `valid` [B, H, 1], if there is one, says which steps belong to the episode of the slice's first.

    Args:
        shift: how far each image moves, for `random_shift`, [(H+1)·B, 2]: the first ones, then the next ones.
    """
    first = model.inputs(batch)[:, 0]
    after = model.inputs(batch["next"]).transpose(0, 1).flatten(0, 1)
    if shift is not None:
        size = first.shape[0]
        first, after = shift_images(first, shift[:size]), shift_images(after, shift[size:])
    valid = batch.get("valid", None)
    return TimeMajorBatch(
        first=first,
        action=batch["action"].transpose(0, 1),
        next_observation=after,
        reward=batch["next", "reward"].squeeze(-1).t().flatten(),
        terminated=batch["next", "terminated"].squeeze(-1).t().flatten().float(),
        valid=None if valid is None else valid.squeeze(-1).t().flatten().float(),
    )


def action_mask(batch: TensorDictBase) -> Tensor | None:
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


def shift_images(obs: TensorDictBase, shift: Tensor) -> TensorDictBase:
    """`obs` [M] with its images moved by `shift` [M, 2], see `random_shift`."""
    return obs.replace(pixels=random_shift(obs["pixels"], shift))


def rollout_loss(
    model: LatentModel,
    slices: TimeMajorBatch,
    next_z: Tensor,
    target: Tensor,
    dropout: Tensor | None,
    coef: Coefficients,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Consistency, reward, value and termination losses along a latent rollout (arXiv 2310.16828, eq. 3).

    Steps that are not valid count as zeros in the means, so that a valid one weighs the same in any batch.

    Args:
        next_z: latents [H·B, D] of the next observations, without gradient.
        target: of the value heads, [H·B], without gradient.
        dropout: for the value heads, [K, H·B, mlp_dim].

    Returns:
        The scalar loss, the rolled-out latents [H+1, B, D] without gradient, and scalar metrics.
    """
    horizon, size = slices.action.shape[:2]
    z = model.encoder(slices.first)
    rollout = [z]
    for t in range(horizon):
        z = model.dynamics(torch.cat([z, slices.action[t]], -1))
        rollout.append(z)
    zs = torch.stack(rollout).float()

    weights = time_weights(coef.rho, horizon, target)

    def over_time(loss: Tensor) -> Tensor:
        """[..., H·B] → scalar: mean over the batch (and heads), ρ^t weighted mean over time."""
        if slices.valid is not None:
            loss = loss * slices.valid
        by_step: Tensor = loss.unflatten(-1, (horizon, size)).mean(-1)
        return (by_step * weights).mean()

    pair = torch.cat([zs[:-1], slices.action], -1).flatten(0, 1)
    seen = model.value_input(zs[:-1], slices.action).flatten(0, 1)
    value_logits = model.value_heads(seen, dropout=dropout)
    terms = {
        "consistency": over_time((zs[1:].flatten(0, 1) - next_z.float()).square().mean(-1)),
        "reward": over_time(model.two_hot.cross_entropy(model.reward(pair), slices.reward)),
        "value": over_time(model.two_hot.cross_entropy(value_logits, target)),
    }
    if model.termination is not None:
        logit = model.termination(zs[1:].flatten(0, 1)).squeeze(-1).float()
        terms["termination"] = over_time(
            F.binary_cross_entropy_with_logits(logit, slices.terminated, reduction="none")
        )
    total = sum((getattr(coef, name) * term for name, term in terms.items()), zs.new_zeros(()))
    metrics = {f"loss/{name}": term.detach() for name, term in terms.items()}
    metrics["value/target"] = masked_mean(target, slices.valid)
    return total, zs.detach(), metrics


def time_weights(rho: float, steps: int, like: Tensor) -> Tensor:
    """ρ^t for t = 0..steps-1, [steps]."""
    return rho ** torch.arange(steps, device=like.device, dtype=torch.float32)


def running_scale(scale: Tensor, values: Tensor, rate: float) -> Tensor:
    """`scale` moved by `rate` towards the 5-95 percentile range of `values` [M], at least 1."""
    return scale + rate * (percentile_range(values.detach()).clamp(min=1) - scale)


def percentile_range(x: Tensor) -> Tensor:
    """95th minus 5th percentile of `x` [M], linearly interpolated."""
    ordered = x.sort().values
    last = x.shape[0] - 1

    def at(fraction: float) -> Tensor:
        low = int(fraction * last)
        return torch.lerp(ordered[low], ordered[min(low + 1, last)], fraction * last - low)

    return at(0.95) - at(0.05)


def heuristic_discount(episode_length: int) -> float:
    """γ for episodes of that many agent steps: (L/5 - 1)/(L/5) within [0.95, 0.995] (App. H)."""
    fraction = episode_length / 5
    return min(max((fraction - 1) / fraction, 0.95), 0.995)
