"""A thread that sends what training writes, to a server that may be slow, full or gone."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreammpc.tracking.addresses import redacted

log = logging.getLogger(__name__)

GATHER_S = 1.0  # something new waits this long for company: one call for many is what makes logging cheap
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class Follower:
    """Call `send` from a daemon thread when woken, and again after pauses that double from 1 s to 60 s.

    Nothing here raises into the thread that wakes it, or waits for `send`.

    Args:
        send: sends all that is there; raises to be called again.
        receiver: who is sent to, for messages.
        source: where what is not sent waits, for messages.
    """

    def __init__(self, send: Callable[[], Any], receiver: str, source: Path) -> None:
        self._send, self._receiver, self._source = send, receiver, source
        self._changed = threading.Condition()
        self._asked = self._done = self._failures = 0
        self._hurry = self._down = False
        threading.Thread(target=self._work, name=f"follower for {receiver}", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Whether all is sent."""
        return self._done == self._asked

    def wake(self) -> None:
        """Say that there is something to send; returns at once."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all is sent, an attempt fails, or `timeout` seconds are over; return whether all is."""
        with self._changed:
            failures = self._failures
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.idle or self._failures > failures, timeout)
            self._hurry = False
            return self.idle

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self.idle)
                self._changed.wait_for(lambda: self._hurry or self._down, GATHER_S)
                asked = self._asked
            try:
                self._send()
            except Exception as error:
                self._tell(error)
                with self._changed:
                    self._hurry = False  # a flush that waits has its answer, and goes
                    self._failures += 1
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._hurry, pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            with self._changed:
                self._done = asked
                self._changed.notify_all()
            if self._down:
                self._down = False
                log.info("%s answers again: nothing is missing there", self._receiver)

    def _tell(self, error: Exception) -> None:
        if not self._down:
            log.warning(
                "%s can't be written (%s); the run goes on, and %s keeps all",
                self._receiver,
                one_line(error),
                self._source,
            )
        self._down = True
        log.debug("next attempt follows", exc_info=error)


def one_line(error: Exception, length: int = 160) -> str:
    """What an exception says, without what may be secret."""
    text = redacted(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= length else text[: length - 1] + "…"
