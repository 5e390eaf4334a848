"""Configuration of the recipes: the schemas behind Hydra's groups.

Only recipes read this. A schema is a dataclass; the groups `planner` and `model` are made from the planner
registry and from the model sizes, so that what a planner accepts is written once, in the planner. Types and
ranges are those of the annotations (see `dreammpc.plugins.settings`).
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Annotated, Any

from dreammpc.algorithms.update_settings import UpdateSettings
from dreammpc.configuration.data_schemas import DataConfig, FreezeConfig
from dreammpc.envs import canonical
from dreammpc.interfaces import OBS_KEYS, UsageError
from dreammpc.plugins.settings import (
    Count,
    Fraction,
    Limit,
    NonNegative,
    NumEpisodes,
    Positive,
    Seed,
    at_least,
    below_one,
    check,
    one_of,
)
from dreammpc.runtime.compiling import compile_mode
from dreammpc.tracking.loggers import KINDS, check_model_name, check_uri

COMPARED = ("policy", "dream_mpc", "dream_mpc_paper")
"""What a training ends with; MPPI takes minutes for ten episodes on a CPU and is left to `evaluate`."""

COLLECTORS = ("serial", "multiprocess", "async", "ray")
STORAGES = ("memory", "memmap", "device")
POSITIVE_AND_FINITE = Limit("positive and finite", lambda value: 0 < value < math.inf)

if TYPE_CHECKING:
    PlannerSettings = dict[str, Any]
else:  # OmegaConf lets a group fill nothing but what is Any
    PlannerSettings = Any


@dataclasses.dataclass
class EnvConfig:
    """How many environments, control steps per decision (None: the family's own), what is observed (`state`,
    `pixels`, `both`), and whether the model scales vectors by running statistics; of `gym-…` and `torchrl:…`
    their arguments, a time limit, and a bound of actions without one; `envpool` as `backend` simulates."""

    num_envs: Positive = 1
    action_repeat: Positive | None = None
    obs: Annotated[str, one_of(*OBS_KEYS)] = "state"
    normalize: bool = False
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    max_episode_steps: Positive | None = None
    action_bound: Annotated[float, POSITIVE_AND_FINITE] | None = None
    backend: Annotated[str, one_of("envpool")] | None = None

    def __post_init__(self):
        check(self, "env.")
        if self.normalize and self.obs == "pixels":
            raise UsageError(
                "env.normalize scales a vector that is observed, and with env.obs=pixels there is none"
            )


@dataclasses.dataclass
class CollectorConfig:
    """Who acts: this process (serial), or `workers` beside it (docs/scaling.md).

    `steps` are those of every environment in a batch, taken between two looks of the learner.
    """

    kind: Annotated[str, one_of(*COLLECTORS)] = "serial"
    workers: Positive = 2
    steps: Positive = 8

    def __post_init__(self):
        check(self, "collector.")


@dataclasses.dataclass
class AlgorithmConfig(UpdateSettings):
    """How much of an algorithm's update happens, on what; the rest is what all updates have.

    `episodic` says whether to learn where episodes terminate; by default if the environment can.
    `seed_steps` are the environment steps of random action that a run begins with, by default those of five
    episodes. `noise_scale` and `noise_correlation` are those of the exploration noise (see `Agent`).
    """

    name: str = "tdmpc2"
    batch_size: Positive = 256
    horizon: Positive = 3
    utd: NonNegative = 1.0
    seed_steps: Positive | None = None
    discount: Fraction | None = None
    episodic: bool | None = None
    capacity: Positive = 1_000_000
    noise_scale: NonNegative = 1.0
    noise_correlation: Annotated[float, below_one] = 0.0

    def __post_init__(self):
        own = type(self).name
        if self.name != own:
            raise UsageError(
                f"algorithm.name is {self.name!r} over {own}'s settings; use algorithm={self.name}"
            )
        check(self, "algorithm.")


@dataclasses.dataclass
class BMPCConfig(AlgorithmConfig):
    """BMPC's update (OpenReview i7jAYFYDcM): that of TD-MPC2 but for the policy, and lazy reanalyze."""

    name: str = "bmpc"
    reanalyze_interval: Count = 10
    reanalyze_slices: Positive = 20
    reanalyze_horizon: Positive = 3


ALGORITHM_GROUP: dict[str, dict[str, Any]] = {
    "tdmpc2": {"algorithm": AlgorithmConfig},
    "bmpc": {"algorithm": BMPCConfig, "model": {"num_heads": 2}},  # two value heads at every model size
}
"""What `algorithm=NAME` sets for those that are built in, before the command line (see `groups.py`)."""


