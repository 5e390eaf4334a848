"""Settings of a dataclass: which there are, what the docstring says of each, and whether given values fit.

What a field is annotated with is what is checked, and nowhere else: its type, and what stands beside it::

    horizon: Positive = 3
    momentum: Fraction = 0.0
    optimizer: Annotated[str, one_of("sgd", "adam")] = "sgd"

The built-in planners and the schemas of recipes call `check` when they are made; settings given by name are
checked whatever the class does (`checked_settings`).
"""

import contextlib
import dataclasses
import difflib
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch

from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import choices, imported, place

MAX_SEED = 2**31 - 1
"""NumPy takes seeds below 2**32, and the environments of one batch have successive ones."""

MAX_EPISODES = 10_000
"""Those of an evaluation are played side by side, each in an environment of its own."""


class Limit(NamedTuple):
    """Beside a type in `Annotated`: which of its values are allowed."""

    words: str
    """As in "must be at least 1"."""
    holds: Callable[[Any], bool]
    names: Sequence[str] = ()
    """Those that there are, where they are names."""


def at_least(low: float) -> Limit:
    return Limit(f"at least {low}", lambda value: value >= low)


def between(low: float, high: float) -> Limit:
    return Limit(f"from {low} to {high}", lambda value: low <= value <= high)


def one_of(*names: str) -> Limit:
    return Limit(f"one of {', '.join(names)}", lambda value: value in names, names)


below_one = Limit("at least 0 and below 1", lambda value: 0 <= value < 1)
Count = Annotated[int, at_least(0)]
Positive = Annotated[int, at_least(1)]
NonNegative = Annotated[float, Limit("at least 0 and finite", lambda value: 0 <= value < math.inf)]
Finite = Annotated[float, Limit("a finite number", math.isfinite)]
NonNegativeOrInf = Annotated[float, at_least(0)]
"""Of what bounds something: inf is no bound."""
Fraction = Annotated[float, between(0, 1)]
Seed = Annotated[int, between(0, MAX_SEED)]
NumEpisodes = Annotated[int, between(1, MAX_EPISODES)]


class OutOfLimits(ValueError):
    """A value of the right type that is not allowed; says which are."""


class Setting(NamedTuple):
    """One setting of a dataclass of settings."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` where a value must be given."""
    doc: str
    """What the class's docstring says of it under `Args:`, in one line; empty if nothing."""

    def __str__(self) -> str:
        required = self.default is dataclasses.MISSING
        value = "" if required else f" = {self.default!r}"
        limits = "".join(f" ({limit.words})" for limit in limits_of(self.type))
        return f"{self.name}: {type_name(self.type)}{value}{limits}"


def settings_of(cls: type, without: Iterable[str] = ()) -> list[Setting]:
    """The fields of dataclass `cls` that its constructor takes, in order, but for those in `without`."""
    hints, docs = hints_of(cls), argument_docs(cls)
    found = []
    for field in dataclasses.fields(cls):
        if not field.init or field.name in without:
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append(Setting(field.name, hints.get(field.name, Any), default, docs.get(field.name, "")))
    return found


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The annotations of a class, limits included; empty if one names what only a type checker imports."""
    try:
        return get_type_hints(cls, include_extras=True)
    except (NameError, AttributeError):
        return {}


def check(made: Any, section: str = "") -> None:
    """Raise UsageError unless every field of a dataclass fits its annotation: what its `__post_init__` calls.

    The line calls a field by its name behind `section`. In code that is being compiled nothing is checked:
    it was when the same dataclass was made outside.
    """
    if torch.compiler.is_compiling():
        return
    hints = hints_of(made.__class__)
    for field in dataclasses.fields(made):
        fitted(f"{section}{field.name}", getattr(made, field.name), hints.get(field.name, Any))


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
            raise UsageError(no_setting(what, name, known))
    for setting in settings:
        if whole and setting.default is dataclasses.MISSING and setting.name not in given:
            raise UsageError(f"{what} needs a value for its setting {setting.name!r}")
    return {name: fitted(f"{what}: {name}", built(value), known[name].type) for name, value in given.items()}


def no_setting(what: str, name: str, known: Iterable[str]) -> str:
    """The line for a setting that does not exist, wherever it was given."""
    return f"{what} has no setting {name!r}; {choices(name, known)}"


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


def fitted(name: str, value: Any, hint: Any) -> Any:
    """`value` of the setting called `name` as the type that `hint` says.

    Raises:
        UsageError: another type, or out of its limits.
    """
    try:
        return converted(value, hint)
    except TypeError:
        got = f"{value!r} ({type(value).__name__})"
        raise UsageError(f"{name} must be of type {type_name(hint)}, got {got}") from None
    except OutOfLimits as error:
        raise UsageError(f"{name} must be {error}") from None


def converted(value: Any, hint: Any) -> Any:
    """`value` if it is of type `hint`: an int serves as a float, a list as a tuple.

    Raises:
        TypeError: it is of another type.
        OutOfLimits: of what stands beside the type, something does not hold.
    """
    origin, options = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        made = value if isinstance(value, float) and options[0] is float else converted(value, options[0])
        for limit in limits_of(hint):
            if not limit.holds(made):
                close = difflib.get_close_matches(str(made), limit.names, 1)
                advice = "".join(f"; did you mean {name}?" for name in close)
                raise OutOfLimits(f"{limit.words}, got {value!r}{advice}")
        return made
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
    if hint is float and value != value:
        raise OutOfLimits(f"a number, got {value!r}")
    return value


def type_name(hint: Any) -> str:
    """A type as one writes it, without limits."""
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(map(type_name, get_args(hint)))
    if hint is types.NoneType:
        return "None"
    bare = get_type_hints(type("Holder", (), {"__annotations__": {"it": hint}}))["it"]
    return inspect.formatannotation(bare)


def limits_of(hint: Any) -> list[Limit]:
    """What an annotation allows besides its type, or besides one of several."""
    inner = [limit for option in get_args(hint) for limit in limits_of(option)]
    return [limit for limit in getattr(hint, "__metadata__", ()) if isinstance(limit, Limit)] + inner


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


def summary(thing: Any) -> str:
    """The first line of its docstring; empty where a dataclass has none but the one made for it."""
    line = (inspect.getdoc(thing) or "").partition("\n")[0]
    return "" if line.startswith(f"{thing.__name__}(") else line
