"""How far the model's last predictions were right, hence how long a gradient step may be.

Letters: see `dreammpc.interfaces`.
"""

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.planning.imagination import Imagination

DECAY = 0.98
"""Of what was measured, at each step: a memory of about fifty steps."""
SHAPES: dict[str, tuple[int, ...]] = {"predicted_wrong": (1,), "moved": (1,)}
"""Of what a planner carries on for it, without [B]."""


def model_steps(imagination: Imagination) -> int:
    """Of what `measured` takes: none where it is not known what happened last."""
    return 0 if imagination.last_latent is None or imagination.last_action is None else 1


def measured(imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> dict[str, Tensor]:
    """The sums of `SHAPES` [B, 1] after the step that led to `latent` [B]; an episode's first adds nothing.

    One model step, from the latent before and the action that was executed there. Both sums are of distances:
    from the predicted latent to the one that came, and from the latent before to that. They are Euclidean, or
    the root of the model's own `goal_distance` where it has one. What is not finite is left out.
    """
    last, action = imagination.last_latent, imagination.last_action
    if last is None or action is None:
        return {name: state[name] for name in SHAPES}
    predicted = imagination.step(last, action)
    own = getattr(imagination.model, "goal_distance", None)
    far = [own(one, latent).sqrt() if own else length(one, latent) for one in (predicted, last)]
    more = torch.stack(far)
    more = torch.where(more.isfinite().all(0) & (state["started"][:, 0] > 0), more, 0.0)
    return {name: DECAY * state[name] + added[:, None] for name, added in zip(SHAPES, more, strict=True)}


def trust(sums: dict[str, Tensor]) -> Tensor:
    """max(0, 1 - wrong / moved), [B]: 1 for a perfect model, and as long as nothing is measured.

    It is 0 for a model that predicts no better than one in which nothing moves.
    """
    wrong, moved = (sums[name][:, 0] for name in SHAPES)
    return torch.where(wrong + moved > 0, 1 - wrong / moved.clamp(min=1e-12), 1.0).clamp(min=0)


def length(one: TensorDictBase, other: TensorDictBase) -> Tensor:
    """Euclidean distance [B] of latents [B], over all their entries."""
    keys = sorted(other.keys(True, True), key=str)
    parts = [(one[key] - other[key]).float().square().flatten(1).sum(1) for key in keys]
    return torch.stack(parts).sum(0).sqrt()
