"""Named columns → episodes: which column is what, and where episodes end."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dreammpc.data.episode import Episode
from dreammpc.interfaces import OBS_KEYS, UsageError

ROLES: dict[str, tuple[str, ...]] = {
    "observation": ("observation", "observations", "obs", "state", "states", "observation.state"),
    "action": ("action", "actions"),
    "reward": ("reward", "rewards", "next.reward"),
    "terminated": ("terminated", "terminations", "terminals", "terminal"),
    "truncated": ("truncated", "truncations", "timeouts", "timeout"),
    "done": ("done", "dones", "next.done"),
    "episode": ("episode", "episodes", "episode_index", "episode_id"),
    "next_observation": ("next_observation", "next_observations", "next_obs"),
    "pixels": ("pixels",),
    "next_pixels": ("next_pixels",),
}
"""What a column can be, and the names that are known without being told."""
ENDS = ("terminated", "truncated", "done", "episode")
FRAME = (64, 64)

Read = Callable[[str, int, int], np.ndarray]
"""Rows from … to … of the column of that name."""


class Mapped:
    """Which columns of a file are what.

    Args:
        name: of the data, for messages.
        columns: names and shapes of the columns that there are.
        given: by role, a column or several that are joined; the others are found by their usual names.
        pixels: whether frames are wanted too, or alone (`both`, `pixels`; else `state`).

    Raises:
        UsageError: an unknown role, a column that is not there, or one that is needed and not found.
    """

    def __init__(
        self,
        name: str,
        columns: Mapping[str, tuple[int, ...]],
        given: Mapping[str, Any],
        obs: str = "state",
    ):
        self.name, self.shapes = name, dict(columns)
        self.roles: dict[str, list[str]] = {}
        for role in given:
            if role not in ROLES:
                raise UsageError(f"data.columns has no entry {role!r}; there are: {', '.join(ROLES)}")
        for role, usual in ROLES.items():
            chosen = given.get(role)
            listed = [chosen] if isinstance(chosen, str) else list(chosen or ())
            for column in listed:
                if column not in columns:
                    raise UsageError(f"{name} has no column {column!r}; {self._there()}")
            self.roles[role] = listed or [each for each in usual if each in columns][:1]
        needed = OBS_KEYS[obs]
        if given.get("pixels") and "pixels" not in needed:
            raise UsageError(f"data.columns.pixels needs obs=pixels or obs=both, and obs is {obs}")
        for role in ("observation", "pixels"):
            if role not in needed:
                self.roles[role] = self.roles[f"next_{role}"] = []
        for role in (*needed, "action", "reward"):
            if not self.roles[role]:
                raise UsageError(
                    f"{name} has no column that is known to be the {role}; {self._there()};"
                    f" data.columns.{role}=NAME says which is"
                )

    def _there(self) -> str:
        shown = sorted(self.shapes)
        more = f", and {len(shown) - 30} more" if len(shown) > 30 else ""
        return f"there are: {', '.join(shown[:30]) or 'none'}{more}"

    def has(self, role: str) -> bool:
        return bool(self.roles[role])

    def read(self, read: Read, role: str, start: int, stop: int) -> np.ndarray:
        """The column of a role; of several, their entries joined: [stop - start, ...].

        Raises:
            UsageError: it is not of numbers.
        """
        parts = [np.asarray(read(column, start, stop)) for column in self.roles[role]]
        for column, part in zip(self.roles[role], parts, strict=True):
            if part.dtype.kind not in "fiub":
                raise UsageError(f"{self.name}: column {column!r} is not of numbers ({part.dtype})")
        if role in ("observation", "next_observation", "action"):
            parts = [flat(part) for part in parts]
            return np.concatenate(parts, -1) if len(parts) > 1 else parts[0]
        if role in ("pixels", "next_pixels"):
            parts = [frames_first(part, f"{self.name}: column {self.roles[role][0]!r}") for part in parts]
            return np.concatenate(parts, 1) if len(parts) > 1 else parts[0]
        values = flat(parts[0])
        if values.shape[1] != 1:
            raise UsageError(
                f"{self.name}: column {self.roles[role][0]!r} has {values.shape[1]} entries a row; the {role}"
                " is one number"
            )
        return values[:, 0]

    def flags(self, read: Read, role: str, rows: int, where: str = "") -> np.ndarray:
        """The first `rows` of a column that says yes or no, as booleans [rows].

        Raises:
            UsageError: it has other values than 0 and 1.
        """
        values = self.read(read, role, 0, rows)
        for row in np.flatnonzero((values != 0) & (values != 1))[:1]:
            raise UsageError(
                f"{self.name}: {where}column {self.roles[role][0]!r} is to say yes or no, 1 or 0, and"
                f" row {row} has {values[row]:g}"
            )
        return np.asarray(values != 0)


def flat(rows: np.ndarray) -> np.ndarray:
    """[T, ...] as [T, entries], also of no rows."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))


