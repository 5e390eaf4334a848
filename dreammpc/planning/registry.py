"""Planners by name: built in, registered by a decorator, from an installed package, or by dotted path."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from dreammpc.interfaces import UsageError
from dreammpc.registry import Registry, place
from dreammpc.settings import Setting, checked_settings, settings_of

PLANNERS = Registry("planner", "dreammpc.planners")
"""Planner classes (frozen dataclasses of settings) by name."""

PlannerClass = TypeVar("PlannerClass", bound=type)


def register_planner(name: str) -> Callable[[PlannerClass], PlannerClass]:
    """Class decorator: make a planner selectable as `planner=NAME`.

    Raises:
        UsageError: the name is taken by another class.
    """

    def register(cls: PlannerClass) -> PlannerClass:
        PLANNERS.add(name, cls)
        return cls

    return register


def planner_class(name: str) -> type:
    """The planner class that is called `name`, or that stands at the dotted path `name`.

    Raises:
        UsageError: there is none, it cannot be imported, or it is not a planner.
    """
    cls = PLANNERS[name]
    if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
        lacks = "is not a dataclass"
    elif not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        lacks = "is not frozen: @dataclass(frozen=True)"
    elif "action_dim" not in {field.name for field in dataclasses.fields(cls)}:
        lacks = "has no field action_dim"
    elif missing := [method for method in ("initial_state", "plan") if not hasattr(cls, method)]:
        lacks = f"has no method {missing[0]}"
    else:
        return cls
    raise UsageError(f"planner {name!r} ({PLANNERS.origin(name)}) is not a planner: {place(cls)} {lacks}")


def planner_settings(name: str) -> list[Setting]:
    """The settings of a planner, all but `action_dim`, which the model gives; see `planner_class`."""
    return settings_of(planner_class(name), without=("action_dim",))


def make_planner(name: str, action_dim: int, **settings: Any) -> Any:
    """Build a planner.

    Args:
        name: a registered name, one that an installed package offers, or a dotted path such as
            `my.module.MyPlanner`.
        action_dim: of the model.
        settings: fields of the planner.

    Raises:
        ValueError: an unknown name or setting, a wrong type or a bad value, in one line.
    """
    checked = checked_settings(f"planner {name!r}", planner_settings(name), settings)
    return planner_class(name)(action_dim=action_dim, **checked)
