"""A queue between training and a tracking server that may be slow, full or gone."""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from dreammpc.support.atomic import from_json, write_text
from dreammpc.tracking.addresses import starred

log = logging.getLogger(__name__)

Item = dict[str, Any]  # plain JSON, with a "kind"

GATHER_S = 1.0  # a new item waits this long for company: one call for many is what makes logging cheap
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LARGEST_BATCH = 50


class Rejected(Exception):
    """Raised by a `deliver` whose items are wrong in themselves: sending them again would not help."""


class Outbox:
    """Deliver items in order from one daemon thread, and never raise into the thread that puts them.

    An item lies in a spool file from `put` until it is delivered, so that a process killed at any moment
    takes none along; what can't be delivered is tried again after pauses that double from 1 s to 60 s. An
    item may be delivered twice, so `deliver` should be idempotent. Items that a former process left in the
    spool are sent before new ones.

    Args:
        deliver: called with 1 to 50 consecutive items of one kind. Raises `Rejected` to have them dropped (of
            several, only those that are rejected alone), anything else to be called again later.
        spool: file for items that wait, JSON lines; it exists only while something waits.
        receiver: who is written to, for messages.
        keep: which of the items that a former process left are still wanted.
    """

    def __init__(
        self,
        deliver: Callable[[list[Item]], None],
        spool: Path,
        receiver: str,
        keep: Callable[[Item], bool] = lambda item: True,
    ) -> None:
        self.spool = spool
        self._deliver = deliver
        self._receiver = receiver
        self._pending: deque[Item] = deque(filter(keep, _read(spool)))
        self._changed = threading.Condition()
        self._hurry = False
        self._failures = 0
        self._down = False
        self._disk = threading.Lock()
        self._disk_failed = False
        with suppress(OSError):  # later one that is gone was deleted, and stays so
            spool.parent.mkdir(parents=True, exist_ok=True)
        self._save()
        threading.Thread(target=self._work, name=f"outbox to {receiver}", daemon=True).start()

    def __len__(self) -> int:
        """Items not delivered yet."""
        return len(self._pending)

    def put(self, item: Item) -> None:
        """Queue an item; returns at once (a tenth of a millisecond for its line in the spool)."""
        with self._disk:  # also while it is queued: the file must not be swept between the two
            try:
                with self.spool.open("a", encoding="utf-8") as file:
                    file.write(_line(item))
            except OSError as error:
                self._disk_fails(error)
            with self._changed:
                self._pending.append(item)
                self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all is delivered, an attempt fails, or `timeout` seconds are over.

        Returns:
            Whether all is delivered. If not, what is left lies in the spool file.
        """
        with self._changed:
            failures = self._failures
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._pending or self._failures > failures, timeout)
            self._hurry = False
        self._save()
        return not self._pending

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                self._changed.wait_for(lambda: self._hurry or self._down, GATHER_S)
                _, batch = next(groupby(islice(self._pending, LARGEST_BATCH), key=itemgetter("kind")))
                items = list(batch)
            try:
                self._send(items)
            except Exception as error:
                self._postpone(error, pause)
                with self._changed:
                    self._hurry = False  # a flush that waits has its answer, and goes
                    self._failures += 1
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._hurry, pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                pause = FIRST_PAUSE_S
                self._done(len(items))

    def _send(self, batch: list[Item]) -> None:
        try:
            self._deliver(batch)
        except Rejected as reason:
            if len(batch) == 1:
                log.warning("%s does not take one %s, dropped: %s", self._receiver, batch[0]["kind"], reason)
                return
            for item in batch:  # one bad item must not take its neighbours along, nor hold up what follows
                self._send([item])

    def _done(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._pending.popleft()
            left = len(self._pending)
            self._changed.notify_all()
        if left:
            return
        self._save()
        if self._down:
            self._down = False
            log.info("%s answers again: nothing is missing there", self._receiver)

    def _postpone(self, error: Exception, pause: float) -> None:
        if not self._down:
            self._down = True
            log.warning(
                "%s can't be written (%s); training goes on, records wait in %s",
                self._receiver,
                _one_line(error),
                self.spool,
            )
        log.debug("next attempt in %.0f s", pause, exc_info=error)
        self._save()

    def _save(self) -> None:
        """Make the spool file hold what is pending; without anything pending, remove it."""
        with self._disk:
            with self._changed:
                items = list(self._pending)
            try:
                if not items:
                    self.spool.unlink(missing_ok=True)
                    return
                write_text(self.spool, "".join(map(_line, items)))
            except OSError as error:
                self._disk_fails(error)

    def _disk_fails(self, error: OSError) -> None:
        if not self._disk_failed and self.spool.parent.exists():
            log.warning("records for %s can't be kept in %s: %s", self._receiver, self.spool, error)
        self._disk_failed = True


def _line(item: Item) -> str:
    """Python's NaN and Infinity are not JSON, but only Python reads the file."""
    return json.dumps(item) + "\n"


def _read(spool: Path) -> list[Item]:
    """The items of a spool file; a line torn by a kill is left out."""
    try:
        lines = spool.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("%s can't be read: %s", spool, error)
        return []
    items = []
    for line in lines:
        try:
            item = from_json(line)
        except ValueError:
            item = None
        if isinstance(item, dict) and isinstance(item.get("kind"), str):
            items.append(item)
        else:
            log.warning("%s has a torn line, left out", spool)
    return items


def _one_line(error: Exception, length: int = 160) -> str:
    text = starred(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= length else text[: length - 1] + "…"
