"""LightningModules: losses and updates only."""

import inspect

from dreammpc.algorithms.bmpc import BMPC
from dreammpc.algorithms.latent_algorithm import LatentAlgorithm
from dreammpc.algorithms.tdmpc2 import TDMPC2
from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import Registry, place

ALGORITHMS = Registry("algorithm", "dreammpc.algorithms")
"""What `algorithm=NAME` trains with; each names the world model that it trains."""

ALGORITHMS.add("tdmpc2", TDMPC2)
ALGORITHMS.add("bmpc", BMPC)


def algorithm_class(name: str) -> type[LatentAlgorithm]:
    """The algorithm that is called `name`, or that stands at the dotted path `name`.

    Raises:
        UsageError: there is none, it cannot be imported, or it is not an algorithm.
    """
    found = ALGORITHMS[name]
    if not (inspect.isclass(found) and issubclass(found, LatentAlgorithm)):
        raise UsageError(f"algorithm {name!r} is not an algorithm: {place(found)} is no LatentAlgorithm")
    return found


__all__ = ["ALGORITHMS", "BMPC", "TDMPC2", "LatentAlgorithm", "algorithm_class"]
