"""Planners by name. A planner of your own becomes selectable with one decorator."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, TypeVar

PLANNERS: dict[str, type] = {}
"""Name → planner class (a frozen dataclass)."""

PlannerClass = TypeVar("PlannerClass", bound=type)


def register_planner(name: str) -> Callable[[PlannerClass], PlannerClass]:
    """Class decorator: make a planner selectable as `planner=NAME`.

    Raises:
        ValueError: the name is taken by another class.
    """

    def register(cls: PlannerClass) -> PlannerClass:
        taken = PLANNERS.get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise ValueError(f"planner name {name!r} is already taken by {taken.__module__}.{taken.__name__}")
        PLANNERS[name] = cls
        return cls

    return register


def make_planner(name: str, action_dim: int, **settings: Any) -> Any:
    """Build the planner registered as `name`.

    Raises:
        ValueError: an unknown name, an unknown setting or a bad value, in one line.
    """
    if name not in PLANNERS:
        close = difflib.get_close_matches(name, PLANNERS, 1)
        hint = f", did you mean {close[0]}?" if close else ";"
        raise ValueError(f"unknown planner {name!r}{hint} registered: {', '.join(sorted(PLANNERS))}")
    cls = PLANNERS[name]
    known = {field.name for field in dataclasses.fields(cls)} - {"action_dim"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(
            f"planner {name!r} has no setting {unknown[0]!r}; it has: {', '.join(sorted(known))}"
        )
    return cls(action_dim=action_dim, **settings)
