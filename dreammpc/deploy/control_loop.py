"""A control loop at a fixed rate. This file needs numpy alone: copy it to where an exported agent runs.

Times are seconds of the clock. Tick k begins at k / hz; A actions, H the horizon of a plan.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

ON_MISS = ("plan", "policy", "hold")
LINGER_S = 5.0
"""Seconds that the interpreter's end waits for a plan: one that PyTorch returns while it ends is an abort."""


class TooSlow(RuntimeError):
    """The rate cannot be kept: no plan came in time for as long as the watchdog waits."""


@dataclass
class Tick:
    """What happened in one period."""

    number: int
    jitter: float
    """By how much later than due it began, seconds."""
    plan_s: float
    """What the plan that was finished last took, seconds; NaN before the first."""
    missed: bool
    """No plan was there in time, and `on_miss` decided."""


Jobs = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


def work(jobs: Jobs) -> None:
    """Do one job after another, until there is None."""
    for future, function in iter(jobs.get, None):
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
        del future, function  # which hold the clock, while the next one is waited for


def finish(jobs: Jobs, worker: threading.Thread) -> None:
    """Let `worker` end, with its clock or the interpreter."""
    jobs.put(None)
    if worker is not threading.current_thread():
        worker.join(LINGER_S)


class RealClock:
    """The machine's clock, a thread that plans and one that watches; a plan that hangs keeps no process."""

    def __init__(self) -> None:
        self.waiting: Jobs = SimpleQueue()
        self.running: Future[Any] | None = None
        self.now = time.perf_counter
        self.worker = threading.Thread(target=work, args=(self.waiting,), daemon=True)
        self.worker.start()
        weakref.finalize(self, finish, self.waiting, self.worker)

    def sleep_until(self, when: float) -> None:
        """The last half millisecond is spun, as sleeping is not that exact."""
        while (left := when - self.now()) > 0:
            time.sleep(left - 5e-4 if left > 1e-3 else 0)

    def submit(self, function: Callable[[], Any]) -> "Future[Any] | None":
        """Begin a plan; None while the one before is still being made."""
        if self.running is not None and not self.running.done():
            return None
        self.running = Future()
        self.waiting.put((self.running, function))
        return self.running

    def wait(self, future: "Future[Any]", until: float) -> None:
        wait([future], max(until - self.now(), 0))

    def watch(self, over: Callable[[], bool], every: float) -> None:
        """Ask `over` every so many seconds until it is true."""

        def ask() -> None:
            while not over():
                time.sleep(every)

        threading.Thread(target=ask, daemon=True).start()


