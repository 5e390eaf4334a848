"""What the Trainer iterates: act in the environments, then sample as many batches as the update ratio asks.

The feed owns the clock. Agent steps count decisions over all environments; environment steps, the only
clock that users see, count simulator control steps: agent steps × action repeat. Updates on recorded data,
which come before the first of them, are counted down: the clock is -1 before the last such update.
"""

from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.data.collector import get_state, set_state
from dreammpc.data.demonstrations import Demonstrations
from dreammpc.data.replay import Replay
from dreammpc.runtime.devices import CPU, to_device


class Turn:
    """Some of the updates that are owed: iterate it once, and each batch is drawn when its update comes.

    `Feed.complete` turns what is drawn into a batch, where the updates run.

    It ends early if the feed is stopped, so that a signal waits for one update and not for all.
    """

    def __init__(self, feed: "Feed", size: int):
        self.feed, self.size = feed, size

    def __iter__(self) -> Iterator[TensorDictBase]:
        for i in range(self.size):
            if i and self.feed.stopped:
                return
            yield self.feed.draw()


class Turns:
    """A feed for a Trainer that gets one `Turn` at a time: all updates that a collect brings, in one step.

    What is owed for the seed phase comes in turns of the same size.
    """

    def __init__(self, feed: "Feed"):
        self.feed = feed

    def __len__(self) -> int:
        return len(self.feed)

    def __iter__(self) -> "Turns":
        return self

    def __next__(self) -> Turn:
        self.feed.collect_until_owed()
        return Turn(self.feed, min(self.feed.turn, self.feed.offline_left or int(self.feed.owed)))


