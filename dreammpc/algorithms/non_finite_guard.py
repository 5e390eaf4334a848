"""Skips updates whose loss or gradient is not finite, without waiting for the device."""

import torch
from torch import Tensor
from torch.optim import Optimizer


class NonFiniteGuard:
    """Skips updates whose loss or gradient is not finite, and counts how many were skipped in a row.

    The decision is made on the device: fused optimizers take a flag `found_inf` (made for loss scaling) and
    then leave parameters and their own state as they are. It depends on the gradient's norm alone, so that
    several processes, which average their gradients, decide alike. Finite updates are computed as without it.

    Args:
        limit: skipped updates in a row after which it trips.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.finite: Tensor | None = None
        """Whether all was finite so far in this update, bool scalar; None before its first gradient."""
        self._in_a_row: Tensor | None = None
        self._asked = 0

    def start_update(self) -> None:
        """A new update."""
        self.finite = None

    def tensors(self, device: torch.device) -> list[Tensor]:
        """What updates change in place, made where they run."""
        if self._in_a_row is None:
            self._in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        return [self._in_a_row]

    def nan_gradient_unless_finite(self, loss: Tensor) -> Tensor:
        """`loss`; if it is not finite, one whose gradient is NaN."""
        return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

    def gate(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Let `optimizer` take its next step if the gradient's `norm` and all before it are finite."""
        finite = norm.detach().isfinite()
        self.finite = finite if self.finite is None else self.finite & finite
        optimizer.found_inf = (~self.finite).float()  # type: ignore[attr-defined]

    def update_scale(self, scale: Tensor, to: Tensor) -> None:
        """Set a running scale, if `to` is finite and all was in this update."""
        finite = to.isfinite() if self.finite is None else self.finite & to.isfinite()
        scale.copy_(torch.where(finite, to, scale))

    def finish_update(self) -> Tensor:
        """The update is over; whether it was skipped, 0 or 1."""
        assert self.finite is not None
        (in_a_row,) = self.tensors(self.finite.device)
        in_a_row.copy_((in_a_row + 1) * ~self.finite)
        return (~self.finite).float()

    def limit_reached(self) -> bool:
        """Whether `limit` updates in a row were skipped. On a GPU, which would have to be waited for, the
        answer is looked at every `limit` calls."""
        self._asked += 1
        if self._in_a_row is None or (not self._in_a_row.is_cpu and self._asked % self.limit):
            return False
        return int(self._in_a_row) >= self.limit

    def reset(self) -> None:
        """Count anew."""
        if self._in_a_row is not None:
            self._in_a_row.zero_()
