"""Collection in worker processes: TorchRL's multi-process collector, with copies of the agent that keep up.

Workers are spawned, live in sessions of their own (a Ctrl-C or a signal to the training's process group is
the training's business) and end with the process that started them, however it ends.
"""

import atexit
import contextlib
import copy
import logging
import os
import queue
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable
from multiprocessing import active_children
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.collectors import MultiSyncCollector
from torchrl.envs import EnvBase

from dreammpc.data.collector import with_carry
from dreammpc.data.mailbox import Mailbox, mailbox_bytes
from dreammpc.data.worker_errors import read_worker_error
from dreammpc.data.worker_process import WorkerEnv, WorkerInit, WorkerPolicy
from dreammpc.interfaces import RunError, first_line
from dreammpc.runtime.devices import CPU, module_device
from dreammpc.runtime.processes import spared_signals

log = logging.getLogger(__name__)

SEEDS = 1_000_000
"""Between the seeds of two workers, far more than ranks and environments add."""


class WorkersDied(RunError):
    """Workers died more often than they are started again."""


class WorkerCollector:
    """Collects forever with copies of an agent, in `workers` processes at once.

    Every item is a TensorDict [workers · B, steps], worker after worker, B being the batch size of one
    worker's environment. Before the workers begin a batch they are sent the agent's weights. With `prefetch`
    they begin the next batch when one is handed out, so that collecting and learning overlap and a batch is
    older by one turn of both; without, they rest meanwhile.

    If a worker dies all of them are started again, with other seeds, and begin new episodes.

    Args:
        make_env: makes environments, given `seed=`; a picklable function, called in the workers.
        agent: a policy with `make_tensordict_primer()` and the switch `random`.
        workers: how many processes.
        num_envs: B.
        steps: agent steps of each environment in a batch.
        seed: of the first worker; the others' are far from it, and so are those of other ranks.
        prefetch: see above.
        restarts: how often workers are started again.
    """

    def __init__(
        self,
        make_env: Callable[..., EnvBase],
        agent: Any,
        workers: int,
        num_envs: int,
        steps: int,
        seed: int,
        prefetch: bool = False,
        restarts: int = 3,
    ):
        self.make_env, self.agent = make_env, agent
        self.workers, self.num_envs, self.steps = workers, num_envs, steps
        self.seed, self.prefetch, self.restarts = seed, prefetch, restarts
        self.rows = workers * num_envs
        self._starts = 0
        self._collector: Any = None
        self._mailbox: Any = None
        self._reports: tempfile.TemporaryDirectory | None = None
        self._batches: Any = None
        # Before multiprocessing's own end, which would wait for workers that wait for it.
        atexit.register(_shut_down, weakref.ref(self))

    @property
    def deaths(self) -> tuple[type[Exception], ...]:
        """What is raised when a worker has gone, depending on where it was."""
        return RuntimeError, ValueError, OSError, EOFError, TimeoutError

    def __iter__(self) -> "WorkerCollector":
        return self

    def __next__(self) -> TensorDictBase:
        """The next batch.

        Raises:
            WorkersDied: once more than `restarts` times.
            ForeignError: an environment, or what acts in a worker, raised something.
        """
        while True:
            try:
                if self._collector is None:
                    self._start()
                return self._batch()
            except self.deaths as error:
                started, dead = self._collector is not None, self._dead()
                reported = read_worker_error(self._reports.name) if self._reports else None
                self.shutdown()
                if reported is not None:  # no accident: it would be raised again
                    raise reported from reported.__cause__
                if not started and not _died_starting(error):
                    raise
                reason = dead or first_line(error)
                reason = reason if started else "a worker died while it started"
                if self._starts > self.restarts:
                    raise WorkersDied(f"collection: workers died {self._starts} times: {reason}") from error
                log.warning("collection: %s; all start again (%d of %d)", reason, self._starts, self.restarts)

    def _batch(self) -> TensorDictBase:
        if not self.prefetch:
            self._mailbox.post(self.agent)
            return next(self._batches)
        batch = self._batches.get()
        self._mailbox.post(self.agent)
        self._batches.request()
        return batch

    def _dead(self) -> str:
        """Which workers ended by themselves; empty if none is known to."""
        codes = {}
        for index, process in enumerate(getattr(self._collector, "procs", [])):
            with contextlib.suppress(ValueError):  # one that TorchRL ended
                if process.exitcode not in (None, -signal.SIGTERM):
                    codes[index] = process.exitcode
        # The others end with 0 when TorchRL tells them to, after the first death.
        codes = {index: code for index, code in codes.items() if code} or codes
        return ", ".join(f"worker {index} died (exit code {code})" for index, code in codes.items())

    def shutdown(self) -> None:
        """End the workers."""
        collector, self._collector, self._batches = self._collector, None, None
        if collector is not None:
            processes = list(getattr(collector, "procs", []))
            with contextlib.suppress(Exception):
                collector.shutdown(timeout=5)
            for process in processes:
                with contextlib.suppress(ValueError):  # closed, so it has ended
                    process.kill()
                    process.join(5)
        if self._mailbox is not None:
            self._mailbox.close()
            self._mailbox = None
        if self._reports is not None:
            self._reports.cleanup()
            self._reports = None

    def _environments(self) -> "list[WorkerEnv]":
        """One for each worker, with seeds that no start before has used."""
        primer, first = self.agent.make_tensordict_primer(), 1 + self._starts * self.workers
        self._starts += 1
        seeds = [self.seed + SEEDS * (first + index) for index in range(self.workers)]
        folder = self._reports.name if self._reports else None
        return [WorkerEnv(self.make_env, primer, seed, folder) for seed in seeds]

    def _start(self) -> None:
        before = active_children()
        try:
            with spared_signals():
                self._make_workers()
        except BaseException:
            for process in set(active_children()).difference(before):
                process.kill()
            raise
        self._batches = iter(self._collector)
        if self.prefetch:
            self._batches = Prefetcher(self._batches)
            self._batches.request()

    def _make_workers(self) -> None:
        """Make the mailbox of the weights, and TorchRL's collector that has the workers."""
        self._mailbox = Mailbox(self.agent)
        self._reports = tempfile.TemporaryDirectory(prefix="dreammpc-workers-", ignore_cleanup_errors=True)
        self._collector = MultiSyncCollector(
            self._environments(),
            policy_factory=WorkerPolicy(on_cpu(self.agent), self._mailbox, self._reports.name),
            frames_per_batch=self.workers * self.num_envs * self.steps,
            total_frames=-1,
            trust_policy=True,
            cat_results=0,
            use_buffers=True,
            num_threads=torch.get_num_threads(),
            init_fn=WorkerInit(os.getpid()),
        )


