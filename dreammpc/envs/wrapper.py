"""The one wrapper to TorchRL: a list of Gymnasium environments as one batched environment."""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from dreammpc.envs.drawing import FRAME_SHAPE, draw, observed
from dreammpc.envs.state import state_of
from dreammpc.interfaces import RunError, UsageError

_BUFFERS = ("_observation", "_pixels", "_reward", "_terminated", "_truncated", "success")


class BatchedEnv(EnvBase):
    """B Gymnasium environments with flat Box spaces, stepped one after the other.

    ``batch_size=[B]`` always, also for one environment. Keys:

    - ``observation`` float32 [B, O]; not with ``obs="pixels"``
    - ``pixels`` uint8 [B, 3, 64, 64], the present frame, drawn once per decision; not with ``obs="state"``
    - ``action`` float32 [B, A] in [-1, 1], rescaled here and nowhere else to the environments' own bounds
    - ``reward`` float32 [B, 1]
    - ``terminated``, ``truncated``, ``done`` bool [B, 1]; done = terminated or truncated

    A reset with a mask ``"_reset"`` [B, 1] restarts the rows that it names; the others go on. A lean
    wrapper rather than TorchRL's own, which cost two to four times the simulation of a small task.

    Args:
        envs: B environments with equal spaces; what their observation space says of bounds is ignored.
        task: the task's name, for messages and logs.
        obs: what is observed: ``state``, ``pixels`` or ``both``.

    Attributes:
        task: as given.
        obs: as given.
        envs: as given.
        num_envs: B.
        action_repeat: control steps per decision, 1 where the environments do not say.
        max_episode_steps: time limit in decisions, None where the environments do not say.
        episodic: whether an episode can end before its time limit; True where the environments do not say.
        fps: decisions per simulated second, for videos; 30 where the environments do not say.
        success: float64 [B], `info["success"]` or `info["is_success"]` of the last step; NaN before one and
            where neither is reported.

    Raises:
        UsageError: no environments; a space that is not a flat Box; spaces that differ; action bounds that
            are not finite; no such ``obs``.
        RunError: when stepping or resetting, an action, an observation or a reward that is not finite.
    """

    def __init__(self, envs: Sequence[gymnasium.Env], task: str, obs: str = "state"):
        if not envs:
            raise UsageError(f"task {task!r}: needs at least one environment")
        super().__init__(batch_size=[len(envs)])
        self.envs, self.task, self.obs, self.num_envs = list(envs), task, obs, len(envs)
        self.action_repeat: int = _attribute(envs[0], "action_repeat", 1)
        spec = envs[0].spec
        self.max_episode_steps: int | None = _attribute(
            envs[0], "max_episode_steps", spec.max_episode_steps if spec else None
        )
        self.episodic: bool = _attribute(envs[0], "episodic", True)
        self.fps: float = envs[0].metadata.get("render_fps", 30)
        observation_dim = _flat_box(envs, "observation", task).shape[0]
        actions = _flat_box(envs, "action", task)
        if not (np.isfinite(actions.low).all() and np.isfinite(actions.high).all()):
            raise UsageError(f"task {task!r}: action bounds must be finite, got {_one_line(actions)}")
        # None: the bounds are [-1, 1] already, and the action passes through bit for bit.
        unit = (actions.low == -1).all() and (actions.high == 1).all()
        self._rescale = None if unit else ((actions.high + actions.low) / 2, (actions.high - actions.low) / 2)

        rows = (self.num_envs, 1)
        flag = Categorical(2, shape=rows, dtype=torch.bool)
        pixels_shape = (self.num_envs, *FRAME_SHAPE)
        self._observed = observed(obs)
        specs: dict[str, Any] = {
            "observation": Unbounded((self.num_envs, observation_dim)),
            "pixels": Bounded(0, 255, pixels_shape, dtype=torch.uint8),
        }
        self.observation_spec = Composite({key: specs[key] for key in self._observed}, shape=self.batch_size)
        self.action_spec = Bounded(-1, 1, (self.num_envs, actions.shape[0]), dtype=torch.float32)
        self.reward_spec = Unbounded(rows)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=self.batch_size
        )

        # The present state of every row. A step overwrites it and hands out copies.
        self._observation = np.zeros((self.num_envs, observation_dim), np.float32)
        self._pixels = np.zeros(pixels_shape if "pixels" in self._observed else 0, np.uint8)
        self._reward = np.zeros(rows, np.float32)
        self._terminated, self._truncated = np.zeros(rows, bool), np.zeros(rows, bool)
        self.success = np.full(self.num_envs, np.nan)
        self._seeds: list[int | None] = [None] * self.num_envs
        self._whole = True  # False after a step that failed

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        actions = tensordict.get("action").numpy(force=True)
        if not np.isfinite(actions).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            given = actions[row].tolist()
            raise RunError(f"task {self.task!r}, environment {row}: the action is not finite: {given}")
        if self._rescale is not None:
            middle, half = self._rescale
            actions = middle + half * actions
        self._whole = False
        for i, env in enumerate(self.envs):
            observation, reward, terminated, truncated, info = env.step(actions[i])
            self._observation[i] = observation
            self._reward[i, 0] = reward
            self._terminated[i, 0] = terminated
            self._truncated[i, 0] = truncated
            self.success[i] = info.get("success", info.get("is_success", np.nan))
            self._draw(i)
        if not (np.isfinite(self._observation).all() and np.isfinite(self._reward).all()):
            raise RunError(self._what_is_not_finite())
        self._whole = True
        return self._state(reward=torch.from_numpy(self._reward.copy()))

    def _reset(self, tensordict: TensorDictBase | None = None) -> TensorDict:  # type: ignore[override]
        mask = None if tensordict is None else tensordict.get("_reset", None)
        rows = range(self.num_envs) if mask is None else np.flatnonzero(mask.numpy(force=True))
        for i in rows:
            self._observation[i], _info = self.envs[i].reset(seed=self._seeds[i])
            self._reward[i], self.success[i] = 0, np.nan
            self._terminated[i] = self._truncated[i] = False
            self._seeds[i] = None  # from here on the environment's own stream goes on
            self._draw(i)
        if not np.isfinite(self._observation).all():
            raise RunError(self._what_is_not_finite())
        return self._state()

    def _draw(self, row: int) -> None:
        if self._pixels.size:
            self._pixels[row] = draw(self.envs[row])

    def _state(self, **extra: torch.Tensor) -> TensorDict:
        present: dict[str, np.ndarray] = {"observation": self._observation, "pixels": self._pixels}
        return TensorDict(
            {
                **{key: torch.from_numpy(present[key].copy()) for key in self._observed},
                "terminated": torch.from_numpy(self._terminated.copy()),
                "truncated": torch.from_numpy(self._truncated.copy()),
                "done": torch.from_numpy(self._terminated | self._truncated),
                **extra,
            },
            batch_size=self.batch_size,
        )

    def _set_seed(self, seed: int | None) -> None:
        self._seeds = [None if seed is None else seed + i for i in range(self.num_envs)]

    def get_state(self) -> dict[str, Any] | None:
        """All that the following steps depend on (see :mod:`dreammpc.envs.state`).

        None where an environment does not offer it, and after a step that failed.
        """
        states = [state_of(env) for env in self.envs] if self._whole else [None]
        if None in states:
            return None
        buffers = {name: torch.from_numpy(getattr(self, name).copy()) for name in _BUFFERS}
        return {"envs": states, "seeds": list(self._seeds), "buffers": buffers}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` of an equal environment returned; this one must have been reset."""
        for env, own in zip(self.envs, state["envs"], strict=True):
            env.get_wrapper_attr("set_state")(own)
        for name, values in state["buffers"].items():
            getattr(self, name)[:] = values.numpy()
        self._seeds = list(state["seeds"])

    def seed_rows(self, seeds: Sequence[int]) -> None:
        """Let row i start its next episode from `seeds[i]`; `set_seed(s)` is `seed_rows([s, s + 1, …])`.

        Raises:
            ValueError: not one seed for each row.
        """
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed_rows: expected {self.num_envs} seeds, one for each row, got {len(seeds)}")
        self._seeds = list(seeds)

    def _what_is_not_finite(self) -> str:
        for i, (observation, reward) in enumerate(zip(self._observation, self._reward[:, 0], strict=True)):
            if not math.isfinite(reward):
                return f"task {self.task!r}, environment {i}: the reward is not finite: {reward}"
            if not np.isfinite(observation).all():
                entry = int(np.flatnonzero(~np.isfinite(observation))[0])
                value = observation[entry]
                return f"task {self.task!r}, environment {i}: observation[{entry}] is not finite: {value}"
        raise AssertionError("everything is finite")

    def render(self, index: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
        """Draws row ``index`` as uint8 [height, width, 3]; the environment must be made with rendering."""
        return self.envs[index].render(height=height, width=width)  # type: ignore[call-arg, return-value]

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Closes every environment; a second call does nothing."""
        if not self.is_closed:
            super().close(raise_if_closed=raise_if_closed)
            for env in self.envs:
                env.close()


def _flat_box(envs: Sequence[gymnasium.Env], which: str, task: str) -> Box:
    spaces = [getattr(env, f"{which}_space") for env in envs]
    first = spaces[0]
    if not isinstance(first, Box) or len(first.shape) != 1:
        raise UsageError(
            f"task {task!r}: the {which} space must be a flat Box (continuous, 1-D), got {_one_line(first)}"
        )
    if any(space.shape != first.shape for space in spaces) or (
        which == "action" and len(set(map(repr, spaces))) > 1
    ):
        raise UsageError(
            f"task {task!r}: all environments must have the same {which} space, got {_one_line(spaces)}"
        )
    return first


def _attribute(env: gymnasium.Env, name: str, default: Any) -> Any:
    """An attribute of the environment or of one that it wraps."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def _one_line(spaces: Any) -> str:
    return " ".join(str(spaces).split())
