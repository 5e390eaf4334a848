"""Schemas of recorded data that a training learns from, and of what it leaves alone at first."""

import dataclasses
from typing import Annotated, Any

from dreammpc.data.recorded import RECORDED
from dreammpc.interfaces import UsageError
from dreammpc.plugins.settings import Count, Fraction, Positive, check, one_of

DATA_KINDS = ("auto", "npz", "hdf5", "lerobot", "minari", "run")


@dataclasses.dataclass
class DataConfig:
    """Recorded data to learn from (docs/data.md): a file, a folder, a run's folder, or a name of Minari's.

    `columns` says which column is what. `bounds` of actions are `recorded` or `[low, high]`, by default those
    that the data declare. `invalid` is what happens to transitions that cannot be learned from.
    `episode_length` cuts where nothing says that episodes end; `most` transitions are taken. `updates` are
    made from the data alone, before the first environment step; `share` of each batch comes from them later.
    """

    path: str | None = None
    kind: Annotated[str, one_of(*DATA_KINDS)] = "auto"
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    bounds: Any = None
    invalid: Annotated[str, one_of("error", "drop")] = "error"
    episode_length: Positive | None = None
    most: Positive | None = None
    updates: Count = 0
    share: Fraction = 0.5

    def __post_init__(self):
        check(self, "data.")
        if self.updates and self.path is None:
            raise UsageError("data.updates learns from recorded data, and data= names none")
        if self.bounds not in (None, RECORDED) and not is_pair(self.bounds):
            raise UsageError(
                "data.bounds must be recorded, or [low, high], each a number or a list of them, got"
                f" {self.bounds}"
            )


@dataclasses.dataclass
class FreezeConfig:
    """Updates for which the `encoder` or the `dynamics` stay as they are, from a run's first one on."""

    encoder: Count = 0
    dynamics: Count = 0

    def __post_init__(self):
        check(self, "freeze.")


def is_pair(bounds: Any) -> bool:
    """Whether they are two numbers, or two lists of numbers."""
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        return False
    each = [one if isinstance(one, list | tuple) else [one] for one in bounds]
    return all(isinstance(x, int | float) and not isinstance(x, bool) for one in each for x in one)
