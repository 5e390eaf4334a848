"""The TD-MPC2 update (Hansen et al., ICLR 2024, arXiv 2310.16828, §3.2) as a LightningModule.

The losses are plain functions of the model, a batch and the random draws, so that they can be compiled,
tested on hand-computed numbers and repeated exactly.

Shapes: B slices of a batch, H transitions in a slice, D latent width, A action dimension, K value heads.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import lightning
import torch
import torch.nn.functional as F
from tensordict import TensorDictBase
from torch import Tensor, nn

from dreammpc.agent import Agent
from dreammpc.models.tdmpc2 import TDMPC2Model
from dreammpc.nn.ensemble import dropout_mask

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Coefficients(NamedTuple):
    """Weights of the loss terms (arXiv 2310.16828, Table 8)."""

    consistency: float = 20.0
    reward: float = 0.1
    value: float = 0.1
    termination: float = 1.0
    entropy: float = 1e-4
    rho: float = 0.5


class Draws(NamedTuple):
    """Every random number of one update, drawn before the losses so that these are deterministic."""

    target_noise: Tensor  # [H·B, A]
    target_heads: Tensor  # [2], or fewer if K < 2
    dropout: Tensor | None  # [K, H·B, mlp_dim]
    policy_noise: Tensor  # [(H+1)·B, A]
    policy_heads: Tensor  # [2], or fewer if K < 2


def time_weights(rho: float, steps: int, like: Tensor) -> Tensor:
    """ρ^t for t = 0..steps-1, [steps]."""
    return rho ** torch.arange(steps, device=like.device, dtype=torch.float32)


def td_target(model: TDMPC2Model, next_z: Tensor, reward: Tensor, terminated: Tensor, draws: Draws) -> Tensor:
    """r + γ·(1 - terminated)·min of two random target heads at an action of the policy: [H·B].

    The heads are drawn before they are computed, which has the same distribution as computing all K.
    """
    mean, log_std = model.policy_stats(next_z)
    action = torch.tanh(mean + log_std.exp() * draws.target_noise)
    logits = model.target_heads(torch.cat([next_z, action], -1), heads=draws.target_heads)
    bootstrap = model.two_hot.decode(logits).amin(0)
    return reward + model.discount * (1 - terminated) * bootstrap


def model_loss(
    model: TDMPC2Model, batch: TensorDictBase, draws: Draws, coef: Coefficients
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Consistency, reward, value and termination losses along a latent rollout (eq. 3).

    Args:
        batch: TensorDict [B, H]: `observation`, `action`, `next` → `observation`, `reward`, `terminated`.

    Returns:
        The scalar loss, the rolled-out latents [H+1, B, D] without gradient, and scalar metrics.
    """
    next_obs = batch["next", "observation"].transpose(0, 1)
    action = batch["action"].transpose(0, 1)
    horizon, size = action.shape[:2]
    reward = batch["next", "reward"].squeeze(-1).t().flatten()
    terminated = batch["next", "terminated"].squeeze(-1).t().flatten().float()

    with torch.no_grad():
        next_z = model.encoder(next_obs.flatten(0, 1))
        target = td_target(model, next_z, reward, terminated, draws)

    z = model.encoder(batch["observation"][:, 0])
    rollout = [z]
    for t in range(horizon):
        z = model.dynamics(torch.cat([z, action[t]], -1))
        rollout.append(z)
    zs = torch.stack(rollout).float()

    weights = time_weights(coef.rho, horizon, reward)

    def over_time(loss: Tensor) -> Tensor:
        """[..., H·B] → scalar: mean over the batch (and heads), ρ^t weighted mean over time."""
        return (loss.unflatten(-1, (horizon, size)).mean(-1) * weights).mean()

    pair = torch.cat([zs[:-1], action], -1).flatten(0, 1)
    value_logits = model.value_heads(pair, dropout=draws.dropout)
    terms = {
        "consistency": over_time((zs[1:].flatten(0, 1) - next_z.float()).square().mean(-1)),
        "reward": over_time(model.two_hot.cross_entropy(model.reward(pair), reward)),
        "value": over_time(model.two_hot.cross_entropy(value_logits, target)),
    }
    if model.termination is not None:
        logit = model.termination(zs[1:].flatten(0, 1)).squeeze(-1).float()
        terms["termination"] = over_time(
            F.binary_cross_entropy_with_logits(logit, terminated, reduction="none")
        )
    total = sum((getattr(coef, name) * term for name, term in terms.items()), zs.new_zeros(()))
    metrics = {f"loss/{name}": term.detach() for name, term in terms.items()}
    metrics["value/target"] = target.mean()
    return total, zs.detach(), metrics


