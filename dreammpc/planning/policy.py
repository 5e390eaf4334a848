"""The policy alone, as a planner: the baseline that every other planner must beat."""

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase

from dreammpc.interfaces import Plan
from dreammpc.planning import warm_start
from dreammpc.planning.factory import register_planner
from dreammpc.planning.imagination import Imagination
from dreammpc.planning.search import SearchState, Selection
from dreammpc.planning.statistics import SearchStatistics, diagnostics, finite
from dreammpc.plugins.settings import Positive, check
from dreammpc.runtime.devices import tensor_device


@register_planner("policy")
@dataclass(frozen=True)
class Policy:
    """Acts with the policy's mode."""

    action_dim: Positive

    def __post_init__(self) -> None:
        check(self)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] that only notes whether the episode has started."""
        return warm_start.initial(batch_size, device)

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """No model step; `std` is how far one standard deviation of noise moves the action."""
        imagination.check_action_dim(self.action_dim)
        warm_start.check(latent, state)
        mode = imagination.mode(latent)
        one = torch.ones(latent.shape[0], self.action_dim, device=tensor_device(latent))
        std = (imagination.policy(latent, one) - mode).abs().nan_to_num(0.0)
        value = imagination.value(latent, mode).mean(-1)
        ok = mode.isfinite().all(-1)
        action = torch.where(ok.unsqueeze(-1), mode, 0.0).float()  # a policy may answer in bfloat16
        sequence = mode.unsqueeze(1)
        only = sequence.unsqueeze(1)
        # Statistics are named, for torch.compile knows no default_factory that is a class.
        search = SearchState(only, only, policy_scores=value[:, None], statistics=SearchStatistics(0))
        report = diagnostics(Selection(sequence, value, value, search), ok)
        carry = warm_start.following(state)
        return Plan(action, sequence, std.unsqueeze(1), finite(value), carry, report)
