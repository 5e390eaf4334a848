"""Runs as processes of this machine, several at a time."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from dreammpc.sweeps.jobs import Job

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOT_STARTED = 126
"""In place of the exit code of a command that could not be started; a shell's own."""


class Runner:
    """Runs the commands of jobs, each job's one after the other, `count` jobs at a time.

    What they print goes to `run.log` in the job's folder. SIGINT and SIGTERM are passed on to what runs, once
    each, and nothing new is started; a training then saves and ends. If this process is killed, its trainings
    end like that too.

    Args:
        count: of jobs at a time. Unless OMP_NUM_THREADS is set they share the cores evenly.
        report: is handed a line when a job begins or ends.
    """

    def __init__(self, count: int, report: Callable[[str], None] = print):
        self.count, self.report = count, report
        self.signal: int | None = None
        self._children: set[subprocess.Popen] = set()
        self._lock = threading.RLock()  # a signal's handler may interrupt another one's
        # As the launcher does: a Ctrl-C while a run imports is a word in its log, and no traceback.
        own = {"DREAMMPC_LAUNCHER": str(os.getpid()), "DREAMMPC_STARTING": "1"}
        self.environment = {**os.environ, **own}
        if count > 1 and "OMP_NUM_THREADS" not in self.environment:
            share = str(max(1, (os.cpu_count() or 1) // count))
            self.environment |= {"OMP_NUM_THREADS": share, "DREAMMPC_THREADS": share}  # see `threads`

    def run(self, jobs: Iterable[tuple[Job, Sequence[Sequence[str]]]]) -> dict[Job, int]:
        """Run all jobs; a job that fails stops no other.

        Returns:
            The exit code of each job that was begun: of its first command that failed, or 0. It is
            `NOT_STARTED` where its folder, its log or the process could not be made.
        """
        main = threading.current_thread() is threading.main_thread()
        before: dict[int, Any] = {n: signal.signal(n, self._pass_on) for n in SIGNALS} if main else {}
        try:
            with ThreadPoolExecutor(self.count) as pool:
                started = [(job, pool.submit(self._job, job, commands)) for job, commands in jobs]
                codes = {job: future.result() for job, future in started}
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return {job: code for job, code in codes.items() if code is not None}

    def _job(self, job: Job, commands: Sequence[Sequence[str]]) -> int | None:
        code = None
        for command in commands:
            try:
                child = self._start(job, command)
            except OSError as error:
                self.report(f"{job.name}: {ending(NOT_STARTED)}: {error}")
                return NOT_STARTED
            if child is None:
                break
            if code is None:
                self.report(f"{job.name}: begins, see {job.folder / 'run.log'}")
            code = child.wait()
            with self._lock:
                self._children.discard(child)
            if code:
                break
        if code is not None:
            finals = ", ".join(f"{name} {value:.1f}" for name, value in job.finals().items())
            self.report(f"{job.name}: " + (ending(code) if code else f"done: {finals}"))
        return code

    def _start(self, job: Job, command: Sequence[str]) -> subprocess.Popen | None:
        """Start a command, unless a signal has come."""
        with self._lock:
            if self.signal is not None:
                return None
            job.folder.mkdir(parents=True, exist_ok=True)
            # In a session of its own a Ctrl-C reaches it through us alone: a second one would kill it.
            with (job.folder / "run.log").open("ab") as log:
                child = subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env=self.environment,
                    start_new_session=True,
                )
            self._children.add(child)
        return child

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        with self._lock:
            for child in self._children:
                child.send_signal(number)


def ending(code: int) -> str:
    """How a process ended, by its exit code; a negative one is that of the signal that killed it."""
    if code == NOT_STARTED:
        return "could not be started"
    if code >= 0:
        return f"ended with code {code}"
    known = {each.value: each.name for each in signal.Signals}
    guess = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"was killed by {known.get(-code, f'signal {-code}')}{guess}"


def failure(job: Job, code: int) -> str:
    """What to say of a job that failed: of one that was killed its log's last line says nothing."""
    log, told = job.folder / "run.log", f"{job.name} {ending(code)}"
    if code == NOT_STARTED:  # why was said at once; a log that is there is of an earlier start
        return told
    return told + (f", see {log}" if code < 0 else f": {last_line(job.folder)}")


def last_line(folder: Path) -> str:
    """The last line of a job's `run.log`: what a recipe that refuses something says."""
    try:
        text = (folder / "run.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
