"""Names of tasks, and the families of environments that they belong to."""

import contextlib
import difflib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import gymnasium

from dreammpc.envs import envpool
from dreammpc.envs.drawing import check_drawing, explained, observed
from dreammpc.envs.task_env import TaskEnv
from dreammpc.envs.wrapper import BatchedEnv
from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import Registry, installed


class Needs(NamedTuple):
    """What a family's tasks are made by, and may be missing."""

    module: str
    """That is imported."""
    name: str
    """As people call it."""
    install: str
    """The command that installs it."""


class Declared(NamedTuple):
    """What a family says of itself, see `register_env`."""

    tasks: Callable[[], Iterable[str]] | None = None
    open: bool = True
    batched: bool = False
    needs: Needs | None = None

    def names(self) -> list[str]:
        """Those that it lists."""
        return [] if self.tasks is None else list(self.tasks())


FAMILIES = Registry("task prefix", "dreammpc.envs")
"""Factories by the prefix of their tasks' names, as which an installed package names its entry point."""
_DECLARED: dict[str, Declared] = {}
"""What was said of those that were registered here; an entry point says nothing."""
_Factory = TypeVar("_Factory", bound=Callable)


def register_env(
    prefix: str,
    factory: _Factory | None = None,
    *,
    tasks: Callable[[], Iterable[str]] | None = None,
    open: bool = False,
    batched: bool = False,
    needs: Needs | None = None,
):
    """Add a family of tasks: every task whose name begins with `prefix`. Also a decorator.

    The longest registered prefix of a name wins, so a family may carve tasks out of another one.

    Args:
        prefix: what the names of the family begin with, its separator included, such as `"gym-"`.
        factory: `factory(task, action_repeat=, render=) -> gymnasium.Env` with flat Box spaces. `task`
            is the whole name; `action_repeat=None` asks for the family's own default; `render=True`
            says that frames will be asked for, through `env.render(height=, width=)` -> uint8 [H, W, 3].
            The environment may carry the attributes `action_repeat`, `max_episode_steps`,
            `episodic`, `full_return` and `variant`; see `BatchedEnv`.
        tasks: lists the family's names. Without it the set is open.
        open: the family has more names than it lists; the factory itself raises `ValueError` for a name
            that it does not know.
        batched: the factory makes all rows at once, as a `TaskEnv`:
            `factory(task, num_envs, action_repeat=, render=, obs=)`.
        needs: the package that it needs, if that may be missing; nothing else is asked of the family then.

    Raises:
        UsageError: the prefix is taken.

    Example::

        @register_env("gym-")
        def make_gym(task, *, action_repeat, render): ...
    """
    if factory is None:
        return lambda function: register_env(
            prefix, function, tasks=tasks, open=open, batched=batched, needs=needs
        )
    FAMILIES.add(prefix, factory)
    _DECLARED[prefix] = Declared(tasks, open or tasks is None, batched, needs)
    return factory


def list_tasks() -> list[str]:
    """Names of all tasks of the families that can list theirs, sorted. Imports their simulators.

    A family that is not installed is left out (see `not_installed`); one that cannot be imported too, with a
    warning of one line.
    """
    found: list[str] = []
    for prefix in FAMILIES:
        try:
            FAMILIES[prefix]
            if _lack(prefix) is None:
                found += _declared(prefix).names()
        except UsageError as error:
            warnings.warn(str(error), stacklevel=2)
    return sorted(found)


def not_installed(tasks: Iterable[str] | None = None) -> list[str]:
    """A line for every package that families need and that is missing: which tasks, and how to install it.

    Args:
        tasks: of these alone; by default of all families.
    """
    asked = FAMILIES if tasks is None else dict.fromkeys(map(_family, tasks))
    lacking: dict[Needs, list[str]] = {}
    for prefix in asked:
        if (needs := _lack(prefix)) is not None:
            lacking.setdefault(needs, []).append(f"{prefix}…")
    return [
        f"{', '.join(prefixes)}: {needs.name} is not installed: {needs.install}"
        for needs, prefixes in lacking.items()
    ]


def canonical(task: str) -> str:
    """A task's name as its family lists it, where dashes and underscores are the same; any other as it is.

    Names of the control suite, which no prefix marks, stay as they are.
    """
    prefix = _family(task)
    if not prefix or _declared(prefix).open or _lack(prefix) is not None:
        return task
    FAMILIES[prefix]
    names = _declared(prefix).names()
    return task if task in names else next((name for name in names if _folded(name) == _folded(task)), task)


def _family(task: str) -> str:
    return max((prefix for prefix in FAMILIES if task.startswith(prefix)), key=len)


def _declared(prefix: str) -> Declared:
    return _DECLARED.get(prefix, Declared())


def _lack(prefix: str) -> Needs | None:
    """What a family needs, if that is missing."""
    needs = _declared(prefix).needs
    return None if needs is None or importlib.util.find_spec(needs.module) else needs


def _folded(name: str) -> str:
    return name.replace("_", "-")