@dataclasses.dataclass
class ReplayConfig:
    """Where the replay lies: `memory`; `device`, the memory of the GPU that trains, without frames; `memmap`,
    files in `folder`, by default the run's own, which go when the run ends.
    """

    storage: Annotated[str, one_of(*STORAGES)] = "memory"
    folder: str | None = None

    def __post_init__(self):
        check(self, "replay.")
        if self.folder is not None and self.storage != "memmap":
            raise UsageError(
                f"replay.folder has the files of replay.storage=memmap, and storage is {self.storage}"
            )


@dataclasses.dataclass
class TrainerConfig:
    """Devices and precision, as Lightning's Trainer names them; None or auto takes what this machine has.

    `strategy` is auto: those that Lightning names do not average the gradients of several optimizers.
    `compile` is off, recorded, default or graphs (docs/gpu.md). `timeout_s` is how long one of several
    processes waits for the others.
    """

    accelerator: str = "auto"
    devices: Any = 1
    strategy: Annotated[str, one_of("auto")] = "auto"
    precision: str | None = None
    num_nodes: Positive = 1
    compile: Any = None
    threads: Positive | None = None
    timeout_s: Annotated[float, at_least(1)] = 1800.0

    def __post_init__(self):
        check(self, "trainer.")
        compile_mode(self.compile, "trainer.compile")


@dataclasses.dataclass
class EvaluationConfig:
    """Episodes during and after training; `planners` are compared at the end, with the one trained with."""

    every: Positive = 10_000
    episodes: NumEpisodes = 10
    seed: Seed = 1000
    planners: list[str] = dataclasses.field(default_factory=lambda: list(COMPARED))
    video: bool = True

    def __post_init__(self):
        check(self, "evaluation.")


@dataclasses.dataclass
class TrackingConfig:
    """Where numbers go: `mlflow`, or `none` for the local JSONL file alone."""

    kind: Annotated[str, one_of(*KINDS)] = "mlflow"
    uri: str | None = None
    experiment: str = "dreammpc"
    run_name: str | None = None
    parent: str | None = None  # id of the MLflow run that this one belongs to
    register: str | None = None  # model of which the trained agent becomes a version
    log_every: Positive = 1000

    def __post_init__(self):
        check(self, "tracking.")
        if self.uri is not None:
            check_uri(self.uri, "tracking.uri")
        if self.register is not None:
            check_model_name(self.register, "tracking.register")
            if self.kind != "mlflow":
                raise UsageError("tracking.register needs tracking=mlflow")


@dataclasses.dataclass
class TrainConfig:
    """Everything that `train` takes. Steps are environment steps (simulator control steps).

    `planner` collects; `eval_planner`, one or several, plays the evaluations during training (by default the
    same one), the first of them decides which checkpoint is best.

    `folder` is the run's, by default a new one: `runs/TASK/seedN-TIME`. `resume` is the path of a checkpoint,
    or `auto`: the newest that is whole (docs/resume.md). `init` is a checkpoint or an agent whose weights a
    new run begins with (docs/data.md).
    """

    task: str = "cartpole-swingup"
    seed: Seed = 1
    steps: Count = 50_000
    save_every: Positive = 10_000
    folder: str | None = None
    resume: str | None = None
    init: str | None = None
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    freeze: FreezeConfig = dataclasses.field(default_factory=FreezeConfig)
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    collector: CollectorConfig = dataclasses.field(default_factory=CollectorConfig)
    model: Any = None
    algorithm: AlgorithmConfig = dataclasses.field(default_factory=AlgorithmConfig)
    planner: PlannerSettings = None  # type: ignore[assignment]
    eval_planner: list[str] = dataclasses.field(default_factory=list)
    eval_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)

    def __post_init__(self):
        check(self)
        self.task = canonical(self.task)
        if not self.steps and not self.data.updates:
            raise UsageError("steps=0 learns from recorded data alone: data=PATH data.updates=N")
        if self.env.num_envs > self.steps > 0:
            raise UsageError(f"env.num_envs={self.env.num_envs}: more than the run has steps, {self.steps}")

    def learning(self) -> str:
        """In one line, which model learns with which settings."""
        own = self.algorithm
        return (
            f"{own.name} with model {self.model.name}: lr {own.lr:g}, batch {own.batch_size}, target rate"
            f" {own.target_rate:g}, {own.utd:g} updates a step"
        )
