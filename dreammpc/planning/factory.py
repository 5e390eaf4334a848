"""Planners by name: built in, registered by a decorator, from an installed package, or by dotted path."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import Class, Registry, frozen_dataclass_lacks, place
from dreammpc.plugins.settings import Setting, checked_settings, settings_of

PLANNERS = Registry("planner", "dreammpc.planners")
"""Planner classes (frozen dataclasses of settings) by name."""


def register_planner(name: str) -> Callable[[Class], Class]:
    """Class decorator: make a planner selectable as `planner=NAME`.

    Raises:
        UsageError: the name is taken by another class, or the class is not a planner.
    """
    return PLANNERS.register(name, what_lacks)


def planner_class(name: str) -> type:
    """The planner class that is called `name`, or that stands at the dotted path `name`.

    Raises:
        UsageError: there is none, it cannot be imported, or it is not a planner.
    """
    cls: type = PLANNERS[name]
    lacks = what_lacks(cls)
    if lacks:
        raise UsageError(f"planner {name!r} ({PLANNERS.origin(name)}) is not a planner: {place(cls)} {lacks}")
    return cls


def what_lacks(cls: Any) -> str:
    """Why `cls` is not a planner's class; empty if it is."""
    return frozen_dataclass_lacks(cls, "action_dim", ("initial_state", "plan"))


def planner_settings(name: str) -> list[Setting]:
    """The settings of a planner, all but `action_dim`, which the model gives; see `planner_class`."""
    return settings_of(planner_class(name), without=("action_dim",))


def with_settings(name: str, base: str, settings: dict[str, Any]) -> type:
    """The planner class called `base` with other defaults, under a name of its own.

    Raises:
        UsageError: an unknown planner or setting, or a wrong type.
    """
    cls, known = planner_class(base), {setting.name: setting for setting in planner_settings(base)}
    checked = checked_settings(f"planner {name!r}", list(known.values()), settings, whole=False)
    fields: list[Any] = [
        (key, known[key].type, dataclasses.field(default=value)) for key, value in checked.items()
    ]
    namespace = {"__doc__": f"{base} with {', '.join(settings) or 'its own defaults'} as in a file.\n"}
    return dataclasses.make_dataclass(name, fields, bases=(cls,), frozen=True, namespace=namespace)


def make_planner(name: str, action_dim: int, **settings: Any) -> Any:
    """Build a planner.

    Args:
        name: a registered name, one that an installed package offers, or a dotted path such as
            `my.module.MyPlanner`.
        action_dim: of the model.
        settings: fields of the planner.

    Raises:
        UsageError: an unknown name or setting, a wrong type or a bad value, in one line.
    """
    what = f"planner {name!r}"
    checked = checked_settings(what, planner_settings(name), settings)
    try:
        return planner_class(name)(action_dim=action_dim, **checked)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{what}: {error}") from error
