"""Schema of `env`: what a run's environments are made with."""

import dataclasses
from typing import Any

from dreammpc.interfaces import OBS_KEYS, UsageError
from dreammpc.plugins.registry import unknown
from dreammpc.plugins.settings import at_least


@dataclasses.dataclass
class EnvConfig:
    """How many environments, control steps per decision (None: the family's own), what is observed (`state`,
    `pixels`, `both`), and whether the model scales vectors by running statistics; of `gym-…` and `torchrl:…`
    their arguments, a time limit, and a bound of actions without one; `envpool` as `backend` simulates."""

    num_envs: int = 1
    action_repeat: int | None = None
    obs: str = "state"
    normalize: bool = False
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    max_episode_steps: int | None = None
    action_bound: float | None = None
    backend: str | None = None

    def __post_init__(self):
        at_least(self, "env", 1, "num_envs", "action_repeat", "max_episode_steps")
        if not 0 < (1 if self.action_bound is None else self.action_bound) < float("inf"):
            raise UsageError(f"env.action_bound must be positive and finite, got {self.action_bound}")
        if self.obs not in OBS_KEYS:
            raise UsageError(unknown(f"env.obs {self.obs!r}", self.obs, list(OBS_KEYS)))
        if self.backend not in (None, "envpool"):
            raise UsageError(unknown(f"env.backend {self.backend!r}", self.backend, ["envpool"]))
        if self.normalize and self.obs == "pixels":
            raise UsageError(
                "env.normalize scales a vector that is observed, and with env.obs=pixels there is none"
            )
