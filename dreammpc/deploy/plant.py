"""A simulated machine for a control loop, and a clock on which a plan takes as long as one says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dreammpc.deploy.control_loop import ControlLoop, TooSlow
from dreammpc.deploy.exported import ExportedAgent
from dreammpc.interfaces import UsageError

LONGEST = 1.0
"""Seconds that the simulation may take to catch up with the clock."""


class Plant:
    """A task as a machine that is observed and acted on, while time passes.

    Whenever it is observed or acted on, it is simulated up to the clock's time, to the nearest control step;
    an action holds from there on.

    Args:
        env: a batch of one, with action repeat 1.
        step_s: seconds of the clock in a control step.
        clock: has `now()`; time begins with the first call.
        seed: of the start.
        delay: control steps by which an action takes effect late.

    Attributes:
        rewards: summed over the control steps of the episode that runs.
        returns: of the episodes that have ended; the next one begins by itself.
    """

    def __init__(self, env: Any, step_s: float, clock: Any, seed: int, delay: int = 0):
        self.env, self.step_s, self.clock, self.delay = env, step_s, clock, delay
        self.began: float | None = None
        self.steps, self.rewards, self.returns = 0, 0.0, list[float]()
        self.action = torch.zeros(1, env.action_spec.shape[-1])
        self.given: list[tuple[int, torch.Tensor]] = []
        """Actions that have not taken effect yet, with the step at which they will."""
        self.restarted: Callable[[], None] = lambda: None
        """Called when an episode has ended and another begins."""
        env.seed_rows([seed])
        self.obs = env.reset()

    def seen(self) -> dict[str, np.ndarray]:
        """What was observed last."""
        found = self.obs.select("observation", "pixels", strict=False)
        return {key: value[0].numpy().copy() for key, value in found.items()}

    def observe(self) -> dict[str, np.ndarray]:
        """What is observed now."""
        self._catch_up()
        return self.seen()

    def act(self, action: np.ndarray) -> None:
        """An action [A] within -1 and 1."""
        self._catch_up()
        self.given.append((self.steps + self.delay, torch.from_numpy(np.array(action, np.float32))[None]))

    def _catch_up(self) -> None:
        now = self.clock.now()
        self.began = now if self.began is None else self.began
        for _ in range(round((now - self.began) / self.step_s) - self.steps):
            if self.clock.now() - now > LONGEST:
                raise TooSlow(f"simulating what had passed took more than {LONGEST:g} s")
            while self.given and self.given[0][0] <= self.steps:
                self.action = self.given.pop(0)[1]
            self.obs = self.env.step(self.obs.set("action", self.action))["next"]
            self.rewards += float(self.obs["reward"])
            self.steps += 1
            self.obs, done = self.obs.exclude("reward"), bool(self.obs["done"])
            if done:
                self.returns.append(self.rewards)
                self.rewards, self.given, self.action = 0.0, [], torch.zeros_like(self.action)
                self.obs = self.env.reset()
                self.restarted()


class Planned:
    """A plan that is finished at a time of a simulated clock."""

    def __init__(self, value: Any, at: float, clock: "SimulatedClock"):
        self.value, self.at, self.clock = value, at, clock

    def done(self) -> bool:
        return self.clock.time >= self.at - 1e-9

    def result(self) -> Any:
        return self.value


class SimulatedClock:
    """Time passes only where somebody waits; so results depend on no machine.

    Args:
        latency: seconds from an observation to its plan. Plans may overlap.
    """

    def __init__(self, latency: float = 0.0):
        self.latency, self.time = latency, 0.0

    def now(self) -> float:
        return self.time

    def sleep_until(self, when: float) -> None:
        self.time = max(self.time, when)

    def submit(self, function: Callable[[], Any]) -> Planned:
        return Planned(function(), self.time + self.latency, self)

    def wait(self, future: Planned, until: float) -> None:
        self.sleep_until(min(future.at, until))

    def watch(self, over: Callable[[], bool], every: float) -> None:
        """Nobody waits for real."""


def simulate(
    file: ExportedAgent, env: Any, repeats: int, hz: float, latency: float, ahead: bool, seed: int, ticks: int
) -> float:
    """The return of an episode whose actions come `latency` seconds after what they are planned from.

    Args:
        file: plans; exported with `--ahead` for `ahead`.
        env: a batch of one, with action repeat 1.
        repeats: control steps in a tick: a tick lasts 1 / hz seconds of the loop, however long it is in the
            simulation.
        hz: ticks a second.
        latency: of sensing, planning and acting together, in whole control steps.
        ahead: plan for the state that is predicted when the action is due, at a tick's beginning; else an
            action is for the state that was observed, and acts as soon as it is there.
        seed: of the start and of the planner's noise.
        ticks: at most so many; an episode that is not over counts with what it has reached.

    Raises:
        UsageError: a latency that is no whole number of control steps, or beyond what the file plans for.
    """
    step_s = 1 / hz / repeats
    late = round(latency / step_s) if np.isfinite(latency) else -1
    if late < 0 or abs(late * step_s - latency) > 1e-6:
        raise UsageError(
            f"latency must be a multiple of {1e3 * step_s:g} ms, a control step, got {1e3 * latency:g}"
        )
    ticks_late = -(-late // repeats)
    if ahead and ticks_late > file.ahead:
        raise UsageError(
            f"a latency of {1e3 * latency:g} ms is {ticks_late} ticks, but file {file.path} plans"
            f" {file.ahead} ahead: export it with --ahead {ticks_late}"
        )
    torch.manual_seed(seed)
    file.reset()
    clock = SimulatedClock(latency if ahead else 0.0)
    plant = Plant(env, step_s, clock, seed, 0 if ahead else late)
    steps = ticks_late if ahead else 0
    loop = ControlLoop(file, plant.observe, plant.act, hz, steps, watchdog=None, clock=clock)
    loop.run(ticks, until=lambda: bool(plant.returns))
    if not plant.returns:  # the last tick's action has not run yet
        clock.sleep_until(ticks / hz)
        plant.observe()
    return plant.returns[0] if plant.returns else plant.rewards
