"""TorchRL environments for tests: batched pendulums on any device, whose episodes end apart."""

import math
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase


class Pendulums(EnvBase):
    """Pendulums to be swung up; one that spins too fast is over, and so is one whose own time has come.

    Row i has a time limit of `shortest` + i % 5 steps, so that episodes end apart. Starts come from a stream
    of the environment's own, on the CPU whatever the device, so that they are the same everywhere.

    Args:
        num_envs: rows; with 0 an environment without batch dimensions.
        fault: what goes wrong at step 4 from a seed on: `nan`, `inf reward`, `shape` or `raise`; or `done` at
            a reset.
        mask: whether a reset heeds `_reset`.
    """

    batch_locked = True
    action_repeat = 1
    episodic = True

    def __init__(
        self,
        num_envs: int = 64,
        device: Any = "cpu",
        shortest: int = 20,
        torque: float = 2.0,
        fault: str = "",
        mask: bool = True,
        **base: Any,
    ):
        rows = [num_envs] if num_envs else []
        super().__init__(device=device, batch_size=rows)
        self.fault, self.mask, self.count = fault, mask, 0
        self.max_episode_steps = shortest + 4
        on = {"device": self.device}
        self.observation_spec = Composite(
            angle=Bounded(-1, 1, (*rows, 2), **on), speed=Unbounded((*rows, 1), **on), shape=rows, **on
        )
        self.action_spec = Bounded(-torque, torque, (*rows, 1), **on)
        self.reward_spec = Unbounded((*rows, 1), **on)
        flag = Categorical(2, shape=(*rows, 1), dtype=torch.bool, **on)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=rows, **on
        )
        self.limit = (shortest + torch.arange(max(num_envs, 1)) % 5).reshape(*rows, 1).to(self.device)
        self.generator = torch.Generator()
        self.theta = self.omega = torch.zeros(*rows, 1, device=self.device)
        self.age = torch.zeros(*rows, 1, dtype=torch.int64, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self.generator.manual_seed(seed or 0)
        self.count = 0

    def _draw(self) -> Tensor:
        return torch.rand(self.theta.shape, generator=self.generator).to(self.device)

    def _reset(self, tensordict: TensorDictBase | None = None) -> TensorDict:
        mask = None if tensordict is None or not self.mask else tensordict.get("_reset", None)
        mask = torch.ones_like(self.age, dtype=torch.bool) if mask is None else mask
        self.theta = torch.where(mask, math.pi + self._draw() - 0.5, self.theta)
        self.omega = torch.where(mask, self._draw() - 0.5, self.omega)
        self.age = self.age.masked_fill(mask, 0)
        over = torch.full_like(mask, self.fault == "done")
        return self._answer(over, torch.zeros_like(over))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.count += 1
        torque = tensordict["action"]
        self.omega = self.omega + 0.05 * (15 * self.theta.sin() + 3 * torque)
        self.theta = self.theta + 0.05 * self.omega
        self.age = self.age + 1
        reward = self.theta.cos() - 0.01 * self.omega.square()
        terminated, truncated = self.omega.abs() > 9, self.age >= self.limit
        answer = self._answer(terminated, truncated).set("reward", reward)
        if self.count >= 4 and self.fault:
            self._fail(answer)
        return answer

    def _fail(self, answer: TensorDict) -> None:
        if self.fault == "raise":
            raise ConnectionError("the simulator has gone")
        if self.fault == "nan":
            answer["speed"][-1] = math.nan
        if self.fault == "inf reward":
            answer["reward"][-1] = math.inf
        if self.fault == "shape":
            answer["angle"] = answer["angle"].repeat_interleave(2, -1)

    def _answer(self, terminated: Tensor, truncated: Tensor) -> TensorDict:
        content = {
            "angle": torch.cat([self.theta.cos(), self.theta.sin()], -1),
            "speed": self.omega,
            "terminated": terminated,
            "truncated": truncated,
            "done": terminated | truncated,
        }
        return TensorDict(content, batch_size=self.batch_size, device=self.device)


class SavedPendulums(Pendulums):
    """The same, whose state can be saved."""

    def get_state(self) -> dict[str, Any]:
        held = {name: getattr(self, name) for name in ("theta", "omega", "age")}
        return {**held, "stream": self.generator.get_state(), "count": self.count}

    def set_state(self, state: dict[str, Any]) -> None:
        for name in ("theta", "omega", "age"):
            setattr(self, name, state[name])
        self.generator.set_state(state["stream"].cpu())
        self.count = state["count"]
