"""Periodic resets of what learns from its own estimates: value heads and policy."""

from collections.abc import Iterable

import torch
from torch.optim import Optimizer

from dreammpc.models import LatentModel
from dreammpc.runtime.devices import module_device, seeded_rng


@torch.no_grad()
def reset_value_and_policy(model: LatentModel, optimizers: Iterable[Optimizer], seed: int) -> None:
    """Draw value heads and policy anew, in place, and forget what Adam kept of them.

    Replay and world model stay (Nikishin et al., ICML 2022, arXiv 2205.07802, §4). Target heads become equal
    to the new value heads.

    Args:
        seed: of the new weights, equal in all processes that train together.
    """
    with seeded_rng(seed, module_device(model)):
        model.value_heads.reset_parameters()
        model.actor.reset_parameters()
    model.target_heads.load_state_dict(model.value_heads.state_dict())
    parameters = {*model.value_heads.parameters(), *model.actor.parameters()}
    for optimizer in optimizers:
        for parameter in parameters & optimizer.state.keys():
            for kept in optimizer.state[parameter].values():
                kept.zero_()
