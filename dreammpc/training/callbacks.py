"""What happens beside the updates: averages to the loggers, progress, a graceful stop."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from dreammpc.data import Feed
from dreammpc.interfaces import RunError
from dreammpc.support.progress import Phase, Progress
from dreammpc.training.evaluation_callback import Evaluation
from dreammpc.training.owner import check_all
from dreammpc.training.replicas import all_gather, all_reduce_max


class Monitor(Callback):
    """Averages the update's metrics on the device and logs them every so many environment steps.

    `self.log` of Lightning costs a quarter of a millisecond a key on every call; here an update costs one
    addition.
    """

    def __init__(self, feed: Feed, every: int = 1000):
        self.feed, self.every = feed, every
        self.recent: dict[str, float] = {}
        """The last values logged, for the progress bar."""
        self._next: int | None = None
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        """Sums of metrics, and of how many updates, by the names that an update returned."""
        self._began = (0.0, 0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._next is None:
            self._next = self.feed.clock + self.every
        self._sums = {names: (sums.to(pl_module.device), n) for names, (sums, n) in self._sums.items()}
        self._began = (time.perf_counter(), self.feed.updates, self.feed.env_steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for update in outputs.get("updates", (outputs,)):
            names, values = tuple(update), torch.stack(list(update.values()))
            total, count = self._sums.get(names, (0.0, 0))
            self._sums[names] = total + values, count + 1
        if self._next is None or self.feed.clock < self._next:
            return
        now, updates, steps = time.perf_counter(), self.feed.updates, self.feed.env_steps
        seconds = now - self._began[0]
        metrics = self._averages()
        metrics["speed/updates_per_s"] = (updates - self._began[1]) / seconds
        metrics["speed/env_steps_per_s"] = (steps - self._began[2]) / seconds
        finished = [episode for mine in all_gather(trainer, self.feed.finished) for episode in mine]
        self.feed.finished.clear()
        if finished:
            returns, lengths = zip(*finished, strict=True)
            metrics["train/return"] = sum(returns) / len(returns)
            metrics["train/length"] = sum(lengths) / len(lengths)
        self.recent |= metrics
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self.feed.clock)
        self._next, self._began = self.feed.clock + self.every, (now, updates, steps)

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last line, so that a resumed run logs the lines of an uninterrupted one."""
        sums = [[list(names), values.cpu(), count] for names, (values, count) in self._sums.items()]
        return {"next": self._next, "sums": sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next = state["next"]
        self._sums = {tuple(names): (values, count) for names, values, count in state["sums"]}

    def _averages(self) -> dict[str, float]:
        """Each metric's mean over the updates that returned it, of `count/…` the sum; the sums start anew."""
        totals: dict[str, tuple[float, int]] = {}
        for names, (values, count) in self._sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                total, number = totals.get(name, (0.0, 0))
                totals[name] = total + value, 1 if name.startswith("count/") else number + count
        self._sums.clear()
        return {name: total / number for name, (total, number) in totals.items()}


class OwnFolder(Callback):
    """Ends a training whose folder was deleted or has another owner, before it writes there again."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        check_all()


class ProgressBar(Callback):
    """Shows what a training does: random actions, the updates owed for them, environment steps with returns.

    Compilations interrupt all of them, whoever asked for them.
    """

    def __init__(self, feed: Feed, monitor: Monitor, evaluation: Evaluation, progress: Progress):
        self.feed, self.monitor, self.evaluation, self.progress = feed, monitor, evaluation, progress
        self._shown = contextlib.ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown.enter_context(self.progress.watching(self._phase, self._notes))
        self._shown.enter_context(compilations(self.progress))

    def _phase(self) -> Phase:
        feed, first = self.feed, min(self.feed.seed_steps, self.feed.total_steps)
        if feed.offline_left:
            return Phase("learning from recorded data", feed.updates, feed.offline, "updates")
        if feed.agent_steps < first:
            which = "random actions" if feed.random else "first actions"
            return Phase(which, feed.env_steps, first * feed.action_repeat, "env steps")
        if feed.agent.random and feed.owed + feed.updates > 0:
            return Phase("learning from random data", feed.updates, feed.updates + int(feed.owed), "updates")
        return Phase("training", feed.env_steps, feed.total_env_steps, "env steps")

    def _notes(self) -> dict[str, str]:
        if self.feed.agent.random:
            return {}
        notes = {}
        if "train/return" in self.monitor.recent:
            notes["return"] = f"{self.monitor.recent['train/return']:.0f}"
        if "eval/return" in self.evaluation.recent:
            notes["eval"] = f"{self.evaluation.recent['eval/return']:.0f}"
        return notes

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._shown.close()  # whatever is said of it begins on a line of its own

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._shown.close()


@contextlib.contextmanager
def compilations(progress: Progress) -> Iterator[None]:
    """While this is entered, `progress` shows when `torch.compile` compiles."""
    callback = sys.modules.get("torch._dynamo.callback")  # loaded by the first torch.compile
    if callback is None:
        yield
        return
    handler, shown = callback.callback_handler, contextlib.ExitStack()

    def begin(args: Any) -> None:
        shown.enter_context(progress.during("compiling"))

    def end(args: Any) -> None:
        shown.close()

    handler.register_start_callback(begin)
    handler.register_end_callback(end)
    try:
        yield
    finally:
        handler.remove_start_callback(begin)
        handler.remove_end_callback(end)
        shown.close()


STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""SLURM gives notice with SIGUSR1 where a job's script asks for it, and with SIGTERM."""

AGAIN_S = 1.0
"""Signals closer together than this are one: launchers and dying parents send theirs several times over."""

AGREE_EVERY = 10
"""Training steps between two questions among several processes."""


class GracefulStop(Callback):
    """Ends the training when the feed does, and on SIGINT, SIGTERM or SIGUSR1 after the running update.

    After a signal `signal` holds its number, and a program exits with 128 + that; one more, `AGAIN_S` later
    or more, kills at once.
    Of several processes any one may get the signal: they ask each other every so many training steps and stop
    after the same one, for a process that stopped alone would leave the others waiting for its gradients.

    Args:
        feed: whose end is the training's.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.signal: int | None = None
        self._came = 0.0
        self._steps = 0
        self._trainer: Trainer | None = None
        self._before = {number: signal.getsignal(number) for number in STOPPING}  # Lightning sets its own

    def requested(self) -> bool:
        """Whether a signal has come (long work beside the updates asks this)."""
        return self.signal is not None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trainer = trainer
        for number in STOPPING:
            signal.signal(number, self._handle)
        trainer.should_stop = self.feed.exhausted

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._steps += 1
        if trainer.world_size > 1 and self._steps % AGREE_EVERY == 0:
            self.signal = all_reduce_max(trainer, self.signal or 0) or None
            trainer.should_stop = self.signal is not None
        trainer.should_stop |= self.feed.exhausted

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not (trainer.should_stop or self.feed.stopped or self.feed.exhausted):
            steps = f"{self.feed.env_steps} of {self.feed.total_env_steps} environment steps"
            raise RunError(f"the training ended after {steps}: a callback or the model raised StopIteration")
        trainer.should_stop = True  # only the feed's end ends an epoch

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._trainer = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self._came = time.monotonic()
        elif time.monotonic() - self._came > AGAIN_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number
        if self._trainer is not None and self._trainer.world_size == 1:
            self._trainer.should_stop = self.feed.stopped = True
