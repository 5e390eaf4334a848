"""What a run is doing, how far it is and how long it will take: a bar in a terminal, plain lines elsewhere.

A thread looks twice a second, so that long work without steps of its own (compiling, saving) is shown too,
and the work itself only keeps its counts.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

from tqdm import tqdm

TICK_S = 0.5
LEAST_S, MOST_S = 4.0, 60.0
"""Between two lines where there is no terminal; in between it is a 120th of the time so far."""


class Phase(NamedTuple):
    """What is being done: `done` of `total` units so far; `total` is None where nobody knows."""

    name: str
    done: int = 0
    total: int | None = None
    unit: str = ""


Look = Callable[[], Phase]
Notes = Callable[[], dict[str, str]]


class Progress:
    """Shows the innermost of the phases that have been entered.

    Rates and times left are those of the phase, over the time spent in it: while another one interrupts it
    (an evaluation a training), its clock stands still.

    Args:
        stream: where to; `None` is stderr. A terminal gets a bar, everything else a line when a phase begins,
            and then one every few seconds, at longer intervals the longer the run takes.
        shown: whether to say anything; by default the first of several processes does.
    """

    def __init__(self, stream: TextIO | None = None, shown: bool | None = None):
        self.stream = stream or sys.stderr
        self.shown = os.environ.get("RANK", "0") == "0" if shown is None else shown
        self._entered: list[tuple[Look, Notes]] = []
        self._line = _Line(self.stream)
        self._thread: threading.Thread | None = None
        self._over, self._lock = threading.Event(), threading.RLock()

    @contextlib.contextmanager
    def watching(self, look: Look, notes: Notes = dict) -> Iterator[None]:
        """While this is entered, show what `look` returns, and `notes` behind it."""
        entry = look, notes
        if self.shown:
            self._enter(entry)
        try:
            yield
        finally:
            if self.shown:
                self._leave(entry)

    @contextlib.contextmanager
    def during(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Callable[[], None]]:
        """While this is entered, show a phase called `name`; call what it gives once for every unit done."""
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        with self.watching(lambda: Phase(name, count, total, unit)):
            yield step

    def _enter(self, entry: tuple[Look, Notes]) -> None:
        with self._lock:
            self._show()  # what is interrupted, where it is
            self._entered.append(entry)
            self._show()
        if self._thread is None:
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._thread.start()

    def _leave(self, entry: tuple[Look, Notes]) -> None:
        with self._lock:
            self._show()
            self._entered.remove(entry)
            self._show()
            if self._entered:
                return
            self._line.end()
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._over.wait(TICK_S):
            with self._lock:
                self._show()

    def _show(self) -> None:
        if self._entered:
            look, notes = self._entered[-1]
            self._line.show(look(), notes(), len(self._entered))


class _Line:
    """The line of the present phase, and the clocks of those that go on later."""

    def __init__(self, stream: TextIO):
        self.stream, self.terminal = stream, stream.isatty()
        self._write: Callable[[str], None] | None = None
        self._began = self._at = self._said = time.monotonic()
        self._phase: Phase | None = None
        self._notes: dict[str, str] = {}
        self._depth = 0
        self._clocks: dict[str, tuple[float, int]] = {}
        """Seconds spent in a phase so far, and the count that it began with."""

    def show(self, phase: Phase, notes: dict[str, str], depth: int) -> None:
        """Show `phase`, one of `depth` that have been entered; within others, it leaves no line behind."""
        now = time.monotonic()
        if self._phase is not None:
            seconds, first = self._clocks[self._phase.name]
            self._clocks[self._phase.name] = seconds + now - self._at, first
        self._at = now
        begins = self._phase is None or self._phase.name != phase.name
        if begins:
            if self._phase is not None and depth == self._depth:  # one follows the other: it came to its end
                self._phase = self._phase._replace(done=self._phase.total or self._phase.done)
            self._finish()
            self._clocks.setdefault(phase.name, (0.0, phase.done))
        self._phase, self._notes, self._depth = phase, notes, depth
        if self.terminal:
            self._write = self._write or tqdm.status_printer(self.stream)
            self._write(self._text())
        elif begins or now - self._said >= min(max((now - self._began) / 120, LEAST_S), MOST_S):
            self._said = now
            print(self._text(), file=self.stream, flush=True)

    def end(self) -> None:
        """Nothing is being done any more."""
        self._finish()
        if self._write is not None and self._phase is not None:  # stopped on the way: that line stays
            self._newline()
        self._phase, self._clocks = None, {}

    def _finish(self) -> None:
        """A phase that is over leaves its last line behind, unless it was within another."""
        phase = self._phase
        if phase is None or (phase.total is not None and phase.done < phase.total):
            return
        if self._depth == 1:
            if self._write is not None:
                self._write(self._text())
                self._newline()
            elif phase.total is not None:
                print(self._text(), file=self.stream, flush=True)
        self._clocks.pop(phase.name)
        self._phase = None

    def _newline(self) -> None:
        print(file=self.stream, flush=True)
        self._write = None

    def _text(self) -> str:
        phase = self._phase
        assert phase is not None
        seconds, first = self._clocks[phase.name]
        if phase.total is None:
            counted = f" {phase.done} {phase.unit}" if phase.unit else ""
            return f"{phase.name}{counted} [{tqdm.format_interval(seconds)}]"
        return tqdm.format_meter(
            phase.done,
            phase.total,
            seconds,
            ncols=columns(self.stream) - 1 if self.terminal else 0,
            prefix=phase.name,
            unit=f" {phase.unit}",
            postfix=", ".join(f"{key}={value}" for key, value in self._notes.items()),
            initial=first,
        )


def columns(stream: TextIO) -> int:
    """How wide a terminal is."""
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or 80
    return 80
