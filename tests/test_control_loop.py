"""The control loop on a clock of the tests' own: what acts when, what a miss does, who stops the machine."""

import gc
import math
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest

from dreammpc.deploy import ControlLoop, RealClock, TooSlow, control_loop
from dreammpc.deploy.plant import SimulatedClock

PERIOD = 0.125


class Clock:
    """Time moves where somebody waits; plan k takes `times[k]` seconds (the last of them for ever)."""

    def __init__(self, *times):
        self.times, self.time, self.over = list(times or [0.0]), 0.0, lambda: True
        self.free_at = 0.0

    def now(self):
        return self.time

    def sleep_until(self, when):
        self.time = max(self.time, when)

    def submit(self, function):
        if self.time < self.free_at:
            return None
        future = Future()
        self.free_at = self.time + (self.times.pop(0) if len(self.times) > 1 else self.times[0])
        future.set_result(function())
        future.done = lambda at=self.free_at: self.time >= at
        future.at = self.free_at
        return future

    def wait(self, future, until):
        self.sleep_until(min(future.at, until))

    def watch(self, over, every):
        self.over = over


class Machine:
    """Sees its tick's number; notes every action with the time that it is given at."""

    def __init__(self, clock, loop_s=0.0):
        self.clock, self.acts, self.stops, self.loop_s = clock, [], 0, loop_s

    def observe(self):
        self.clock.time += self.loop_s
        return round(self.clock.time / PERIOD)

    def act(self, action):
        self.acts.append((self.clock.time / PERIOD, round(float(action[0]), 4)))

    def stop(self):
        self.stops += 1


def plan(seen, pending):
    """For tick n observed: 0.1·n for now, then 0.01 more a tick."""
    first = 0.1 * (seen + len(pending))
    return np.array([first]), np.array([[9.0], [first + 0.01], [first + 0.02]])


def played(clock, ticks=5, plan=plan, **settings):
    machine = Machine(clock)
    loop = ControlLoop(
        plan, machine.observe, machine.act, 1 / PERIOD, clock=clock, stop=machine.stop, **settings
    )
    loop.run(ticks)
    assert machine.stops == 1
    return loop, machine


def test_every_plan_in_time_acts_when_it_is_there():
    loop, machine = played(Clock(0.25 * PERIOD), ticks=3)
    assert machine.acts == [(0.25, 0.0), (1.25, 0.1), (2.25, 0.2)]
    assert [(tick.number, tick.jitter, tick.missed) for tick in loop.log] == [
        (0, 0, False),
        (1, 0, False),
        (2, 0, False),
    ]
    assert loop.report()["plan_ms median"] == 0 and loop.report()["missed"] == 0


@pytest.mark.parametrize(
    ("on_miss", "expected"),
    [
        ("plan", [0.0, 0.01, 0.1, 0.3]),  # tick 1's plan is there by tick 2: its second action
        ("hold", [0.0, 0.0, 0.0, 0.3]),
        ("policy", [0.0, -0.5, -0.5, 0.3]),
    ],
)
def test_what_acts_on_a_miss(on_miss, expected):
    late = [0.25 * PERIOD, 1.5 * PERIOD, 0.25 * PERIOD]
    loop, machine = played(
        Clock(*late), ticks=4, on_miss=on_miss, policy=lambda seen: np.array([-0.5]), watchdog=None
    )
    expected = [0.11 if (on_miss, k) == ("plan", 2) else action for k, action in enumerate(expected)]
    assert [action for _, action in machine.acts] == pytest.approx(expected)
    assert [tick.missed for tick in loop.log] == [False, True, True, False]
    assert [time for time, _ in machine.acts][1] == 1.9  # the deadline, 0.9 periods
    assert loop.report()["missed"] == 0.5


def test_a_deadline_of_ones_own():
    _, machine = played(Clock(0.5 * PERIOD), ticks=2, deadline=0.25 * PERIOD)
    assert machine.acts == [(1.25, 0.01)]  # before the first plan nothing acts; then that plan's second


def test_the_last_action_of_a_plan_is_held():
    _, machine = played(Clock(0.0, 100.0), ticks=6, watchdog=None)
    assert [action for _, action in machine.acts] == [0.0, 0.01, 0.02, 0.02, 0.02, 0.02]


@pytest.mark.parametrize("ahead", [1, 2])
def test_plan_ahead_knows_what_runs_until_then(ahead):
    """Plans take most of `ahead` periods, and none is missed; a plan is told the actions before its own."""
    told = []

    def noting(seen, pending):
        told.append((seen, pending.ravel().round(4).tolist()))
        return np.array([0.1 * (seen + ahead)]), np.zeros((3, 1))

    clock = SimulatedClock(latency=(ahead - 0.25) * PERIOD)
    loop, machine = played(clock, ticks=6, plan=noting, ahead=ahead, watchdog=None)
    assert machine.acts == [(k, pytest.approx(0.1 * k)) for k in range(ahead, 6)]
    assert not any(tick.missed for tick in loop.log)
    assert told[0] == (0, [])  # no action runs yet
    pending = [0.4] if ahead == 1 else [0.4, 0.0]  # tick 5's plan is not there yet: tick 4's second action
    assert told[4] == (4, pytest.approx(pending))


