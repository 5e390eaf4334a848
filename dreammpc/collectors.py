"""Who acts while an agent learns: this process, or workers beside it."""

from functools import partial
from typing import Any

from dreammpc.agent import Agent
from dreammpc.data import WorkerCollector, make_collector
from dreammpc.envs import BatchedEnv, make_env

COLLECTORS = ("serial", "multiprocess", "async")


def build_collector(env: BatchedEnv, agent: Agent, seed: int, settings: dict[str, Any]) -> Any:
    """The collector that `settings["collector"]` names.

    Args:
        env: whose spaces the agent knows; it acts in this one, or in others of the same task and number.
        seed: of the environments and the exploration of workers.
        settings: with `task`, `env` and `collector`.
    """
    chosen = settings["collector"]
    if chosen["kind"] == "serial":
        return make_collector(env, agent)
    make = partial(make_env, settings["task"], **settings["env"])
    ahead = chosen["kind"] == "async"
    return WorkerCollector(make, agent, chosen["workers"], env.num_envs, chosen["steps"], seed, ahead)


def count_rows(settings: dict[str, Any]) -> int:
    """Environments that one process collects in, with its workers."""
    chosen = settings.get("collector", {"kind": "serial"})  # of a checkpoint that is older than the choice
    return settings["env"]["num_envs"] * (1 if chosen["kind"] == "serial" else chosen["workers"])
