"""Atomic writes of files, and strict reading of JSON."""

import contextlib
import glob
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from dreammpc.interfaces import UsageError


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as `replacing` does.

    Raises:
        OSError: no space, no permission, no such folder; `path` is then what it was.
    """
    with replacing(path) as draft:
        draft.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, ending: str = "") -> Iterator[Path]:
    """Name a draft beside `path`, which is synced and renamed over `path` at the end; an error deletes it.

    Args:
        ending: of the draft's name, for writers that look at it.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp{ending}")
    sweep_killed(path)
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that has become read-only
            draft.unlink(missing_ok=True)


def check_not_read(target: Path, read: Iterable[str | Path]) -> None:
    """Raise UsageError if `target`, which is going to be written, is one of the files that are `read`.

    What is no file, such as the name of an agent, is passed over.
    """
    if target.exists() and any(Path(each).exists() and target.samefile(each) for each in read):
        raise UsageError(f"{target} is what is read; name another file")


def from_json(text: str) -> Any:
    """What a text in JSON says.

    Raises:
        ValueError: it is damaged, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path, otherwise: Any) -> Any:
    """What a file in JSON says; `otherwise` if there is none, or it is damaged or of another type."""
    try:
        found = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return otherwise
    return found if isinstance(found, type(otherwise)) else otherwise


KILLED_S = 60.0
"""A draft of a process that is not there any more is swept when it is as old as this, in seconds."""


def drafts(folder: Path, prefix: str = "") -> list[Path]:
    """Drafts of `replacing` in a folder: of writes under way, and of processes that were killed."""
    return [*folder.glob(f"{prefix}.*.tmp"), *folder.glob(f"{prefix}.*.tmp.*")]


def sweep_killed(path: Path) -> None:
    """Delete the drafts of `path` that killed processes left."""
    for draft in drafts(path.parent, f".{glob.escape(path.name)}"):
        number = draft.name.rpartition(".tmp")[0].rpartition(".")[2]
        with contextlib.suppress(OSError):
            old = time.time() - draft.stat().st_mtime > KILLED_S
            if old and number.isdigit() and not psutil.pid_exists(int(number)):
                draft.unlink()
