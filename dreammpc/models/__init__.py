"""World models that satisfy the narrow waist of `dreammpc.interfaces`."""

from dreammpc.models.bmpc import BMPCModel
from dreammpc.models.dino_wm import load_dino_wm
from dreammpc.models.ensemble import EnsembleModel
from dreammpc.models.jepa import JEPAModel
from dreammpc.models.latent import SIZES, LatentModel
from dreammpc.models.lewm import load_lewm
from dreammpc.models.mbrl_lib import load_pets
from dreammpc.models.probabilistic import ProbabilisticEnsemble
from dreammpc.models.simulator import SimulatorModel
from dreammpc.models.tdmpc2 import TDMPC2Model

__all__ = [
    "SIZES",
    "BMPCModel",
    "EnsembleModel",
    "JEPAModel",
    "LatentModel",
    "ProbabilisticEnsemble",
    "SimulatorModel",
    "TDMPC2Model",
    "load_dino_wm",
    "load_lewm",
    "load_pets",
]