def _died_starting(error: BaseException | None) -> bool:
    """Whether `error` came of making workers because one died meanwhile."""
    return isinstance(error, EOFError | ConnectionError) or (
        error is not None and _died_starting(error.__cause__)
    )


def on_cpu(agent: Any) -> Any:
    """What travels to another process, where it acts on the CPU: a copy of `agent`, if it is elsewhere.

    What would be compiled is recorded in the copy: how long compiling takes there, and whether there is a
    compiler, nobody asked.
    """
    if module_device(agent) in (None, CPU):
        return agent
    moved = copy.deepcopy(agent).cpu()
    if moved.compiles:
        moved.compile_as("recorded")
    return moved


PAGE = 4096
"""Bytes; every tensor that is shared has pages of its own."""


def shared_bytes(env: EnvBase, agent: Any, workers: int, steps: int) -> int:
    """What workers that collect as `env` and `agent` do share with their learner, in bytes: at most."""
    step = with_carry(env, agent.make_tensordict_primer()).fake_tensordict()
    batch = sum(-(-steps * value.nbytes // PAGE) * PAGE for value in step.values(True, True))
    return mailbox_bytes(agent) + workers * batch + 16 * PAGE  # and the locks


def _shut_down(reference: "weakref.ref[WorkerCollector]") -> None:
    """End the workers of a collector that is still there."""
    if (collector := reference()) is not None:
        collector.shutdown()


class Prefetcher:
    """Fetches the next item of an iterator in a thread, while the caller does something else."""

    def __init__(self, items: Any):
        self._wanted: queue.SimpleQueue = queue.SimpleQueue()
        self._found: queue.SimpleQueue = queue.SimpleQueue()

        def work() -> None:
            while self._wanted.get():
                try:
                    self._found.put(next(items))
                except Exception as error:
                    self._found.put(error)
                    return

        threading.Thread(target=work, name="collection", daemon=True).start()

    def request(self) -> None:
        """Have the thread fetch one item."""
        self._wanted.put(True)

    def get(self) -> Any:
        """Wait for that item; an error that came instead of it is raised."""
        found = self._found.get()
        if isinstance(found, Exception):
            raise found
        return found
