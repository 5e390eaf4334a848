"""Configuration of the recipe `sweep`; only the recipe reads it."""

import dataclasses

from dreammpc.interfaces import UsageError
from dreammpc.plugins.settings import Positive, check


@dataclasses.dataclass
class SweepConfig:
    """Everything that `sweep` takes itself; other words of its command line are those of `train`.

    There is a training for each of `tasks` × `seeds` × `planners` (none: the recipe's own); the planners of
    `evaluate` then play every trained agent. `jobs` run at a time; `dry` only says what is left to do.
    """

    tasks: list[str] = "???"  # type: ignore[assignment]
    seeds: list[int] = dataclasses.field(default_factory=lambda: [1])
    planners: list[str] = dataclasses.field(default_factory=list)
    evaluate: list[str] = dataclasses.field(default_factory=list)
    jobs: Positive = 1
    folder: str = "runs/sweep"
    dry: bool = False
    train: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        check(self)
        if len(set(self.evaluate)) < len(self.evaluate):
            raise UsageError(f"evaluate={','.join(self.evaluate)} names a planner twice")
