"""Building blocks that know no algorithm: MLP, ensemble, SimNorm, two-hot, convolutions, transformers."""

from dreammpc.nn.ensemble import StackedMLP
from dreammpc.nn.frame_predictors import (
    ClassToken,
    ConditionedPredictor,
    PatchEncoder,
    PatchPredictor,
    Projected,
)
from dreammpc.nn.gaussian import GaussianEnsemble
from dreammpc.nn.layers import MLP, mish, simnorm
from dreammpc.nn.normalizer import Normalizer, moments
from dreammpc.nn.pixels import GRAY, ConvFeatures, random_shift, sample_shift
from dreammpc.nn.transformer import Block, VisionTransformer
from dreammpc.nn.two_hot import TwoHot, symexp, symlog

__all__ = [
    "GRAY",
    "MLP",
    "Block",
    "ClassToken",
    "ConditionedPredictor",
    "ConvFeatures",
    "GaussianEnsemble",
    "Normalizer",
    "PatchEncoder",
    "PatchPredictor",
    "Projected",
    "StackedMLP",
    "TwoHot",
    "VisionTransformer",
    "mish",
    "moments",
    "random_shift",
    "sample_shift",
    "simnorm",
    "symexp",
    "symlog",
]
