"""Building blocks that know no algorithm: MLP, stacked ensemble, SimNorm, two-hot returns, convolutions."""

from dreammpc.nn.ensemble import StackedMLP
from dreammpc.nn.layers import MLP, mish, simnorm
from dreammpc.nn.normalizer import Normalizer, moments
from dreammpc.nn.pixels import GRAY, ConvFeatures, random_shift, sample_shift
from dreammpc.nn.two_hot import TwoHot, symexp, symlog

__all__ = [
    "GRAY",
    "MLP",
    "ConvFeatures",
    "Normalizer",
    "StackedMLP",
    "TwoHot",
    "mish",
    "moments",
    "random_shift",
    "sample_shift",
    "simnorm",
    "symexp",
    "symlog",
]