class ControlLoop:
    """Observes, plans and acts `hz` times a second. Periods that a tick took beyond its own are left out.

    Args:
        plan: `plan(observation, pending)` gives the action [A] and the sequence [H, A] that it begins;
            `pending` [ahead, A] are the actions before it, none while the first plans are made. If it has a
            `skip(ticks)`, that is called before a plan that begins so many ticks later than the plan before
            makes one expect (earlier, if below 0). An `ExportedAgent` is one. Call it once before, as a
            first call is slow.
        observe: gives what is observed now.
        act: is given an action [A].
        hz: ticks a second.
        ahead: 0 plans and acts within a tick. n ≥ 1 is plan-ahead: a plan is for the state that is predicted
            n ticks after its observation, and is computed while the actions before it run.
        deadline: seconds from a tick's beginning until its plan must be there; by default 0.9 periods, and 0
            for a plan ahead.
        on_miss: what acts where there is no plan in time: `plan`, the last plan's next action (its last one
            is held), `policy`, or `hold`, the last action once more. Nothing acts before the first plan,
            unless it is the policy.
        policy: `policy(observation)` gives an action [A] at once, for `on_miss="policy"`.
        low, high: bounds of actions.
        max_rate: largest change of an entry per second, from the second action on; None is no limit.
        watchdog: seconds without a plan in time, from when the first is due, after which the loop ends; a
            thread calls `stop` then, even where `observe`, `policy` or `act` hang. None never.
        stop: called when the loop ends, however it ends: brings the machine to rest. No action is given
            after it; if an `act` hung when it was called, it is called once more when that has returned.
        clock: a `RealClock`, or what stands in for it.
        keep: how many of the last ticks the log has; None is all.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        plan: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]],
        observe: Callable[[], Any],
        act: Callable[[np.ndarray], None],
        hz: float,
        ahead: int = 0,
        deadline: float | None = None,
        on_miss: str = "plan",
        policy: Callable[[Any], np.ndarray] | None = None,
        low: float | Sequence[float] = -1.0,
        high: float | Sequence[float] = 1.0,
        max_rate: float | None = None,
        watchdog: float | None = 0.5,
        stop: Callable[[], None] = lambda: None,
        clock: Any = None,
        keep: int | None = 100_000,
    ):
        self.plan, self.observe, self.act, self.policy, self.stop = plan, observe, act, policy, stop
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        self.ahead, self.on_miss, self.clock = ahead, on_miss, clock or RealClock()
        self.watchdog = np.inf if watchdog is None else watchdog
        self.max_rate = np.inf if max_rate is None else max_rate
        self.period = 1 / hz if 0 < hz < np.inf else 0.0
        self.deadline = (0.0 if ahead else 0.9 * self.period) if deadline is None else deadline
        for fits, told in (
            (self.period > 0, f"hz must be above 0, got {hz}"),
            (ahead >= 0, f"ahead must be at least 0, got {ahead}"),
            (0 <= self.deadline <= self.period, f"deadline must be 0 to {self.period:g} s, got {deadline}"),
            (on_miss in ON_MISS, f"on_miss must be one of {', '.join(ON_MISS)}, got {on_miss!r}"),
            (on_miss != "policy" or policy is not None, "on_miss=policy needs a policy"),
            (np.all(self.low < self.high), f"low must be below high, got {low} and {high}"),
            (keep is None or keep >= 1, f"keep must be at least 1, got {keep}"),
            (self.max_rate > 0, f"max_rate must be above 0, got {max_rate}"),
            (
                self.watchdog >= self.period,
                f"watchdog must be at least a period, {self.period:g} s, got {watchdog}",
            ),
        ):
            if not fits:
                raise ValueError(told)
        self.log: deque[Tick] = deque(maxlen=keep)

    def run(self, ticks: int, until: Callable[[], bool] = lambda: False) -> list[Tick]:
        """Run so many periods, or until `until`, which is asked after each, is true; give the log.

        Raises:
            TooSlow: see `watchdog`.
            ValueError: an action that is not finite. Whatever `plan`, `observe` and `act` raise ends the
                loop, too.
        """
        self.log.clear()
        self._plans: dict[int, np.ndarray] = {}  # [H, A], by the tick that they begin with
        self._running: list[tuple[int, Future[tuple[np.ndarray, float]]]] = []
        self._last: np.ndarray | None = None
        self._guard = threading.RLock()  # held while the machine is told something
        self._ended = self._stopped = False  # `stop` was called; it was, while no action was being given
        self._plan_s, number, self._began = np.nan, 0, self.clock.now()
        self._next = 0  # the tick that the next plan counts from, by how many were made
        self._in_time = self._began + self.ahead * self.period
        if self.watchdog < np.inf:
            self.clock.watch(self._watch, self.watchdog / 4)
        try:
            while number < ticks and not (number and until()):
                self.clock.sleep_until(self._began + number * self.period)
                self._tick(number)
                number = max(number + 1, int((self.clock.now() - self._began) / self.period))
        finally:
            self._end()
        return list(self.log)

    def _tick(self, number: int) -> None:
        begins = self._began + number * self.period
        jitter, seen = self.clock.now() - begins, self.observe()
        if not self.ahead:
            self._start(number, seen)
        self._collect(number, begins + self.deadline)
        missed = number not in self._plans
        if not missed:
            self._in_time = self.clock.now()
        self._check()
        if missed and self.on_miss == "policy" and self.policy is not None:
            self._act(number, self.policy(seen))
        else:
            self._act(number, self._last if missed and self.on_miss == "hold" else self._expected(number))
        if self.ahead:
            self._start(number + self.ahead, seen)
        self.log.append(Tick(number, jitter, self._plan_s, missed and number >= self.ahead))

    def _start(self, due: int, seen: Any) -> None:
        """Plan for tick `due`, unless a plan is still being made."""
        between = range(due - self.ahead + 1, due)
        pending = [self._last, *map(self._expected, between)] if self.ahead and self._last is not None else []
        skipped, skip = due - len(pending) - self._next, getattr(self.plan, "skip", None)

        def planned() -> tuple[np.ndarray, float]:
            began = self.clock.now()
            if skipped and skip is not None:
                skip(skipped)
            action, sequence = self.plan(seen, np.array(pending, np.float32))
            return np.concatenate([action[None], sequence[1:]]), self.clock.now() - began

        future = self.clock.submit(planned)
        if future is not None:
            self._running.append((due, future))
            self._next += skipped + 1

    def _collect(self, number: int, until: float) -> None:
        """Take what has been planned, and wait for what this tick needs; raises what `plan` raised."""
        for due, future in list(self._running):
            if due <= number:
                self.clock.wait(future, until)
            if future.done():
                self._plans[due], self._plan_s = future.result()
                self._running.remove((due, future))
        self._plans = dict(sorted(self._plans.items())[-self.ahead - 2 :])

    def _expected(self, number: int) -> np.ndarray | None:
        """The action of a tick as the plans have it; the last one if none of them has begun."""
        begun = [due for due in self._plans if due <= number]
        if not begun:
            return self._last
        sequence = self._plans[max(begun)]
        return sequence[min(number - max(begun), len(sequence) - 1)]

    def _act(self, number: int, action: np.ndarray | None) -> None:
        if action is None:
            return
        if not np.isfinite(action).all():
            raise ValueError(f"tick {number}: the action is not finite: {action.tolist()}")
        if self._last is not None:
            step = self.max_rate * self.period
            action = np.clip(action, self._last - step, self._last + step)
        self._last = np.clip(action, self.low, self.high)
        with self._guard:
            self._check()
            self.act(self._last)

    def _check(self) -> None:
        if self._watch():
            raise TooSlow(
                f"no plan came in time for {self.watchdog:g} s; the last took {1e3 * self._plan_s:.1f} ms"
            )

    def _watch(self) -> bool:
        """Whether the loop has ended; ends it if no plan has come in time for too long."""
        if self.clock.now() - self._in_time > self.watchdog:
            self._end(self.period)
        return self._ended

    def _end(self, patience: float = -1.0) -> None:
        """Stop the machine once nothing else is told it, after `patience` seconds anyway; -1 is no limit."""
        held = self._guard.acquire(timeout=patience)
        try:
            if not self._stopped:
                self._ended, self._stopped = True, held
                self.stop()
        finally:
            if held:
                self._guard.release()

    def report(self) -> dict[str, float]:
        """Over the log: periods without a plan in time, as a share; jitter and planning time, ms."""
        found: dict[str, float] = {"ticks": self.log[-1].number + 1 - self.log[0].number if self.log else 0}
        found["missed"] = 1 - sum(not tick.missed for tick in self.log) / max(found["ticks"], 1)
        for name in ("jitter", "plan"):
            seconds = [tick.jitter if name == "jitter" else tick.plan_s for tick in self.log]
            values = 1e3 * np.array([value for value in seconds if np.isfinite(value)])
            for label, share in (("median", 50.0), ("99.9 %", 99.9)):
                found[f"{name}_ms {label}"] = float(np.percentile(values, share)) if len(values) else np.nan
        return found
