"""Hydra's group `planner`, read from the registry of planners in place of a folder of files."""

import dataclasses
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from dreammpc.planning import PLANNERS
from dreammpc.planning.registry import planner_settings
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
        return name in PLANNERS or "." in name

    def available(self) -> bool:
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> "list[str]":
        if config_path.rstrip("/") == "planner":
            return [] if results_filter == ObjectType.GROUP else list(PLANNERS)
        return [] if results_filter == ObjectType.CONFIG else ["planner"]

    def _name(self, config_path: str) -> str:
        """The planner in `planner/NAME`, empty for what lies elsewhere."""
        group, _, name = config_path.partition("/")
        return name.removesuffix(".yaml") if group == "planner" else ""


class PlannerGroupOnPath(SearchPathPlugin):
    """Puts the group behind the folders of YAML files, so that a file of the same name wins."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("dreammpc", f"{PlannerGroup.scheme()}://")
