"""Who acts while an agent learns: this process, or workers beside it."""

from dataclasses import asdict
from functools import partial
from typing import Any

from dreammpc.agent import Agent
from dreammpc.configuration.schemas import TrainConfig
from dreammpc.data import WorkerCollector, make_collector
from dreammpc.data.memory import check_shared_memory
from dreammpc.data.workers import shared_bytes
from dreammpc.envs import TaskEnv, make_env
from dreammpc.interfaces import UsageError


def build_collector(env: TaskEnv, agent: Agent, seed: int, config: TrainConfig) -> Any:
    """The collector that `config.collector` names.

    Args:
        env: whose spaces the agent knows; it acts in this one, or in others of the same task and number.
        seed: of the environments and the exploration of workers.
        config: its `task`, `env` and `collector`.

    Raises:
        UsageError: Ray is named and not installed, or its cluster is too small; or there is too little memory
            that can be shared.
    """
    chosen = config.collector
    if chosen.kind == "serial":
        return make_collector(env, agent)
    make = partial(make_env, config.task, **asdict(config.env))
    kind = _ray_collector() if chosen.kind == "ray" else WorkerCollector
    if kind is WorkerCollector:
        needed = shared_bytes(env, agent, chosen.workers, chosen.steps)
        check_shared_memory(needed, f"the {chosen.workers} workers of collector={chosen.kind}")
    ahead = chosen.kind != "multiprocess"
    return kind(make, agent, chosen.workers, env.num_envs, chosen.steps, seed, ahead)


def _ray_collector() -> type[WorkerCollector]:
    try:
        from dreammpc.data.ray_workers import RayWorkerCollector
    except ImportError as error:
        raise UsageError(f"collector=ray needs a package: pip install 'dreammpc[ray]' ({error})") from None
    return RayWorkerCollector


def count_rows(num_envs: int, kind: str, workers: int) -> int:
    """Environments that one process collects in, with its workers."""
    return num_envs * (1 if kind == "serial" else workers)
