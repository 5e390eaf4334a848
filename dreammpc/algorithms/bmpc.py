"""The BMPC update (Wang et al., ICLR 2025, OpenReview i7jAYFYDcM) as a LightningModule.

Expert iteration on TD-MPC2's world model: the policy imitates the planner, the values are those of the
policy, and what the planner once said of stored observations is planned anew, a few slices at a time.

Shapes: B slices of a batch, H transitions in a slice, D latent width, A action dimension, K value heads.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.agent import Agent, expert_from_plan
from dreammpc.algorithms.latent_algorithm import LatentAlgorithm
from dreammpc.algorithms.losses import (
    Coefficients,
    HeadReduction,
    masked_mean,
    rollout_loss,
    running_scale,
    time_major,
    time_weights,
)
from dreammpc.interfaces import MEMORY, Plan, UsageError
from dreammpc.models import BMPCModel
from dreammpc.planning.imagination import Imagination
from dreammpc.runtime.compiling import compiled
from dreammpc.runtime.devices import forked_rng, module_device

MIN_EXPERT_STD = 0.01
"""The expert's std counts as at least this: a planner that is certain would make the divergence infinite."""
REANALYZE_LOG_STD_LIMITS = (-2.0, 1.0)
"""Limits of the policy's log-std in reanalyze, so that proposals spread wider than the policy acts."""


class UpdateNoise(NamedTuple):
    """Every random number of one update, drawn before the losses so that these are deterministic."""

    target_noise: Tensor  # [H·B, A]
    target_heads: Tensor  # [2], or as many as the target looks at
    dropout: Tensor | None  # [K, H·B, mlp_dim]
    shift: Tensor | None = None  # [(H+1)·B, 2], with pixels


MEAN = HeadReduction("mean")


def td_target(model: BMPCModel, z: Tensor, noise: UpdateNoise, bootstrap: HeadReduction = MEAN) -> Tensor:
    """R(z, a) + γ·(1 - c)·V'(d(z, a)) of random target heads at an action of the policy: [H·B].

    As published V' is the mean of two. The step is the model's own: the value is the present policy's.
    """
    latent = model.latent(z)
    action = model.policy(latent, noise.target_noise)
    after = model.step(latent, action)
    reward, discount = model.outcome(latent, action, after)
    logits = model.target_heads(model.value_input(after["z"], action), heads=noise.target_heads)
    return reward + discount * bootstrap(model.two_hot.decode(logits))


