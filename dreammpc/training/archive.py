"""The replay on disk: files that are written once, and which of them a checkpoint needs.

    replay/rankR/rows-START-STOP-TOKEN.pt   rows in order of writing
    replay/rankR/mutable-STOP-TOKEN.pt      of all rows, the entries that are not written once

A checkpoint names its files with their checksums, and no two saves give a file the same name: whatever is
interrupted, the files of an earlier checkpoint stay as they are.
"""

import math
import secrets
from pathlib import Path
from typing import Any, Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.data import Replay
from dreammpc.interfaces import UsageError
from dreammpc.training.files import checksum, save_atomically, sweep_drafts

FRAMES = "#frames"
"""Entry of a file of rows with the frames that they name, more than there are rows."""

SEGMENT_BYTES = 64 * 2**20
"""Of rows in one file, at most."""


class TakesFrames(Protocol):
    """A replay, or what stands for one while its files are read."""

    def put_frames(self, rows: TensorDictBase, frames: Tensor) -> None: ...


class ReplayArchive:
    """The replay's files in one folder.

    Args:
        folder: of this rank's files.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.segments: list[tuple[int, int, str]] = []
        """Start, stop and file of the rows of the newest checkpoint, oldest first."""
        self._mutable: str | None = None
        self._sums: dict[str, str] = {}
        """Checksums of all files of the newest checkpoint."""
        self._kept: set[str] = set()
        """Files of the checkpoint before the newest."""

    def save(self, replay: Replay) -> dict[str, Any]:
        """Write the rows that are new, and the mutable entries of all.

        Returns:
            `segments`, lists of start, stop and name that make up the replay, oldest first; the file
            `mutable`, or None; and `sums`, the checksum of each file.
        """
        self._kept = self._files()
        oldest = replay.written - len(replay)
        whole = all((self.folder / name).exists() for _, _, name in self.segments)
        segments = list(self.segments) if whole else []  # somebody deleted one: all rows are written anew
        start = max(segments[-1][1] if segments else oldest, oldest)
        while start < replay.written:
            stop = min(start + rows_per_file(replay), replay.written)
            name = f"rows-{start:010d}-{stop:010d}-{secrets.token_hex(4)}.pt"
            rows = replay.rows(start, stop).exclude(*replay.mutable)
            frames = replay.frames_of(rows)
            content = flat(rows) if frames is None else {**flat(rows), FRAMES: frames}
            self._sums[name] = save_atomically(content, self.folder / name)
            segments.append((start, stop, name))
            start = stop
        if replay.mutable and len(replay):
            self._mutable = f"mutable-{replay.written:010d}-{secrets.token_hex(4)}.pt"
            rows = replay.rows(oldest, replay.written).select(*replay.mutable)
            self._sums[self._mutable] = save_atomically(flat(rows), self.folder / self._mutable)
        self.segments = [s for s in segments if s[1] > oldest]
        self._sums = {name: self._sums[name] for name in self._files()}
        listed = [list(segment) for segment in self.segments]
        return {"segments": listed, "mutable": self._mutable, "sums": dict(self._sums)}

    def keep(self, saved: dict[str, Any]) -> None:
        """Spare the files of the checkpoint before the newest, which `saved` names, in the next `sweep`."""
        self._kept = set(names(saved))

    def sweep(self) -> None:
        """Delete what neither the newest checkpoint nor the one before it needs, and torn drafts."""
        keep = self._files() | self._kept
        for path in (*self.folder.glob("rows-*.pt"), *self.folder.glob("mutable-*.pt")):
            if path.name not in keep:
                path.unlink()
        sweep_drafts(self.folder)

    def load(self, replay: Replay, saved: dict[str, Any]) -> None:
        """Refill `replay` from the files that `saved` names (as `save` returned them, with `replay`).

        Raises:
            UsageError: a file is missing or damaged, or is not the one that was saved.
        """
        self.segments = [(start, stop, name) for start, stop, name in saved["segments"]]
        self._mutable = saved["mutable"]
        self._sums = dict(sums(saved))
        for name in self._files():
            self._sums.setdefault(name, checksum(self.folder / name) or "")
        replay.restore(read_rows(self.folder, {**saved, "sums": self._sums}, replay), saved["replay"])

    def _files(self) -> set[str]:
        return {name for _, _, name in self.segments} | ({self._mutable} if self._mutable else set())


def names(saved: dict[str, Any]) -> list[str]:
    """Of the files of `saved`."""
    mutable = [saved["mutable"]] if saved["mutable"] else []
    return [name for _, _, name in saved["segments"]] + mutable


def sums(saved: dict[str, Any]) -> dict[str, str]:
    """Checksums of the files of `saved`; none in checkpoints of earlier versions."""
    return saved.get("sums", {})


def damaged(folder: Path, saved: dict[str, Any]) -> str | None:
    """The name of a file of `saved` that is missing or not what was written; None if all are whole."""
    found = ((name, checksum(folder / name)) for name in names(saved))
    return next((name for name, sum in found if sum is None or sum != sums(saved).get(name, sum)), None)


def rows_per_file(replay: Replay) -> int:
    """How many rows of `replay` fit in a file."""
    row = replay.rows(replay.written - 1, replay.written)
    size = sum(value.nbytes for value in row.values(True, True))
    return max(
        1, SEGMENT_BYTES // (size + (0 if replay.frames is None else math.prod(replay.frames.frame_shape)))
    )


def flat(rows: TensorDictBase) -> dict[str, Tensor]:
    """Rows as a plain dictionary, a nested entry under `outer/inner`."""
    return {
        "/".join(key if isinstance(key, tuple) else (key,)): rows[key].contiguous()
        for key in rows.keys(True, True)
    }


def read_rows(folder: Path, saved: dict[str, Any], frames: TakesFrames) -> list[TensorDictBase]:
    """The rows of the files in `folder` that `saved` names, in chunks, oldest first; frames go to `frames`.

    Raises:
        UsageError: a file is missing or damaged, or is not the one that was saved.
    """
    summed = sums(saved)
    chunks = [
        load_rows(folder / name, frames, summed.get(name), stop - start)
        for start, stop, name in saved["segments"]
    ]
    if chunks and saved["mutable"]:
        mutable = load_rows(folder / saved["mutable"], None, summed.get(saved["mutable"]))
        rows: TensorDictBase = torch.cat(chunks)  # type: ignore[arg-type, assignment]
        chunks = [rows[-len(mutable) :].update(mutable)]
    return chunks


def load_rows(
    path: Path, replay: TakesFrames | None = None, summed: str | None = None, count: int | None = None
) -> TensorDictBase:
    """What `flat` gave and was saved at `path`; frames that lie there too go to their places in `replay`.

    Args:
        summed: the checksum of the file that was saved; None of one whose checkpoint does not say.
        count: of its rows.

    Raises:
        UsageError: the file is missing or damaged, or another one.
    """
    other = UsageError(f"replay segment {path} is not the one that was saved with this checkpoint")
    try:
        found = checksum(path)
        if found is None:
            raise OSError("the checksum does not fit")
        if summed not in (None, found):
            raise other
        content = torch.load(path, weights_only=True)
        if count not in (None, len(next(iter(content.values())))):
            raise other
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"replay segment {path} is missing or damaged") from error
    frames = content.pop(FRAMES, None)
    size = len(next(iter(content.values())))
    rows = TensorDict({tuple(key.split("/")): value for key, value in content.items()}, [size])
    if frames is not None and replay is not None:
        replay.put_frames(rows, frames)
    return rows
