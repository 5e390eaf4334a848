"""One training step: its updates in order, each called or replayed as a CUDA graph."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.optim import Optimizer

from dreammpc.algorithms.non_finite_guard import NonFiniteGuard
from dreammpc.runtime.compiling import compile_mode
from dreammpc.runtime.cuda_graphs import Graphed

log = logging.getLogger(__name__)


class Updates(lightning.LightningModule):
    """A LightningModule whose training is `update`, with optimization of its own.

    Args:
        compile: see `dreammpc.runtime.compiling.MODES`; with `graphs` an update is a captured CUDA graph.
    """

    guard: NonFiniteGuard
    lr_changes: bool = False
    """Whether learning rates change during a training."""
    complete: Callable[[TensorDictBase], TensorDictBase] = staticmethod(lambda batch: batch)
    """Turns what a feed draws into a batch (`Feed.complete`); with graphs, inside the update's graph."""

    def __init__(self, compile: bool | str):
        super().__init__()
        self._graphs: dict[tuple[bool, ...], tuple[Graphed, list[str]]] | None = (
            {} if compile_mode(compile) == "graphs" else None
        )
        """Captured updates by `next_update`; None without graphs."""

    def update(self, batch: TensorDictBase, *variant: bool) -> dict[str, Tensor]:
        """One update on slices [B, H]; returns scalar metrics."""
        raise NotImplementedError

    def whole(self, drawn: TensorDictBase) -> TensorDictBase:
        """The batch of what a feed drew, or a batch, where the updates run."""
        return self.complete(drawn.to(self.device, non_blocking=self.device.type == "cuda"))

    def before_update(self, batch: TensorDictBase) -> None:
        """What comes before an update and is no part of its graph."""

    def training_step(
        self, batch: TensorDictBase | Iterable[TensorDictBase], batch_idx: int
    ) -> dict[str, Any]:
        """One update on slices [B, H], or one on each of several of what `complete` makes batches of.

        Returns:
            The scalar metrics of `update`; of several batches all of them, as the list `updates`.
        """
        if isinstance(batch, TensorDictBase):
            return self._one_update(batch)
        updates = []
        for one in batch:
            one = self.whole(one) if self._graphs is None else one
            self.before_update(one)
            updates.append(self._one_update(one))
        return {"updates": updates}

    def _one_update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        variant = self.next_update()
        metrics = self.update(batch, *variant) if self._graphs is None else self._graphed(batch, variant)
        self.after_update(batch, *variant)
        return metrics

    def _graphed(self, batch: TensorDictBase, variant: tuple[bool, ...]) -> dict[str, Tensor]:
        """`update` as a graph, of which there is one for each `variant`."""
        assert self._graphs is not None
        if variant not in self._graphs:
            names: list[str] = []

            def update(batch: TensorDictBase) -> Tensor:
                metrics = self.update(self.complete(batch), *variant)
                names[:] = metrics
                return torch.stack([value.detach().float() for value in metrics.values()])

            self._make_capturable()
            self._graphs[variant] = Graphed(update, self.device, self._changed, what="an update"), names
        graphed, names = self._graphs[variant]
        values = graphed(batch).clone()  # the next update overwrites them
        return dict(zip(names, values.unbind(), strict=True))

    def _make_capturable(self) -> None:
        """Let a graph read learning rates that change where they lie: it would keep numbers."""
        for group in (group for optimizer in self._unwrapped() for group in optimizer.param_groups):
            group["capturable"] = self.device.type == "cuda"
            if self.lr_changes:
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)

    def _unwrapped(self) -> list[Optimizer]:
        return [getattr(chosen, "optimizer", chosen) for chosen in self.optimizers()]  # type: ignore

    def _changed(self) -> list[Tensor]:
        """All that an update changes in place."""
        optimizers = self._unwrapped()
        moments = [
            value for optimizer in optimizers for held in optimizer.state.values() for value in held.values()
        ]
        tensors = [*self.parameters(), *self.buffers(), *moments, *self.guard.tensors(self.device)]
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]

    def on_fit_start(self) -> None:
        """Say where graphs cannot be had."""
        if self._graphs is not None and self.trainer.world_size > 1:
            log.warning(
                "trainer.compile=graphs: several processes average gradients between the parts of an update,"
                " which is not captured: updates are compiled alone"
            )
            self._graphs = None

    def recapture(self) -> None:
        """Let graphs be captured anew: what an update changes is no longer where it was."""
        if self._graphs is not None:
            self._graphs.clear()

    def _apply(self, *args: Any, **kwargs: Any) -> "Updates":
        self.recapture()  # weights go elsewhere
        super()._apply(*args, **kwargs)
        return self

    def next_update(self) -> tuple[bool, ...]:
        """What the next update is to do, further arguments of `update`; called once before each."""
        return ()

    def after_update(self, batch: TensorDictBase, *variant: bool) -> None:
        """What follows an update and is no part of its graph."""