def model_loss(
    model: BMPCModel,
    batch: TensorDictBase,
    noise: UpdateNoise,
    coef: Coefficients,
    bootstrap: HeadReduction = MEAN,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The world model's losses on slices [B, H]; see `rollout_loss` and, for the batch, `time_major`."""
    slices = time_major(model, batch, noise.shift)
    size = slices.first.shape[0]
    with torch.no_grad():
        seen = model.encoder(torch.cat([slices.first, slices.next_observation]))
        target = td_target(model, seen[:-size], noise, bootstrap)
    return rollout_loss(model, slices, seen[size:], target, noise.dropout, coef)


def gaussian_kl(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(other_mean, other_std²)), elementwise."""
    variance = (std.square() + (mean - other_mean).square()) / other_std.square()
    return (other_std / std).log() + 0.5 * (variance - 1)


def policy_loss(
    model: BMPCModel,
    zs: Tensor,
    expert_mean: Tensor,
    expert_std: Tensor,
    scale: Tensor,
    coef: Coefficients,
    scale_rate: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """KL(π ‖ planner's Gaussian), averaged over action dimensions, over a running scale, minus entropy.

    The entropy is the Gaussian's own, times A; its gradient is that of the released program's estimate.

    Args:
        zs: latents [H, B, D] without gradient.
        expert_mean, expert_std: of the planner's first action, [H, B, A].
        scale: running 5-95 percentile range of the divergence, scalar.
        mask: [H, B], 0 for latents that count as zeros.

    Returns:
        The scalar loss, the new scale, and scalar metrics.
    """
    mean, log_std = model.policy_gaussian(zs)
    divergence = gaussian_kl(mean, log_std.exp(), expert_mean, expert_std.clamp(min=MIN_EXPERT_STD)).mean(-1)
    scale = running_scale(scale, divergence[0], scale_rate)
    entropy = (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
    objective = divergence / scale - coef.entropy * model.action_dim * entropy
    if mask is not None:
        objective = objective * mask
    loss = (objective.mean(-1) * time_weights(coef.rho, zs.shape[0], zs)).mean()
    metrics = {
        "loss/policy": loss.detach(),
        "policy/entropy": masked_mean(entropy.detach(), mask),
        "policy/divergence": masked_mean(divergence.detach(), mask),
        "policy/scale": scale,
    }
    return loss, scale, metrics


class WideProposalModel:
    """The model as reanalyze imagines in it: the policy's proposals spread wider."""

    def __init__(self, model: BMPCModel):
        self.model, self.action_dim = model, model.action_dim
        self.step, self.outcome, self.value = model.step, model.outcome, model.value
        # For objective terms:
        self.observe, self.initial_belief, self.obs_keys = model.observe, model.initial_belief, model.obs_keys

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        return self.model.policy(latent, noise, REANALYZE_LOG_STD_LIMITS)


def replan(model: BMPCModel, planner: Any, obs: TensorDictBase) -> Plan:
    """Plan for `obs` [M] (stacks of frames) without a warm start, from the wider policy: one call for all."""
    latent = model.encode(obs)
    size, device = obs.shape[0], latent["z"].device
    imagination = Imagination(WideProposalModel(model))
    plan: Plan = planner.plan(imagination, latent, planner.initial_state(size, device))
    return plan


def replanned_tensors(model: BMPCModel, planner: Any, obs: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and std [M, A] of the first action of `replan`, and its value [M, 1]."""
    expert = expert_from_plan(replan(model, planner, obs))
    return expert["mean"], expert["std"], expert["value"]


class BMPC(LatentAlgorithm):
    """World model, policy and planner of BMPC; further arguments: see `LatentAlgorithm`.

    While the agent still acts at random (the seed phase and the updates on it) the policy is left alone.

    Args:
        agent: made with `record=True`; its planner is the expert.
        write_back: the replay's `update(index, stamps, patch)`, which takes the fresh plans; without it
            they serve the present update only.
        reanalyze_interval: updates from one reanalyze to the next; 0 is never.
        reanalyze_slices: slices of the batch that are planned anew.
        reanalyze_horizon: the planner's horizon in that.

    Raises:
        UsageError: the agent's world model is no `BMPCModel`, it does not record its plans, or its planner
            gives no distribution to imitate.
    """

    name = "bmpc"
    model_class = BMPCModel
    learns_from_plans = True
    model_loss = staticmethod(model_loss)
    policy_loss = staticmethod(policy_loss)
    bootstrap = MEAN
    divergence_scale: Tensor

    def __init__(
        self,
        agent: Agent,
        write_back: Callable[..., Any] | None = None,
        reanalyze_interval: int = 10,
        reanalyze_slices: int = 20,
        reanalyze_horizon: int = 3,
        compile: bool | str = False,
        **settings: Any,
    ):
        super().__init__(agent, compile=compile, **settings)
        if not agent.record:
            raise UsageError("algorithm bmpc learns from plans: its agent must be made with record=True")
        check_expert(agent.model, agent.planner)
        self.expert = agent.planner
        if dataclasses.is_dataclass(self.expert) and hasattr(self.expert, "horizon"):
            try:
                self.expert = dataclasses.replace(self.expert, horizon=reanalyze_horizon)
            except ValueError as error:
                raise UsageError(f"algorithm.reanalyze_horizon={reanalyze_horizon}: {error}") from error
        self.write_back, self.interval, self.num_slices = write_back, reanalyze_interval, reanalyze_slices
        self.policy_updates = 0
        self._fresh: TensorDictBase | None = None
        """The plans of the last update that planned anew; with graphs they stay in their place."""
        self.register_buffer("divergence_scale", torch.ones(()))
        self._replan: Callable[..., Any] = compiled(replanned_tensors, compile)

    def sample_noise(self, batch: TensorDictBase) -> UpdateNoise:
        """Random numbers for one update on `batch` [B, H]."""
        return UpdateNoise(*self.sample_target_noise(batch), self.sample_shift(batch))

    def next_update(self) -> tuple[bool, bool]:
        """Whether to imitate the planner, which is not done in the seed phase, and whether to plan anew."""
        if self.agent.random:
            return False, False
        self.policy_updates += 1
        return True, self.interval > 0 and self.policy_updates % self.interval == 0

    def after_update(self, batch: TensorDictBase, imitate: bool, renew: bool) -> None:  # type: ignore[override]
        """Write fresh plans back to the replay."""
        if renew:
            assert self._fresh is not None
            self._write(batch[: self.num_slices], self._fresh)

    def update_policy(  # type: ignore[override]
        self, batch: TensorDictBase, zs: Tensor, noise: UpdateNoise, imitate: bool = True, renew: bool = False
    ) -> dict[str, Tensor]:
        """Imitate the planner, on fresh plans where it is time for them; nothing in the seed phase."""
        if not imitate:
            return {}
        expert, valid, more = batch["expert"], batch.get("valid", None), {}
        if renew:
            fresh = self._fresh = self.replanned(batch[: self.num_slices])
            stored = expert[: self.num_slices]
            more["reanalyze/moved"] = (fresh["mean"] - stored["mean"]).abs().mean()
            expert = torch.cat([fresh, expert[self.num_slices :]])
        loss, scale, metrics = self._policy_loss(
            self.model,
            zs[:-1],
            expert["mean"].transpose(0, 1),
            expert["std"].transpose(0, 1),
            self.divergence_scale,
            self.coef,
            self.settings.scale_rate,
            None if valid is None else valid.squeeze(-1).t().float(),
        )
        self.guard.update_scale(self.divergence_scale, scale)
        metrics["grad_norm/policy"] = self.gradient_step(loss, 1, self.policy_parameters)
        return {**metrics, **more}

    @torch.no_grad()
    def replanned(self, batch: TensorDictBase) -> TensorDictBase:
        """What the planner says now of the observations of slices [B, H].

        Steps past the end of an episode are rows of another one, and as good as any to plan for.

        Returns:
            `mean`, `std` [B, H, A] and `value` [B, H, 1] as a TensorDict [B, H].
        """
        obs = batch.select(*self.model.obs_keys).flatten(0, 1)
        mean, std, value = self._replan(self.model, self.expert, obs)
        return TensorDict({"mean": mean, "std": std, "value": value}, [mean.shape[0]]).reshape(batch.shape)

    def _write(self, batch: TensorDictBase, fresh: TensorDictBase) -> None:
        if self.write_back is not None:
            index, stamps = batch["index"].flatten(), batch["frame"].flatten()
            self.write_back(index, stamps, {"expert": fresh.flatten()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["policy_updates"] = self.policy_updates

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.policy_updates = checkpoint["policy_updates"]


@torch.no_grad()
def check_expert(model: Any, planner: Any) -> None:
    """Raise UsageError if nothing can be learned from the planner's plans."""
    who = f"planner {type(planner).__name__} cannot be BMPC's expert"
    if getattr(planner, "replan_every", 1) > 1:
        reason = "steps that follow an older plan have none of their own (eval_planner may have it)"
        raise UsageError(f"{who} with replan_every={planner.replan_every}: {reason}")
    device = module_device(model)
    latent, state = model.initial_belief(2, device).exclude(MEMORY), planner.initial_state(2, device)
    with forked_rng(device):
        plan = planner.plan(Imagination(WideProposalModel(model)), latent, state)
    evaluations = plan.diagnostics.get("evaluations", None)
    if evaluations is not None and not evaluations.any():
        raise UsageError(f"{who}: it takes no step in the model, so it knows no better than the policy")
    if not (plan.std[:, 0] > 0).all():
        raise UsageError(f"{who}: its plans have a standard deviation of 0, and a Gaussian is needed")
