"""From environments to batches: collector (env × agent → transitions), replay, and the Trainer's feed."""

from dreammpc.data.collector import make_collector
from dreammpc.data.feed import Feed
from dreammpc.data.memory import check_replay_memory, replay_bytes, replay_place
from dreammpc.data.replay import Replay
from dreammpc.data.workers import WorkerCollector, WorkersDied

__all__ = [
    "Feed",
    "Replay",
    "WorkerCollector",
    "WorkersDied",
    "check_replay_memory",
    "make_collector",
    "replay_bytes",
    "replay_place",
]
