"""Planners from plain settings, as the command line and checkpoints give them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dreammpc.configuration.schemas import TrainConfig
from dreammpc.interfaces import UsageError
from dreammpc.planning import make_planner
from dreammpc.planning.contract import graphable
from dreammpc.planning.factory import planner_settings
from dreammpc.plugins.settings import no_setting
from dreammpc.runtime.compiling import compile_mode
from dreammpc.support.nested import chosen_name

log = logging.getLogger(__name__)


def planner_name(settings: dict[str, Any]) -> str:
    """What a planner's settings call it."""
    return str(chosen_name(settings))


def build_planner(settings: dict[str, Any], action_dim: int) -> Any:
    """The planner called `settings["name"]`, or the class at the dotted path `settings["_target_"]`.

    Raises:
        UsageError: an unknown planner, an unknown setting, a wrong type or a bad value.
    """
    rest = dict(settings)
    name, target = rest.pop("name", None), rest.pop("_target_", None)
    if name and target and name != target:
        raise UsageError(
            f"planner: _target_ {target} over the settings of {name}; choose it with planner={target}, or in"
            f" YAML with `defaults: - override /planner: {target}`"
        )
    return make_planner(planner_name(settings), action_dim, **rest)


def eval_planners(config: TrainConfig, planner: Any) -> dict[str, Any]:
    """The planners of `eval_planner`, with those of `eval_settings` that each has; by default `planner`."""
    names, given = config.eval_planner, config.eval_settings
    if given and not names:
        raise UsageError(f"eval_planner.{min(given)} is of no planner: choose with eval_planner=NAME")
    if not names:
        return {planner_name(config.planner): planner}
    return planners_for(names, given, planner.action_dim)


def planners_for(
    names: Sequence[str],
    given: Mapping[str, Any],
    action_dim: int,
    defaults: Mapping[str, Any] | None = None,
    among: Sequence[str] = (),
) -> dict[str, Any]:
    """The planners of those names, each with those of the `given` settings that it has (`settings_for`).

    So it is with `defaults`, before them; but one that no planner has is no mistake there. Nor is a given one
    that a planner `among` others has, which other agents are played with.
    """
    planners = {}
    for name in names:
        had = {key: value for key, value in (defaults or {}).items() if key in setting_names(name)}
        settings = {"name": name, **had, **settings_for(name, given, [*names, *among])}
        planners[name] = build_planner(settings, action_dim)
    return planners


def setting_names(planner: str) -> set[str]:
    """Of a planner's settings."""
    return {setting.name for setting in planner_settings(planner)}


def settings_for(name: str, given: Mapping[str, Any], among: Sequence[str]) -> dict[str, Any]:
    """Those of the `given` settings that the planner called `name` has.

    Raises:
        UsageError: an unknown planner, or a setting that none of those in `among` has.
    """
    own = {other: setting_names(other) for other in among}
    for key in given:
        if not any(key in names for names in own.values()):
            what = f"planner {among[0]!r}" if len(own) == 1 else f"each of the planners {', '.join(own)}"
            raise UsageError(no_setting(what, key, set().union(*own.values())))
    return {key: value for key, value in given.items() if key in own[name]}


def check_graphable(planner: Any, model: Any, mode: Any, setting: str = "trainer.compile") -> None:
    """Raise UsageError if plans are to be CUDA graphs (`mode`, see `runtime.compiling.MODES`) and cannot."""
    reason = graphable(planner, model) if compile_mode(mode) == "graphs" else None
    if reason is not None:
        raise UsageError(f"{setting}=graphs: {reason}; choose {setting}=default")


def evaluation_modes(
    planners: Mapping[str, Any], model: Any, plans: str, device: torch.device
) -> dict[str, str]:
    """How the evaluations on the way of a training on `device` plan, by the planner's name.

    As graphs where the plans of the training are (`plans`, see `runtime.compiling.MODES`), else as written. A
    line says of which planner that cannot be, and why.
    """
    modes = {}
    for name, planner in planners.items() if plans == "graphs" and device.type == "cuda" else ():
        if (reason := graphable(planner, model)) is None:
            modes[name] = plans
        else:
            log.warning("evaluations with %s are no graphs: %s", name, reason)
    return modes
