"""Environments: a task's name in, a batched TorchRL environment out.

`make_env("walker-walk", num_envs=8)` is the door. Behind it:

- `families`: which family of tasks a name belongs to (longest registered prefix) and how to make it;
- `dmcontrol`, `dmcontrol_extra`: the DeepMind control suite and eleven further tasks on its bodies;
- `metaworld`, `humanoidbench`: `mw-NAME`, `h1hand-NAME` and other robots', where they are installed;
- `gymnasium`: any environment that Gymnasium knows by an id, as `gym-ID`;
- `torchrl`: any environment of TorchRL's, batched and on its own device, as `torchrl:module:factory`;
- `task_env`: what all of them are to a run. `wrapper` makes it of plain Gymnasium environments with flat
  Box spaces, in which most families are written, and `torchrl_env` of TorchRL's.

Simulators are imported when a task of theirs is made, never by `import dreammpc.envs`.
"""

import functools

from dreammpc.envs import dmcontrol, gymnasium, humanoidbench, metaworld, torchrl
from dreammpc.envs.families import Needs, canonical, list_tasks, make_env, not_installed, register_env
from dreammpc.envs.task_env import TaskEnv
from dreammpc.envs.wrapper import BatchedEnv

# The default family: its prefix is empty, so every longer registered prefix wins over it.
register_env("", dmcontrol.make, tasks=dmcontrol.list_tasks)
register_env(gymnasium.PREFIX, gymnasium.make, tasks=gymnasium.list_tasks, open=True)
register_env(torchrl.PREFIX, torchrl.make, tasks=torchrl.list_tasks, open=True, batched=True)
register_env(
    metaworld.PREFIX,
    metaworld.make,
    tasks=metaworld.list_tasks,
    needs=Needs("metaworld", "Meta-World", metaworld.INSTALL),
)
for _robot, _prefix in zip(humanoidbench.ROBOTS, humanoidbench.PREFIXES, strict=True):
    register_env(
        _prefix,
        humanoidbench.make,
        tasks=functools.partial(humanoidbench.list_tasks, _robot),
        needs=Needs(humanoidbench.MODULE, "HumanoidBench", humanoidbench.INSTALL),
    )

__all__ = [
    "BatchedEnv",
    "Needs",
    "TaskEnv",
    "canonical",
    "list_tasks",
    "make_env",
    "not_installed",
    "register_env",
]