class Feed:
    """An iterable of replay batches that collects on the way.

    The first `seed_steps` agent steps are random; then as many updates follow at once as the update ratio
    owes for them, and from there acting and updating alternate. Stops after `total_steps` agent steps.

    Of several processes each has a feed, and all of them keep the same time: everyone collects as much as
    this one does, so that a step here counts `world_size` steps, and updates come due together.

    Args:
        collector: yields TensorDicts [B, T] (see `make_collector`).
        agent: the collector's policy, with the switch `random`.
        replay: where transitions go.
        seed_steps: agent steps of random action.
        total_steps: agent steps after which the feed ends.
        utd: updates per agent step.
        action_repeat: environment steps per agent step.
        world_size: processes that train together; all steps above are those of all of them.
        data: recorded data, from which `data.updates` updates are made before anything is collected, and a
            share of each batch afterwards.
        random: act at random in the first `seed_steps`; else the agent acts in them too.
    """

    def __init__(
        self,
        collector: Any,
        agent: Any,
        replay: Replay,
        seed_steps: int,
        total_steps: int,
        utd: float,
        action_repeat: int,
        world_size: int = 1,
        data: Demonstrations | None = None,
        random: bool = True,
    ):
        self.collector, self.agent, self.replay = collector, agent, replay
        self.seed_steps, self.total_steps = seed_steps, total_steps
        self.utd, self.action_repeat, self.world_size = utd, action_repeat, world_size
        self.data, self.random = data, random
        self.offline = 0 if data is None else data.updates
        """Updates on recorded data alone that a run begins with."""
        self.agent_steps, self.updates, self.owed = 0, 0, 0.0
        self.turn = 1
        """Updates that a collect brings, at least one."""
        self.stopped = False
        """Set by whoever wants the feed to end, also within the seed phase, where no update comes."""
        self.finished: list[tuple[float, int]] = []
        """Return and length (agent steps) of episodes that ended since somebody last emptied the list."""
        self._return = torch.zeros(replay.num_envs)
        self._length = torch.zeros(replay.num_envs, dtype=torch.int64)
        self._frames: Iterator[TensorDictBase] | None = None

    @property
    def env_steps(self) -> int:
        return self.agent_steps * self.action_repeat

    @property
    def offline_left(self) -> int:
        """Updates on recorded data alone that are still to be made."""
        return max(self.offline - self.updates, 0)

    @property
    def clock(self) -> int:
        """Environment steps; before them, as a negative number, the updates on recorded data to come."""
        return -self.offline_left or self.env_steps

    def told(self) -> str:
        """What the clock says, in words."""
        offline = f" and {self.offline - self.offline_left} updates on recorded data" if self.offline else ""
        return f"{self.env_steps} environment steps{offline}"

    @property
    def total_env_steps(self) -> int:
        return self.total_steps * self.action_repeat

    @property
    def exhausted(self) -> bool:
        """Whether all steps have been taken and all updates made."""
        return not self.offline_left and self.agent_steps >= self.total_steps and self.owed < 1

    def progress(self) -> float:
        """The share of all steps that has been taken, from 0 to 1; an update on recorded data alone counts as
        as many steps as come with an update later."""
        before = self.offline / (self.utd or 1)
        done = self.agent_steps + min(self.updates, self.offline) / (self.utd or 1)
        return min(done / (before + self.total_steps), 1.0)

    def __len__(self) -> int:
        # Without a length Lightning prefetches a batch: collection would run one step ahead of the weights.
        return 10**9

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> TensorDictBase:
        return self.complete(self.draw())

    def draw(self) -> TensorDictBase:
        """What the next update learns from, see `Replay.draw`."""
        self.collect_until_owed()
        offline = self.offline_left > 0
        self.owed -= not offline
        self.updates += 1
        if self.data is None:
            return self.replay.draw()
        return self.data.draw(self.replay, alone=offline)

    def complete(self, drawn: TensorDictBase) -> TensorDictBase:
        """Turn what `draw` gave into a batch, see `Replay.complete`."""
        return self.replay.complete(drawn)

    def turns(self, device: torch.device = CPU) -> Turns:
        """What a Trainer iterates that trains on `device`, with an algorithm that takes several updates in a
        training step.
        """
        for replay in (self.replay, *([] if self.data is None else [self.data.replay])):
            if replay.frames is not None:
                replay.frames.pinned = device.type == "cuda"
        return Turns(self)

    def collect_until_owed(self) -> None:
        """Collect until an update is owed.

        Raises:
            StopIteration: the feed has ended, or was stopped.
        """
        while not self.offline_left and self.owed < 1:
            if self.stopped or self.agent_steps >= self.total_steps:
                raise StopIteration
            self._collect()

    def _collect(self) -> None:
        self.agent.random = self.random and self.agent_steps < self.seed_steps
        if self._frames is None:
            self._frames = iter(self.collector)
        try:
            batch = next(self._frames)
        except StopIteration as error:  # a Trainer would take it for the end of the training
            raise RuntimeError("collection ended, though it goes on for ever") from error
        self.replay.extend(batch)
        steps = batch.numel() * self.world_size
        self.agent_steps += steps
        self._count_returns(batch)
        if self.agent_steps >= self.seed_steps:
            new = self.agent_steps if self.updates == self.offline and self.owed == 0 else steps
            self.owed += new * self.utd
            self.turn = max(1, int(steps * self.utd))

    def _count_returns(self, batch: TensorDictBase) -> None:
        batch = to_device(batch.select("is_init", ("next", "reward"), ("next", "done")), CPU)
        rewards, dones = batch["next", "reward"].squeeze(-1), batch["next", "done"].squeeze(-1)
        starts = batch["is_init"].squeeze(-1)
        for start, reward, done in zip(starts.unbind(1), rewards.unbind(1), dones.unbind(1), strict=True):
            self._return[start], self._length[start] = 0.0, 0  # an episode may have been cut short
            self._return += reward
            self._length += 1
            if done.any():
                self.finished += zip(self._return[done].tolist(), self._length[done].tolist(), strict=True)
                self._return[done], self._length[done] = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """Clock, agent, environments and unfinished episodes, as plain containers."""
        return {
            "agent_steps": self.agent_steps,
            "updates": self.updates,
            "owed": self.owed,
            "turn": self.turn,
            "random": self.agent.random,
            "checked": self.agent.checked,
            "finished": [list(episode) for episode in self.finished],
            "return": self._return.clone(),
            "length": self._length.clone(),
            "collector": get_state(self.collector),
            "random_first": self.random,
            **({} if self.data is None else {"offline": self.offline, "data": self.data.state_dict()}),
        }

    def write_back(self, index: Tensor, stamps: Tensor, values: dict[str, Any]) -> None:
        """`Replay.update` of rows of a batch, wherever they came from."""
        if self.data is None:
            self.replay.update(index, stamps, values)
        else:
            self.data.update(self.replay, index, stamps, values)

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Go on where `state_dict` was taken.

        Raises:
            UsageError: the recorded data are other ones.

        Returns:
            Whether the episodes go on too; where the environments do not allow it fresh ones start.
        """
        self.agent_steps, self.updates, self.owed = state["agent_steps"], state["updates"], state["owed"]
        self.turn = state.get("turn", 1)
        self.agent.random = state.get("random", False)  # True also in the updates on the seed phase
        self.agent.checked = state.get("checked", False)
        self.finished = [(score, length) for score, length in state.get("finished", [])]
        self.random = state.get("random_first", True)
        if self.agent_steps or self.data is None:  # else there may be more such updates now
            self.offline = state.get("offline", 0)
        if self.data is None:  # what was left of them cannot be made
            self.offline = min(self.offline, self.updates)
        if self.data is not None and "data" in state:
            self.data.load_state_dict(state["data"])
        if not set_state(self.collector, state.get("collector")):
            return False
        self._return, self._length = state["return"].clone(), state["length"].clone()
        return True

    def close(self) -> None:
        """Shut the collector and its environments down."""
        self.collector.shutdown()
