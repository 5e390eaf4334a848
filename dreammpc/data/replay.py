"""Replay of transitions, sampled as windows within an episode, or cut short by its end.

Rows lie in time order, the B environments interleaved: environment b's next row is B rows on. Each row has
a stamp `frame`, episode number · 2³² + step, so that rows are consecutive if their stamps are. Frames, where
there are any, lie beside the rows, each once (see `data/frames.py`).
"""

import shutil
import weakref
from collections.abc import Callable
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
from torchrl.data.replay_buffers.samplers import Sampler

from dreammpc.data.frames import FrameStore
from dreammpc.interfaces import RunError

EPISODE = 2**32
PIXELS, NEXT_PIXELS = "pixels", ("next", "pixels")
KEYS: tuple = ("action", ("next", "reward"), ("next", "terminated"))
"""What is stored of every transition, besides what was observed before and after it."""


class WindowSampler(Sampler):
    """Draws windows of consecutive rows, uniformly over all windows that lie within one episode.

    Starts are drawn uniformly over all rows and rejected if the window's last stamp does not follow from
    its first; the whole batch is then read with one gather. With `ragged` nothing is rejected: a window may
    run past the end of its episode, into rows that say nothing about it.

    Args:
        window: rows in a window.
        stride: rows between two steps of one environment, the number of environments.
        generator: the stream of random starts; `None` uses torch's global one.
        ragged: see above.
        usable: which of the rows at some indices may start a window; `None` allows all.
    """

    def __init__(
        self,
        window: int,
        stride: int = 1,
        generator: torch.Generator | None = None,
        ragged: bool = False,
        usable: Callable[[Any, Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.window, self.stride, self.generator, self.ragged = window, stride, generator, ragged
        self.usable = usable

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict]:
        """Row indices [batch_size, window] into `storage`.

        Raises:
            RunError: hardly any row starts a whole window (episodes shorter than the window).
        """
        rows, span = len(storage), (self.window - 1) * self.stride
        offsets = torch.arange(0, span + 1, self.stride)
        if self.ragged and self.usable is None:
            starts = torch.randint(rows, (batch_size, 1), generator=self.generator)
            return (starts + offsets) % rows, {}
        frames = storage.get(slice(None))["frame"]
        accepted: list[Tensor] = []
        missing = batch_size
        for _ in range(100):
            starts = torch.randint(rows, (missing + 64 + missing // 8,), generator=self.generator)
            if not self.ragged:
                ends = (starts + span) % rows
                starts = starts[frames[ends] - frames[starts] == self.window - 1]
            if self.usable is not None:
                starts = starts[self.usable(storage, starts)]
            starts = starts[:missing]
            accepted.append(starts)
            missing -= len(starts)
            if missing == 0:
                return (torch.cat(accepted).unsqueeze(1) + offsets) % rows, {}
        raise RunError(
            f"replay: no windows of {self.window} steps within one episode found in {rows} rows;"
            " episodes are too short for algorithm.horizon"
        )

    def _empty(self) -> None: ...

    def dumps(self, path) -> None: ...

    def loads(self, path) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Replay:
    """TorchRL's replay buffer with our window sampler.

    Args:
        capacity: rows kept; rounded down to a multiple of `num_envs`.
        num_envs: B.
        window: rows per sampled window.
        batch_size: windows per sample.
        seed: of the sampler's own random stream.
        mutable: keys that are stored besides `KEYS` and that `update` may overwrite. Samples then hold
            `index` and `index_generation`, by which a row is found again, or found to be gone.
        ragged: every row starts a window, also one that runs past the end of its episode (or of what has been
            collected), so that ends appear at every position of a window and no episode is too short.
            Samples then hold `valid`, bool [batch_size, window, 1]: which rows belong to the episode that the
            window starts in. The others are rows of other episodes, to be left out of whatever is learned.
        obs_keys: what is observed; of `pixels` single frames come in and stacks go out.
        folder: for files that hold the rows and the frames; `None` keeps them in memory. The folder is the
            replay's own: what is in it is deleted, now and when the replay is.
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
        folder: Path | None = None,
    ):
        self.ragged = ragged
        self.capacity, self.num_envs, self.mutable = capacity // num_envs * num_envs, num_envs, mutable
        self.generator = torch.Generator().manual_seed(seed)
        vectors = [key for key in obs_keys if key != "pixels"]
        self.keys = (*vectors, *(("next", key) for key in vectors), *KEYS, *mutable)
        self.frames = FrameStore(self.capacity, num_envs, folder) if "pixels" in obs_keys else None
        self._expected = (*self.keys, "is_init", *((PIXELS, NEXT_PIXELS) if self.frames else ()))
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            weakref.finalize(self, shutil.rmtree, folder, True)
        self.buffer = TensorDictReplayBuffer(
            storage=LazyMemmapStorage(self.capacity, scratch_dir=str(folder / "rows"), existsok=True)
            if folder
            else LazyTensorStorage(self.capacity),
            sampler=WindowSampler(
                window, num_envs, self.generator, ragged, self._seen if self.frames else None
            ),
            writer=TensorDictRoundRobinWriter(track_generations=bool(mutable)),
            batch_size=batch_size,
        )
        self.written = 0
        """Rows ever written."""
        self.episodes = 0
        self._origin = 0
        """Row n lies at (n - origin) modulo capacity."""
        self._frame = torch.full((num_envs,), -2, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.buffer)

    def extend(self, batch: TensorDictBase) -> None:
        """Append transitions [B, T] as a collector yields them.

        Raises:
            KeyError: a key is missing (TorchRL would store uninitialised memory without a word).
        """
        available = set(batch.keys(True, True))
        missing = [key for key in self._expected if key not in available]
        if missing:
            raise KeyError(f"replay: the batch lacks {missing[0]}; it has {sorted(map(str, available))}")
        rows, is_init = batch.select(*self.keys), batch["is_init"].squeeze(-1)
        rows["frame"] = self._stamp(is_init)
        if self.frames is not None:
            rows["frames"] = self.frames.extend(batch[PIXELS], batch[NEXT_PIXELS], is_init)
        self.buffer.extend(rows.transpose(0, 1).flatten(0, 1))
        self.written += rows.numel()

    def _stamp(self, is_init: Tensor) -> Tensor:
        """Stamps [B, T] that count up within an episode and jump where `is_init` [B, T] starts a new one."""
        stamps = []
        for starts in is_init.unbind(1):
            numbers = self.episodes + starts.cumsum(0)
            self._frame = torch.where(starts, numbers * EPISODE, self._frame + 1)
            self.episodes += int(starts.sum())
            stamps.append(self._frame)
        return torch.stack(stamps, 1)

    def sample(self) -> TensorDictBase:
        """A batch of windows, TensorDict [batch_size, window]; `pixels` are stacks of three frames."""
        batch = self.buffer.sample()
        if self.ragged:
            frames = batch["frame"]
            batch["valid"] = (frames - frames[:, :1] == torch.arange(frames.shape[1])).unsqueeze(-1)
        if self.frames is not None:
            batch[PIXELS], batch[NEXT_PIXELS] = self.frames.stacks(batch.pop("frames"))
        return batch

    def _seen(self, storage: Any, rows: Tensor) -> Tensor:
        """Which of those rows have all their frames still."""
        return storage.get(slice(None))["frames"][rows, 0] >= self.frames.oldest  # type: ignore[union-attr]

    def update(self, index: Tensor, generation: Tensor, values: dict[str, Any]) -> Tensor:
        """Overwrite rows that were sampled, but for those whose place another row has taken since.

        Args:
            index, generation: the samples' `index` and `index_generation`, flat: [M].
            values: entries or nested entries of `mutable`, each [M, …].

        Returns:
            Which rows were updated, [M].

        Raises:
            KeyError: an entry that is not among `mutable`.
        """
        patch = TensorDict(values, [len(index)]).cpu()
        for key in patch.keys(True, True):
            if key not in self.mutable:
                raise KeyError(f"replay: {key} may not be changed; of its rows only {list(self.mutable)} may")
        result = self.buffer.update_if_present(index=index.cpu(), generation=generation.cpu(), patch=patch)
        return result.updated

    def rows(self, start: int, stop: int) -> TensorDictBase:
        """Rows written as number `start` to `stop`, in order of writing, as a copy.

        Raises:
            IndexError: they have been overwritten or not yet written.
        """
        if start < self.written - len(self) or stop > self.written:
            raise IndexError(f"replay holds rows {self.written - len(self)} to {self.written}")
        index = (torch.arange(start, stop) - self._origin) % self.capacity
        return self.buffer.storage.get(index)

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
        """Refill from `rows`, consecutive chunks that end at `state["written"]`, and from `state_dict()`."""
        self.buffer.empty()
        self._origin = 0
        if rows:
            content = torch.cat(rows)[-self.capacity :]
            start = state["written"] - len(content)
            # TorchRL fills from index 0. A full ring is rotated so that row n lies at n modulo capacity, as
            # before; one that is not full (the capacity has grown) begins at its oldest row.
            self._origin = 0 if len(content) == self.capacity else start
            index = (torch.arange(start, state["written"]) - self._origin) % self.capacity
            self.buffer.extend(content[torch.argsort(index)])
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
