"""Reading checkpoints: plain data, checked, and brought from earlier formats to the present one."""

import re
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from dreammpc.interfaces import FRAME_SHAPE, UsageError
from dreammpc.support.run_folder import CHECKPOINTS, LAST, PREVIOUS
from dreammpc.training.files import intact

FORMAT = 4
TYPES: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "model": dict,
    "model.name": (str, NoneType),
    "model.mlp_dim": int,
    "obs_dim": int,
    "action_dim": int,
    "discount": (int, float),
    "episodic": bool,
    "obs": str,
    "normalize": bool,
    "channels": int,
    "versions": dict,
    "tracking_run": (str, NoneType),
    "config": dict,
    "config.seed": (int, NoneType),
    "config.planner": (dict, NoneType),
    "config.eval_planner": list,
    "config.collector": dict,
    "config.algorithm": dict,
    "config.algorithm.name": str,
    "config.env": dict,
    "config.env.action_repeat": (int, NoneType),
    "config.replay": dict,
    "config.tracking": dict,
    "overrides": list,
    "env_steps": (int, NoneType),
    "clock": int,
    "resume": dict,
    "resume.ranks": list,
    "resume.best_score": (int, float),
}
"""Of what a description holds, the parts that are read before anything else is checked."""
DEPTH, ENTRIES, STATE = 50, 10_000, 10_000_000
"""Of a description at most: how deeply it is nested, entries in all, and those of the state to go on from."""
DESCRIPTION = "dreammpc"
"""The key of a checkpoint under which it describes itself."""

PLAIN = (NoneType, bool, int, float, str)

FILES = re.compile(r"(rows-\d+-\d+|mutable-\d+)(-[0-9a-f]+)?\.pt", re.ASCII)
"""Names of a replay's files."""

Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: dict[int, Migration] = {}
"""By format, what makes the content of the next one of it. A new format adds one entry."""


def migration(start: int) -> Callable[[Migration], Migration]:
    """Decorator of the function that takes a checkpoint's content from format `start` to `start` + 1."""

    def add(function: Migration) -> Migration:
        MIGRATIONS[start] = function
        return function

    return add


