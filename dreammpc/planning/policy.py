"""The policy alone, as a planner: the baseline that every other planner must beat."""

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase

from dreammpc.interfaces import Plan
from dreammpc.planning import warm_start
from dreammpc.planning.checks import check_count
from dreammpc.planning.composed import diagnostics, finite
from dreammpc.planning.factory import register_planner
from dreammpc.planning.imagination import Imagination, device_of


@register_planner("policy")
@dataclass(frozen=True)
class Policy:
    """Acts with the policy's mode."""

    action_dim: int

    def __post_init__(self):
        check_count("action_dim", self.action_dim, 1)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] that only notes whether the episode has started."""
        return warm_start.fresh(batch_size, device)

    def plan(self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """No model step; `std` is how far one standard deviation of noise moves the action."""
        imagination.check_action_dim(self.action_dim)
        warm_start.check(latent, state)
        mode = imagination.mode(latent)
        one = torch.ones(latent.shape[0], self.action_dim, device=device_of(latent))
        std = (imagination.model.policy(latent, one) - mode).abs().nan_to_num(0.0)
        value = imagination.model.value(latent, mode).mean(-1)
        ok = mode.isfinite().all(-1)
        action = torch.where(ok.unsqueeze(-1), mode, 0.0).float()  # a policy may answer in bfloat16
        zeros = torch.zeros_like(value)
        report = diagnostics(
            objective=value,
            objective_before=value,
            objective_policy=value,
            gradient_norm=zeros,
            clipped=zeros,
            evaluations=zeros,
            fallback=(~ok).to(value.dtype),
            stopped_early=zeros,
        )
        carry = warm_start.carry_on(state)
        return Plan(action, mode.unsqueeze(1), std.unsqueeze(1), finite(value), carry, report)