class Counting:
    """A plan that counts its calls, as an exported agent does; notes for which tick it takes each to be."""

    def __init__(self):
        self.time, self.begins = 0, []

    def skip(self, ticks):
        self.time += ticks

    def __call__(self, seen, pending):
        self.begins.append((seen, self.time + len(pending)))
        self.time += 1
        return plan(seen, pending)


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("periods", [0.5, 2.5])
def test_a_plan_is_told_of_ticks_without_one(ahead, periods):
    """The tick that a plan begins with is `ahead` after its observation, from the first plan on."""
    counting = Counting()
    played(Clock(periods * PERIOD), ticks=12, plan=counting, ahead=ahead, watchdog=None)
    assert len(counting.begins) == (12 if periods < 1 else 4)
    assert counting.begins == [(seen, seen + ahead) for seen, _ in counting.begins]


def test_a_plan_ahead_that_is_late_is_missed():
    loop, machine = played(Clock(1.5 * PERIOD), ticks=6, ahead=1, watchdog=None)
    assert [tick.missed for tick in loop.log] == [False, True, True, True, True, True]
    assert machine.acts[0] == (2.0, 0.01 + 0.0)  # planned at 0 for 1, there at 2: its second action


def test_limits_of_actions_and_their_change():
    def far(seen, pending):
        return np.array([3.0, 0.2 * seen]), np.zeros((2, 2))

    machine, clock = [], Clock()
    loop = ControlLoop(
        far,
        lambda: round(clock.time / PERIOD),
        lambda action: machine.append(action.tolist()),
        1 / PERIOD,
        low=[-1.0, -0.5],
        high=[0.75, 0.5],
        max_rate=0.1 / PERIOD,
        clock=clock,
    )
    loop.run(4)
    assert np.allclose(machine, [[0.75, 0.0], [0.75, 0.1], [0.75, 0.2], [0.75, 0.3]])


def test_a_rate_that_cannot_be_kept():
    clock = Clock(20 * PERIOD)
    machine = Machine(clock)
    loop = ControlLoop(
        plan, machine.observe, machine.act, 1 / PERIOD, watchdog=4 * PERIOD, clock=clock, stop=machine.stop
    )
    with pytest.raises(TooSlow, match=r"no plan came in time for 0\.5 s"):
        loop.run(100)
    assert machine.stops == 1 and len(loop.log) == 4


def test_the_watchdog_stops_a_machine_whose_loop_hangs():
    """Its thread asks while `observe` hangs; when that returns nothing acts any more."""
    clock = Clock()
    machine = Machine(clock)

    def observe():
        if len(machine.acts) == 3:
            clock.time += 0.3
            assert not clock.over() and machine.stops == 0
            clock.time += 0.2
            assert clock.over() and machine.stops == 1
        return machine.observe()

    loop = ControlLoop(plan, observe, machine.act, 1 / PERIOD, clock=clock, stop=machine.stop)
    with pytest.raises(TooSlow):
        loop.run(10)
    assert len(machine.acts) == 3 and machine.stops == 1


def test_no_action_follows_stop():
    """The watchdog ends the loop while the policy thinks; the loop ends when the machine has been stopped."""
    clock, told, stopping = Clock(100.0), [], threading.Event()

    def policy(seen):
        clock.time += 1.0
        threading.Thread(target=clock.over).start()
        assert stopping.wait(60)
        return np.array([1.0])

    def stop():
        stopping.set()
        time.sleep(2 * PERIOD)  # the watchdog has patience for one
        told.append("stop")

    settings = {"on_miss": "policy", "policy": policy, "clock": clock, "stop": stop}
    loop = ControlLoop(plan, lambda: 0, lambda action: told.append("act"), 1 / PERIOD, **settings)
    with pytest.raises(TooSlow, match=r"no plan came in time for 0\.5 s"):
        loop.run(100)
    assert told == ["stop"]


def test_an_action_that_hangs_is_not_waited_for_and_not_the_last_word():
    clock, told = Clock(), []

    def act(action):
        clock.time += 1.0
        watchdog = threading.Thread(target=clock.over, daemon=True)
        watchdog.start()
        watchdog.join(60)
        told.append("act")

    loop = ControlLoop(plan, lambda: 0, act, 1 / PERIOD, clock=clock, stop=lambda: told.append("stop"))
    with pytest.raises(TooSlow):
        loop.run(100)
    assert told == ["stop", "act", "stop"]


@pytest.mark.parametrize("ahead", [4, 5, 6])
def test_the_watchdog_waits_for_a_first_plan_that_is_due_late(ahead):
    loop, machine = played(Clock(0.25 * PERIOD), ticks=ahead + 3, ahead=ahead)
    assert len(machine.acts) == 3 and not any(tick.missed for tick in loop.log)