def frames_first(frames: np.ndarray, where: str) -> np.ndarray:
    """Bytes [T, C, 64, 64] of frames with channels first or last.

    Raises:
        UsageError: other frames.
    """
    if frames.ndim == 4 and frames.shape[1:3] == FRAME and frames.shape[3] % 3 == 0:
        frames = frames.transpose(0, 3, 1, 2)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[2:] != FRAME or frames.shape[1] % 3:
        raise UsageError(
            f"{where}: frames must be bytes of 64 × 64, got {frames.dtype} {list(frames.shape[1:])}"
        )
    return np.ascontiguousarray(frames)


def flat_episodes(
    mapped: Mapped, read: Read, rows: int, length: int | None = None, whole: bool = False, before: int = 0
) -> Iterator[Episode]:
    """Episodes of columns in which they follow one another.

    Args:
        rows: of every column.
        length: rows after which an episode is cut, where nothing else says that it ends; None never cuts.
        whole: the rows are one episode.
        before: episodes that came before, for their numbers.

    Raises:
        UsageError: nothing says where episodes end, or their rows do not follow one another.
    """
    if not rows:
        return
    starts = np.zeros(rows, bool)
    flags = {role: np.zeros(rows, bool) for role in ("terminated", "truncated", "done")}
    for role in flags:
        if mapped.has(role):
            flags[role] = mapped.flags(read, role, rows)
    ends = flags["terminated"] | flags["truncated"] | flags["done"]
    starts[1:] = ends[:-1]
    if mapped.has("episode"):
        numbers = mapped.read(read, "episode", 0, rows)
        if len(unknown := np.flatnonzero(numbers != numbers)):  # NaN
            raise UsageError(
                f"{mapped.name}: column {mapped.roles['episode'][0]!r} is not a number in {len(unknown)} of"
                f" {rows} rows, first in row {unknown[0]}"
            )
        starts[1:] |= numbers[1:] != numbers[:-1]
        if rows > 2 and starts[1:].all() and not ends.any() and not mapped.has("next_observation"):
            raise UsageError(
                f"{mapped.name}: column {mapped.roles['episode'][0]!r} changes with every row; the rows of an"
                " episode must follow one another"
            )
    elif not (ends.any() or whole or length):
        known = [column for role in ENDS for column in mapped.roles[role]]
        raise UsageError(
            f"{mapped.name}: nothing says where its episodes end"
            f" ({'all zero: ' + ', '.join(known) if known else 'no column of ends'}); name the column that"
            " does with data.columns.episode=, or give data.episode_length="
        )
    if mapped.has("next_observation") and mapped.has("observation"):
        starts |= breaks(mapped, read, rows)
    first = sorted({0, *np.flatnonzero(starts).tolist()})
    number = before
    for begin, end in zip(first, [*first[1:], rows], strict=True):
        for start in range(begin, end, length or max(end - begin, 1)):
            stop = min(start + (length or end - begin), end)
            yield episode_of(mapped, read, start, stop, flags, f"episode {number}")
            number += 1


