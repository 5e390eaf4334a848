"""World models that satisfy the narrow waist of `dreammpc.interfaces`."""

from dreammpc.models.bmpc import BMPCModel
from dreammpc.models.ensemble import EnsembleModel
from dreammpc.models.latent import SIZES, LatentModel
from dreammpc.models.simulator import SimulatorModel
from dreammpc.models.tdmpc2 import TDMPC2Model

__all__ = ["SIZES", "BMPCModel", "EnsembleModel", "LatentModel", "SimulatorModel", "TDMPC2Model"]
