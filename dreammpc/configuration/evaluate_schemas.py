"""Schemas of the recipes `evaluate` and `pendulum`, which play several planners."""

import dataclasses
from typing import Annotated, Any

from dreammpc.configuration.schemas import TrackingConfig
from dreammpc.envs import canonical
from dreammpc.interfaces import UsageError
from dreammpc.plugins.settings import NonNegative, NumEpisodes, Positive, Seed, at_least, check, check_names
from dreammpc.runtime.compiling import compile_mode

PRESETS = ("policy", "mppi", "dream_mpc", "dream_mpc_paper")


@dataclasses.dataclass
class EvaluateConfig:
    """Everything that `evaluate` takes; `checkpoint`, `planner`, `task`, `seeds` take a,b,c when typed.

    `seeds` are the episodes' starts, by default `seed`, `seed` + 1, …; MLflow is used only if asked for.
    `record` is a file that gets the episodes, as data to learn from (docs/data.md).
    With `ensemble` all checkpoints are one agent, whose models are those of all.
    `trained_by`, on the command line `algorithm=PATH`, confirms the dotted path of an algorithm, which a
    checkpoint alone does not have imported.
    """

    checkpoint: list[str] = "???"  # type: ignore[assignment]
    planners: list[str] = dataclasses.field(default_factory=lambda: list(PRESETS))
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    task: list[str] | None = None
    trained_by: str | None = None
    ensemble: bool = False
    episodes: NumEpisodes = 10
    seed: Seed = 1000
    seeds: list[Seed] | None = None
    noise_scale: NonNegative = 0.0
    compile: Any = False
    device: str = "auto"
    video: str | None = None
    output: str | None = None
    record: str | None = None
    tracking: TrackingConfig = dataclasses.field(default_factory=lambda: TrackingConfig(kind="none"))

    def __post_init__(self):
        check(self)
        self.task = self.task and list(map(canonical, self.task))
        compile_mode(self.compile)
        if self.tracking.register:
            raise UsageError("tracking.register: a training registers its agent; others: dreammpc register")
        if self.seeds == []:
            raise UsageError("seeds= names none; leave it out for those from seed= on")
        if self.seeds and self.episodes not in (EvaluateConfig.episodes, len(self.seeds)):
            raise UsageError(
                f"episodes={self.episodes} does not go with {len(self.seeds)} seeds: one episode for each"
            )
        check_names("planner", self.planners)


@dataclasses.dataclass
class PendulumConfig:
    """Everything that `pendulum` takes; `planner=a,b,c` on the command line sets `planners`."""

    planners: list[str] = dataclasses.field(default_factory=lambda: list(PRESETS))
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    episodes: Positive = 4
    steps: Annotated[int, at_least(20)] = 200
    seed: Seed = 0
    device: str = "auto"
    video: str | None = None

    def __post_init__(self):
        check(self)
        check_names("planner", self.planners)
