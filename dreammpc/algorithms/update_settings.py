"""The settings that all updates have: types, limits and defaults are written here alone."""

from dataclasses import dataclass
from typing import Annotated

from dreammpc.algorithms.losses import Coefficients
from dreammpc.planning.value_heads import ValueReduction
from dreammpc.plugins.settings import (
    Count,
    Fraction,
    NonNegative,
    NonNegativeOrInf,
    Positive,
    below_one,
    check,
)


@dataclass
class UpdateSettings:
    """How model, policy and target heads are updated; defaults are TD-MPC2's (arXiv 2310.16828, Table 8).

    Args:
        lr: Adam's learning rate; the encoder takes `lr * encoder_lr_scale`.
        clip: gradient-norm clip, for the model and for the policy.
        target_rate: τ of the target heads' moving average.
        target_heads: how many of the target heads, drawn at random for each update, a TD target looks at;
            None is all of them. The default is at most all.
        target_reduction: how their values become one, see `planning.value_heads.reduce_heads`; by default
            as published, the minimum in TD-MPC2 and the mean in BMPC.
        target_std_weight: w of `mean-std`.
        scale_rate: rate of the running percentile scale.
        dropout: probability after the value heads' first layer.
        consistency_coef, reward_coef, value_coef, termination_coef, entropy_coef: weights of the loss terms.
        rho: by which each step of a slice counts less than the one before.
        reset_every: updates from one reset of value heads and policy to the next (see `resets`); 0 is never.
        max_skipped: updates in a row that may be skipped for want of finite numbers (see `NonFiniteGuard`).
        lr_end: factor that learning rates have reached at a training's end; 1 leaves them as they are.
        lr_decay_from: the share of a training's steps from which they fall, linearly.

    Raises:
        UsageError: a setting out of range.
    """

    lr: NonNegative = 3e-4
    encoder_lr_scale: NonNegative = 0.3
    clip: NonNegativeOrInf = 20.0
    target_rate: Fraction = 0.01
    target_heads: Positive | None = 2
    target_reduction: ValueReduction | None = None
    target_std_weight: NonNegative = 1.0
    scale_rate: Fraction = 0.01
    dropout: Annotated[float, below_one] = 0.01
    consistency_coef: NonNegative = 20.0
    reward_coef: NonNegative = 0.1
    value_coef: NonNegative = 0.1
    termination_coef: NonNegative = 1.0
    entropy_coef: NonNegative = 1e-4
    rho: Fraction = 0.5
    reset_every: Count = 0
    max_skipped: Positive = 10
    lr_end: NonNegative = 1.0
    lr_decay_from: Annotated[float, below_one] = 0.0

    def __post_init__(self) -> None:
        check(self)

    @property
    def coefficients(self) -> Coefficients:
        """What the losses take of it."""
        own = vars(self)
        return Coefficients(*(own[name if name in own else f"{name}_coef"] for name in Coefficients._fields))
