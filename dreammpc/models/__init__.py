"""World models that satisfy the narrow waist of `dreammpc.interfaces`."""

from dreammpc.models.tdmpc2 import SIZES, TDMPC2Model

__all__ = ["SIZES", "TDMPC2Model"]
