"""Collection in the actors of a Ray cluster: TorchRL's Ray collector, whose agents are sent new weights.

Needs the package `ray`; no module imports this one before it is chosen.
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

from dreammpc.data.mailbox import on_host, tensors_of
from dreammpc.data.workers import WorkerCollector, on_cpu
from dreammpc.interfaces import UsageError, first_line

# The mailbox sends the weights.
warnings.filterwarnings("ignore", message="RayCollector iteration started before weight sync")


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
                raise UsageError(
                    f"collector=ray: no Ray cluster could be joined or started: {first_line(error)}"
                ) from error
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < self.workers:
            raise UsageError(
                f"collector.workers={self.workers}: the Ray cluster has {cpus} CPUs, and a worker takes one"
            )

    @property
    def deaths(self) -> tuple[type[Exception], ...]:
        return (*super().deaths, ray.exceptions.RayError)

    def _make_workers(self) -> None:
        self._collector = RayCollector(
            self._environments(),
            copy.deepcopy(on_cpu(self.agent)),
            frames_per_batch=self.workers * self.num_envs * self.steps,
            total_frames=sys.maxsize,
            sync=True,
            trust_policy=True,
            weight_sync_schemes={},
            remote_configs={"num_cpus": 1},
            postproc=partial(torch.flatten, start_dim=0, end_dim=1),
        )
        self._mailbox = RayMailbox(self._collector.remote_collectors)
        self._mailbox.post(self.agent)


class RayMailbox:
    """Sends weights to actors, each of which takes them between two batches: it does one thing at a time.

    (TorchRL's own scheme knows no switch `random`, which goes with the weights here.)
    """

    def __init__(self, actors: list[Any]):
        self.actors = actors

    def post(self, agent: nn.Module) -> None:
        """Send the weights of `agent` and its switch."""
        content = ray.put((agent.random, on_host(tensors_of(agent))))
        for actor in self.actors:
            actor.__ray_call__.remote(take, content)

    def close(self) -> None:
        """Nothing is kept."""


def take(collector: Any, content: tuple[bool, list[torch.Tensor]]) -> None:
    """In an actor: give its agent what was sent."""
    collector.policy.random, weights = content
    with torch.no_grad():
        for tensor, new in zip(tensors_of(collector.policy), weights, strict=True):
            tensor.copy_(new)
