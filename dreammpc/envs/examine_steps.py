"""`dreammpc check-env`: random steps in an environment, and what is wrong with its answers."""

import time
from dataclasses import dataclass, field
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from dreammpc.envs import checks
from dreammpc.support.faults import exception_line

SLOW_RESET_S, SLOW_STEP_S = 1.0, 0.1
ENOUGH_S = 4.0
"""So long is played at most."""
LARGE_REWARD = 2e4
"""About symexp(10): beyond it, predicted rewards and values are cut (`dreammpc.nn.TwoHot`)."""
LARGE_OBSERVATION = 1e6


@dataclass
class Examination:
    """What was found; every text is one line."""

    task: str
    errors: list[str] = field(default_factory=list)
    """What a training would refuse or end with."""
    warnings: list[str] = field(default_factory=list)
    """What a training would go on with, though hardly as it was meant."""
    facts: list[str] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def error(self, about: str, text: str) -> None:
        """Note an error, the first of those about the same."""
        self._note(self.errors, about, text)

    def warn(self, about: str, text: str) -> None:
        """Note a warning, the first of those about the same."""
        self._note(self.warnings, about, text)

    def _note(self, notes: list[str], about: str, text: str) -> None:
        if about not in self._said:
            self._said.add(about)
            notes.append(text)


def many(number: int, what: str) -> str:
    """`number` and `what`, with an s where there are several."""
    return f"{number} {what}{'s' * (number != 1)}"


@dataclass
class Played:
    """What an environment answered from a reset with seed 0 on."""

    observations: list[np.ndarray]
    steps: int = 0
    ended: bool = False
    """Whether something was raised, so that there is no more to see."""


def play(
    found: Examination, env: gymnasium.Env, act: Any, size: int | None, steps: int, seed: int | None = 0
) -> Played:
    """Reset and step; everything that comes back is checked."""
    stream, played, began = np.random.default_rng(0), Played([]), time.perf_counter()
    resets_s, over = [0.0], True
    try:
        for step in range(1, steps + 1):
            if over:
                last, start = played.observations[-1:], time.perf_counter()
                seen = reset(found, env, size, seed if step == 1 else None)
                resets_s.append(time.perf_counter() - start)
                if last and seen is not None and seen.any() and np.array_equal(last[0], seen):
                    found.warn("reset", "reset() gave the last observation again: it may not reset at all")
                played.observations += [seen] if seen is not None else []
            if act is None:
                raise Stopped
            if step > 1 and time.perf_counter() - began > ENOUGH_S:
                break
            played.steps = step
            over, seen = step_once(found, env, act(stream), size, step)
            played.observations += [seen] if seen is not None else []
    except Stopped:
        played.ended = True
    each = (time.perf_counter() - began - sum(resets_s)) / max(played.steps, 1)
    if max(resets_s) > SLOW_RESET_S:
        found.warn("slow reset", f"reset() takes {max(resets_s):.1f} s")
    if each > SLOW_STEP_S:
        found.warn("slow step", f"step() takes {1000 * each:.0f} ms: a training makes many thousands")
    return played


class Stopped(Exception):
    """There is nothing more to see."""


def reset(found: Examination, env: gymnasium.Env, size: int | None, seed: int | None) -> np.ndarray | None:
    try:
        observation, _ = checks.reset_parts(env.reset(seed=seed))
    except checks.Mismatch as error:
        found.error("reset", str(error))
        raise Stopped from None
    except (Exception, SystemExit) as error:
        found.error("reset", str(checks.old_answer(error) or f"reset() raised {exception_line(error)}"))
        raise Stopped from None
    return _observed(found, env, observation, size, "reset")


def step_once(
    found: Examination, env: gymnasium.Env, action: Any, size: int | None, step: int
) -> tuple[bool, np.ndarray | None]:
    """Whether the episode is over, and the observation."""
    try:
        answer = env.step(action)
        observation, reward, terminated, truncated, info = checks.step_parts(answer)
    except checks.Mismatch as error:
        found.error("step", f"step {step}: {error}")
        if isinstance(answer, tuple) and len(answer) == 5:
            return _rest(found, env, (*answer[:4], {}), size, step)
        raise Stopped from None
    except (Exception, SystemExit) as error:
        found.error(
            "step", f"step {step}: {checks.old_answer(error) or f'step() raised {exception_line(error)}'}"
        )
        raise Stopped from None
    return _rest(found, env, (observation, reward, terminated, truncated, info), size, step)


def _rest(
    found: Examination, env: gymnasium.Env, answer: tuple, size: int | None, step: int
) -> tuple[bool, np.ndarray | None]:
    observation, reward, terminated, truncated, info = answer
    over = False
    for name, check in (
        ("reward", lambda: checks.reward_of(reward)),
        ("terminated", lambda: checks.flag(terminated, "terminated")),
        ("truncated", lambda: checks.flag(truncated, "truncated")),
    ):
        try:
            value = check()
        except checks.Mismatch as error:
            found.error(name, f"step {step}: {error}")
            continue
        over = over or (name != "reward" and bool(value))
        if name == "reward" and abs(value) > LARGE_REWARD:
            found.warn(
                "large reward",
                f"step {step}: the reward is {value:g}: rewards and values beyond {LARGE_REWARD:g} are cut",
            )
        if name == "terminated" and value and not checks.declared(env, "episodic", True):
            found.warn("episodic", f"step {step}: it terminates, though it is said never to")
    try:
        checks.success_of(info)
    except checks.Mismatch as error:
        found.warn("success", f"step {step}: {error}; success counts as not known")
    return over, _observed(found, env, observation, size, f"step {step}")


def _observed(
    found: Examination, env: gymnasium.Env, value: Any, size: int | None, when: str
) -> np.ndarray | None:
    """The observation as a training sees it, with what is odd about it."""
    if size is None:
        return None
    row, space = np.zeros(size, np.float32), cast(Box, env.observation_space)
    try:
        checks.observe(value, row)
    except checks.Mismatch as error:
        found.error("observation", f"{when}: {error}")
        return None
    array = checks.as_array(value)
    assert array is not None
    if not isinstance(value, np.ndarray) or array.shape != space.shape:
        found.warn(
            "form",
            f"{when}: the observation is {checks.described(value)}, not an array {list(space.low.shape)}",
        )
    elif not np.can_cast(array.dtype, space.dtype, "same_kind"):
        found.warn("dtype", f"{when}: the observation is {array.dtype}, and its space says {space.dtype}")
    flat, low, high = array.reshape(-1), space.low.reshape(-1), space.high.reshape(-1)
    outside = np.flatnonzero((flat < low) | (flat > high))
    if outside.size:
        i = outside[0]
        found.warn("bounds", f"{when}: observation[{i}] is {flat[i]:g}, outside of [{low[i]:g}, {high[i]:g}]")
    i = int(np.abs(row).argmax())
    if abs(row[i]) > LARGE_OBSERVATION:
        found.warn(
            "large observation", f"{when}: observation[{i}] is {row[i]:g}: bring it near 1 by a wrapper"
        )
    return row
