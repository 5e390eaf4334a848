"""Building blocks that know no algorithm: MLP layers, the stacked ensemble, SimNorm and two-hot returns."""

from dreammpc.nn.ensemble import StackedMLP
from dreammpc.nn.layers import MLP, mish, simnorm
from dreammpc.nn.two_hot import TwoHot, symexp, symlog

__all__ = ["MLP", "StackedMLP", "TwoHot", "mish", "simnorm", "symexp", "symlog"]
