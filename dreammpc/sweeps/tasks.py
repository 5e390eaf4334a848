"""Sets of tasks by name.

The 24 tasks and the six from pixels are those of Dream-MPC (arXiv 2605.04568); `dmc8` is the first third.
"""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from dreammpc.envs import canonical, list_tasks, make_env, not_installed
from dreammpc.envs.families import FAMILIES
from dreammpc.interfaces import UsageError


class TaskSet(NamedTuple):
    tasks: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    """Of the training, beside the task."""


DMC8 = (
    "acrobot-swingup",
    "cartpole-swingup-sparse",
    "dog-run",
    "dog-walk",
    "fish-swim",
    "hopper-hop",
    "humanoid-run",
    "humanoid-walk",
)
METAWORLD8 = (
    "mw-assembly",
    "mw-disassemble",
    "mw-button-press",
    "mw-lever-pull",
    "mw-pick-place-wall",
    "mw-push-back",
    "mw-shelf-place",
    "mw-window-open",
)
HUMANOID8 = (
    "h1hand-balance_hard",
    "h1hand-balance_simple",
    "h1hand-hurdle",
    "h1hand-maze",
    "h1hand-reach",
    "h1hand-run",
    "h1hand-slide",
    "h1hand-stair",
)
PIXELS6 = (
    "acrobot-swingup",
    "cartpole-swingup-sparse",
    "cheetah-run",
    "hopper-hop",
    "quadruped-walk",
    "walker-run",
)
SMALL6 = ("walker-walk", "cartpole-swingup", "reacher-easy", "cup-catch", "cheetah-run", "finger-spin")

TASK_SETS = {
    "dmc8": TaskSet(DMC8),
    "metaworld8": TaskSet(METAWORLD8),
    "humanoidbench8": TaskSet(HUMANOID8),
    "paper24": TaskSet((*DMC8, *METAWORLD8, *HUMANOID8)),
    "dmc-pixels6": TaskSet(PIXELS6, ("obs=pixels",)),
    "small6": TaskSet(SMALL6),
}
"""`small6` is learned in 100,000 environment steps by CPU-sized models."""


def expand(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tasks of sets and single tasks, each once and in order; and the sets' overrides.

    Raises:
        UsageError: no name; a set with overrides beside tasks that are not of it.
    """
    if not names:
        raise UsageError(f"tasks: expected names of tasks or of sets: {', '.join(TASK_SETS)}")
    sets = [TASK_SETS.get(name, TaskSet((name,))) for name in names]
    if len({each.overrides for each in sets}) > 1:
        own = next(name for name in names if name in TASK_SETS and TASK_SETS[name].overrides)
        raise UsageError(
            f"tasks: {own} is trained with {' '.join(TASK_SETS[own].overrides)} and goes with no other tasks"
        )
    tasks = (canonical(task) for each in sets for task in each.tasks)
    return list(dict.fromkeys(tasks)), list(sets[0].overrides)


def check_installed(tasks: Sequence[str]) -> None:
    """Raise UsageError with the names of all tasks that do not exist here."""
    listed = list_tasks()
    missing = [task for task in tasks if task not in listed and not _opens(task)]
    if not missing:
        return
    close = {
        task: difflib.get_close_matches(task, listed, 1) for task in missing if not not_installed([task])
    }
    names = [f"{task} (did you mean {close[task][0]}?)" if close.get(task) else task for task in missing]
    families = not_installed(missing)
    raise UsageError(
        f"{len(missing)} of {len(tasks)} tasks are not installed here: {', '.join(names)};"
        f" {'; '.join(families) or '`dreammpc tasks` lists those that are'}"
    )


def _opens(task: str) -> bool:
    """Whether an open family, which lists no tasks, makes this one."""
    if not any(prefix and task.startswith(prefix) for prefix in FAMILIES):
        return False
    try:
        make_env(task).close()
    except ValueError:  # a UsageError is one
        return False
    return True
