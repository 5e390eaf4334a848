"""Files of recorded data → episodes: npz and HDF5 with named columns, Minari's data sets.

A source tells what is in the data (`facts`) and gives its episodes, as often as it is asked. Nothing in a
file is run, and nothing is downloaded. LeRobot's folders are read by `data/lerobot.py`.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dreammpc.data.columns import Mapped, flat_episodes, group_episode, joined
from dreammpc.data.episode import Episode
from dreammpc.interfaces import UsageError

FACTS = "dreammpc"
"""The entry of a file of ours that describes it: JSON with what `Source.facts` has."""
DAMAGED = (OSError, EOFError, TypeError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile)
"""What libraries raise for torn files; MemoryError where a header claims an immense array."""


class Source(Protocol):
    """Recorded data, however they are stored."""

    name: str
    facts: Mapping[str, Any]
    """What the data say of themselves: `task`, `action_repeat`, `action_low`, `action_high`, if they do."""

    def episodes(self) -> Iterator[Episode]:
        """All of them, as they are stored."""
        ...


class Npz:
    """A file of NumPy's, whose arrays are columns with one row a step.

    Args:
        path: of the file.
        columns: which is what, see `Mapped`.
        obs: what is wanted of observations: `state`, `pixels` or `both`.
        length: see `flat_episodes`.
    """

    def __init__(self, path: Path, columns: Mapping[str, Any], obs: str, length: int | None):
        self.name, self.length = f"data {path}", length
        try:
            with np.load(path, allow_pickle=False) as file:
                loaded = {key: numbers_of(file, key) for key in file.files}
        except DAMAGED as error:
            raise damaged(self.name, "npz file", error) from error
        self.arrays = {key: value for key, value in loaded.items() if value is not None}
        self.facts: Mapping[str, Any] = facts_of(str(self.arrays.pop(FACTS, "")), self.name)
        shapes = {key: () if value is None else value.shape for key, value in loaded.items() if key != FACTS}
        self.mapped = Mapped(self.name, shapes, columns, obs)
        for column in (each for used in self.mapped.roles.values() for each in used):
            if column not in self.arrays:
                raise UsageError(
                    f"{self.name}: column {column!r} is not of numbers (Python objects, which are not loaded)"
                )
        self.rows = same_rows(self.mapped)

    def episodes(self) -> Iterator[Episode]:
        return flat_episodes(self.mapped, lambda key, a, b: self.arrays[key][a:b], self.rows, self.length)


class HDF5:
    """An HDF5 file: columns with one row a step, or a group for each episode, in which columns lie.

    Episodes are read one at a time. Groups are those at the root or in the folder `data`.

    Args:
        path, columns, obs, length: see `Npz`.
    """

    def __init__(self, path: Path, columns: Mapping[str, Any], obs: str, length: int | None):
        self.path, self.name, self.length = path, f"data {path}", length
        h5py = package("h5py", "data in HDF5")
        try:
            self.file = h5py.File(path, "r")
            found = dict(datasets(self.file))
            self.facts: Mapping[str, Any] = facts_of(self.file.attrs.get(FACTS, ""), self.name)
            self.groups = episode_groups(self.file, h5py)
            if self.groups:
                first = self.file[self.groups[0]]
                found = dict(datasets(first))
        except DAMAGED as error:
            raise damaged(self.name, "HDF5 file", error) from error
        self.mapped = Mapped(self.name, {key: value.shape for key, value in found.items()}, columns, obs)
        self.rows = 0 if self.groups else same_rows(self.mapped)

    def episodes(self) -> Iterator[Episode]:
        try:
            if not self.groups:
                yield from flat_episodes(
                    self.mapped, lambda key, a, b: self.file[key][a:b], self.rows, self.length
                )
                return
            for number, group in enumerate(self.groups):
                yield self._episode(self.file[group], f"episode {number} ({group})")
        except UsageError:
            raise
        except DAMAGED as error:
            raise damaged(self.name, "HDF5 file", error) from error

    def _episode(self, group: Any, name: str) -> Episode:
        used = [column for columns in self.mapped.roles.values() for column in columns]
        if missing := [column for column in used if column not in group]:
            raise UsageError(f"{self.name}: {name} has no column {missing[0]!r}, which the first has")
        sizes = {column: len(group[column]) for column in used}
        return group_episode(self.mapped, lambda key, a, b: group[key][a:b], sizes, name)


class Minari:
    """A data set of Minari's, by its name, from the folder of the data sets that are on this machine.

    Args:
        name: such as `mujoco/halfcheetah/expert-v0`; what has been downloaded.
        columns, obs: see `Npz`; of observations that are dictionaries an entry is `observations/NAME`.
    """

    def __init__(self, name: str, columns: Mapping[str, Any], obs: str):
        minari = package("minari", "data sets of Minari")
        self.name, self.columns, self.obs = f"data {name}", columns, obs
        try:
            self.data = minari.load_dataset(name, download=False)
        except Exception as error:
            there = ", ".join(sorted(minari.list_local_datasets())) or "none"
            raise UsageError(
                f"{self.name} is no file or folder, and Minari has no such data set on this machine;"
                f" there are: {there} (`minari download {name}` gets one)"
            ) from error
        space = self.data.action_space
        own = {"action_low": limits(space, "low"), "action_high": limits(space, "high")}
        self.facts: Mapping[str, Any] = own

    def episodes(self) -> Iterator[Episode]:
        try:
            yield from self._episodes()
        except UsageError:
            raise
        except DAMAGED as error:
            raise damaged(self.name, "data set of Minari", error) from error

    def _episodes(self) -> Iterator[Episode]:
        mapped: Mapped | None = None
        for number, found in enumerate(self.data.iterate_episodes()):
            parts = {
                "observations": found.observations,
                "actions": found.actions,
                "rewards": found.rewards,
                "terminations": found.terminations,
                "truncations": found.truncations,
            }
            arrays = dict(joined(parts))
            if mapped is None:
                shapes = {key: value.shape for key, value in arrays.items()}
                mapped = Mapped(self.name, shapes, self.columns, self.obs)
            sizes = {key: len(value) for key, value in arrays.items()}
            read = lambda key, a, b, own=arrays: own[key][a:b]  # noqa: E731
            yield group_episode(mapped, read, sizes, f"episode {number}")


def numbers_of(file: Any, key: str) -> np.ndarray | None:
    """An array of an npz file; None for one of Python objects, which would be run to be read."""
    try:
        return np.asarray(file[key])
    except ValueError as error:
        if "allow_pickle" in str(error):
            return None
        raise


def limits(space: Any, which: str) -> list[float] | None:
    """The bounds of a Box; None of any other space, and where they are not finite."""
    values = getattr(space, which, None)
    if values is None or not np.isfinite(values).all():
        return None
    return np.asarray(values, float).ravel().tolist()


def datasets(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All data sets of an HDF5 group that have rows, by their names in it."""
    for key, value in group.items():
        if hasattr(value, "items"):
            yield from datasets(value, f"{prefix}{key}/")
        elif value is not None and value.shape:  # a link may lead nowhere
            yield f"{prefix}{key}", value


