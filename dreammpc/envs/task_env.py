"""Base class of all task environments: B environments as one `EnvBase`, with what a run asks of it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from dreammpc.envs.drawing import observed
from dreammpc.interfaces import FRAME_SHAPE, ForeignError, RunError, UsageError
from dreammpc.support.faults import exception_line

TIME_LIMIT = 1000
"""Steps after which an environment without a limit of its own is cut off."""


class TaskEnv(EnvBase):
    """B environments of one task; `batch_size=[B]` always, also for one. Keys:

    - `observation` float32 [B, O]; not with `obs="pixels"`
    - `pixels` uint8 [B, channels, 64, 64], the present frame, of all cameras; not with `obs="state"`
    - `action` float32 [B, A] in [-1, 1], rescaled here and nowhere else to the environments' own bounds
    - `reward` float32 [B, 1]
    - `terminated`, `truncated`, `done` bool [B, 1]; done = terminated or truncated

    A reset with a mask `"_reset"` [B, 1] restarts the rows that it names; the others go on. What the
    environments return is checked on every step.

    Args:
        task: its name, for messages and logs.
        obs: what is observed: `state`, `pixels` or `both`.
        num_envs: B.
        observation_dim: O, 0 with pixels alone.
        action_dim: A.
        device: where all of it is; None is the CPU.
        channels: of a frame, three for each camera.

    Attributes:
        task, obs, num_envs, channels: as given.
        action_repeat: control steps per decision, 1 where the environments do not say.
        max_episode_steps: time limit in decisions, None where the environments do not say.
        episodic: whether an episode can end before its time limit; True where the environments do not say.
        fps: decisions per simulated second, for videos; 30 where the environments do not say.
        success: [B], success of the last step, a number in [0, 1]; NaN before one and where none is reported.
        any_success: [B], whether any step of the episode so far was a success; NaN likewise.
        violation: [B], what the environment itself says of a constraint at the last step (`violation` or
            `cost` in `info`); NaN where it says nothing.
        full_return: the return that is worth a normalized score of 1, as the environments say it; None where
            they do not: success is the score there, if it is reported.
        variant: which of several versions of the task's environment this is, for tables; else empty.
        layout: the entries that the observation was joined of, if it was.
        options: those of `make_env` for the task's own family.
        normalize: whether a model that learns here is to scale observations by running statistics.
        steps: that every environment has been asked for.
        stateless: why the last `get_state` was None, where the environments can be blamed for it.
    """

    action_repeat: int = 1
    max_episode_steps: int | None = None
    episodic: bool = True
    full_return: float | None = None
    variant: str = ""
    fps: float = 30.0
    layout: str = ""
    normalize: bool = False
    stateless: str = ""
    success: Any
    any_success: Any
    violation: Any = math.nan

    def __init__(
        self,
        task: str,
        obs: str,
        num_envs: int,
        observation_dim: int,
        action_dim: int,
        device: torch.device | None = None,
        channels: int = 3,
    ):
        super().__init__(batch_size=[num_envs], device=device)
        self.task, self.obs, self.num_envs, self.channels = task, obs, num_envs, channels
        self.options: dict[str, Any] = {}
        self.steps = 0
        self._whole = True  # False after a step or a reset that failed
        self._seeds: list[int | None] = [None] * num_envs  # of each row's next reset
        rows, on = (num_envs, 1), {"device": device}
        flag = Categorical(2, shape=rows, dtype=torch.bool, **on)
        self._observed = observed(obs)
        specs: dict[str, Any] = {
            "observation": Unbounded((num_envs, observation_dim), **on),
            "pixels": Bounded(0, 255, (num_envs, channels, *FRAME_SHAPE[1:]), dtype=torch.uint8, **on),
        }
        self.observation_spec = Composite(
            {key: specs[key] for key in self._observed}, shape=self.batch_size, **on
        )
        self.action_spec = Bounded(-1, 1, (num_envs, action_dim), dtype=torch.float32, **on)
        self.reward_spec = Unbounded(rows, **on)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=self.batch_size, **on
        )

    @property
    def title(self) -> str:
        """The task's name, with its variant if it has one."""
        return f"{self.task} ({self.variant})" if self.variant else self.task

    def facts(self) -> dict[str, str]:
        """What a run's log says of the environments beside its settings."""
        found = {"variant": self.variant, "observation": self.layout}
        return {name: text for name, text in found.items() if text}

    def seed_rows(self, seeds: Sequence[int]) -> None:
        """Let row i start its next episode from `seeds[i]`; `set_seed(s)` is `seed_rows([s, s + 1, …])`.

        Raises:
            ValueError: not one seed for each row.
        """
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed_rows: expected {self.num_envs} seeds, one for each row, got {len(seeds)}")
        self._seeds = list(seeds)

    def _set_seed(self, seed: int | None) -> None:
        self._seeds = [None if seed is None else seed + i for i in range(self.num_envs)]

    def get_state(self) -> dict[str, Any] | None:
        """All that the following steps depend on, as plain containers.

        None where the environments do not offer it (`stateless` says why), and after a step that failed.
        """
        return None

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_state` of an equal environment returned; this one must have been reset.

        Raises:
            Unusable: an environment does not take it. It must be reset then.
        """
        raise NotImplementedError

    def render(self, index: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
        """Draw row `index` as uint8 [height, width, 3].

        Raises:
            Undrawable: there is no picture.
        """
        raise NotImplementedError

    def _finite_actions(self, tensordict: TensorDictBase) -> np.ndarray:
        """The actions [B, A] of a step, on the host.

        Raises:
            RunError: one is not finite.
        """
        actions = tensordict.get("action").numpy(force=True)
        if not np.isfinite(actions).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            raise RunError(f"{self._place(row)}: the action is not finite: {actions[row].tolist()}")
        return actions

    def _place(self, row: int | None, what: str = "") -> str:
        """Where something went wrong: in the present step, or in `what` came between two."""
        between = f"{what} after " if self.steps else f"{what} before "
        when = f"{between if what else ''}step {self.steps or 1}"
        environment = "" if row is None else f"environment {row}, "
        return f"task {self.task!r}, {environment}{when}"

    def _fault(self, row: int | None, error: BaseException, what: str = "") -> RunError:
        """What an environment raised, or what is wrong with its answer, as the error that ends the run."""
        place = self._place(row, what)
        if isinstance(error, UsageError | RunError):
            return RunError(f"{place}: {error}")
        return ForeignError(f"{place}: {exception_line(error)}")
