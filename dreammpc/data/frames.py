"""Frames of a replay: each stored once as bytes, and stacked by number when they are sampled.

A transition holds four numbers, those of the frames (t-2, t-1, t, t+1), in which an episode's first frame
stands for those before it. So nothing about episodes has to be known to stack.
"""

from pathlib import Path

import torch
from tensordict import MemoryMappedTensor
from torch import Tensor

from dreammpc.interfaces import FRAME_SHAPE, STACK


def ring_size(capacity: int, num_envs: int, episodes: int = 0) -> int:
    """Frames kept for `capacity` transitions: one each, and 2 % for the first frames of episodes, or as many
    as there are `episodes`, if that is more.

    With more episodes the frames of the oldest transitions are gone before these are, and
    they are not sampled any more.
    """
    return capacity + max(capacity // 50 + 4 * num_envs, episodes)


class FrameStore:
    """A ring of frames, numbered in order of writing: number n lies at n modulo the size.

    Args:
        capacity: transitions to serve.
        num_envs: B.
        folder: of a file for the frames; `None` keeps them in memory.
        episodes: that there will be, where that is known.
    """

    def __init__(self, capacity: int, num_envs: int, folder: Path | None = None, episodes: int = 0):
        self.size, self.folder = ring_size(capacity, num_envs, episodes), folder
        self.pinned = False
        """Whether what is gathered is to lie in pinned memory, for a GPU."""
        self.written = 0
        """Frames ever written."""
        self._recent = torch.full((num_envs, STACK), -1)
        self.frame_shape: tuple[int, ...] = FRAME_SHAPE
        """Shape of one; another number of channels if the first that comes has it."""
        self._ring: Tensor | None = None

    @property
    def oldest(self) -> int:
        """The number of the oldest frame that is still there."""
        return max(0, self.written - self.size)

    @property
    def ring(self) -> Tensor:
        """The frames by place, made on first use; memory is taken as it is written."""
        if self._ring is None:
            shape = (self.size, *self.frame_shape)
            if self.folder is None:
                self._ring = torch.empty(shape, dtype=torch.uint8)
            else:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = self.folder / "frames.memmap"
                self._ring = MemoryMappedTensor.empty(shape, dtype=torch.uint8, filename=file)
        return self._ring

    def extend(self, before: Tensor, after: Tensor, is_init: Tensor) -> Tensor:
        """Store what transitions saw.

        Args:
            before, after: frames [B, T, 3, 64, 64]; `before` is read only where an episode starts.
            is_init: [B, T], where one does.

        Returns:
            Numbers [B, T, 4] of the frames (t-2, t-1, t, t+1).
        """
        numbers = []
        for t in range(before.shape[1]):
            starts = is_init[:, t] | (self._recent[:, 0] < 0)
            if starts.any():
                first = self._append(before[starts, t])
                self._recent[starts] = first.unsqueeze(1).expand(-1, STACK)
            now = torch.cat([self._recent, self._append(after[:, t]).unsqueeze(1)], 1)
            self._recent = now[:, 1:].clone()
            numbers.append(now)
        return torch.stack(numbers, 1)

    def _append(self, frames: Tensor) -> Tensor:
        self.put(self.written, frames)
        self.written += len(frames)
        return torch.arange(self.written - len(frames), self.written)

    def put(self, start: int, frames: Tensor) -> None:
        """Write frames [n, 3, 64, 64] as the numbers from `start` on."""
        if self._ring is None:
            self.frame_shape = tuple(frames.shape[1:])
        start, frames = start + max(0, len(frames) - self.size), frames[-self.size :]
        self.ring.index_copy_(0, torch.arange(start, start + len(frames)) % self.size, frames)

    def get(self, start: int, stop: int) -> Tensor:
        """Frames `start` to `stop` by number, as a copy."""
        return self.ring.index_select(0, torch.arange(start, stop) % self.size)

    def gather(self, numbers: Tensor) -> Tensor:
        """What S windows of H transitions saw, each frame once: [S, H+3, 3, 64, 64].

        Args:
            numbers: of consecutive transitions, [S, H, 4].
        """
        needed = torch.cat([numbers[:, 0], numbers[:, 1:, -1]], 1) % self.size
        shape = (*needed.shape, *self.frame_shape)
        found = torch.empty(needed.numel(), *self.frame_shape, dtype=torch.uint8, pin_memory=self.pinned)
        return torch.index_select(self.ring, 0, needed.flatten(), out=found).view(shape)

    def state_dict(self) -> dict[str, int | Tensor]:
        """The counter, and which frames an unfinished episode saw last."""
        return {"written": self.written, "recent": self._recent.clone()}

    def load_state_dict(self, state: dict) -> None:
        """Set what `state_dict` gave; the frames themselves come by `put`."""
        self.written = state["written"]
        if state["recent"].shape == self._recent.shape:
            self._recent = state["recent"].clone()
        else:
            self._recent.fill_(-1)


def stacked(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Stacks [S, H, 9, 64, 64] before and after each transition, as views of `frames` [S, H+3, 3, 64, 64]."""
    slices, needed, channels, *plane = frames.shape
    strides = frames.stride()
    shape = slices, needed - STACK + 1, STACK * channels, *plane
    views = frames.as_strided(shape, (strides[0], strides[1], *strides[2:]))
    return views[:, :-1], views[:, 1:]
