"""`dreammpc check-env`: all that is wrong with a Gymnasium environment, found in a few seconds."""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from dreammpc.envs import checks
from dreammpc.envs.drawing import advice, picture
from dreammpc.envs.examine_batched import examine_batched
from dreammpc.envs.examine_steps import Examination, Played, Stopped, many, play, reset, step_once
from dreammpc.envs.families import make_rows, makes_batches
from dreammpc.envs.spaces import Actions, flat_box
from dreammpc.envs.state import NotOffered, Unusable, restore, state_of
from dreammpc.interfaces import RunError, UsageError
from dreammpc.support.faults import exception_line

ALONE = 20
"""Steps of the repetitions: drawn, and from a state that was put back."""


def examine(task: str, steps: int = 200, **options: Any) -> Examination:
    """Play `steps` random steps of a task, and look at all that a training relies on.

    Args:
        task: its name.
        steps: that are played, unless it is slow.
        options: as of `make_env`: `action_repeat`, and what the task's family takes besides.
    """
    options = {key: value for key, value in options.items() if value is not None and value != {}}
    found = Examination(task)
    printed = io.StringIO()
    with _alone(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (examine_batched if makes_batches(task) else _examine)(found, task, steps, options)
    if text := printed.getvalue().strip():
        found.warn(
            "prints", f"it prints, {text.splitlines()[0][:60]!r} for one: a training's progress is lost"
        )
    return found


def _examine(found: Examination, task: str, steps: int, options: dict[str, Any]) -> None:
    try:
        first, second = make_rows(task, 2, **options)
    except (ValueError, RunError) as error:
        return found.error("made", str(error).removeprefix(f"task {task!r} "))
    except Exception as error:
        return found.error("made", f"it cannot be made: {exception_line(error)}")
    size, act = _spaces(found, first, task)
    _wrappers(found, first)
    played = play(found, first, act, size, steps)
    cut = f" of {steps}, as they are slow" if not played.ended and played.steps < steps else ""
    found.facts.append(f"{many(played.steps, 'step')} played{cut}")
    if not played.ended:
        same = _repeat(found, first, second, act, size, played, steps)
        _state(found, first, second, act, size)
        if same:
            _drawn(found, task, act, size, played, options)
    for env in (first, second):
        try:
            env.close()
        except (Exception, SystemExit) as error:
            found.warn("close", f"close() raised {exception_line(error)}")


def _spaces(
    found: Examination, env: gymnasium.Env, task: str
) -> tuple[int | None, Callable[[np.random.Generator], Any] | None]:
    """The length of an observation, and what draws an action; None where the space cannot be used."""
    prefix, size, act = f"task {task!r}: ", None, None
    try:
        size = flat_box([env], "observation", task).shape[0]
        found.facts.append(many(size, "observation"))
    except UsageError as error:
        found.error("observation space", str(error).removeprefix(prefix))
    try:
        space = flat_box([env], "action", task)
        actions, width = Actions(space, task), space.shape[0]
        found.facts.append(many(width, "action"))
        for entry in actions.fixed:
            found.warn(
                f"fixed {entry}", f"action[{entry}] can only be {actions.low[entry]:g}: it may be left out"
            )
        act = lambda stream: actions(stream.uniform(-1, 1, (1, width)))[0]  # noqa: E731
    except UsageError as error:
        found.error("action space", str(error).removeprefix(prefix))
        if isinstance(own := getattr(env, "action_space", None), Box) and own.shape[0]:
            act = lambda stream: _sampled(own, stream)  # noqa: E731
    limit = checks.declared(env, "max_episode_steps")
    found.facts.append(f"episodes of at most {many(limit, 'step')}" if limit else "no time limit")
    try:
        checks.full_return(checks.declared(env, "full_return"))
    except UsageError as error:
        found.error("full_return", str(error))
    unwrapped = env.unwrapped
    if getattr(env, "limited", True) is False:
        found.warn("limit", f"it has no time limit: episodes are cut off after {limit} steps")
    declared = getattr(unwrapped, "metadata", None)
    if declared is not None and not isinstance(declared, dict):
        found.warn("metadata", f"metadata is no dictionary: {checks.described(declared)}")
    return size, act


def _sampled(space: gymnasium.Space, stream: np.random.Generator) -> Any:
    space.seed(int(stream.integers(2**31)))
    return space.sample()


def _wrappers(found: Examination, env: gymnasium.Env) -> None:
    while isinstance(env, gymnasium.Wrapper):
        name = type(env).__name__
        if name in ("NormalizeObservation", "NormalizeReward"):
            found.warn(
                name,
                f"{name} keeps statistics of its own in each environment: those of evaluation are others than"
                " those of training, and no checkpoint has them; fixed scales (TransformObservation,"
                " TransformReward) have neither fault",
            )
        env = env.env


def _repeat(
    found: Examination,
    first: gymnasium.Env,
    second: gymnasium.Env,
    act: Any,
    size: int | None,
    played: Played,
    steps: int,
) -> bool:
    """Whether another environment does the same from the same seed on; and the first one, once more."""
    quiet = Examination(found.task)  # the same faults again
    other = play(quiet, second, act, size, steps)
    if other.ended or not played.observations:
        return False
    if not np.array_equal(other.observations[0], played.observations[0]):
        found.warn(
            "seed", "reset(seed=0) gives another start each time: evaluations are not on the same starts"
        )
        return False
    with contextlib.suppress(Stopped):
        again = reset(quiet, first, size, 0)
        if again is not None and not np.array_equal(again, played.observations[0]):
            found.warn("seed", "reset(seed=0) gives another start after an episode: something of it stays")
            return False
    for step, (one, two) in enumerate(zip(played.observations, other.observations, strict=False)):
        if not np.array_equal(one, two):
            found.warn(
                "noise", f"the same seed and actions give other observations from number {step + 1} on"
            )
            return False
    return True


def _state(
    found: Examination, first: gymnasium.Env, second: gymnasium.Env, act: Any, size: int | None
) -> None:
    """Whether a state that is saved can be put back; nothing is said where none is offered."""
    quiet = Examination(found.task)
    if play(quiet, first, act, size, 3, seed=1).ended or play(quiet, second, act, size, 2, seed=2).ended:
        return
    try:
        restore(second, state_of(first))
    except NotOffered:
        return
    except Unusable as error:
        return found.warn("state", f"a resumed training begins a fresh episode: {error}")
    with contextlib.suppress(Stopped):
        for step in range(1, ALONE):
            action = act(np.random.default_rng(step))
            one, two = (step_once(quiet, env, action.copy(), size, step)[1] for env in (first, second))
            if not _equal(one, two):
                found.warn("state", "after set_state(get_state()) the same actions give other observations")
                return


def _drawn(
    found: Examination, task: str, act: Any, size: int | None, played: Played, options: dict[str, Any]
) -> None:
    """Whether it can be drawn, and goes on as if it had not been."""
    try:
        (env,) = make_rows(task, 1, render=True, **options)
        env.reset(seed=0)
        picture(env.render(height=64, width=64))  # type: ignore[call-arg]
    except Exception as error:
        reason = str(error) if isinstance(error, UsageError | RunError) else exception_line(error)
        found.warn("video", f"no video: {reason.removeprefix(f'task {task!r} ')}{advice(error)}")
        return
    quiet, stream, seen = Examination(found.task), np.random.default_rng(0), []
    with contextlib.suppress(Stopped):
        seen.append(reset(quiet, env, size, 0))
        for step in range(1, min(ALONE, len(played.observations))):
            env.render()
            over, observation = step_once(quiet, env, act(stream), size, step)
            seen.append(observation)
            if over:
                break
    if not found.errors and not all(map(_equal, seen, played.observations)):
        found.warn("render", "render() changes the environment: what follows is other than without it")
    with contextlib.suppress(Exception, SystemExit):  # said already
        env.close()


def _equal(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    return one is not None and two is not None and np.array_equal(one, two)


class _Nobody(io.StringIO):
    """A standard input that no one types at."""

    def readline(self, *_: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError("it asks for input, and in a training nobody answers")

    read = readline


@contextlib.contextmanager
def _alone(printed: io.StringIO) -> Iterator[None]:
    """With what is printed in `printed`, and nothing to read."""
    before, sys.stdin = sys.stdin, _Nobody()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        sys.stdin = before
