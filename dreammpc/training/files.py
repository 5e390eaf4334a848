"""Files that are whole or not there: written beside the target, synced, renamed, and checked by a checksum.

The checksum is the comment of the zip file that `torch.save` writes, so that any reader still reads it.
"""

import contextlib
import errno
import io
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dreammpc.support.atomic import drafts, replacing

MARK = b"dreammpc-crc32="
COMMENT = len(MARK) + 8
"""Length of the comment in bytes: the mark and eight hexadecimal digits."""
END_OF_ZIP = b"PK\5\6"
"""What the last 22 bytes of a zip file without a comment begin with."""


def save_atomically(content: Mapping[str, Any], path: Path, keep: tuple[Path, Path] | None = None) -> str:
    """`torch.save` to a temporary file beside `path`, synced, then renamed over it.

    Args:
        content: what is saved.
        path: where.
        keep: `source, target`: when the new file is proven and before the rename, let `target` be `source`.

    Returns:
        The file's checksum.

    Raises:
        OSError: no space, no permission; `path` is then what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        with draft.open("wb") as file:
            write_summed(serialized(content), file)
            file.flush()
            os.fsync(file.fileno())
        summed = checksum(draft)
        if summed is None:
            raise OSError(errno.EIO, "what was written reads back otherwise", str(draft))
        if keep is not None:
            keep_as(*keep)
    sync_folder(path.parent)
    return summed


def serialized(content: Mapping[str, Any]) -> memoryview:
    """The bytes of `torch.save`. In memory first: its own writing to a full disk may end the process."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def write_summed(data: memoryview, file: Any) -> None:
    """Write the zip file `data` with its checksum as the zip's comment."""
    # The last two bytes of a zip file without a comment are the comment's length.
    file.write(data[:-2])
    file.write(comment(data[:-2]))


def comment(data: memoryview) -> bytes:
    """The checksum of `data` as a zip's comment, behind its length."""
    return COMMENT.to_bytes(2, "little") + MARK + b"%08x" % zlib.crc32(data)


def intact(path: Path) -> bool:
    """Whether a file is what was written; of one without a checksum (of an earlier version) that it exists.

    Raises:
        PermissionError: it may not be read.
    """
    return checksum(path) is not None


def checksum(path: Path) -> str | None:
    """The checksum of a file that is `intact`, eight hexadecimal digits; None of any other.

    Raises:
        PermissionError: it may not be read.
    """
    try:
        data = path.read_bytes()
    except PermissionError:
        raise
    except OSError:
        return None
    if data[-22:-18] == END_OF_ZIP:  # no comment follows it
        return comment(memoryview(data)[:-2])[-8:].decode()
    own = comment(memoryview(data)[: -COMMENT - 2])
    return own[-8:].decode() if data[-COMMENT - 2 :] == own else None


def keep_as(source: Path, target: Path) -> None:
    """Let `target` name the file that `source` names, in one step, whatever `target` was."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    draft.unlink(missing_ok=True)
    try:
        os.link(source, draft)
    except OSError:  # a file system without hard links
        os.replace(source, target)
    else:
        os.replace(draft, target)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder last through a loss of power, where the system offers that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep_drafts(folder: Path) -> None:
    """Delete the temporary files that a killed process left in a folder."""
    for draft in drafts(folder):
        with contextlib.suppress(OSError):  # it is gone, or no file
            draft.unlink()
