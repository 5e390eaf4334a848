"""Collection in the actors of a Ray cluster: TorchRL's Ray collector, with copies of the agent that keep up.

Needs the package `ray`; nothing else imports this module.
"""

import copy
import logging
import sys
import warnings
from functools import partial
from typing import Any

import ray
import torch
from torch import nn
from torchrl.collectors.distributed import RayCollector

from dreammpc.data.mailbox import tensors_of
from dreammpc.data.workers import WorkerCollector, WorkerPolicy
from dreammpc.interfaces import UsageError

for message in ("The policy is not an nn.Module", "RayCollector iteration started before weight sync"):
    warnings.filterwarnings("ignore", message=message)  # the mailbox sends the weights


class RayWorkerCollector(WorkerCollector):
    """A `WorkerCollector` whose workers are actors of a Ray cluster, on whichever machines it has.

    The cluster is the one that this process or `RAY_ADDRESS` knows of; if there is none, one is started on
    this machine, which ends with this process. An actor takes one CPU of the cluster.

    Args:
        arguments: those of `WorkerCollector`.

    Raises:
        UsageError: no cluster, or one that has fewer CPUs than there are workers.
    """

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        if not ray.is_initialized():
            try:
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise UsageError(
                    f"collector=ray: no Ray cluster could be joined or started: {reason}"
                ) from error
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < self.workers:
            raise UsageError(
                f"collector.workers={self.workers}: the Ray cluster has {cpus} CPUs, and a worker takes one"
            )

    @property
    def deaths(self) -> tuple[type[Exception], ...]:
        return (*super().deaths, ray.exceptions.RayError)

    def _make_workers(self) -> tuple[Any, Any]:
        mailbox = RayMailbox(self.agent)
        return mailbox, RayCollector(
            self._environments(),
            policy_factory=WorkerPolicy(copy.deepcopy(self.agent).cpu(), mailbox),
            frames_per_batch=self.workers * self.num_envs * self.steps,
            total_frames=sys.maxsize,
            sync=True,
            trust_policy=True,
            weight_sync_schemes={},
            remote_configs={"num_cpus": 1},
            postproc=partial(torch.flatten, start_dim=0, end_dim=1),
        )


class RayMailbox:
    """The newest weights of an agent and its switch `random`, in an actor: `Mailbox` between machines."""

    def __init__(self, agent: nn.Module):
        self.actor = ray.remote(num_cpus=0)(Newest).remote()
        self.version = 0
        self.post(agent)

    def post(self, agent: nn.Module) -> None:
        """Send the weights of `agent` and its switch."""
        self.version += 1
        content = bool(agent.random), [tensor.cpu() for tensor in tensors_of(agent)]
        ray.get(self.actor.put.remote(self.version, [ray.put(content)]))

    def fetch(self, agent: nn.Module, seen: int) -> int:
        """As `Mailbox.fetch`."""
        version, content = ray.get(self.actor.newer_than.remote(seen))
        if content:
            agent.random, weights = ray.get(content[0])
            with torch.no_grad():
                for tensor, new in zip(tensors_of(agent), weights, strict=True):
                    tensor.copy_(new)
        return version

    def close(self) -> None:
        """End the actor."""
        ray.kill(self.actor)


class Newest:
    """What the actor keeps: a version and a list of one reference, so that the weights go past it."""

    def __init__(self) -> None:
        self.version, self.content = 0, []  # type: ignore[var-annotated]

    def put(self, version: int, content: list[Any]) -> None:
        self.version, self.content = version, content

    def newer_than(self, seen: int) -> tuple[int, list[Any]]:
        return self.version, [] if self.version == seen else self.content
