"""Gymnasium's environments as tasks: `gym-Hopper-v5` is the environment `Hopper-v5`.

Any registered id with a Box of actions will do, also `gym-package:Name-v0`, whose package Gymnasium then
imports. Rewards and ends are the environment's own; one call of its `step` is one environment step.
"""

import atexit
import contextlib
import difflib
import math
import warnings
import weakref
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit

from dreammpc.envs import checks
from dreammpc.envs.dmcontrol import use_egl_if_headless
from dreammpc.envs.drawing import picture, scaled
from dreammpc.envs.observations import Joined, is_flat, is_picture, leaves
from dreammpc.envs.task_env import TIME_LIMIT
from dreammpc.envs.wrapper import frames_per_second
from dreammpc.interfaces import ForeignError, UsageError
from dreammpc.support.faults import exception_line

PREFIX = "gym-"
_NEVER_END = {"HalfCheetah", "HumanoidStandup", "Pendulum", "Pusher", "Reacher", "Swimmer"}


class GymTask(gymnasium.Wrapper):
    """A Gymnasium environment with a time limit, as the wrapper to TorchRL asks for it.

    Actions of any shape are flat here.

    Args:
        env: as `gymnasium.make` gives it, time limit included.
        action_repeat: steps of `env` per call of `step`, rewards summed; fewer where it ends between.
        time_limit: of `env`, in its own steps.
        episodic: whether an episode can end before the time limit.
        action_bound: of actions that have none of their own.

    Attributes:
        action_repeat, episodic: as given.
        max_episode_steps: the time limit, in calls of `step`.
        limited: whether the time limit is the environment's own.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        action_repeat: int,
        time_limit: int,
        episodic: bool,
        action_bound: float | None = None,
    ):
        super().__init__(env)
        space = env.action_space
        self._shape = space.shape
        if isinstance(space, Box):
            low, high = space.low.ravel(), space.high.ravel()
            if action_bound is not None:
                low = np.where(np.isfinite(low), low, -action_bound)
                high = np.where(np.isfinite(high), high, action_bound)
            self.action_space = Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype)  # type: ignore[arg-type]
        self.action_repeat, self.episodic = action_repeat, episodic
        self._drawn, self.limited = False, True
        self.max_episode_steps = math.ceil(time_limit / action_repeat)
        self.metadata = {**(env.metadata or {}), "render_fps": frames_per_second(env) / action_repeat}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply `action` [A] up to `action_repeat` times."""
        action = action.reshape(self._shape)
        if self.action_repeat == 1:
            return self.env.step(action)  # type: ignore[return-value]
        total = 0.0
        for _ in range(self.action_repeat):
            answer = checks.step_parts(self.env.step(action.copy()))
            observation, reward, terminated, truncated, info = answer
            total += checks.reward_of(reward)
            if checks.flag(terminated, "terminated") or checks.flag(truncated, "truncated"):
                break
        return observation, total, terminated, truncated, info  # type: ignore[return-value]

    def render(self, height: int = 64, width: int = 64) -> np.ndarray:  # type: ignore[override]
        """The environment's own picture, uint8 [height, width, 3], scaled by averaging."""
        frame = self.env.render()
        if not self._drawn:  # only now: what ends first at exit is what was registered last
            self._drawn = True
            atexit.register(_close, weakref.ref(self.env))
        return scaled(picture(frame), height, width)


def make(
    task: str,
    *,
    action_repeat: int | None,
    render: bool,
    kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    action_bound: float | None = None,
) -> GymTask:
    """Make the environment of `gym-ID`; action repeat 1 by default.

    Args:
        task, action_repeat, render: see `register_env`.
        kwargs: the environment's own arguments, by name.
        max_episode_steps: a time limit in place of its own, in its own steps.
        action_bound: of actions that have none of their own.

    Raises:
        UsageError: no such id, an environment whose package is missing, or one that cannot be drawn.
    """
    name = task.removeprefix(PREFIX)
    if render:
        use_egl_if_headless()
    own = {**(kwargs or {}), "disable_env_checker": True, "max_episode_steps": max_episode_steps}
    try:
        env = _make(name, own, render)
    except gymnasium.error.UnregisteredEnv as error:
        package, colon, own_name = name.rpartition(":")
        close = difflib.get_close_matches(own_name, gymnasium.registry, n=3, cutoff=0.5)
        full = [f"{PREFIX}{package}{colon}{other}" for other in close]
        hint = f" Did you mean {' or '.join(full)}?" if close else ""
        reason = _one_line(error).partition(" Did you mean")[0]
        raise UsageError(f"unknown task {task!r}: {reason}{hint}") from error
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        hint = "; it must be installed or on PYTHONPATH" if isinstance(error, ModuleNotFoundError) else ""
        raise UsageError(f"task {task!r} cannot be made: {_one_line(error)}{hint}") from error
    except (Exception, SystemExit) as error:
        raise ForeignError(f"task {task!r} cannot be made: {exception_line(error)}") from error
    if not is_flat(env.observation_space):
        env = Joined(env, task)
    limit = max_episode_steps or (env.spec.max_episode_steps if env.spec else None)
    if not (limited := limit is not None):
        limit = TIME_LIMIT
        env = TimeLimit(env, limit)
        warnings.warn(
            f"task {task!r} has no time limit: episodes are cut off after {limit} steps", stacklevel=2
        )
    space = env.action_space
    if action_bound is not None and isinstance(space, Box) and space.is_bounded():
        warnings.warn(f"task {task!r} has bounds of actions: env.action_bound changes nothing", stacklevel=2)
    task_env = GymTask(env, action_repeat or 1, limit, _can_end(env), action_bound)
    task_env.limited = limited
    return task_env


def _make(name: str, own: dict[str, Any], render: bool) -> gymnasium.Env:
    """What observes its own picture need not be able to draw another."""
    if not render:
        return gymnasium.make(name, **own)
    try:
        return gymnasium.make(name, render_mode="rgb_array", **own)
    except Exception:
        with contextlib.suppress(Exception):
            blind = gymnasium.make(name, **own)
            if any(is_picture(space) for _, space in leaves(blind.observation_space)):
                return blind
        raise


def list_tasks() -> list[str]:
    """The MuJoCo tasks of version 5; any other id can be had as well."""
    return [
        PREFIX + name
        for name, spec in gymnasium.registry.items()
        if spec.version == 5 and str(spec.entry_point).startswith("gymnasium.envs.mujoco")
    ]


def _close(reference: "weakref.ref[gymnasium.Env]") -> None:
    """Close an environment that is still there: its viewer must go before the graphics library does."""
    if (env := reference()) is not None:
        with contextlib.suppress(Exception):
            env.close()


def _can_end(env: gymnasium.Env) -> bool:
    """Whether an episode may terminate: assumed of every environment that is not known never to."""
    return env.spec is None or env.spec.name not in _NEVER_END


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
