"""Things by name: built in, registered by a decorator, brought by an installed package, or by dotted path."""

import dataclasses
import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any, TypeVar

from dreammpc.interfaces import UsageError

Class = TypeVar("Class", bound=type)


class Registry:
    """The names of one kind of thing and what stands behind each.

    Args:
        kind: what a name stands for, as error messages call it, such as "planner".
        group: entry-point group in which installed packages offer theirs. An entry point is imported when its
            name is looked up; one that fails does so then, and spoils no other name.
    """

    def __init__(self, kind: str, group: str):
        self.kind, self.group = kind, group
        self._things: dict[str, Any] = {}
        self._loaded: dict[str, metadata.EntryPoint] = {}
        self.offered: dict[str, Callable[[], Any]] = {}
        """Names for the time being, and what makes what stands behind each; others go before them."""

    def add(self, name: str, thing: Any) -> None:
        """Register `thing`; again with the same thing (a module that was reloaded) is no mistake.

        Raises:
            UsageError: the name is taken.
        """
        taken = self._things.get(name)
        if taken is not None and place(taken) != place(thing):
            raise UsageError(
                f"{self.kind} name {name!r} is already taken by {place(taken)}; {place(thing)} needs another"
            )
        self._things[name] = thing

    def register(self, name: str, lacks: Callable[[Any], str]) -> Callable[[Class], Class]:
        """Class decorator: `add` under a name, if the class lacks nothing (see `frozen_dataclass_lacks`).

        Raises:
            UsageError: the name is taken by another class, or none, or the class lacks something.
        """
        if not isinstance(name, str):
            what = f"register_{self.kind}"
            raise UsageError(f'{what} takes a name: @{what}("{name.__name__.lower()}")')

        def register(cls: Class) -> Class:
            if reason := lacks(cls):
                raise UsageError(f"{self.kind} {name!r} is not a {self.kind}: {place(cls)} {reason}")
            self.add(name, cls)
            return cls

        return register

    def __iter__(self) -> Iterator[str]:
        """All names, sorted; those of installed packages too, without importing them."""
        points = (point.name for point in installed(self.group))
        return iter(sorted({*self._things, *self.offered, *points}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __getitem__(self, name: str) -> Any:
        """What stands behind a name, or behind the dotted path of something importable.

        Raises:
            UsageError: an unknown name, one that two packages offer, or one whose import fails.
        """
        self._load(name)
        if name in self._things:
            return self._things[name]
        if name in self.offered:
            return self.offered[name]()
        if "." in name:
            return imported(name, self.kind)
        raise UsageError(unknown(f"{self.kind} {name!r}", name, self))

    def check_stored(self, name: str, where: str, named: Collection[str], word: str) -> None:
        """Raise UsageError if `name`, which stands in a file, would import something that nobody chose.

        Names that are registered or offered by an installed package may be in a file, and so may whatever
        stands in this package. A dotted path may if it is one of theirs, or if today's command line names it.

        Args:
            name: as the file has it.
            where: what the message calls the file.
            named: see `named_by`.
            word: what to add to the command line to name it.
        """
        theirs = {point.value.replace(":", ".") for point in installed(self.group)}
        theirs |= {place(thing) for thing in self._things.values()}
        if not isinstance(name, str):
            raise UsageError(f"{where}: its {self.kind} is {name!r}; expected a name")
        if "." not in name or name.startswith("dreammpc.") or name in self or name in theirs or name in named:
            return
        raise UsageError(
            f"{where} names the {self.kind} {name}, and a file alone does not have a module imported;"
            f" if you trust it, add {word}"
        )

    def origin(self, name: str) -> str:
        """Where a name comes from: `built in`, `package NAME VERSION` or `module NAME`."""
        if name in self._things and name not in self._loaded:
            path = place(self._things[name])
            return "built in" if path.startswith("dreammpc.") else f"module {path.rpartition('.')[0]}"
        points = self._points(name)
        if points:
            return " and ".join(map(package, points))
        return "built in" if name.startswith("dreammpc.") else f"module {name.rpartition('.')[0]}"

    def _points(self, name: str) -> list[metadata.EntryPoint]:
        """Entry points of that name; one that two copies of a package's metadata show counts once."""
        points = {point.value: point for point in installed(self.group) if point.name == name}
        return list(points.values())

    def _load(self, name: str) -> None:
        """Import the entry point called `name`, if there is one and it has not been imported."""
        points = self._points(name)
        if not points or name in self._loaded:
            return
        thing = self._entry(points[0]) if len(points) == 1 else None
        claims = [f"{point.value} ({package(point)})" for point in points]
        if name in self._things and (thing is None or place(self._things[name]) != place(thing)):
            claims.insert(0, f"{place(self._things[name])} ({self.origin(name)})")
        if len(claims) > 1:
            raise UsageError(
                f"more than one {self.kind} is called {name!r}: {' and '.join(claims)};"
                " uninstall one, or choose by dotted path"
            )
        self._things[name], self._loaded[name] = thing, points[0]

    def _entry(self, point: metadata.EntryPoint) -> Any:
        try:
            return point.load()
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"{self.kind} {point.name!r} of {package(point)} cannot be imported from {point.value}:"
                f" {one_line(error)}"
            ) from error


def frozen_dataclass_lacks(cls: Any, field: str, methods: Sequence[str]) -> str:
    """Why `cls` is no frozen dataclass with that field and those methods; empty if it is one."""
    if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
        return "is not a dataclass"
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return "is not frozen: @dataclass(frozen=True)"
    if field not in {each.name for each in dataclasses.fields(cls)}:
        return f"has no field {field}"
    missing = [method for method in methods if method not in dir(cls)]
    return f"has no method {missing[0]}" if missing else ""


def named_by(words: Iterable[str]) -> set[str]:
    """All that the words of a command line name: dotted paths and tasks that files may then name too."""
    parts = {part for word in words for part in re.split(r"[=,{}\[\]'\"\s]", word)}
    return parts | {part.removeprefix("_target_:") for part in parts}


def imported(path: str, kind: str) -> Any:
    """What stands at a dotted path.

    Raises:
        UsageError: its module cannot be imported, or does not have it; the line calls it a `kind`.
    """
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        hint = "; it must be installed or on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"{kind} {path!r} cannot be imported: {one_line(error)}{hint}") from error
    if not hasattr(module, attribute):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise UsageError(unknown(f"{kind} {path!r} in module {module_name}", attribute, classes))
    return getattr(module, attribute)


def unknown(what: str, given: str, among: Iterable[str]) -> str:
    """The line for a name that does not exist: the closest one, and all that do."""
    return f"unknown {what}; {choices(given, among)}"


def choices(given: str, among: Iterable[str]) -> str:
    names = sorted(among)
    close = difflib.get_close_matches(given, names, 1)
    hint = f"did you mean {close[0]}? There are" if close else "there are"
    return f"{hint}: {', '.join(names) or 'none'}"


def place(thing: Any) -> str:
    """`module.name` of a class or function; what else an entry point may name, as Python prints it."""
    return f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else repr(thing)


def package(point: metadata.EntryPoint) -> str:
    return f"package {point.dist.name} {point.dist.version}" if point.dist else "an unnamed package"


def one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def installed(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Entry points of a group, read once for each content of `sys.path`."""
    return _installed(group, tuple(sys.path))


@functools.cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))