def episode_groups(file: Any, h5py: Any) -> list[str]:
    """Names of the groups that are episodes each, in the order of their numbers; none of a flat file."""
    for place in ("", "data"):
        holder = file.get(place) if place else file
        if not isinstance(holder, h5py.Group):
            continue
        groups = [key for key, value in holder.items() if isinstance(value, h5py.Group)]
        if groups and len(groups) == len(holder) and all(key[-1].isdigit() for key in groups):
            return [f"{place}/{key}".lstrip("/") for key in sorted(groups, key=_numbered)]
    return []


def _numbered(key: str) -> tuple[str, int]:
    stem = key.rstrip("0123456789")
    return stem, int(key[len(stem) :])


def same_rows(mapped: Mapped) -> int:
    """Rows of all columns that are used.

    Raises:
        UsageError: they differ.
    """
    sizes = {
        column: mapped.shapes[column][0] if mapped.shapes[column] else 0
        for columns in mapped.roles.values()
        for column in columns
    }
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{column} {size}" for column, size in sizes.items())
        raise UsageError(f"{mapped.name}: its columns have different numbers of rows: {told}")
    return next(iter(sizes.values()))


def facts_of(text: Any, name: str) -> dict[str, Any]:
    """The description in a file of ours; empty if there is none."""
    if not text:
        return {}
    try:
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise UsageError(f"{name}: its description {FACTS!r} is damaged") from None
    if (version := facts.get("format")) != 1:
        raise UsageError(f"{name} has format {version}, and this version reads 1")
    return facts


def damaged(name: str, kind: str, error: BaseException) -> UsageError:
    """What is said of a file that cannot be read."""
    why = " ".join(str(error).split())[:120]
    return UsageError(f"{name} is damaged or no {kind} ({type(error).__name__}: {why})")


def package(name: str, what: str) -> Any:
    """Import an optional package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return __import__(name)  # the outermost package of a dotted name
    except ImportError as error:
        raise UsageError(f"{what} need a package: pip install 'dreammpc[data]' ({error})") from None


class Several:
    """Data in several files, one after the other.

    Raises:
        UsageError: they declare different bounds of actions, or action repeats.
    """

    def __init__(self, name: str, sources: "list[Source]"):
        self.name, self.sources = name, sources
        self.facts: Mapping[str, Any] = sources[0].facts
        self.absent = sum((Counter(getattr(source, "absent", {})) for source in sources), Counter[str]())
        for source in sources[1:]:
            for key in ("action_repeat", "action_low", "action_high"):
                if source.facts.get(key) != self.facts.get(key):
                    raise UsageError(
                        f"{name}: {source.name} has {key} {source.facts.get(key)}, {sources[0].name}"
                        f" {self.facts.get(key)}"
                    )

    def episodes(self) -> Iterator[Episode]:
        for source in self.sources:
            for episode in source.episodes():
                episode.name = f"{source.name.removeprefix('data ')}, {episode.name}"
                yield episode
