"""Hydra's group `planner`, read from the registry of planners in place of a folder of files."""

import dataclasses
import functools
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import OmegaConf

from dreammpc.planning import PLANNERS
from dreammpc.planning.registry import planner_settings, with_settings
from dreammpc.settings import plain


class PlannerGroup(ConfigSource):
    """Hydra's group `planner`, read from the registry: a planner is imported when it is chosen, not before.

    Its options are the registered names, those of installed packages, and the dotted path of any class.
    """

    @staticmethod
    def scheme() -> str:
        return "dreammpc"

    def load_config(self, config_path: str) -> ConfigResult:
        """The name and the default settings of a planner; Hydra then refuses other keys."""
        name = self._name(config_path)
        content: dict[str, Any] = {"name": name}
        for setting in planner_settings(name):
            required = setting.default is dataclasses.MISSING
            content[setting.name] = "???" if required else plain(setting.default)
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(content), {"package": None})

    def is_group(self, config_path: str) -> bool:
        return config_path.rstrip("/") in ("", "planner")

    def is_config(self, config_path: str) -> bool:
        name = self._name(config_path)
        return (name in PLANNERS and name not in PLANNERS.offered) or "." in name

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> "list[str]":
        if config_path.rstrip("/") == "planner":
            return (
                []
                if results_filter == ObjectType.GROUP
                else [n for n in PLANNERS if self.is_config(f"planner/{n}")]
            )
        return [] if results_filter == ObjectType.CONFIG else ["planner"]

    def _name(self, config_path: str) -> str:
        """The planner in `planner/NAME`, empty for what lies elsewhere."""
        group, _, name = config_path.partition("/")
        return name.removesuffix(".yaml") if group == "planner" else ""


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


class PlannerGroupOnPath(SearchPathPlugin):
    """Puts the group behind the folders of YAML files, so that a file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("dreammpc", f"{PlannerGroup.scheme()}://")
