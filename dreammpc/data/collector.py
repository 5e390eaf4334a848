"""Environments and agent joined in a TorchRL collector, which can be stopped within an episode and go on."""

from typing import Any

from torchrl.collectors import Collector
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv
from torchrl.envs.transforms import Transform


def make_collector(env: EnvBase, agent, steps_per_batch: int = 1) -> Collector:
    """Collect forever with `agent` (a policy with `make_tensordict_primer()`) in `env`.

    Every item is a TensorDict [*B, steps_per_batch], B being the batch size of `env`, which may be []. The
    agent's own weights act: no copy is made. Trajectories are not numbered: no one reads the numbers, and a
    process that goes on would begin them anew.
    """
    env = with_carry(env, agent.make_tensordict_primer())
    frames = env.batch_size.numel() * steps_per_batch
    return Collector(
        env, agent, frames_per_batch=frames, total_frames=-1, trust_policy=True, track_traj_ids=False
    )


def with_carry(env: EnvBase, primer: Transform) -> TransformedEnv:
    """`env`, with `is_init` and the carry of an agent, whose `primer` it is."""
    return TransformedEnv(env, Compose(InitTracker(), primer))


def get_state(collector: Any) -> dict[str, Any] | None:
    """The environments' state and what the collector carries from step to step, as plain containers.

    None where the environments have no state to save, or are in other processes.
    """
    carrier, env = getattr(collector, "_carrier", None), getattr(collector, "env", None)
    base = getattr(env, "base_env", None)
    state = base.get_state() if base is not None and hasattr(base, "get_state") else None
    if carrier is None or state is None:
        return None
    values = {_joined(key): value.cpu().clone() for key, value in carrier.items(True, True)}
    return {"env": state, "carrier": values}


def set_state(collector: Any, state: dict[str, Any] | None) -> bool:
    """Go on in the middle of the episodes of `get_state`.

    Returns:
        Whether that was possible; if not, the collector is at the start of fresh episodes (`stateless` says
        why).
    """
    now = get_state(collector)
    if now is None or state is None:
        return False
    # After a step the carrier also holds the action, which nothing reads any more.
    saved = {key: value for key, value in state["carrier"].items() if key in now["carrier"]}
    if _shapes(saved) != _shapes(now["carrier"]):
        return False
    try:
        collector.env.base_env.set_state(state["env"])
    except ValueError as error:  # an environment that does not take what it gave
        collector.env.base_env.stateless = str(error)
        collector.reset()
        return False
    for key in list(collector._carrier.keys(True, True)):
        collector._carrier[key] = saved[_joined(key)].clone().to(collector._carrier[key].device)
    return True


def _joined(key: Any) -> str:
    return "/".join(key) if isinstance(key, tuple) else key


def _shapes(values: dict[str, Any]) -> dict[str, Any]:
    return {key: (value.shape, value.dtype) for key, value in values.items()}


def stateless(collector: Any) -> str:
    """Why `get_state` or `set_state` did nothing, where that is known; else empty."""
    env = getattr(collector, "env", None)
    return "they are in other processes" if env is None else getattr(env.base_env, "stateless", "")
