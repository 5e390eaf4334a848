"""Who acts while an agent learns: this process, or workers beside it."""

from functools import partial
from typing import Any

from dreammpc.agent import Agent
from dreammpc.data import WorkerCollector, make_collector
from dreammpc.data.memory import check_shared_memory
from dreammpc.data.workers import shared_bytes
from dreammpc.envs import TaskEnv, make_env
from dreammpc.interfaces import UsageError

COLLECTORS = ("serial", "multiprocess", "async", "ray")


def build_collector(env: TaskEnv, agent: Agent, seed: int, settings: dict[str, Any]) -> Any:
    """The collector that `settings["collector"]` names.

    Args:
        env: whose spaces the agent knows; it acts in this one, or in others of the same task and number.
        seed: of the environments and the exploration of workers.
        settings: with `task`, `env` and `collector`.

    Raises:
        UsageError: Ray is named and not installed, or its cluster is too small; or there is too little memory
            that can be shared.
    """
    chosen = settings["collector"]
    if chosen["kind"] == "serial":
        return make_collector(env, agent)
    make = partial(make_env, settings["task"], **settings["env"])
    kind = _ray_collector() if chosen["kind"] == "ray" else WorkerCollector
    ahead = chosen["kind"] != "multiprocess"
    if kind is WorkerCollector:
        needed = shared_bytes(env, agent, chosen["workers"], chosen["steps"])
        check_shared_memory(needed, f"the {chosen['workers']} workers of collector={chosen['kind']}")
    return kind(make, agent, chosen["workers"], env.num_envs, chosen["steps"], seed, ahead)


def _ray_collector() -> type[WorkerCollector]:
    try:
        from dreammpc.data.ray_workers import RayWorkerCollector
    except ImportError as error:
        raise UsageError(f"collector=ray needs a package: pip install 'dreammpc[ray]' ({error})") from None
    return RayWorkerCollector


def count_rows(settings: dict[str, Any]) -> int:
    """Environments that one process collects in, with its workers."""
    chosen = settings.get("collector", {"kind": "serial"})  # of a checkpoint that is older than the choice
    return settings["env"]["num_envs"] * (1 if chosen["kind"] == "serial" else chosen["workers"])