def policy_loss(
    model: TDMPC2Model, zs: Tensor, draws: Draws, scale: Tensor, coef: Coefficients, scale_rate: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Maximise the mean of two random heads, divided by a running scale, plus entropy (eq. 4).

    As in the released program the entropy is that of the Gaussian before tanh, times A.

    Args:
        zs: latents [H+1, B, D] without gradient.
        scale: running 5-95 percentile range of Q, scalar.

    Returns:
        The scalar loss, the new scale, and scalar metrics.
    """
    steps, size = zs.shape[:2]
    z = zs.flatten(0, 1)
    mean, log_std = model.policy_stats(z)
    action = torch.tanh(mean + log_std.exp() * draws.policy_noise)
    logits = model.value_heads(torch.cat([z, action], -1), heads=draws.policy_heads, frozen=True)
    q = model.two_hot.decode(logits).mean(0)

    spread = percentile_range(q[:size].detach())
    scale = scale + scale_rate * (spread.clamp(min=1) - scale)
    log_prob = (-0.5 * draws.policy_noise.square() - log_std - LOG_SQRT_2PI).sum(-1)
    entropy = -log_prob * model.action_dim
    objective = (q / scale + coef.entropy * entropy).unflatten(0, (steps, size)).mean(-1)
    loss = -(objective * time_weights(coef.rho, steps, q)).mean()
    metrics = {
        "loss/policy": loss.detach(),
        "policy/entropy": -log_prob.detach().mean(),
        "value/policy": q.detach().mean(),
        "value/scale": scale,
    }
    return loss, scale, metrics


def percentile_range(x: Tensor) -> Tensor:
    """95th minus 5th percentile of `x` [M], linearly interpolated."""
    ordered = x.sort().values
    last = x.shape[0] - 1

    def at(fraction: float) -> Tensor:
        low = int(fraction * last)
        return torch.lerp(ordered[low], ordered[min(low + 1, last)], fraction * last - low)

    return at(0.95) - at(0.05)


def heuristic_discount(episode_length: int) -> float:
    """γ for episodes of that many agent steps: (L/5 - 1)/(L/5) within [0.95, 0.995] (App. H)."""
    fraction = episode_length / 5
    return min(max((fraction - 1) / fraction, 0.95), 0.995)


class TDMPC2(lightning.LightningModule):
    """World model, policy and planner of TD-MPC2, updated once per batch with manual optimisation.

    Args:
        agent: the world model and the planner that acts in it.
        lr: Adam's learning rate; the encoder takes `lr * encoder_lr_scale`.
        clip: gradient-norm clip, for the model and for the policy.
        target_rate: τ of the target heads' moving average.
        scale_rate: rate of the running percentile scale.
        dropout: probability after the value heads' first layer.
        compile: compile both losses with `torch.compile` (needs a C++ compiler on CPU; the first update
            then takes tens of seconds).
    """

    value_scale: Tensor

    def __init__(
        self,
        agent: Agent,
        lr: float = 3e-4,
        encoder_lr_scale: float = 0.3,
        clip: float = 20.0,
        target_rate: float = 0.01,
        scale_rate: float = 0.01,
        dropout: float = 0.01,
        consistency_coef: float = Coefficients().consistency,
        reward_coef: float = Coefficients().reward,
        value_coef: float = Coefficients().value,
        termination_coef: float = Coefficients().termination,
        entropy_coef: float = Coefficients().entropy,
        rho: float = Coefficients().rho,
        compile: bool = False,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.agent = agent
        self.lr, self.encoder_lr_scale, self.clip = lr, encoder_lr_scale, clip
        self.target_rate, self.scale_rate, self.dropout = target_rate, scale_rate, dropout
        self.coef = Coefficients(
            consistency_coef, reward_coef, value_coef, termination_coef, entropy_coef, rho
        )
        self.register_buffer("value_scale", torch.ones(()))
        self._model_loss: Callable = torch.compile(model_loss) if compile else model_loss
        self._policy_loss: Callable = torch.compile(policy_loss) if compile else policy_loss
        self.policy_parameters = list(self.model.actor.parameters())
        held = {id(p) for p in self.policy_parameters}
        self.model_parameters = [p for p in self.model.parameters() if p.requires_grad and id(p) not in held]

    @property
    def model(self) -> TDMPC2Model:
        """The agent's world model."""
        return self.agent.model  # type: ignore[return-value]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the world model (encoder slower) and Adam for the policy."""
        encoder = list(self.model.encoder.parameters())
        held = {id(p) for p in encoder}
        rest = [p for p in self.model_parameters if id(p) not in held]
        groups: list[dict[str, Any]] = [
            {"params": encoder, "lr": self.lr * self.encoder_lr_scale},
            {"params": rest},
        ]
        return [
            torch.optim.Adam(groups, lr=self.lr, fused=True),
            torch.optim.Adam(self.policy_parameters, lr=self.lr, eps=1e-5, fused=True),
        ]

    def draw(self, batch: TensorDictBase) -> Draws:
        """Random numbers for one update on `batch` [B, H]."""
        size, horizon = batch.shape
        like, model = self.value_scale, self.model
        heads, rows = model.num_heads, horizon * size
        picked = min(2, heads)
        mask = None
        if self.dropout > 0:
            mask = dropout_mask((heads, rows, model.mlp_dim), self.dropout, like)
        return Draws(
            target_noise=torch.randn(rows, model.action_dim, device=like.device),
            target_heads=torch.randperm(heads, device=like.device)[:picked],
            dropout=mask,
            policy_noise=torch.randn(rows + size, model.action_dim, device=like.device),
            policy_heads=torch.randperm(heads, device=like.device)[:picked],
        )

    def training_step(self, batch: TensorDictBase, batch_idx: int) -> dict[str, Tensor]:
        """One update of model, policy and targets on slices [B, H]; returns scalar metrics."""
        model_optimizer, policy_optimizer = self.optimizers()  # type: ignore[attr-defined]
        draws = self.draw(batch)

        loss, zs, metrics = self._model_loss(self.model, batch, draws, self.coef)
        self.manual_backward(loss)
        metrics["grad_norm/model"] = self._step(model_optimizer, self.model_parameters)

        loss, scale, more = self._policy_loss(
            self.model, zs, draws, self.value_scale, self.coef, self.scale_rate
        )
        self.value_scale.copy_(scale)
        self.manual_backward(loss)
        metrics["grad_norm/policy"] = self._step(policy_optimizer, self.policy_parameters)

        self.model.update_targets(self.target_rate)
        return metrics | more

    def _step(self, optimizer: Any, parameters: list[nn.Parameter]) -> Tensor:
        """Clip, step, and drop the gradients; returns the norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        optimizer.step()
        optimizer.zero_grad()
        return norm.detach()
