"""The LightningModule that TD-MPC2 and BMPC share: optimizers, and one update of model, policy and targets.

Shapes: B slices of a batch, H transitions in a slice, D latent width, A action dimension, K value heads.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from dreammpc.agent import Agent
from dreammpc.algorithms.losses import HeadReduction
from dreammpc.algorithms.non_finite_guard import NonFiniteGuard
from dreammpc.algorithms.resets import reset_value_and_policy
from dreammpc.algorithms.update_settings import UpdateSettings
from dreammpc.algorithms.updates import Updates
from dreammpc.interfaces import UsageError
from dreammpc.models import LatentModel
from dreammpc.nn import GRAY, ConvFeatures, moments, sample_shift
from dreammpc.nn.ensemble import dropout_mask
from dreammpc.runtime.compiling import compiled

SEEDS = 1_000_003
"""Between the resets of two seeds, more than there are updates."""


class LatentAlgorithm(Updates):
    """World model, policy and planner, updated once per batch with manual optimization.

    Args:
        agent: the world model and the planner that acts in it.
        progress: the share of a training's steps that is over, asked before every update; None is never.
        compile: how the losses run, see `runtime.compiling.MODES`; True is `default`. Compiling needs a C++
            compiler on a CPU, and the first update then takes tens of seconds.
        seed: of the weights that resets draw.
        settings: those of `UpdateSettings`.

    Raises:
        UsageError: the agent's world model is not the one that the algorithm trains; a setting out of range.
    """

    name: ClassVar[str]
    model_class: ClassVar[type[LatentModel]]
    bootstrap: HeadReduction
    """How the heads of a TD target become one number, unless it is set."""
    learns_from_plans: ClassVar[bool] = False
    """Whether the replay must hold what the planner planned (`Agent(record=True)`)."""
    model_loss: ClassVar[Callable[..., Any]]
    """(model, batch, noise, coef) → scalar loss, latents [H+1, B, D] without gradient, metrics."""
    policy_loss: ClassVar[Callable[..., Any]]
    """→ scalar loss, new running scale, metrics; `update_policy` knows its arguments."""

    def __init__(
        self,
        agent: Agent,
        progress: Callable[[], float] | None = None,
        compile: bool | str = False,
        seed: int = 0,
        **settings: Any,
    ):
        super().__init__(compile)
        if not isinstance(agent.model, self.model_class):
            raise UsageError(
                f"algorithm {self.name} trains a {self.model_class.__name__},"
                f" but the agent's world model is a {type(agent.model).__name__}"
            )
        self.automatic_optimization = False
        self.settings = own = UpdateSettings(**settings)
        number, there = own.target_heads, agent.model.num_heads
        if number is not None and number > max(there, UpdateSettings.target_heads or 0):
            raise UsageError(
                f"algorithm.target_heads must be at most the model's {there} value heads (model.num_heads),"
                f" got {number}"
            )
        self.guard = NonFiniteGuard(own.max_skipped)
        self.agent, self.progress, self.seed = agent, progress, seed
        self.lr_changes = own.lr_end != 1
        if own.target_reduction is not None:
            self.bootstrap = HeadReduction(own.target_reduction, own.target_std_weight)
        self.coef = own.coefficients
        self._model_loss: Callable[..., Any] = compiled(self.model_loss, compile)
        self._policy_loss: Callable[..., Any] = compiled(self.policy_loss, compile)
        self.updates = 0
        self._began = False
        self._frozen: dict[str, int] = {}
        self._first_rates: list[list[float]] = []
        """Learning rates at full height, of every group of every optimizer."""
        self.policy_parameters = list(self.model.actor.parameters())
        held = {id(p) for p in self.policy_parameters}
        self.model_parameters = [p for p in self.model.parameters() if p.requires_grad and id(p) not in held]

    @property
    def model(self) -> LatentModel:
        """The agent's world model."""
        return self.agent.model  # type: ignore[return-value]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """What comes before an update, of a batch that is one."""
        if isinstance(batch, TensorDictBase):
            self.before_update(batch)

    def freeze_parts(self, updates: Mapping[str, int]) -> None:
        """Leave parts of the model as they are in the first updates: no gradient and no optimizer's step.

        Args:
            updates: for how many, by the part's name in the model, such as `encoder` or `dynamics`.
        """
        self._frozen = {part: number for part, number in updates.items() if number}

    def _freeze_what_is_due(self) -> None:
        for part, until in list(self._frozen.items()):
            frozen, parameters = self.updates <= until, list(getattr(self.model, part).parameters())
            if frozen == parameters[0].requires_grad:
                for parameter in parameters:
                    parameter.requires_grad_(not frozen)
                self.recapture()
            if not frozen:
                del self._frozen[part]

    def before_update(self, batch: TensorDictBase) -> None:
        """Reset and freeze what is due, set learning rates, note statistics of observations, center images.

        Of several processes all take in the mean of their batches.
        """
        if (every := self.settings.reset_every) and self.updates and self.updates % every == 0:
            seed = (SEEDS * self.seed + self.updates) % 2**63
            reset_value_and_policy(self.model, self._unwrapped(), seed)
        self.updates += 1
        self._freeze_what_is_due()
        if self.lr_changes and self.progress is not None:
            self.set_learning_rates(self.progress())
        if (normalizer := self.model.normalizer) is not None:
            seen = batch if "next" in batch.keys() else self.whole(batch)  # noqa: SIM118 (of a TensorDict)
            found = moments(seen["next", "observation"]).to(self.device)
            normalizer.update(self.trainer.strategy.reduce(found, reduce_op="mean"))
        conv = getattr(self.model.encoder, "conv", None)
        if self._began or not isinstance(conv, ConvFeatures):
            return
        self._began = True
        if (conv.center == GRAY).all():
            mean = conv.mean_frame(self.whole(batch)["next", "pixels"].flatten(0, -4))
            conv.center.copy_(self.trainer.strategy.reduce(mean, reduce_op="mean"))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the world model (encoder slower) and Adam for the policy."""
        encoder = list(self.model.encoder.parameters())
        held = {id(p) for p in encoder}
        rest = [p for p in self.model_parameters if id(p) not in held]
        groups: list[dict[str, Any]] = [
            {"params": encoder, "lr": self.settings.lr * self.settings.encoder_lr_scale},
            {"params": rest},
        ]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(groups, lr=self.settings.lr, fused=True),
            torch.optim.Adam(self.policy_parameters, lr=self.settings.lr, eps=1e-5, fused=True),
        ]
        self._first_rates = [[group["lr"] for group in one.param_groups] for one in optimizers]
        return optimizers

    def set_learning_rates(self, done: float) -> None:
        """Learning rates for the share `done` of a training's steps."""
        over = (done - self.settings.lr_decay_from) / (1 - self.settings.lr_decay_from)
        factor = 1 + (self.settings.lr_end - 1) * min(max(over, 0.0), 1.0)
        for chosen, rates in zip(self.optimizers(), self._first_rates, strict=True):
            for group, rate in zip(chosen.param_groups, rates, strict=True):
                if isinstance(group["lr"], Tensor):  # which a captured update reads
                    group["lr"].fill_(rate * factor)
                else:
                    group["lr"] = rate * factor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Learning rates are numbers in a file."""
        checkpoint["updates"] = self.updates
        states = checkpoint.get("optimizer_states", ())
        for group in (group for state in states for group in state["param_groups"]):
            group["lr"] = float(group["lr"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The count of updates goes on; files of before there was one begin it anew."""
        self.updates = checkpoint.get("updates", 0)

    def sample_noise(self, batch: TensorDictBase) -> Any:
        """Every random number of one update on `batch` [B, H]."""
        raise NotImplementedError

    def update_policy(
        self, batch: TensorDictBase, zs: Tensor, noise: Any, *variant: bool
    ) -> dict[str, Tensor]:
        """Improve the policy on the latents `zs` [H+1, B, D]; returns scalar metrics."""
        raise NotImplementedError

    def update(self, batch: TensorDictBase, *variant: bool) -> dict[str, Tensor]:
        """One update of model, policy and targets on slices [B, H]; returns scalar metrics.

        What it changes it changes in place, and it waits for no value, so that it can be captured. It is
        skipped if the model's loss or gradient is not finite, the policy's part also for its own.
        """
        # Within one autocast context torch would go on with the low-precision copies of the last weights.
        torch.clear_autocast_cache()
        self.guard.start_update()
        noise = self.sample_noise(batch)
        loss, zs, metrics = self._model_loss(self.model, batch, noise, self.coef, self.bootstrap)
        metrics["grad_norm/model"] = self.gradient_step(loss, 0, self.model_parameters)
        finite = self.guard.finite
        metrics |= self.update_policy(batch, zs, noise, *variant)
        self.model.update_targets(self.settings.target_rate, finite)
        return {**metrics, "count/skipped_updates": self.guard.finish_update()}

    def gradient_step(self, loss: Tensor, optimizer: int, parameters: list[nn.Parameter]) -> Tensor:
        """One clipped step of the optimizer of that number, if all is finite; the norm before clipping."""
        self.manual_backward(self.guard.nan_gradient_unless_finite(loss))
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        chosen: Any = self.optimizers()[optimizer]  # type: ignore[index]
        self.guard.gate(getattr(chosen, "optimizer", chosen), norm)
        chosen.step()
        chosen.zero_grad()
        return norm.detach()

    def sample_target_noise(self, batch: TensorDictBase) -> tuple[Tensor, Tensor, Tensor | None]:
        """For the value targets: noise [H·B, A] and indices of heads; and the dropout mask."""
        size, horizon = batch.shape
        model, device = self.model, batch["action"].device
        rows, mask = horizon * size, None
        if self.settings.dropout > 0:
            shape = (model.num_heads, rows, model.mlp_dim)
            mask = dropout_mask(shape, self.settings.dropout, torch.empty((), device=device))
        noise = torch.randn(rows, model.action_dim, device=device)
        return noise, self.sample_heads(self.settings.target_heads, device), mask

    def sample_shift(self, batch: TensorDictBase) -> Tensor | None:
        """How far each image of `batch` [B, H] moves, [(H+1)·B, 2]; `None` where no images are observed."""
        if "pixels" not in self.model.obs_keys:
            return None
        size, horizon = batch.shape
        return sample_shift((horizon + 1) * size, batch["action"].device)

    def sample_heads(self, number: int | None, device: torch.device) -> Tensor:
        """Indices of so many different value heads at random, or of all if there are fewer; None is all."""
        return torch.randperm(self.model.num_heads, device=device)[:number]
