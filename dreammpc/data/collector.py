"""Environments and agent joined in a TorchRL collector."""

from torchrl.collectors import Collector
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv


def make_collector(env: EnvBase, agent, steps_per_batch: int = 1) -> Collector:
    """Collects forever with `agent` (a policy with `make_tensordict_primer()`) in `env` of batch size [B].

    Every item is a TensorDict [B, steps_per_batch]. The agent's own weights act: no copy is made.
    """
    env = TransformedEnv(env, Compose(InitTracker(), agent.make_tensordict_primer()))
    return Collector(
        env, agent, frames_per_batch=env.batch_size[0] * steps_per_batch, total_frames=-1, trust_policy=True
    )
