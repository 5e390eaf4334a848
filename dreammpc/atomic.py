"""A text file is what it was or what it becomes, whatever interrupts the writing."""

import contextlib
import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file beside `path`, in UTF-8 and synced, and rename it over `path`.

    Raises:
        OSError: no space, no permission, no such folder; `path` is then what it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that has become read-only
            draft.unlink(missing_ok=True)
