"""Settings of a dataclass: which there are, what the docstring says of each, and whether given values fit."""

import contextlib
import dataclasses
import inspect
import types
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import choices, imported, place


class Setting(NamedTuple):
    """One setting of a dataclass of settings."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` where a value must be given."""
    doc: str
    """What the class's docstring says of it under `Args:`, in one line; empty if nothing."""

    def __str__(self) -> str:
        type_name = inspect.formatannotation(self.type)
        required = self.default is dataclasses.MISSING
        return f"{self.name}: {type_name}" + ("" if required else f" = {self.default!r}")


def settings_of(cls: type, without: Iterable[str] = ()) -> list[Setting]:
    """The fields of dataclass `cls` that its constructor takes, in order, but for those in `without`."""
    try:
        hints = get_type_hints(cls)
    except (NameError, AttributeError):  # an annotation that names what only a type checker imports
        hints = {}
    docs = argument_docs(cls)
    found = []
    for field in dataclasses.fields(cls):
        if not field.init or field.name in without:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append(Setting(field.name, hints.get(field.name, Any), default, docs.get(field.name, "")))
    return found


def checked_settings(
    what: str, settings: list[Setting], given: dict[str, Any], whole: bool = True
) -> dict[str, Any]:
    """`given`, each value as the type that its setting is annotated with.

    A dictionary with `_target_`, the dotted path of a dataclass, becomes that dataclass, made of the other
    entries, which are checked the same way.

    Raises:
        UsageError: an unknown setting, a missing one (if they are to be `whole`) or a wrong type; the line
            begins with `what`.
    """
    known = {setting.name: setting for setting in settings}
    for name in given:
        if name not in known:
            raise UsageError(f"{what} has no setting {name!r}; {choices(name, known)}")
    for setting in settings:
        if whole and setting.default is dataclasses.MISSING and setting.name not in given:
            raise UsageError(f"{what} needs a value for its setting {setting.name!r}")
    checked = {}
    for name, value in given.items():
        try:
            checked[name] = converted(built(value), known[name].type)
        except TypeError:
            expected = inspect.formatannotation(known[name].type)
            came = f"{value!r} ({type(value).__name__})"
            raise UsageError(f"{what}: {name} must be of type {expected}, got {came}") from None
    return checked


def built(value: Any) -> Any:
    """`value`, with the dataclasses in it that are written as dictionaries with `_target_` made."""
    if isinstance(value, list):
        return [built(item) for item in value]
    if not isinstance(value, dict) or "_target_" not in value:
        return value
    path = str(value["_target_"])
    cls = imported(path, "class")
    if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
        raise UsageError(f"_target_ {path!r} is not a dataclass")
    rest = {key: entry for key, entry in value.items() if key != "_target_"}
    return cls(**checked_settings(path, settings_of(cls), rest))


def plain(value: Any) -> Any:
    """`value` as `built` reads it: dataclasses as dictionaries with `_target_`, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [setting.name for setting in settings_of(type(value))]
        return {"_target_": place(type(value)), **{name: plain(getattr(value, name)) for name in names}}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def converted(value: Any, hint: Any) -> Any:
    """`value` if it is of type `hint`: an int serves as a float, a list as a tuple; else TypeError."""
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in options:
            with contextlib.suppress(TypeError):
                return converted(value, option)
        raise TypeError
    if origin in (tuple, list, Sequence) and isinstance(value, list | tuple):
        items = options if origin is tuple and options[1:] != (...,) else options[:1] * len(value)
        if len(items) != len(value):
            raise TypeError
        made = [converted(item, of) for item, of in zip(value, items, strict=True)]
        return made if origin is list else tuple(made)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    judge = origin or hint
    if origin is Literal:
        fits = value in options
    elif hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif getattr(judge, "_is_protocol", False):  # an object with methods, which plain data is not
        fits = not isinstance(value, int | float | str | list | tuple | dict | None)
    else:
        fits = isinstance(value, judge) if isinstance(judge, type) else True
    if not fits:
        raise TypeError
    return value


def argument_docs(cls: type) -> dict[str, str]:
    """What the `Args:` sections of a class and its bases say of each argument, in one line each."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Args:\n")[2]
        names: list[str] = []
        for line in section.splitlines():
            text = line.strip()
            if text and not line.startswith(" "):
                break
            head, colon, rest = text.partition(":")
            new = head.replace(" ", "").split(",")
            if line.startswith("    ") and line[4:5] != " " and colon and all(map(str.isidentifier, new)):
                names, text = new, rest.strip()
                docs.update(dict.fromkeys(names, ""))
            for name in names:
                docs[name] = f"{docs[name]} {text}".strip()
    return docs


def check_names(key: str, names: list[str]) -> None:
    """Raise UsageError if no name is given, or one twice."""
    if not names:
        raise UsageError(f"{key}= expects at least one name")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"{key}={','.join(names)} names {twice} twice")


def at_least(section: Any, name: str, low: float, *keys: str) -> None:
    """Raise UsageError if one of the section's numbers is below `low`; `None` means unset and passes."""
    for key in keys:
        value = getattr(section, key)
        if isinstance(value, (int, float)) and not value >= low:
            raise UsageError(f"{name}{'.' if name else ''}{key} must be at least {low}, got {value}")


MAX_SEED = 2**31 - 1
"""NumPy takes seeds below 2**32, and the environments of one batch have successive ones."""


MAX_EPISODES = 10_000
"""Those of an evaluation are played side by side, each in an environment of its own."""


def check_seeds(name: str, *seeds: int) -> None:
    """Raise UsageError if one of `seeds` is below 0 or above `MAX_SEED`."""
    between(name, 0, MAX_SEED, *seeds)


def between(name: str, low: float, high: float, *values: float) -> None:
    """Raise UsageError if one of `values` is below `low` or above `high`."""
    for value in values:
        if not low <= value <= high:
            raise UsageError(f"{name} must be from {low} to {high}, got {value}")


def summary(thing: Any) -> str:
    """The first line of its docstring; empty where a dataclass has none but the one made for it."""
    line = (inspect.getdoc(thing) or "").partition("\n")[0]
    return "" if line.startswith(f"{thing.__name__}(") else line
