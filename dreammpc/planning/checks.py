"""Checks of settings, each one clear line that names the setting, what was expected and what came."""

from typing import Any


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_at_least(name: str, value: Any, low: float) -> None:
    """Raise ValueError unless `value` is a number and `value >= low`."""
    if not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not value >= low:
        raise ValueError(f"{name} must be at least {low}, got {value}")


def check_at_most(name: str, value: Any, high: float) -> None:
    """Raise ValueError unless `value <= high`."""
    if not value <= high:
        raise ValueError(f"{name} must be at most {high}, got {value}")


def check_count(name: str, value: Any, low: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `low`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    check_at_least(name, value, low)
