"""LightningModules: losses and updates only."""

from dreammpc.algorithms.bmpc import BMPC
from dreammpc.algorithms.latent import LatentAlgorithm
from dreammpc.algorithms.tdmpc2 import TDMPC2

ALGORITHMS: dict[str, type[LatentAlgorithm]] = {cls.name: cls for cls in (TDMPC2, BMPC)}
"""What `algorithm=NAME` trains with; each names the world model that it trains."""

__all__ = ["ALGORITHMS", "BMPC", "TDMPC2", "LatentAlgorithm"]
