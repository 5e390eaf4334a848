"""Names of tasks, and the families of environments that they belong to."""

import contextlib
import difflib
import warnings
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import gymnasium

from dreammpc.envs.drawing import check_drawing, explained, observed
from dreammpc.envs.wrapper import BatchedEnv
from dreammpc.interfaces import UsageError
from dreammpc.registry import Registry


class EnvFactory(Protocol):
    """Makes one environment of a family; see :func:`register_env`."""

    def __call__(self, task: str, *, action_repeat: int | None, render: bool) -> gymnasium.Env: ...


FAMILIES = Registry("task prefix", "dreammpc.envs")
"""Factories by the prefix of their tasks' names, as which an installed package names its entry point."""
_TASKS: dict[str, Callable[[], Iterable[str]]] = {}
_CLOSED: set[str] = set()
"""Families whose lists name all that they have."""
_Factory = TypeVar("_Factory", bound=EnvFactory)


def register_env(
    prefix: str,
    factory: _Factory | None = None,
    *,
    tasks: Callable[[], Iterable[str]] | None = None,
    open: bool = False,
):
    """Adds a family of tasks: every task whose name begins with ``prefix``. Also a decorator.

    The longest registered prefix of a name wins, so a family may carve tasks out of another one.

    Args:
        prefix: what the names of the family begin with, its separator included, such as ``"gym-"``.
        factory: ``factory(task, action_repeat=, render=) -> gymnasium.Env`` with flat Box spaces. ``task``
            is the whole name; ``action_repeat=None`` asks for the family's own default; ``render=True``
            says that frames will be asked for, through ``env.render(height=, width=)`` -> uint8 [H, W, 3].
            The environment may carry the attributes ``action_repeat``, ``max_episode_steps`` and
            ``episodic``; see :class:`BatchedEnv`.
        tasks: lists the family's names. Without it the set is open.
        open: the family has more names than it lists; the factory itself raises ``ValueError`` for a name
            that it does not know.

    Raises:
        UsageError: the prefix is taken.

    Example::

        @register_env("gym-")
        def make_gym(task, *, action_repeat, render): ...
    """
    if factory is None:
        return lambda function: register_env(prefix, function, tasks=tasks, open=open)
    FAMILIES.add(prefix, factory)
    if tasks is not None:
        _TASKS[prefix] = tasks
        if not open:
            _CLOSED.add(prefix)
    return factory


def list_tasks() -> list[str]:
    """Names of all tasks of the families that can list theirs, sorted. Imports their simulators.

    A family of an installed package that cannot be imported is left out, with a warning of one line.
    """
    for prefix in FAMILIES:
        try:
            FAMILIES[prefix]
        except UsageError as error:
            warnings.warn(str(error), stacklevel=2)
    return sorted(task for tasks in _TASKS.values() for task in tasks())


def make_env(
    task: str,
    num_envs: int = 1,
    seed: int = 0,
    action_repeat: int | None = None,
    render: bool = False,
    obs: str = "state",
) -> BatchedEnv:
    """Makes ``num_envs`` copies of a task as one batched environment.

    Args:
        task: a name from :func:`list_tasks`, or one with the prefix of an open family.
        num_envs: rows B of the batch, stepped one after the other in this process.
        seed: row i is seeded with ``seed + i``.
        action_repeat: control steps per decision, rewards summed; None for the family's default (2 for
            the control suite).
        render: say so here if frames will be asked for: without it no graphics library is set up.
        obs: what is observed: ``state``, ``pixels`` or ``both``; the latter two draw once per decision.

    Returns:
        An environment with ``batch_size=[num_envs]``; see :class:`BatchedEnv`.

    Raises:
        ValueError: an unknown task, ``num_envs`` or ``action_repeat`` below 1, or spaces that do not fit.
        UsageError: pixels of a task that cannot be drawn, or on a machine that cannot draw.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if action_repeat is not None and action_repeat < 1:
        raise ValueError(f"action_repeat must be at least 1, got {action_repeat}")
    draws = "pixels" in observed(obs)
    with explained(obs) if draws else contextlib.nullcontext():
        envs = _make(task, num_envs, action_repeat, render or draws)
        if draws:
            check_drawing(envs[0], task, obs)
    env = BatchedEnv(envs, task, obs)
    env.set_seed(seed)
    return env


def _make(task: str, num_envs: int, action_repeat: int | None, render: bool) -> list[gymnasium.Env]:
    prefix = max((prefix for prefix in FAMILIES if task.startswith(prefix)), key=len)
    factory = FAMILIES[prefix]
    if prefix in _CLOSED and task not in set(_TASKS[prefix]()):
        raise ValueError(_unknown(task))
    return [factory(task, action_repeat=action_repeat, render=render) for _ in range(num_envs)]


def _unknown(task: str) -> str:
    known = list_tasks()
    close = difflib.get_close_matches(task, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    open_families = sorted(set(FAMILIES) - _CLOSED)
    others = "".join(f", and any name that begins with {prefix!r}" for prefix in open_families)
    return f"unknown task {task!r}: {hint}{len(known)} tasks exist, see `dreammpc tasks`{others}"
