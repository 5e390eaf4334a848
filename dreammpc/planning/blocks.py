"""A sequence of H actions that is made of fewer decisions: each held over several steps, or interpolated.

Predictive sampling in MuJoCo MPC plans with splines in this way (Howell et al. 2022, arXiv 2212.00541, §3.1).
Letters: see `dreammpc.interfaces`; K decisions.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dreammpc.interfaces import UsageError
from dreammpc.plugins.settings import one_of

Interpolation = Annotated[str, one_of("hold", "linear", "cubic")]


def num_decisions(horizon: int, action_block: int, interpolation: str) -> int:
    """K: one for each block that begins in the horizon, or knots up to its last step."""
    if interpolation == "hold" or action_block == 1:
        return -(-horizon // action_block)
    return -(-(horizon - 1) // action_block) + 1


def check_within(horizon: int, **settings: int) -> None:
    """Raise UsageError if one of the named settings is longer than the horizon."""
    for name, value in settings.items():
        if value > horizon:
            raise UsageError(f"{name} must be at most the horizon, {horizon}, got {value}")


@dataclass(frozen=True)
class Blocks:
    """How K decisions become H actions, and back, as tensors on one device.

    Args:
        horizon: H.
        weights: [H, K], each action's share of each decision; None where every action is a decision.
        fitting: [K, H], each decision's share of each action.
        block_of: [H], the decision at or before each action.
        interpolation: `hold`, `linear` or `cubic`.
    """

    horizon: int
    weights: Tensor | None = None
    fitting: Tensor | None = None
    block_of: Tensor | None = None
    interpolation: str = "hold"

    def actions(self, decisions: Tensor) -> Tensor:
        """Actions [..., H, A] of `decisions` [..., K, A]; a cubic spline is clamped to [-1, 1]."""
        if self.weights is None or self.block_of is None:
            return decisions
        if self.interpolation == "hold":
            return decisions.index_select(-2, self.block_of)
        actions = weighted(self.weights, decisions)
        return actions.clamp(-1, 1) if self.interpolation == "cubic" else actions

    def spread(self, std: Tensor) -> Tensor:
        """Standard deviation [..., H, A] of the actions of independent decisions with `std` [..., K, A]."""
        if self.weights is None:
            return std
        return weighted(self.weights.square(), std.square()).sqrt()

    def held(self, noise: Tensor) -> Tensor:
        """[..., K, A] → [..., H, A], the same within a block, however actions are interpolated."""
        return noise if self.block_of is None else noise.index_select(-2, self.block_of)

    def fit(self, actions: Tensor) -> Tensor:
        """Decisions [..., K, A] of `actions` [..., H, A]: the mean over a block, or the action at a knot."""
        return actions if self.fitting is None else weighted(self.fitting, actions)

    def shifted(self, decisions: Tensor, steps: Tensor) -> Tensor:
        """`decisions` [B, ..., K, A] as they stand `steps` [B] steps later; the last action repeats."""
        at = later(self.horizon, steps)  # [B, H]
        between = [1] * (decisions.ndim - 3)
        if self.weights is None or self.fitting is None:
            return decisions.gather(-2, at.view(len(at), *between, -1, 1).expand_as(decisions))
        moved = weighted(self.fitting, self.weights[at])  # [B, K, K]
        return weighted(moved.view(len(at), *between, *moved.shape[1:]), decisions)


def make_blocks(horizon: int, action_block: int, interpolation: str, device: torch.device) -> Blocks:
    """The blocks of a planner's settings, computed on `device` without constants from the host."""
    if action_block == 1:
        return Blocks(horizon)
    count = num_decisions(horizon, action_block, interpolation)
    step, knot = torch.arange(horizon, device=device), torch.arange(count, device=device)
    block_of = step // action_block
    one = (knot.unsqueeze(1) == knot).float()  # [K, K], each decision by itself
    if interpolation == "hold":
        weights = one[block_of]
        return Blocks(horizon, weights, (weights / weights.sum(0)).t(), block_of)
    # The knots on both sides of each action, and how far it is between them.
    place = (knot * action_block).clamp(max=horizon - 1)
    i = block_of.clamp(max=count - 2)
    apart = place.diff()
    s = ((step - place[i]) / apart[i]).unsqueeze(1)
    weights = (1 - s) * one[i] + s * one[i + 1]
    if interpolation == "cubic":  # Hermite's, with slopes by differences (one-sided at the ends)
        chord = one.diff(dim=0) / apart.unsqueeze(1)
        slope = (torch.cat([chord[:1], chord]) + torch.cat([chord, chord[-1:]])) / 2
        run, rise = apart[i].unsqueeze(1), one[i + 1] - one[i]
        bend = (1 - s) * (run * slope[i] - rise) - s * (run * slope[i + 1] - rise)
        weights = weights + s * (1 - s) * bend
    fitting = (step == place.unsqueeze(1)).float()
    return Blocks(horizon, weights, fitting, block_of, interpolation)


def weighted(weights: Tensor, sequence: Tensor) -> Tensor:
    """`weights` [..., T', T] times `sequence` [..., T, A]; no matmul, which autocast would round."""
    return (weights.unsqueeze(-1) * sequence.unsqueeze(-3)).sum(-2)


def later(horizon: int, steps: Tensor) -> Tensor:
    """Which of H actions stands at each place `steps` [B] steps later, [B, H]; the last one repeats."""
    at = torch.arange(horizon, device=steps.device) + steps.long().unsqueeze(1)
    return at.clamp(max=horizon - 1)