@migration(1)
def _named_segments(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 named the replay's files by their rows alone, and knew no state of the environments."""
    facts = content[DESCRIPTION]
    plans = facts.get("config", {}).get("algorithm", {}).get("name") == "bmpc"
    for rank in facts.get("resume", {}).get("ranks", []):
        rank["segments"] = [
            [start, stop, f"rows-{start:010d}-{stop:010d}.pt"] for start, stop in rank["segments"]
        ]
        rank["mutable"] = f"mutable-{rank['replay']['written']:010d}.pt" if plans else None
    return content


@migration(2)
def _gray_images(content: dict[str, Any]) -> dict[str, Any]:
    """Format 2 knew no mean image: encoders of frames saw all images less 0.5."""
    weights = content.get("state_dict", {})
    for key in [key for key in weights if key.endswith("encoder.conv.layers.0.weight")]:
        centre = key.replace("layers.0.weight", "centre")
        weights[centre] = torch.full(FRAME_SHAPE, 0.5, dtype=weights[key].dtype)
    return content


@migration(3)
def _american_center(content: dict[str, Any]) -> dict[str, Any]:
    """Format 3 called the mean image of an encoder of frames `centre`."""
    weights = content.get("state_dict", {})
    for key in [key for key in weights if key.endswith("encoder.conv.centre")]:
        weights[key.replace("centre", "center")] = weights.pop(key)
    return content


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one of our checkpoints, in the present format; nothing in the file is run.

    Raises:
        UsageError: the file is missing, damaged, not a checkpoint of ours or of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        inside = path / CHECKPOINTS / LAST
        hint = f", such as {inside}" if inside.is_file() else ""
        raise UsageError(f"checkpoint {path} is a folder; expected a file{hint}")
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; in {path.parent}: {', '.join(beside)}" if beside else ""
        raise UsageError(f"checkpoint {path} does not exist{hint}")
    try:
        if not intact(path):
            raise UsageError(
                f"checkpoint {path} is damaged or not one of ours (no checksum that fits){_other(path)}"
            )
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except PermissionError as error:
        raise UsageError(f"checkpoint {path} cannot be read: no permission") from error
    except Exception as error:
        raise UsageError(
            f"checkpoint {path} is damaged or not one of ours ({type(error).__name__}){_other(path)}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(DESCRIPTION), dict):
        raise UsageError(f"checkpoint {path} was not written by dreammpc")
    check_plain(content[DESCRIPTION], path)
    content = migrated(content, path)
    check_types(content[DESCRIPTION], path)
    return content


def check_plain(facts: dict[str, Any], path: Path) -> None:
    """Raise UsageError if a description is no plain data, or more of it than a run can have."""
    description = {key: value for key, value in facts.items() if key != "resume"}
    try:
        if entries(description, (), {}) > ENTRIES or entries(facts.get("resume"), (Tensor,), {}) > STATE:
            raise ValueError("it has too many entries")
    except ValueError as error:
        raise UsageError(f"checkpoint {path} is damaged: {error}") from error


def check_types(facts: dict[str, Any], path: Path) -> None:
    """Raise UsageError if a part of a description is there and not of its type in `TYPES`."""
    for name, expected in TYPES.items():
        *outer, last = name.split(".")
        part: Any = facts
        for key in outer:
            part = part.get(key, {})
        if last in part and not isinstance(part[last], expected):
            raise UsageError(f"checkpoint {path} is damaged: its {name} is a {type(part[last]).__name__}")
    for share in facts.get("resume", {}).get("ranks", []):
        if not is_share(share):
            raise UsageError(f"checkpoint {path} is damaged: its list of replay files is none")


def entries(value: Any, others: tuple[type, ...], known: dict[int, int]) -> int:
    """How many there are in nested dictionaries by name, and lists; each is counted wherever it stands.

    Args:
        value: of plain data; a list may stand in it in several places, as in a pickle.
        others: types that may be in it, beside plain ones.
        known: how many there are in what has been counted, by its `id`.

    Raises:
        ValueError: it is nested too deeply, or holds something else.
    """

    def count(part: Any, depth: int) -> int:
        if isinstance(part, (*PLAIN, *others)):
            return 1
        if depth > DEPTH:
            raise ValueError("it is nested too deeply")
        if not isinstance(part, dict | list | tuple):
            raise ValueError(f"it holds a {type(part).__name__}, not plain data")
        if id(part) not in known:
            inside = part.values() if isinstance(part, dict) else part
            known[id(part)] = 1 + sum(count(each, depth + 1) for each in inside)
        return known[id(part)]

    return count(value, 0)


def is_share(found: Any) -> bool:
    """Whether it names replay files as `ReplayArchive.save` does: no name leads out of their folder."""
    if not isinstance(found, dict):
        return False
    segments, mutable, sums = found.get("segments"), found.get("mutable"), found.get("sums", {})
    if not isinstance(segments, list) or not isinstance(sums, dict):
        return False
    kinds = [[type(part) for part in each] for each in segments if isinstance(each, list | tuple)]
    if kinds != [[int, int, str]] * len(segments):
        return False
    names = [name for _, _, name in segments] + ([] if mutable is None else [str(mutable)])
    return all(map(FILES.fullmatch, names))


def migrated(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """`content` in the present format.

    Raises:
        UsageError: it is newer than this version, or nothing leads here from where it is.
    """
    while (found := content[DESCRIPTION].get("format")) != FORMAT:
        if not isinstance(found, int) or found > FORMAT:
            raise UsageError(f"checkpoint {path} has format {found}, this version reads up to {FORMAT}")
        if found not in MIGRATIONS:
            raise UsageError(f"checkpoint {path} has format {found}, which this version reads no more")
        try:
            content = MIGRATIONS[found](content)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"checkpoint {path} of format {found} is damaged") from error
        content[DESCRIPTION]["format"] = found + 1
    return content


def _other(path: Path) -> str:
    previous = path.with_name(PREVIOUS)
    return f"; {previous.name} beside it may be whole" if path != previous and previous.is_file() else ""