def test_the_watchdog_ends_a_loop_whose_first_plan_never_comes():
    clock = Clock(100.0)
    machine = Machine(clock)
    loop = ControlLoop(
        plan, machine.observe, machine.act, 1 / PERIOD, ahead=6, clock=clock, stop=machine.stop
    )
    with pytest.raises(TooSlow):
        loop.run(100)
    assert len(loop.log) == 6 + 0.5 / PERIOD + 1 and not machine.acts


ALONE = """
import threading
import time
import control_loop
from control_loop import ControlLoop, TooSlow

def plan(seen, pending):
    PLAN

try:
    control_loop.LINGER_S = LINGER
    ControlLoop(plan, lambda: 0, print, 20.0, ahead=1, stop=lambda: print("stopped")).run(TICKS)
except TooSlow:
    print("too slow")
"""


@pytest.mark.parametrize(
    ("plan", "linger", "ticks", "said"),
    [
        ("threading.Event().wait()", "0.1", "100", "stopped too slow"),
        ("time.sleep(0.5), print('planned')", "60.0", "1", "stopped planned"),
    ],
)
def test_a_plan_is_waited_for_at_the_end_but_not_for_ever(plan, linger, ticks, said, tmp_path):
    """The file alone, as on a robot: a plan that hangs keeps no process, and one that is slow is finished."""
    shutil.copy(control_loop.__file__, tmp_path)
    code = ALONE.replace("PLAN", plan).replace("= LINGER", f"= {linger}").replace("TICKS", ticks)
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", said.split())


def test_a_thread_that_plans_ends_with_its_clock():
    clock = RealClock()
    worker, planned = clock.worker, clock.submit(lambda clock=clock: clock.now())
    assert planned.result(60) <= clock.now()
    del clock
    gc.collect()
    worker.join(60)
    assert not worker.is_alive()


def test_periods_that_a_slow_machine_took_are_left_out():
    """No burst of actions afterwards; what was left out counts as missed."""
    clock = Clock()
    machine = Machine(clock)

    def act(action):
        machine.act(action)
        clock.time += 2.5 * PERIOD if len(machine.acts) == 2 else 0

    loop = ControlLoop(plan, machine.observe, act, 1 / PERIOD, clock=clock)
    loop.run(6)
    assert [(tick.number, tick.jitter / PERIOD) for tick in loop.log] == [
        (0, 0),
        (1, 0),
        (3, 0.5),
        (4, 0),
        (5, 0),
    ]
    assert loop.report()["missed"] == pytest.approx(1 / 6)
    assert loop.report()["jitter_ms 99.9 %"] == pytest.approx(0.5e3 * PERIOD, rel=0.01)


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["plan", "observe", "act"])
def test_whatever_fails_the_machine_is_stopped(where, error):
    def fails(*_):
        raise error

    clock, stops = RealClock(), []
    parts = {"plan": plan, "observe": lambda: 0, "act": lambda action: None, where: fails}
    loop = ControlLoop(**parts, hz=1000.0, clock=clock, watchdog=None, stop=lambda: stops.append(1))
    with pytest.raises(type(error)):
        loop.run(1_000_000)  # as many as a busy machine takes until the thread has planned
    assert stops == [1]


def test_no_action_that_is_not_finite_is_given():
    machine = Machine(Clock())
    loop = ControlLoop(
        lambda seen, pending: (np.array([math.nan]), np.zeros((1, 1))),
        machine.observe,
        machine.act,
        8.0,
        clock=machine.clock,
        stop=machine.stop,
    )
    with pytest.raises(ValueError, match="tick 0: the action is not finite"):
        loop.run(1)
    assert not machine.acts and machine.stops == 1


def test_a_loop_on_the_real_clock_runs_twice():
    seen = []
    loop = ControlLoop(plan, lambda: 0, seen.append, 200.0, ahead=1)
    assert len(loop.run(3)) <= 3 and len(loop.run(3, until=lambda: True)) == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"hz": 0.0}, "hz must be above 0"),
        ({"hz": math.nan}, "hz must be above 0"),
        ({"ahead": -1}, "ahead must be at least 0"),
        ({"deadline": 0.2}, "deadline must be 0 to 0.125 s, got 0.2"),
        ({"on_miss": "pray"}, "on_miss must be one of plan, policy, hold"),
        ({"on_miss": "policy"}, "on_miss=policy needs a policy"),
        ({"low": 1.0, "high": [2.0, 1.0]}, "low must be below high"),
        ({"max_rate": -1.0}, "max_rate must be above 0"),
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"watchdog": 0.1}, "watchdog must be at least a period, 0.125 s, got 0.1"),
    ],
)
def test_settings_out_of_range(settings, told):
    with pytest.raises(ValueError, match=told):
        ControlLoop(plan, lambda: 0, print, **{"hz": 8.0, **settings})
