"""Replay of transitions, sampled as windows within an episode, or cut short by its end.

Rows lie in time order, the B environments interleaved: environment b's next row is B rows on. Each row has
a stamp `frame`, episode number · 2³² + step, so that rows are consecutive if their stamps are. Frames, where
there are any, lie beside the rows, each once (see `data/frames.py`).
"""

import shutil
import weakref
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    TensorDictReplayBuffer,
    TensorDictRoundRobinWriter,
)

from dreammpc.data.frames import FrameStore, stacked
from dreammpc.data.sampler import WindowSampler
from dreammpc.interfaces import UsageError
from dreammpc.runtime.devices import CPU, to_device

EPISODE = 2**32
PIXELS, NEXT_PIXELS = "pixels", ("next", "pixels")
KEYS: tuple = ("action", ("next", "reward"), ("next", "terminated"))
"""What is stored of every transition, besides what was observed before and after it."""


class Replay:
    """TorchRL's replay buffer with our window sampler.

    Args:
        capacity: rows kept; rounded down to a multiple of `num_envs`.
        num_envs: B.
        window: rows per sampled window.
        batch_size: windows per sample.
        seed: of the sampler's own random stream.
        mutable: keys that are stored besides `KEYS` and that `update` may overwrite. Samples then hold
            `index` and `frame`, by which a row is found again, or found to be gone.
        ragged: every row starts a window, also one that runs past the end of its episode (or of what has been
            collected), so that ends appear at every position of a window and no episode is too short.
            Samples then hold `valid`, bool [batch_size, window, 1]: which rows belong to the episode that the
            window starts in. The others are rows of other episodes, to be left out of whatever is learned.
        obs_keys: what is observed; of `pixels` single frames come in and stacks go out.
        folder: for files that hold the rows and the frames; `None` keeps them in memory. The folder is the
            replay's own: what is in it is deleted, now and when the replay is. A device in its place holds
            the rows there, and gives batches there: windows are the same, only their numbers are sent.
        episodes: that there will be, where that is known: a frame more for each is kept.

    Raises:
        UsageError: frames on a device.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        window: int,
        batch_size: int,
        seed: int = 0,
        mutable: tuple = (),
        ragged: bool = False,
        obs_keys: tuple[str, ...] = ("observation",),
        folder: Path | torch.device | None = None,
        episodes: int = 0,
    ):
        self.device = folder if isinstance(folder, torch.device) else None
        folder = None if isinstance(folder, torch.device) else folder
        if self.device is not None and "pixels" in obs_keys:
            raise UsageError(
                "replay.storage=device holds what is observed as vectors; frames lie in memory or, with"
                " replay.storage=memmap, on disk"
            )
        self.ragged = ragged
        self.capacity, self.num_envs, self.mutable = capacity // num_envs * num_envs, num_envs, mutable
        self.generator = torch.Generator().manual_seed(seed)
        vectors = [key for key in obs_keys if key != "pixels"]
        self.keys = (*vectors, *(("next", key) for key in vectors), *KEYS, *mutable)
        ring = self.capacity, num_envs, folder, episodes
        self.frames = FrameStore(*ring) if "pixels" in obs_keys else None
        self._expected = (*self.keys, "is_init", *((PIXELS, NEXT_PIXELS) if self.frames else ()))
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            weakref.finalize(self, shutil.rmtree, folder, True)
        self._stamps = torch.zeros(self.capacity, dtype=torch.int64)
        seen = self._seen if self.frames else None
        self._sampler = WindowSampler(window, self._stamps, num_envs, self.generator, ragged, seen)
        self.buffer = TensorDictReplayBuffer(
            storage=LazyMemmapStorage(self.capacity, scratch_dir=str(folder / "rows"), existsok=True)
            if folder
            else LazyTensorStorage(self.capacity, device=self.device or "cpu"),
            sampler=self._sampler,
            writer=TensorDictRoundRobinWriter(),
        )
        self.batch_size = batch_size
        self.written = 0
        """Rows ever written."""
        self.episodes = 0
        self._origin = 0
        """Row n lies at (n - origin) modulo capacity."""
        self._frame = torch.full((num_envs,), -2, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.buffer)

    def extend(self, batch: TensorDictBase) -> None:
        """Append transitions [B, T] as a collector yields them, from any device.

        Of rows that stay on their device `is_init` alone comes to the CPU, where windows are drawn.

        Raises:
            KeyError: a key is missing (TorchRL would store uninitialized memory without a word).
        """
        available = set(batch.keys(True, True))
        missing = [key for key in self._expected if key not in available]
        if missing:
            raise KeyError(f"replay: the batch lacks {missing[0]}; it has {sorted(map(str, available))}")
        rows, is_init = batch.select(*self.keys), batch["is_init"].squeeze(-1).cpu()
        rows = to_device(rows, self.device or CPU)
        stamps = self._stamp(is_init)
        rows["frame"] = stamps.to(self.device or CPU)
        if self.frames is not None:
            frames = batch[PIXELS].cpu(), batch[NEXT_PIXELS].cpu()
            rows["frames"] = self.frames.extend(*frames, is_init)
        self._append(rows.transpose(0, 1).flatten(0, 1), stamps.T.flatten())
        self.written += rows.numel()

    def _append(self, rows: TensorDictBase, stamps: Tensor) -> None:
        first = self.buffer.writer._cursor
        self.buffer.extend(rows)
        # What `extend` returns is on the device, and would have to be waited for.
        self._stamps[(first + torch.arange(len(rows))) % self.capacity] = stamps

    def _stamp(self, is_init: Tensor) -> Tensor:
        """Stamps [B, T] that count up within an episode and jump where `is_init` [B, T] starts a new one."""
        stamps = []
        for starts in is_init.unbind(1):
            numbers = self.episodes + starts.cumsum(0)
            self._frame = torch.where(starts, numbers * EPISODE, self._frame + 1)
            self.episodes += int(starts.sum())
            stamps.append(self._frame)
        return torch.stack(stamps, 1)

    def sample(self, size: int | None = None) -> TensorDictBase:
        """A batch of windows, TensorDict [size, window], by default of `batch_size`; `pixels` are stacks of
        three frames.
        """
        return self.complete(self.draw(size))

    def draw(self, size: int | None = None) -> TensorDictBase:
        """What `complete` turns into a batch, TensorDict [size].

        It holds no more than must travel to the device that trains: transitions with each frame once, or, if
        the replay lies on that device, the rows' numbers and the stamps of what may be overwritten.
        """
        size = self.batch_size if size is None else size
        if self.device is not None:
            index, _ = self._sampler.sample(self.buffer.storage, size)
            known = {"frame": self._stamps[index]} if self.mutable else {}  # here `update` needs no device
            return TensorDict({"index": index, **known}, [size])
        drawn = self.buffer.sample(size)
        if self.frames is not None:
            drawn.batch_size = [size]
            drawn["frames"] = self.frames.gather(drawn["frames"])
        return drawn

    def complete(self, drawn: TensorDictBase) -> TensorDictBase:
        """Turn what `draw` gave into a batch; a batch stays as it is.

        Only tensor operations are used, so that a captured graph may contain them. `drawn` lies on the device
        that trains, or anywhere if the replay is on the CPU.
        """
        batch, given = drawn.copy(), set(drawn.keys())
        if "action" not in given:
            # All of the room, however much is filled: a graph would keep today's length.
            batch = self._rows[drawn["index"].to(self.device)]
        if "frames" in given:
            before, after = stacked(batch.pop("frames"))
            batch.batch_size = before.shape[:2]
            batch[PIXELS], batch[NEXT_PIXELS] = before, after
        if self.ragged and "valid" not in given:
            frames = batch["frame"]
            steps = torch.arange(frames.shape[1], device=frames.device)
            batch["valid"] = (frames - frames[:, :1] == steps).unsqueeze(-1)
        return batch

    def _seen(self, storage: Any, rows: Tensor) -> Tensor:
        """Which of those rows have all their frames still."""
        return storage.get(slice(None))["frames"][rows, 0] >= self.frames.oldest  # type: ignore[union-attr]

    @property
    def _rows(self) -> TensorDictBase:
        return self.buffer.storage._storage  # type: ignore[union-attr]

    def update(self, index: Tensor, stamps: Tensor, values: dict[str, Any]) -> Tensor:
        """Overwrite rows that were sampled, but for those whose place another row has taken since.

        Args:
            index, stamps: the samples' `index` and `frame`, flat: [M].
            values: entries or nested entries of `mutable`, each [M, …]; of a row named twice the last.

        Returns:
            Which rows were updated, [M].

        Raises:
            KeyError: an entry that is not among `mutable`.
        """
        patch, index = TensorDict(values, [len(index)]).to(self.device or CPU), index.cpu()
        for key in patch.keys(True, True):
            if key not in self.mutable:
                raise KeyError(f"replay: {key} may not be changed; of its rows only {list(self.mutable)} may")
        there = self._stamps[index] == stamps.cpu()
        last = {row: i for i, row in enumerate(index.tolist()) if there[i]}
        rows, places = torch.tensor([*last.items()], dtype=torch.int64).view(-1, 2).T.to(self.device or CPU)
        for key in patch.keys(True, True):
            self._rows.get(key)[rows] = patch.get(key)[places]
        return there

    def rows(self, start: int, stop: int) -> TensorDictBase:
        """Rows written as number `start` to `stop`, in order of writing, as a copy.

        Raises:
            IndexError: they have been overwritten or not yet written.
        """
        if start < self.written - len(self) or stop > self.written:
            raise IndexError(f"replay holds rows {self.written - len(self)} to {self.written}")
        index = (torch.arange(start, stop) - self._origin) % self.capacity
        rows = self.buffer.storage.get(index)
        return rows if self.device is None else rows.cpu()

    def frames_of(self, rows: TensorDictBase) -> Tensor | None:
        """All frames [n, 3, 64, 64] that `rows` name, from first to last; `None` without pixels."""
        if self.frames is None:
            return None
        numbers = rows["frames"]
        return self.frames.get(int(numbers.min()), int(numbers.max()) + 1)

    def put_frames(self, rows: TensorDictBase, frames: Tensor) -> None:
        """Put back what `frames_of` gave, before `restore`."""
        assert self.frames is not None
        self.frames.put(int(rows["frames"].min()), frames)

    def restore(self, rows: list[TensorDictBase], state: dict[str, Any]) -> None:
        """Refill from `rows`, consecutive chunks that end at `state["written"]`, and from `state_dict()`.

        Raises:
            UsageError: they were collected in another number of environments.
        """
        if (had := len(state["frame"])) != self.num_envs:
            raise UsageError(
                f"the checkpoint's replay was collected in {had} environments, and there are {self.num_envs}"
                " now"
            )
        self.buffer.empty()
        self._origin = 0
        if rows:
            content: TensorDictBase = torch.cat(rows)[-self.capacity :]  # type: ignore[arg-type, assignment]
            start = state["written"] - len(content)
            # TorchRL fills from index 0. A full ring is rotated so that row n lies at n modulo capacity, as
            # before; one that is not full (the capacity has grown) begins at its oldest row.
            self._origin = 0 if len(content) == self.capacity else start
            index = (torch.arange(start, state["written"]) - self._origin) % self.capacity
            content = content[torch.argsort(index)]
            self._append(to_device(content, self.device or CPU), content["frame"])
            self.buffer.writer._cursor = (state["written"] - self._origin) % self.capacity
        self.written, self.episodes = state["written"], state["episodes"]
        self._frame = torch.full((self.num_envs,), -2, dtype=torch.int64)
        self.generator.set_state(state["generator"])
        if self.frames is not None:
            self.frames.load_state_dict(state["frames"])

    def state_dict(self) -> dict[str, Any]:
        """Counters and the random stream, without the rows."""
        return {
            "written": self.written,
            "episodes": self.episodes,
            "frame": self._frame.clone(),
            "generator": self.generator.get_state(),
            **({"frames": self.frames.state_dict()} if self.frames else {}),
        }

    def carry_on(self, state: dict[str, Any]) -> None:
        """After `restore`: the unfinished episodes of `state_dict()` go on; else fresh ones start."""
        self._frame = state["frame"].clone()
