"""Environments and agent joined in a TorchRL collector."""

from torchrl.collectors import Collector
from torchrl.envs import Compose, EnvBase, InitTracker, TransformedEnv


def make_collector(env: EnvBase, agent, steps_per_batch: int = 1) -> Collector:
    """Collects forever with `agent` (a policy with `make_tensordict_primer()`) in `env`.

    Every item is a TensorDict [*B, steps_per_batch], B being the batch size of `env`, which may be []. The
    agent's own weights act: no copy is made.
    """
    env = TransformedEnv(env, Compose(InitTracker(), agent.make_tensordict_primer()))
    frames = env.batch_size.numel() * steps_per_batch
    return Collector(env, agent, frames_per_batch=frames, total_frames=-1, trust_policy=True)