def make_env(
    task: str,
    num_envs: int = 1,
    seed: int = 0,
    action_repeat: int | None = None,
    render: bool = False,
    obs: str = "state",
    normalize: bool = False,
    backend: str | None = None,
    **options: Any,
) -> TaskEnv:
    """Make `num_envs` copies of a task as one batched environment.

    Args:
        task: a name from `list_tasks` (after a prefix dashes and underscores are the same), or one
            with the prefix of an open family.
        num_envs: rows B of the batch, stepped one after the other in this process. A TorchRL environment
            comes in batches of its own: it has at least as many.
        seed: row i is seeded with `seed + i`.
        action_repeat: control steps per decision, rewards summed; None for the family's default (2 for
            the control suite).
        render: say so here if frames will be asked for: without it no graphics library is set up.
        obs: what is observed: `state`, `pixels` or `both`; the latter two draw once per decision.
        normalize: noted in the environment, for whoever makes a model for it; observations are as they are.
        backend: `envpool` simulates in threads (`dreammpc.envs.envpool`) whatever is not drawn.
        options: what the task's own family takes besides, of Gymnasium `kwargs`, `max_episode_steps` and
            `action_bound`; None is as good as nothing.

    Returns:
        An environment with `batch_size=[num_envs]`; see `TaskEnv`.

    Raises:
        ValueError: an unknown task, `num_envs` or `action_repeat` below 1, or spaces that do not fit.
        UsageError: pixels of a task that cannot be drawn, or on a machine that cannot draw.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if action_repeat is not None and action_repeat < 1:
        raise ValueError(f"action_repeat must be at least 1, got {action_repeat}")
    draws, task = "pixels" in observed(obs), canonical(task)
    options = {key: value for key, value in options.items() if value is not None and value != {}}
    if backend is not None:
        envpool.check_asked(task, _family(task), options)
    with explained(obs) if draws else contextlib.nullcontext():
        if makes_batches(task):
            common = {"action_repeat": action_repeat, "render": render or draws, "obs": obs}
            env: TaskEnv = _factory(task, options)(task, num_envs, **common, **options)
        else:
            pooled = backend is not None and not (render or draws)
            envs = make_rows(task, 1 if pooled else num_envs, action_repeat, render or draws, **options)
            if draws:
                check_drawing(envs[0], task, obs)
            env = envpool.EnvPoolEnv(task, envs[0], num_envs) if pooled else BatchedEnv(envs, task, obs)
    env.options, env.normalize = options, normalize
    env.set_seed(seed)
    return env


def first_text(values: object) -> str | None:
    """The first text in nested containers, names of entries aside; None if there is none."""
    if isinstance(values, str):
        return values
    if isinstance(values, Mapping):
        values = list(values.values())
    inside = values if isinstance(values, list | tuple) else ()
    return next((text for value in inside if (text := first_text(value)) is not None), None)


def check_task(task: str, where: str, named: Collection[str] = (), kwargs: object = None) -> None:
    """Raise UsageError if `task`, which stands in a file, would do what nobody chose.

    `gym-package:Name-v0` imports `package`: one that is installed with environments for Gymnasium or for
    us may be in a file, any other if today's command line names the task. So may `torchrl:NAME` that an
    installed package offers, but no `torchrl:module:factory`. The same holds for texts among the
    arguments of an environment, which may take them for paths or addresses.

    Args:
        task: as the file has it.
        where: what the message calls the file.
        named: see `dreammpc.plugins.registry.named_by`.
        kwargs: the environment's arguments, as the file has them.
    """
    if not isinstance(task, str):
        raise UsageError(f"{where}: its task is {task!r}; expected a name")
    if task not in named and (text := first_text(kwargs)) is not None:
        raise UsageError(
            f"{where} makes its environment with the text {text!r}, which that may take for a path or an"
            f" address; if you trust it, add task={task}"
        )
    head, colon, _ = task.partition(":")
    if not colon or task in named:
        return
    package = head.partition("-")[2]
    points = (*installed("gymnasium.envs"), *installed(FAMILIES.group))
    offered = {f"torchrl:{point.name}" for point in installed("dreammpc.torchrl")}
    if task not in offered and package not in {point.module.partition(".")[0] for point in points}:
        raise UsageError(
            f"{where} names the task {task}, and a file alone does not have a package imported;"
            f" if you trust it, add task={task}"
        )


def make_rows(
    task: str, num_envs: int, action_repeat: int | None = None, render: bool = False, **options: Any
) -> list[gymnasium.Env]:
    """The environments of a task, as their family makes them, not yet wrapped.

    Raises:
        ValueError, UsageError, ForeignError: see `make_env`.
    """
    task = canonical(task)
    factory = _factory(task, options)
    return [factory(task, action_repeat=action_repeat, render=render, **options) for _ in range(num_envs)]


def makes_batches(task: str) -> bool:
    """Whether the family of a task makes all rows at once."""
    return _declared(_family(task)).batched


def _factory(task: str, options: Mapping[str, Any]) -> Any:
    """What makes a task, if it exists, is installed and takes these options."""
    prefix = _family(task)
    if (needs := _lack(prefix)) is not None:
        raise UsageError(f"task {task!r} needs {needs.name}, which is not installed: {needs.install}")
    factory = FAMILIES[prefix]
    if not _declared(prefix).open and task not in _declared(prefix).names():
        raise ValueError(_unknown(task))
    takes = inspect.signature(factory).parameters
    if unknown := [name for name in options if name not in takes]:
        raise UsageError(f"task {task!r} takes no env.{unknown[0]}; tasks of Gymnasium do: gym-ID")
    return factory


def _unknown(task: str) -> str:
    known = list_tasks()
    close = [f"gym-{task}"] if ":" in task else difflib.get_close_matches(task, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    others = "".join(f", and any name that begins with {p!r}" for p in FAMILIES if _declared(p).open)
    return f"unknown task {task!r}: {hint}{len(known)} tasks exist, see `dreammpc tasks`{others}"
