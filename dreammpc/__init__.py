"""Control by planning in learned world models.

The public names are imported when they are asked for, so that the launcher starts at once.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreammpc.agent import Agent
    from dreammpc.envs import list_tasks, make_env, register_env
    from dreammpc.evaluation import run_episodes
    from dreammpc.models import SimulatorModel
    from dreammpc.planning import PLANNERS, make_planner, register_planner
    from dreammpc.trained.loading import load_agent

__version__ = "0.1.0"

__all__ = [
    "PLANNERS",
    "Agent",
    "SimulatorModel",
    "list_tasks",
    "load_agent",
    "make_env",
    "make_planner",
    "register_env",
    "register_planner",
    "run_episodes",
]

_ROOMS = {
    "Agent": "agent",
    "SimulatorModel": "models",
    "list_tasks": "envs",
    "load_agent": "trained.loading",
    "make_env": "envs",
    "register_env": "envs",
    "run_episodes": "evaluation",
}
"""The module of each name; of the others it is `planning`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'dreammpc' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"dreammpc.{_ROOMS.get(name, 'planning')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if os.environ.pop("DREAMMPC_STARTING", None):  # a recipe's process, which the launcher has started
    from dreammpc.cli.interrupt import tell_interrupt

    sys.excepthook = tell_interrupt
