"""EnvPool, which simulates many environments at once in threads of C++, in place of a task's own simulator.

`env.backend=envpool` steps tasks of the control suite and of Gymnasium under the same names, with the same
observations, rewards and limits. Starts come from other random streams.
"""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from dreammpc.envs.checks import declared
from dreammpc.envs.drawing import Undrawable
from dreammpc.envs.spaces import Actions, flat_box
from dreammpc.envs.task_env import TaskEnv
from dreammpc.envs.wrapper import frames_per_second
from dreammpc.interfaces import LARGEST, RunError, UsageError

INSTALL = "pip install 'dreammpc[envpool]'"


class EnvPoolEnv(TaskEnv):
    """B environments of EnvPool; arguments and attributes as `BatchedEnv` has them.

    Args:
        task: its name here.
        own: the task's own environment, whose spaces, limits and order of observations hold.
        num_envs: B.

    Raises:
        UsageError: EnvPool has no such task, or one with other spaces; an action repeat at which an episode
            may end between two decisions.
    """

    def __init__(self, task: str, own: gymnasium.Env, num_envs: int):
        import envpool

        self._name, limit = pool_name(task, own), own.get_wrapper_attr("max_episode_steps")
        if self._name not in envpool.list_all_envs():
            raise UsageError(f"task {task!r}: EnvPool has no {self._name}; leave out env.backend=envpool")
        actions = flat_box([own], "action", task)
        observations = flat_box([own], "observation", task).shape[0]
        super().__init__(task, "state", num_envs, observations, actions.shape[0])
        self.action_repeat = own.get_wrapper_attr("action_repeat")
        self.max_episode_steps = limit
        self.episodic = own.get_wrapper_attr("episodic")
        self.full_return = declared(own, "full_return")
        self.fps, self.variant = frames_per_second(own), "EnvPool"
        if self.action_repeat > 1 and self.episodic:
            raise UsageError(
                f"task {task!r}: env.backend=envpool takes no action repeat where episodes can end"
            )
        self._keys = list(own.unwrapped._env.observation_spec()) if hasattr(own.unwrapped, "_env") else []
        self._own_actions = Actions(actions, task)
        self._pool: Any = None
        self._seeds = list(range(num_envs))
        self._reseed = True
        self._row = np.zeros((num_envs, observations), np.float32)
        self.success = self.any_success = np.full(num_envs, math.nan)
        self.stateless = "EnvPool keeps the state of its environments to itself"

    def _make(self) -> None:
        import envpool

        # EnvPool's seeds are 32 bits wide.
        seeds = [int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1) for seed in self._seeds]
        self._pool = envpool.make(
            self._name,
            env_type="gymnasium",
            num_envs=self.num_envs,
            seed=seeds,
            max_episode_steps=self.max_episode_steps * self.action_repeat,  # type: ignore[operator]
        )
        shape = self._pool.action_space.shape
        if shape != self.action_spec.shape[1:]:
            raise UsageError(f"task {self.task!r}: EnvPool's actions are {list(shape)}")

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.steps += 1
        own, total = self._own_actions(self._finite_actions(tensordict)), np.zeros(self.num_envs)
        try:
            for _ in range(self.action_repeat):
                observation, reward, terminated, truncated, _info = self._pool.step(own)
                total += reward
        except Exception as error:
            raise self._fault(None, error) from error
        # A row that goes on past its end has been reset by EnvPool; whoever steps here resets before.
        self._observe(observation, slice(None))
        for name, values in (("observation", self._row), ("reward", total[:, None])):
            if not (well := np.abs(values) <= LARGEST).all():
                row = int(np.flatnonzero(~well.all(1))[0])
                raise RunError(f"{self._place(row)}: the {name} is not finite, or beyond {LARGEST:g}")
        over = truncated & ~terminated
        return self._state(terminated, over, reward=torch.from_numpy(total.astype(np.float32))[:, None])

    def _reset(self, tensordict: TensorDictBase | None = None) -> TensorDict:  # type: ignore[override]
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if self._reseed or self._pool is None:
            self._make()
            self._reseed, mask = False, None
        ids = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask.numpy(force=True))
        try:
            observation, _info = self._pool.reset(ids.astype(np.int32))
        except Exception as error:
            raise self._fault(None, error, "reset") from error
        self._observe(observation, ids)
        ends = np.zeros(self.num_envs, bool)
        return self._state(ends, ends)

    def _observe(self, observation: Any, rows: Any) -> None:
        if isinstance(observation, dict):
            count = len(next(iter(observation.values())))
            parts = [np.asarray(observation[key]).reshape(count, -1) for key in self._keys]
            observation = np.concatenate(parts, 1)
        if observation.shape[1] != self._row.shape[1]:
            raise UsageError(
                f"task {self.task!r}: EnvPool observes {observation.shape[1]} numbers, its own simulator"
                f" {self._row.shape[1]}; leave out env.backend=envpool"
            )
        self._row[rows] = observation

    def _state(self, terminated: np.ndarray, truncated: np.ndarray, **extra: torch.Tensor) -> TensorDict:
        flags = {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
        ends = {key: torch.from_numpy(value.copy())[:, None] for key, value in flags.items()}
        row = torch.from_numpy(self._row.copy())
        return TensorDict({"observation": row, **ends, **extra}, batch_size=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self.seed_rows([seed + i for i in range(self.num_envs)])

    def seed_rows(self, seeds: Sequence[int]) -> None:
        super().seed_rows(seeds)
        self._reseed = True

    def render(self, index: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
        raise Undrawable(f"task {self.task!r}: EnvPool's environments are not drawn here")

    def close(self, *, raise_if_closed: bool = True) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


def pool_name(task: str, own: gymnasium.Env) -> str:
    """What EnvPool calls a task of Gymnasium (`gym-ID`: ID) or of the control suite (`WalkerWalk-v1`)."""
    if task.startswith("gym-"):
        return task.removeprefix("gym-")
    words = f"{own.unwrapped.domain}_{own.unwrapped.task}".split("_")  # type: ignore[attr-defined]
    return "".join(word if word.isupper() else word.capitalize() for word in words) + "-v1"


def check_asked(task: str, family: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError unless EnvPool is installed, and may be asked for this task with these options.

    `family` is the prefix of the task's family.
    """
    if ":" in task or family not in ("", "gym-"):
        raise UsageError(
            f"task {task!r}: env.backend=envpool steps tasks of the control suite and of Gymnasium only"
        )
    if "kwargs" in options:
        raise UsageError(f"task {task!r}: env.backend=envpool takes no env.kwargs")
    if importlib.util.find_spec("envpool") is None:
        raise UsageError(f"env.backend=envpool needs EnvPool, which is not installed: {INSTALL}")
