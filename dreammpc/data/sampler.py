"""Draws windows of a replay's rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import Sampler

from dreammpc.interfaces import RunError


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
        stamps: of all rows of the storage, on the CPU.
        usable: which of the rows at some indices may start a window; `None` allows all.
    """

    def __init__(
        self,
        window: int,
        stamps: Tensor,
        stride: int = 1,
        generator: torch.Generator | None = None,
        ragged: bool = False,
        usable: Callable[[Any, Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.window, self.stride, self.generator, self.ragged = window, stride, generator, ragged
        self.stamps, self.usable = stamps, usable

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
        frames = self.stamps
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