def breaks(mapped: Mapped, read: Read, rows: int, block: int = 10_000) -> np.ndarray:
    """Rows that do not begin with what was observed after the row before, [rows]: those of shuffled data."""
    found = np.zeros(rows, bool)
    for start in range(1, rows, block):
        stop = min(start + block, rows)
        now = mapped.read(read, "observation", start, stop)
        after = mapped.read(read, "next_observation", start - 1, stop - 1)
        equal = (now == after) | (now != now) | (after != after)  # NaN says nothing of where an episode ends
        found[start:stop] = ~equal.reshape(len(now), -1).all(-1)
    return found


def episode_of(
    mapped: Mapped, read: Read, start: int, stop: int, flags: Mapping[str, np.ndarray], name: str
) -> Episode:
    """Rows `start` to `stop` as an episode.

    Where no column has what was observed next, the last row has no transition: there is nothing after it.
    """
    kept = stop
    seen: dict[str, np.ndarray] = {}
    for role in ("observation", "pixels"):
        if not mapped.has(role):
            continue
        seen[role] = mapped.read(read, role, start, stop)
        if mapped.has(f"next_{role}"):
            last = mapped.read(read, f"next_{role}", stop - 1, stop)
            seen[role] = np.concatenate([seen[role], last.astype(seen[role].dtype, copy=False)])
        else:
            kept = stop - 1
    size = kept - start
    seen = {role: value[: size + 1] for role, value in seen.items()}
    whole = kept == stop
    return Episode(
        name,
        seen,
        mapped.read(read, "action", start, kept),
        mapped.read(read, "reward", start, kept),
        terminated=bool(flags["terminated"][stop - 1]) and whole,
        truncated=bool(flags["truncated"][stop - 1] or flags["done"][stop - 1]),
        lost=stop - kept,
        lost_end=bool(flags["terminated"][stop - 1]) and not whole,
    )


def group_episode(mapped: Mapped, read: Read, sizes: Mapping[str, int], name: str) -> Episode:
    """The columns of one episode, in which observations may be one more than actions.

    Raises:
        UsageError: columns of lengths that do not go together.
    """
    steps = sizes[mapped.roles["action"][0]]
    roles = [role for role in ("observation", "pixels") if mapped.has(role)]
    longer = {role: sizes[mapped.roles[role][0]] - steps for role in roles}
    for role, more in longer.items():
        if more not in (0, 1):
            raise UsageError(
                f"{mapped.name}: {name} has {steps} actions and {steps + more} rows of"
                f" {mapped.roles[role][0]!r}; expected as many, or one more"
            )
    for role in ("reward", "terminated", "truncated", "done"):
        if mapped.has(role) and sizes[mapped.roles[role][0]] != steps:
            raise UsageError(
                f"{mapped.name}: {name} has {steps} actions and {sizes[mapped.roles[role][0]]} rows of"
                f" {mapped.roles[role][0]!r}"
            )
    flags = {
        role: mapped.flags(read, role, steps, f"{name}: ") if mapped.has(role) else np.zeros(steps, bool)
        for role in ("terminated", "truncated", "done")
    }
    if steps == 0 or not all(longer.values()):
        if not steps:
            return Episode(name, {}, np.zeros((0, 0)), np.zeros(0))
        return episode_of(mapped, read, 0, steps, flags, name)
    return Episode(
        name,
        {role: mapped.read(read, role, 0, steps + 1) for role in roles},
        mapped.read(read, "action", 0, steps),
        mapped.read(read, "reward", 0, steps),
        terminated=bool(flags["terminated"][-1]),
        truncated=bool(flags["truncated"][-1] or flags["done"][-1]),
    )


def joined(values: Any, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in nested dictionaries (or tuples) by names such as `obs/position`."""
    items: Sequence[tuple[Any, Any]] | Any
    if isinstance(values, Mapping):
        items = values.items()
    elif isinstance(values, tuple | list):
        items = enumerate(values)
    else:
        yield prefix.rstrip("/"), np.asarray(values)
        return
    for key, value in items:
        yield from joined(value, f"{prefix}{key}/")
