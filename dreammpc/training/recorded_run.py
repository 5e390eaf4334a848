"""The replay of a run, as it lies beside its checkpoints, as recorded data."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.data.episode import Episode
from dreammpc.data.replay import EPISODE
from dreammpc.interfaces import UsageError
from dreammpc.support.run_folder import CHECKPOINTS, LAST
from dreammpc.training.archive import read_rows
from dreammpc.training.resume import load_resumable

PLACES = (f"{CHECKPOINTS}/{LAST}", LAST, f"../{LAST}")
"""Where the checkpoint that names the replay's files is: from a run's folder, its checkpoints, its replay."""


def run_checkpoint(path: Path) -> Path | None:
    """The checkpoint whose replay `path` means: itself, or that of a run's folder; None of anything else."""
    if path.is_file():
        return path if path.suffix == ".ckpt" else None
    return next((path / name for name in PLACES if (path / name).is_file()), None)


class RunReplay:
    """The transitions that a run has collected, of all its processes, in the order of their episodes.

    An episode that was running, or whose first rows have been overwritten, is a piece. A replay keeps no time
    limits: whatever did not terminate is such a piece too.

    Args:
        path: a checkpoint that a run can go on from, or the folder of a run.
        obs: what is wanted of observations: `state`, `pixels` or `both`.

    Raises:
        UsageError: no such checkpoint, a damaged one, or one that did not observe that.
    """

    def __init__(self, path: Path, obs: str):
        checkpoint = run_checkpoint(path)
        if checkpoint is None:
            raise UsageError(f"data {path}: there is no {CHECKPOINTS}/{LAST} of a run in it")
        facts = load_resumable(checkpoint)
        self.name, self.obs, self.folder = f"data {path}", obs, checkpoint.parent / "replay"
        self.ranks = facts["resume"]["ranks"]
        has = facts.get("obs", "state")
        if has not in (obs, "both"):
            raise UsageError(f"{self.name}: its run observed {has} (env.obs), and {obs} is asked for")
        repeat = facts["config"].get("env", {}).get("action_repeat")
        bounds = {"action_low": -1.0, "action_high": 1.0}
        self.facts: Mapping[str, Any] = {"task": facts["task"], "action_repeat": repeat, **bounds}

    def episodes(self) -> Iterator[Episode]:
        number = 0
        for rank, share in enumerate(self.ranks):
            frames = Frames()
            chunks = read_rows(self.folder / f"rank{rank}", share, frames)
            if not chunks:
                continue
            rows: TensorDictBase = torch.cat(chunks)  # type: ignore[arg-type, assignment]
            order = torch.argsort(rows["frame"], stable=True)
            stamps = rows["frame"][order]
            ends = (stamps[1:] != stamps[:-1] + 1).nonzero().flatten() + 1
            edges = [0, *ends.tolist(), len(order)]
            for start, stop in itertools.pairwise(edges):
                yield self._episode(rows[order[start:stop]], frames, number)
                number += 1

    def _episode(self, rows: TensorDictBase, frames: "Frames", number: int) -> Episode:
        seen: dict[str, np.ndarray] = {}
        if self.obs != "pixels":
            seen["observation"] = joined(rows["observation"], rows["next", "observation"])
        if self.obs != "state":
            numbers = rows["frames"]
            seen["pixels"] = frames.get(torch.cat([numbers[:1, 2], numbers[:, 3]]))
        plans = rows.get("expert", None)
        expert = {} if plans is None else {key: value.numpy() for key, value in plans.items()}
        first = int(rows["frame"][0]) % EPISODE
        return Episode(
            f"episode {number}",
            seen,
            rows["action"].numpy(),
            rows["next", "reward"].squeeze(-1).numpy(),
            terminated=bool(rows["next", "terminated"][-1]),
            expert=expert,
            first=first,
        )


class Frames:
    """Takes the frames of a replay's files by their numbers, where `read_rows` wants a replay."""

    def __init__(self) -> None:
        self.chunks: list[tuple[int, Tensor]] = []

    def put_frames(self, rows: TensorDictBase, frames: Tensor) -> None:
        self.chunks.append((int(rows["frames"].min()), frames))

    def get(self, numbers: Tensor) -> np.ndarray:
        """Frames [n, C, 64, 64]."""
        found = torch.empty(len(numbers), *self.chunks[0][1].shape[1:], dtype=torch.uint8)
        for start, frames in self.chunks:
            here = (numbers >= start) & (numbers < start + len(frames))
            found[here] = frames[numbers[here] - start]
        return found.numpy()


def joined(before: Tensor, after: Tensor) -> np.ndarray:
    """[T+1, ...] of what was observed before and after each of T steps."""
    return torch.cat([before[:1], after]).numpy()
