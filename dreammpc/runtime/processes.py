"""Processes that do not outlive the one that started them."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import util
from typing import Any
from unittest import mock

STOPPING = (signal.SIGINT, signal.SIGTERM)

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that this process gets when the thread that started it has ended."""


@contextlib.contextmanager
def spared_signals() -> Iterator[None]:
    """Processes that are spawned within get no signal to stop before `in_session_of_its_own`.

    One that dies all the same before it has read its arguments makes `Process.start` raise BrokenPipeError.
    `multiprocessing` alone would wait for ever: it keeps the reading end of the pipe open while it writes.
    """
    spawn = util.spawnv_passfds

    def spawn_blocked(executable: Any, command: Any, fds: Any) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # which a new process inherits
        try:
            pid = spawn(executable, command, fds)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if "--multiprocessing-fork" in command:  # and not the tracker of resources
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, fds[-2])  # the reading end, which only the new process holds now
            os.close(nothing)
        return pid

    with mock.patch.object(util, "spawnv_passfds", spawn_blocked):
        yield


def in_session_of_its_own() -> None:
    """Have this process, spawned in `spared_signals`, get no more signals of its parent's process group.

    Those that came meanwhile were for the parent, and are dropped.
    """
    os.setsid()
    for number in STOPPING:
        handler = signal.signal(number, signal.SIG_IGN)
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """While this is entered, in the main thread, SIGTERM raises `Terminated` there."""

    def raise_terminated(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have this process get the signal `number` as soon as its parent is gone, however that ended.

    Args:
        parent: the process id of the parent, as the parent itself knows it: it may be gone already.
        number: SIGKILL ends at once; SIGTERM lets a training save first.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
