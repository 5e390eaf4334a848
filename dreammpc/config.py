"""Configuration of the recipes: the schemas behind Hydra's groups.

Only recipes read this. A schema is a dataclass; the groups `planner` and `model` are made from the planner
registry and from the model sizes, so that what a planner accepts is written once, in the planner.
"""

import dataclasses
from typing import Any

from hydra.core.config_store import ConfigStore

from dreammpc.interfaces import UsageError
from dreammpc.models import SIZES
from dreammpc.planning import PLANNERS
from dreammpc.tracking.loggers import KINDS

PRESETS = ("policy", "mppi", "dream_mpc", "dream_mpc_paper")


@dataclasses.dataclass
class EnvConfig:
    """Environments: how many side by side, and control steps per decision (None: the family's own)."""

    num_envs: int = 1
    action_repeat: int | None = None

    def __post_init__(self):
        at_least(self, "env", 1, "num_envs", "action_repeat")


@dataclasses.dataclass
class AlgorithmConfig:
    """TD-MPC2's update (arXiv 2310.16828, Table 8) and how much of it happens."""

    name: str = "tdmpc2"
    batch_size: int = 256
    horizon: int = 3
    utd: float = 1.0
    seed_steps: int | None = None
    discount: float | None = None
    capacity: int = 1_000_000
    noise_scale: float = 1.0
    lr: float = 3e-4
    encoder_lr_scale: float = 0.3
    clip: float = 20.0
    target_rate: float = 0.01
    scale_rate: float = 0.01
    dropout: float = 0.01
    consistency_coef: float = 20.0
    reward_coef: float = 0.1
    value_coef: float = 0.1
    termination_coef: float = 1.0
    entropy_coef: float = 1e-4
    rho: float = 0.5

    def __post_init__(self):
        at_least(self, "algorithm", 1, "batch_size", "horizon", "capacity", "seed_steps")
        at_least(self, "algorithm", 0, "utd", "discount", "noise_scale", "lr", "clip", "dropout")


@dataclasses.dataclass
class TrainerConfig:
    """Devices and precision, as Lightning's Trainer names them; None or auto takes what this machine has."""

    accelerator: str = "auto"
    devices: Any = 1
    strategy: str = "auto"
    precision: str | None = None
    num_nodes: int = 1
    compile: bool | None = None
    threads: int | None = None


@dataclasses.dataclass
class EvaluationConfig:
    """Episodes during and after training; `planners` are compared at the end."""

    every: int = 10_000
    episodes: int = 10
    seed: int = 1000
    planners: list[str] = dataclasses.field(default_factory=lambda: list(PRESETS))
    video: bool = True

    def __post_init__(self):
        at_least(self, "evaluation", 1, "every", "episodes")


@dataclasses.dataclass
class TrackingConfig:
    """Where numbers go: `mlflow`, or `none` for the local JSONL file alone."""

    kind: str = "mlflow"
    uri: str | None = None
    experiment: str = "dreammpc"
    run_name: str | None = None
    log_every: int = 1000

    def __post_init__(self):
        at_least(self, "tracking", 1, "log_every")
        if self.kind not in KINDS:
            raise UsageError(f"unknown tracking {self.kind!r}; there are: {', '.join(KINDS)}")


@dataclasses.dataclass
class TrainConfig:
    """Everything that `train` takes. Steps are environment steps (simulator control steps)."""

    task: str = "cartpole-swingup"
    seed: int = 1
    steps: int = 50_000
    save_every: int = 10_000
    folder: str = "runs/${task}/seed${seed}-${now:%Y%m%d-%H%M%S}"
    resume: str | None = None
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    model: Any = None
    algorithm: AlgorithmConfig = dataclasses.field(default_factory=AlgorithmConfig)
    planner: Any = None
    trainer: TrainerConfig = dataclasses.field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)

    def __post_init__(self):
        at_least(self, "", 1, "steps", "save_every")


@dataclasses.dataclass
class EvaluateConfig:
    """Everything that `evaluate` takes; `planner=a,b,c` on the command line sets `planners`."""

    checkpoint: str = "???"
    planners: list[str] = dataclasses.field(default_factory=lambda: list(PRESETS))
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    task: str | None = None
    episodes: int = 10
    seed: int = 1000
    noise_scale: float = 0.0
    compile: bool = False
    video: str | None = None
    output: str | None = None

    def __post_init__(self):
        at_least(self, "", 1, "episodes")
        at_least(self, "", 0, "noise_scale")


def at_least(section: Any, name: str, low: float, *keys: str) -> None:
    """Raise UsageError if one of the section's numbers is below `low`; `None` means unset and passes."""
    for key in keys:
        value = getattr(section, key)
        if isinstance(value, (int, float)) and not value >= low:
            raise UsageError(f"{name}{'.' if name else ''}{key} must be at least {low}, got {value}")


def planner_schema(name: str) -> type:
    """A dataclass with the settings of the planner registered as `name`, and its name."""
    settings = [f for f in dataclasses.fields(PLANNERS[name]) if f.name != "action_dim"]
    fields: list[Any] = [("name", str, dataclasses.field(default=name))]
    fields += [(f.name, f.type, dataclasses.field(default=f.default)) for f in settings]
    return dataclasses.make_dataclass(f"{name} planner", fields)


def model_schema(size: str) -> type:
    """A dataclass with the widths of a model size, and its name."""
    fields: list[Any] = [("name", str, dataclasses.field(default=size))]
    for field, value in dataclasses.asdict(SIZES[size]).items():
        fields.append((field, type(value), dataclasses.field(default=value)))
    return dataclasses.make_dataclass(f"{size} model", fields)


def register_schemas() -> None:
    """Hand all schemas to Hydra."""
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("evaluate_schema", EvaluateConfig)
    for name in PLANNERS:
        store.store(name, planner_schema(name), group="planner")
    for size in SIZES:
        store.store(size, model_schema(size), group="model")
