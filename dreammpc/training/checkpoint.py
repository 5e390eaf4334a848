"""Checkpoints that are plain data, written atomically, with the replay beside them.

    checkpoints/last.ckpt     everything that resume needs, and which replay segments belong to it
    checkpoints/best.ckpt     weights and description of the best evaluation so far
    checkpoints/replay/       rank0/rows-START-STOP.pt: rows in order of writing, each file written once
                              rank0/mutable-STOP.pt: of all rows, the entries that are not written once

A segment holds the rows that came since the previous checkpoint, so a save never rewrites the replay, and
last.ckpt names its segments, so weights and replay always belong together. What the replay may overwrite in
its rows (the planner's Gaussians, that BMPC plans anew) is small and is saved whole.
"""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.data import Feed, Replay
from dreammpc.interfaces import UsageError
from dreammpc.training.replicas import gathered

FORMAT = 1
DESCRIPTION = "dreammpc"


def save_atomically(content: Mapping[str, Any], path: Path) -> None:
    """`torch.save` to a temporary file beside `path`, synced, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one of our checkpoints; nothing in the file is run.

    Raises:
        UsageError: the file is missing, damaged, not a checkpoint of ours or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        hint = f"; in {path.parent}: {', '.join(beside)}" if beside else ""
        raise UsageError(f"checkpoint {path} does not exist{hint}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UsageError(f"checkpoint {path} cannot be read: no permission") from error
    except Exception as error:
        raise UsageError(
            f"checkpoint {path} is damaged or not one of ours ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or DESCRIPTION not in content:
        raise UsageError(f"checkpoint {path} was not written by dreammpc")
    if content[DESCRIPTION]["format"] > FORMAT:
        newer = content[DESCRIPTION]["format"]
        raise UsageError(f"checkpoint {path} has format {newer}, this version reads up to {FORMAT}")
    return content


class AtomicCheckpointIO(CheckpointIO):
    """What Lightning writes and reads checkpoints with."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        save_atomically(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class ReplayArchive:
    """The replay on disk, as segments that are written once.

    Args:
        folder: of this rank's segments.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.segments: list[tuple[int, int]] = []
        self._mutable: Path | None = None

    def save(self, replay: Replay) -> list[list[int]]:
        """Write the rows that are new and return the segments that make up the replay, oldest first."""
        oldest = replay.written - len(replay)
        start = max(self.segments[-1][1] if self.segments else oldest, oldest)
        if replay.written > start:
            rows = replay.rows(start, replay.written).exclude(*replay.mutable)
            save_atomically(flat(rows), self._path(start, replay.written))
            self.segments.append((start, replay.written))
        self.segments = [s for s in self.segments if s[1] > oldest]
        if replay.mutable:
            self._mutable = self._mutable_path(replay.written)
            rows = replay.rows(oldest, replay.written).select(*replay.mutable)
            save_atomically(flat(rows), self._mutable)
        return [list(segment) for segment in self.segments]

    def sweep(self) -> None:
        """Delete segments that no checkpoint needs any more."""
        keep = {self._path(*segment) for segment in self.segments} | {self._mutable}
        for path in (*self.folder.glob("rows-*.pt"), *self.folder.glob("mutable-*.pt")):
            if path not in keep:
                path.unlink()

    def load(self, replay: Replay, segments: list[list[int]], state: dict[str, Any]) -> None:
        """Refill `replay` from `segments`.

        Raises:
            UsageError: a segment is missing or damaged.
        """
        self.segments = [(start, stop) for start, stop in segments]
        chunks = [load_rows(self._path(*segment)) for segment in self.segments]
        if replay.mutable and chunks:
            self._mutable = self._mutable_path(state["written"])
            mutable = load_rows(self._mutable)
            rows: TensorDictBase = torch.cat(chunks)[-len(mutable) :]  # type: ignore[assignment]
            chunks = [rows.update(mutable)]
        replay.restore(chunks, state)

    def _path(self, start: int, stop: int) -> Path:
        return self.folder / f"rows-{start:010d}-{stop:010d}.pt"

    def _mutable_path(self, stop: int) -> Path:
        return self.folder / f"mutable-{stop:010d}.pt"


def flat(rows: TensorDictBase) -> dict[str, Tensor]:
    """Rows as a plain dictionary, a nested entry under `outer/inner`."""
    return {
        "/".join(key if isinstance(key, tuple) else (key,)): rows[key].contiguous()
        for key in rows.keys(True, True)
    }


def load_rows(path: Path) -> TensorDictBase:
    """What `flat` gave and was saved at `path`.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        content = torch.load(path, weights_only=True)
    except Exception as error:
        raise UsageError(f"replay segment {path} is missing or damaged") from error
    size = len(next(iter(content.values())))
    return TensorDict({tuple(key.split("/")): value for key, value in content.items()}, [size])


class Checkpoints(Callback):
    """Saves `last` every so many environment steps, at the end and before an exception leaves the Trainer.

    Args:
        folder: where the files go.
        feed: whose clock and replay are saved.
        description: plain facts that loading needs (configuration, task, sizes).
        every: environment steps between saves.
    """

    def __init__(self, folder: str | Path, feed: Feed, description: dict[str, Any], every: int = 10_000):
        self.folder, self.feed, self.every = Path(folder).resolve(), feed, every
        self.description = {**description, "format": FORMAT}
        self.best_score = -float("inf")
        self._next = every
        self._resume_from: dict[str, Any] | None = None
        self._archive = ReplayArchive(self.folder / "replay" / "rank0")

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.folder / "best.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._archive = ReplayArchive(self.folder / "replay" / f"rank{trainer.global_rank}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what a Trainer does not: clock, replay and random streams."""
        state, self._resume_from = self._resume_from, None
        if state is None:
            return
        mine = state["ranks"][trainer.global_rank]
        archive = ReplayArchive(Path(state["folder"]) / "replay" / f"rank{trainer.global_rank}")
        archive.load(self.feed.replay, mine["segments"], mine["replay"])
        if archive.folder == self._archive.folder:
            self._archive = archive
        self.feed.load_state_dict(mine["feed"])
        self.best_score = state["best_score"]
        self._next = self.feed.env_steps + self.every
        set_random_state(mine["random"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.feed.env_steps >= self._next:
            self._next += self.every
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Of several processes the others may be gone, and the last good checkpoint holds everyone's replay.
        if self.feed.updates and trainer.world_size == 1 and not isinstance(exception, OSError):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write `last`."""
        trainer.save_checkpoint(self.last)
        self._archive.sweep()

    def offer(self, module: LightningModule, score: float) -> bool:
        """Write `best` if `score` beats every earlier one; returns whether it did."""
        if score <= self.best_score:
            return False
        self.best_score = score
        content = {"state_dict": module.state_dict(), DESCRIPTION: self._describe()}
        save_atomically(content, self.best)
        return True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        mine = {
            "segments": self._archive.save(self.feed.replay),
            "replay": self.feed.replay.state_dict(),
            "feed": self.feed.state_dict(),
            "random": random_state(),
        }
        everyone = gathered(trainer, mine)
        checkpoint[DESCRIPTION] = {
            **self._describe(),
            "resume": {"ranks": everyone, "best_score": self.best_score},
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        folder = Path(str(trainer.ckpt_path)).resolve().parent
        self._resume_from = {**checkpoint[DESCRIPTION]["resume"], "folder": str(folder)}

    def _describe(self) -> dict[str, Any]:
        return {**self.description, "env_steps": self.feed.env_steps, "score": self.best_score}


def random_state() -> dict[str, Any]:
    """The global random streams of Python, NumPy and torch as plain containers."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
