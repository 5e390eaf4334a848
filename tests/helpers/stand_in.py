"""The small package that stands for HumanoidBench, which is on no index."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreammpc.envs import humanoidbench

STAND_IN = Path(__file__).parents[1] / "stand_in"


@contextmanager
def humanoidbench_stands_in() -> Iterator[None]:
    """Within it the package can be imported; no trace of it is left."""
    import gymnasium

    registered = dict(gymnasium.registry)
    sys.path.insert(0, str(STAND_IN))
    try:
        yield
    finally:
        sys.path.remove(str(STAND_IN))
        for name in [name for name in sys.modules if name.partition(".")[0] == "humanoid_bench"]:
            del sys.modules[name]
        gymnasium.registry.clear()
        gymnasium.registry.update(registered)
        humanoidbench._table.cache_clear()
