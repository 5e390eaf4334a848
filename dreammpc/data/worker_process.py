"""What runs in a worker process: its environments, and its copy of the agent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase
from torchrl.envs.transforms import Transform

from dreammpc.data.collector import with_carry
from dreammpc.data.mailbox import Mailbox
from dreammpc.data.worker_errors import reporting_errors
from dreammpc.runtime.processes import end_with_parent, in_session_of_its_own


@dataclass(frozen=True)
class WorkerInit:
    """Starts a worker process: a session of its own, which ends with its parent."""

    parent: int

    def __call__(self) -> None:
        in_session_of_its_own()
        end_with_parent(self.parent)


@dataclass(frozen=True)
class WorkerEnv:
    """Makes a worker's environments, in the worker."""

    make_env: Callable[..., EnvBase]
    primer: Transform
    seed: int
    reports: str | None = None
    """A folder for what is raised (see `worker_errors.reporting_errors`)."""

    def __call__(self) -> EnvBase:
        torch.manual_seed(self.seed)
        env = reporting_errors(self.make_env, self.reports)(seed=self.seed)
        env._step = reporting_errors(env._step, self.reports)
        env._reset = reporting_errors(env._reset, self.reports)
        return with_carry(env, self.primer)


@dataclass(frozen=True)
class WorkerPolicy:
    """Makes a worker's copy of the agent, in the worker."""

    agent: Any
    mailbox: Mailbox
    reports: str | None = None

    def __call__(self) -> "SyncedAgent":
        return SyncedAgent(self.agent, self.mailbox, self.reports)


class SyncedAgent(TensorDictModuleBase):
    """An agent that takes the newest weights before it acts."""

    def __init__(self, agent: Any, mailbox: Mailbox, reports: str | None = None):
        super().__init__()
        self.act = reporting_errors(self._act, reports)
        self.in_keys, self.out_keys = agent.in_keys, agent.out_keys
        self.agent, self.mailbox, self.seen = agent, mailbox, 0

    def forward(self, td: TensorDictBase) -> TensorDictBase:
        return self.act(td)

    def _act(self, td: TensorDictBase) -> TensorDictBase:
        self.seen = self.mailbox.fetch(self.agent, self.seen)
        return self.agent(td)
