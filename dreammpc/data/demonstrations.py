"""Recorded data beside what is collected: the share of each batch that comes from them."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.data.replay import Replay
from dreammpc.interfaces import UsageError


class Demonstrations:
    """A replay of recorded data, to which nothing is added.

    Args:
        replay: with all of the data; its batches are as large as those of the replay of what is collected.
        checksum: of the data.
        updates: that are made from it alone, before anything is collected.
        share: of each batch that comes from it afterwards.
    """

    def __init__(self, replay: Replay, checksum: str, updates: int, share: float):
        self.replay, self.checksum, self.updates, self.share = replay, checksum, updates, share

    def draw(self, collected: Replay, alone: bool) -> TensorDictBase:
        """Recorded windows `alone`, or as many as their share, and others that were `collected`.

        The `index` of a recorded row is beyond those of what is collected. The result is like that of
        `Replay.draw`. Replays on a device give whole batches instead, since their rows lie in two places.
        """
        take = Replay.draw if collected.device is None else Replay.sample
        size = self.replay.batch_size
        ours = size if alone else round(self.share * size)
        if ours == 0:
            return take(collected, size)
        recorded = take(self.replay, ours)
        recorded["index"] = recorded["index"] + collected.capacity
        if ours == size:
            return recorded
        both: TensorDictBase = torch.cat([take(collected, size - ours), recorded])  # type: ignore
        return both[spread(size - ours, ours)] if self.replay.mutable else both

    def update(self, collected: Replay, index: Tensor, stamps: Tensor, values: Mapping[str, Any]) -> None:
        """`Replay.update` of rows [M] of a batch that `sample` gave, where they came from."""
        patch, theirs = TensorDict(dict(values), [len(index)]), index >= collected.capacity
        for replay, mine, offset in ((collected, ~theirs, 0), (self.replay, theirs, collected.capacity)):
            if mine.any():
                replay.update(index[mine] - offset, stamps[mine], dict(patch[mine].items()))

    def state_dict(self) -> dict[str, Any]:
        """The random stream, what has been overwritten, and by what the data are known again."""
        rows = self.replay.rows(0, self.replay.written).select(*self.replay.mutable)
        mutable = {"/".join(key): rows[key] for key in rows.keys(True, True) if isinstance(key, tuple)}
        generator = self.replay.generator.get_state()
        return {"checksum": self.checksum, "generator": generator, "mutable": mutable}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            UsageError: the data are other ones.
        """
        if state["checksum"] != self.checksum:
            raise UsageError(
                "the run learned from other data than those that data= names now (checksum"
                f" {state['checksum']}, now {self.checksum}); data=null goes on without them"
            )
        self.replay.generator.set_state(state["generator"])
        if state["mutable"]:
            stamps = self.replay.rows(0, self.replay.written)["frame"]
            values = {tuple(key.split("/")): value for key, value in state["mutable"].items()}
            patch = TensorDict(values, [len(stamps)])
            self.replay.update(torch.arange(len(stamps)), stamps, dict(patch.items()))


def spread(first: int, second: int) -> Tensor:
    """The order in which `first` things and `second` after them are mixed evenly."""
    places = torch.cat([(torch.arange(count) + 0.5) / count for count in (first, second)])
    return torch.argsort(places, stable=True)
