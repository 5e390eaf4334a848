"""Nested settings as dotted names, and what a group of them chooses."""

from collections.abc import Iterator, Mapping
from typing import Any


def chosen_name(group: Mapping[str, Any] | None) -> Any:
    """Which planner, algorithm or model its settings name: `name`, else the dotted path `_target_`."""
    return (group.get("name") or group.get("_target_")) if group else None


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of `tree` with its dotted name; an empty mapping is a value."""
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
