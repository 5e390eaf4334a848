"""Processes that do not outlive the one that started them."""

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that this process gets when the thread that started it has ended."""


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
