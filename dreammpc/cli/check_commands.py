"""What `dreammpc check-env` does; imported when it is called."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from dreammpc.configuration.command_line import quoted
from dreammpc.configuration.recipe import compose
from dreammpc.envs.examine import examine
from dreammpc.interfaces import UsageError
from dreammpc.plugins.settings import Positive, fitted

MAKING = ("env.kwargs.", "env.max_episode_steps=", "env.action_bound=", "env.action_repeat=")
"""What `check-env` is told of how an environment is made."""
EXPECTED = "env.kwargs.KEY=VALUE, env.max_episode_steps=N, env.action_bound=X or env.action_repeat=N"


def check_env(task: str, steps: int, choices: Sequence[str] = ()) -> None:
    """Print what is wrong with a task.

    Args:
        task: its name.
        steps: random steps to play.
        choices: words of `train` that say how it is made, of `MAKING`.

    Raises:
        UsageError: no such task, no steps, or a word that is none of these.
        SystemExit: with 2 if a training would refuse it or end with it.
    """
    fitted("--steps", steps, Positive)
    for word in choices:
        if not word.startswith(MAKING):
            raise UsageError(f"{word}: expected {EXPECTED}")
    options = {}
    if choices:
        asked = asdict(compose("train", [f"task={quoted(task)}", *choices]).env)
        options = {
            key: asked[key] for key in ("kwargs", "max_episode_steps", "action_bound", "action_repeat")
        }
    began = time.perf_counter()
    found = examine(task, steps, **options)
    seconds = time.perf_counter() - began
    print(f"{task}: {', '.join([*found.facts, f'looked at in {seconds:.1f} s'])}")
    for kind, texts in (("error", found.errors), ("warning", found.warnings)):
        for text in texts:
            print(f"  {kind}: {text}")
    if not found.errors:
        print("  nothing wrong" if not found.warnings else "  it can be trained on")
        return
    sys.exit(2)
