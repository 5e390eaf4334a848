"""Hydra's groups `planner` and `algorithm`, read from the registries, and all schemas handed to Hydra."""

import dataclasses
import functools
import inspect
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import OmegaConf

from dreammpc.algorithms import ALGORITHMS, algorithm_class
from dreammpc.configuration.evaluate_schemas import EvaluateConfig, PendulumConfig
from dreammpc.configuration.schemas import ALGORITHM_GROUP, TrainConfig
from dreammpc.interfaces import UsageError
from dreammpc.models import SIZES
from dreammpc.planning import PLANNERS
from dreammpc.planning.factory import planner_settings, with_settings
from dreammpc.plugins.registry import Registry
from dreammpc.plugins.settings import plain
from dreammpc.sweeps import SweepConfig

REGISTRIES: dict[str, Registry] = {"planner": PLANNERS, "algorithm": ALGORITHMS}
SCALARS = (bool, int, float, str)
FROM_ASSEMBLY = ("agent", "compile", "write_back", "progress")
"""What an algorithm's constructor gets besides settings."""


def register_schemas() -> None:
    """Hand all schemas to Hydra."""
    store = ConfigStore.instance()
    store.store("train_schema", TrainConfig)
    store.store("evaluate_schema", EvaluateConfig)
    store.store("pendulum_schema", PendulumConfig)
    store.store("sweep_schema", SweepConfig)
    for size in SIZES:
        store.store(size, model_schema(size), group="model")
    Plugins.instance().register(RegistryGroups)
    Plugins.instance().register(RegistryGroupsOnPath)


def model_schema(size: str) -> type:
    """A dataclass with the widths of a model size, and its name, which no setting changes."""

    def check_name(made: Any) -> None:
        if made.name != size:
            raise UsageError(f"model.name is {made.name!r} over {size}'s settings; use model={made.name}")

    fields: list[Any] = [("name", str, dataclasses.field(default=size))]
    for field, value in dataclasses.asdict(SIZES[size]).items():
        fields.append((field, type(value), dataclasses.field(default=value)))
    return dataclasses.make_dataclass(f"{size} model", fields, namespace={"__post_init__": check_name})


def planner_content(name: str) -> dict[str, Any]:
    """The name and the default settings of a planner; Hydra then refuses other keys."""
    content: dict[str, Any] = {"name": name}
    for setting in planner_settings(name):
        required = setting.default is dataclasses.MISSING
        content[setting.name] = "???" if required else plain(setting.default)
    return content


def algorithm_content(name: str) -> dict[str, Any]:
    """What `algorithm=NAME` sets, before the command line.

    For one that is not built in, this is what the algorithm sets that it derives from (TD-MPC2 if from none),
    and those settings of its own constructor that have defaults.

    Raises:
        UsageError: see `algorithm_class`.
    """
    cls = algorithm_class(name)
    built_in = {ALGORITHMS[known]: known for known in ALGORITHM_GROUP}
    parent = next((base for base in cls.__mro__ if base in built_in), ALGORITHMS["tdmpc2"])
    content = dict(ALGORITHM_GROUP[built_in[parent]])
    if cls is not parent:
        fields: list[Any] = [("name", str, dataclasses.field(default=name))]
        for key, parameter in inspect.signature(cls).parameters.items():
            if key not in FROM_ASSEMBLY and parameter.default is not parameter.empty:
                kind = type(parameter.default) if isinstance(parameter.default, SCALARS) else Any
                fields.append((key, kind, dataclasses.field(default=parameter.default)))
        content["algorithm"] = dataclasses.make_dataclass(name, fields, bases=(content["algorithm"],))
    return content


class RegistryGroups(ConfigSource):
    """Hydra's groups that are registries: what is chosen is imported then, and not before.

    Their options are the registered names, those of installed packages, and the dotted path of any class.
    """

    @staticmethod
    def scheme() -> str:
        return "dreammpc"

    def load_config(self, config_path: str) -> ConfigResult:
        group, name = self._split(config_path)
        content = planner_content(name) if group == "planner" else algorithm_content(name)
        package = None if group == "planner" else "_global_"
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(content), {"package": package})

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in ("", *REGISTRIES)

    def is_config(self, config_path: str) -> bool:
        group, name = self._split(config_path)
        if group not in REGISTRIES:
            return False
        known = REGISTRIES[group]
        return "." in name or (name in known and name not in known.offered)

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> "list[str]":
        group = config_path.rstrip("/")
        if group not in REGISTRIES:
            return [] if results_filter == ObjectType.CONFIG else list(REGISTRIES)
        if results_filter == ObjectType.GROUP:
            return []
        return [name for name in REGISTRIES[group] if self.is_config(f"{group}/{name}")]

    def _split(self, config_path: str) -> tuple[str, str]:
        """Group and name in `GROUP/NAME`."""
        group, _, name = config_path.partition("/")
        return group, name.removesuffix(".yaml")


class RegistryGroupsOnPath(SearchPathPlugin):
    """Puts the groups behind the folders of YAML files, so that a file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("dreammpc", f"{RegistryGroups.scheme()}://")


def offer_files() -> None:
    """Let planners that are files of the group, in folders of the user's, be known by name everywhere."""
    loader = GlobalHydra.instance().config_loader()

    @functools.cache
    def make(name: str) -> type:
        composed = loader.load_configuration(f"planner/{name}", [], RunMode.RUN)
        settings: Any = OmegaConf.to_container(composed.planner, resolve=True)
        named, target = settings.pop("name", None), settings.pop("_target_", None)
        return with_settings(name, str(target or named), settings)

    PLANNERS.offered = {}
    files = [name for name in loader.get_group_options("planner") if name not in PLANNERS]
    PLANNERS.offered = {name: functools.partial(make, name) for name in files}
