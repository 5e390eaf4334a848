"""The one wrapper to TorchRL: a list of Gymnasium environments as one batched environment."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from dreammpc.envs import checks
from dreammpc.envs.drawing import draw, rendered
from dreammpc.envs.spaces import Actions, flat_box
from dreammpc.envs.state import Unusable, restore, state_of
from dreammpc.envs.task_env import TaskEnv
from dreammpc.interfaces import FRAME_SHAPE, RunError, UsageError
from dreammpc.support.faults import exception_line

log = logging.getLogger(__name__)

FPS = 30.0
"""Of videos, where the environment does not say."""
_BUFFERS = ("_observation", "_pixels", "_reward", "_terminated", "_truncated", "success", "any_success")


class BatchedEnv(TaskEnv):
    """B Gymnasium environments with flat Box spaces, stepped one after the other.

    Frames are drawn once per decision; actions have the dtype that the environments want, whole numbers where
    they want integers. A lean wrapper rather than TorchRL's own, which cost two to four times the simulation
    of a small task. What the environments return is checked here, by `dreammpc.envs.checks`.

    Args:
        envs: B environments with equal spaces; what their observation space says of bounds is ignored.
        task: the task's name, for messages and logs.
        obs: what is observed: `state`, `pixels` or `both`.

    Attributes:
        envs: as given; those of `TaskEnv` besides. Success is `info["success"]` or
            `info["is_success"]`.

    Raises:
        UsageError: no environments; a space that is not a flat Box; spaces that differ; action bounds that
            are not finite; a `full_return` that is no positive number; no such `obs`.
        RunError: when stepping or resetting, an action that is not finite, or an answer that is not what was
            declared; a ForeignError where an environment raises something. Both name task, environment and
            step.
    """

    def __init__(self, envs: Sequence[gymnasium.Env], task: str, obs: str = "state"):
        if not envs:
            raise UsageError(f"task {task!r}: needs at least one environment")
        observation_dim = flat_box(envs, "observation", task, empty=obs == "pixels").shape[0]
        actions = flat_box(envs, "action", task)
        channels = checks.declared(envs[0], "channels", 3)
        super().__init__(task, obs, len(envs), observation_dim, actions.shape[0], channels=channels)
        self.envs = list(envs)
        self.action_repeat = checks.declared(envs[0], "action_repeat", 1)
        spec = envs[0].spec
        self.max_episode_steps = checks.declared(
            envs[0], "max_episode_steps", spec.max_episode_steps if spec else None
        )
        self.episodic = checks.declared(envs[0], "episodic", True)
        try:
            self.full_return = checks.full_return(checks.declared(envs[0], "full_return", None))
        except checks.Mismatch as error:
            raise UsageError(f"task {task!r}: {error}") from None
        self.variant = checks.declared(envs[0], "variant", "")
        self.fps = frames_per_second(envs[0])
        self.layout = checks.declared(envs[0], "layout", "")
        self._own_actions = Actions(actions, task)

        rows, pixels_shape = (self.num_envs, 1), (self.num_envs, channels, *FRAME_SHAPE[1:])
        # The present state of every row. A step overwrites it and hands out copies.
        self._observation = np.zeros((self.num_envs, observation_dim), np.float32)
        self._pixels = np.zeros(pixels_shape if "pixels" in self._observed else 0, np.uint8)
        self._reward = np.zeros(rows, np.float32)
        self._terminated, self._truncated = np.zeros(rows, bool), np.zeros(rows, bool)
        self.success, self.any_success = np.full(self.num_envs, np.nan), np.full(self.num_envs, np.nan)
        self.violation = np.full(self.num_envs, np.nan)
        self._complained, self._open = False, True

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.steps += 1
        own = self._own_actions(self._finite_actions(tensordict))
        self._whole = False
        for i, env in enumerate(self.envs):
            try:
                answer = checks.step_parts(env.step(own[i]))
                observation, reward, terminated, truncated, info = answer
                checks.observe(observation, self._observation[i])
                self._reward[i, 0] = checks.reward_of(reward)
                self._terminated[i, 0] = checks.flag(terminated, "terminated")
                self._truncated[i, 0] = checks.flag(truncated, "truncated")
                self.success[i], self.violation[i] = self._success(info), checks.violation_of(info)
                # Of repeated steps `info` is that of the last; the environment may say what the others were.
                also = checks.number(info.get("any_success"))
                now = self.success[i] if also is None else also
                self.any_success[i] = np.fmax(self.any_success[i], now)
                self._draw(i)
            except (Exception, SystemExit) as error:
                raise self._fault(i, error) from error
        self._whole = True
        return self._state(reward=torch.from_numpy(self._reward.copy()))

    def _reset(self, tensordict: TensorDictBase | None = None) -> TensorDict:  # type: ignore[override]
        mask = None if tensordict is None else tensordict.get("_reset", None)
        rows = range(self.num_envs) if mask is None else np.flatnonzero(mask.numpy(force=True))
        self._whole = False
        for i in map(int, rows):
            try:
                observation, _info = checks.reset_parts(self.envs[i].reset(seed=self._seeds[i]))
                checks.observe(observation, self._observation[i])
                self._reward[i], self.success[i], self.any_success[i] = 0, np.nan, np.nan
                self._terminated[i] = self._truncated[i] = False
                self._seeds[i] = None  # from here on the environment's own stream goes on
                self._draw(i)
            except (Exception, SystemExit) as error:
                raise self._fault(i, error, "reset") from error
        self._whole = True
        return self._state()

    def _fault(self, row: int | None, error: BaseException, what: str = "") -> RunError:
        if not isinstance(error, UsageError | RunError) and (mismatch := checks.old_answer(error)):
            error = mismatch
        return super()._fault(row, error, what)

    def _success(self, info: Any) -> float:
        try:
            return checks.success_of(info)
        except checks.Mismatch as error:
            if not self._complained:
                self._complained = True
                log.warning("task %r: %s; success counts as not known", self.task, error)
            return math.nan

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

    def get_state(self) -> dict[str, Any] | None:
        """All that the following steps depend on (see `dreammpc.envs.state`).

        None where an environment does not offer it (`stateless` says why), and after a step that failed.
        """
        if not self._whole:
            return None
        try:
            states = [state_of(env) for env in self.envs]
        except Unusable as error:
            self.stateless = str(error)
            return None
        buffers = {name: torch.from_numpy(getattr(self, name).copy()) for name in _BUFFERS}
        return {"envs": states, "seeds": list(self._seeds), "buffers": buffers}

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` of an equal environment returned; this one must have been reset.

        Raises:
            Unusable: an environment does not take it. It must be reset then.
        """
        for env, own in zip(self.envs, state["envs"], strict=True):
            restore(env, own)
        for name, values in state["buffers"].items():
            getattr(self, name)[:] = values.numpy()
        self._seeds = list(state["seeds"])

    def render(self, index: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
        """Draw row `index` as uint8 [height, width, 3]; the environment must be made with rendering.

        Raises:
            Undrawable: `render` gave no picture, or raised something.
        """
        drawing: Any = self.envs[index]
        return rendered(self.task, lambda: drawing.render(height=height, width=width))

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Close every environment; a second call does nothing. What one raises is only reported."""
        if self._open:  # TorchRL's `is_closed` is True of whoever does not set it
            self._open = False
            super().close(raise_if_closed=False)
            for i, env in enumerate(self.envs):
                try:
                    env.close()
                except (Exception, SystemExit) as error:
                    log.warning("%s: close() failed: %s", self._place(i, "close"), exception_line(error))


def frames_per_second(env: gymnasium.Env) -> float:
    """What the environment says of itself under `render_fps`, if that is a positive number."""
    fps = checks.number((env.metadata or {}).get("render_fps"))
    return fps if fps is not None and 0 < fps < math.inf else FPS
