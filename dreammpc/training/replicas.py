"""Data-parallel training: broadcast weights, averaged gradients, and collectives over the processes."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed

from dreammpc.training.distributed_env import warn_while_waiting, world_size

_stores: list[distributed.Store] = []
"""Kept open: without a launcher the first process serves the others, which may come later to read."""


def broadcast_from_rank_zero(make: Callable[[], str]) -> str:
    """What `make` returns in rank 0; all processes must call this together, before the training starts.

    The others wait for it.
    """
    if world_size() == 1:
        return make()
    with warn_while_waiting():
        store, rank, _ = next(distributed.rendezvous("env://"))
    _stores.append(store)
    if rank == 0:
        store.set("dreammpc/rank_zero", make())
    return store.get("dreammpc/rank_zero").decode()


class ReplicaStrategy(DDPStrategy):
    """Equal replicas whose gradients are averaged in one flat message after every backward pass.

    DistributedDataParallel's wrapper does not synchronize manual optimization and refuses parameters that
    a loss leaves out; here every parameter that has a gradient takes part, whichever optimizer it has. The
    buffers of the LightningModule itself (running scales of its losses) travel in the same message, so that
    they stay equal too.

    Args:
        timeout_s: seconds that a process waits for the others; then it ends with an error. One that died is
            noticed at once, this is for one that hangs.
    """

    def __init__(self, timeout_s: float = 1800.0):
        super().__init__(timeout=timedelta(seconds=timeout_s))

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:  # type: ignore[override]
        for tensor in (*model.parameters(), *model.buffers()):
            distributed.broadcast(tensor.data, src=0)
        return model

    def _register_ddp_hooks(self) -> None: ...

    def pre_backward(self, closure_loss: Tensor) -> None: ...

    def post_backward(self, closure_loss: Tensor) -> None:
        assert self.model is not None
        tensors = [p.grad for p in self.model.parameters() if p.grad is not None]
        tensors += [b for b in self.model.buffers(recurse=False) if b.is_floating_point()]
        flat = torch._utils._flatten_dense_tensors(tensors)
        distributed.all_reduce(flat)
        flat /= self.world_size
        torch._foreach_copy_(tensors, torch._utils._unflatten_dense_tensors(flat, tensors))


def all_gather(trainer: Trainer, mine: Any) -> list[Any]:
    """What every process passed, in order of rank; all processes must call this together."""
    if trainer.world_size == 1:
        return [mine]
    everyone: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(everyone, mine)
    return everyone


def all_reduce_max(trainer: Trainer, number: int) -> int:
    """The largest of the numbers that the processes pass; all processes must call this together."""
    if trainer.world_size == 1:
        return number
    held = torch.tensor(number, device=trainer.strategy.root_device)
    distributed.all_reduce(held, distributed.ReduceOp.MAX)
    return int(held)
