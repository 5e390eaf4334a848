"""What one call of a planner is given: where it starts, what it maximizes, what the last call left.

Letters: see `dreammpc.interfaces`; K decisions, H unless a decision is held over several steps.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Imagined
from dreammpc.planning.blocks import Blocks
from dreammpc.planning.constraints import candidate_multipliers
from dreammpc.planning.imagination import Imagination, Objective
from dreammpc.runtime.devices import tensor_device


@dataclass(frozen=True)
class PlanningContext:
    """What one call of a planner is given; stages only read it."""

    imagination: Imagination
    latent: TensorDictBase
    """TensorDict [B]."""
    warm_start: TensorDictBase
    """What the last call carried on, TensorDict [B]."""
    horizon: int
    objective: Objective
    episode: TensorDictBase | None = None
    """What objective terms know of the past, see `Imagination.score`; None without terms."""
    references: tuple[Any, ...] = ()
    """What the objective's terms have prepared."""
    non_finite_score: float = -torch.inf
    """What a J that is not finite counts as."""
    deadline: float = torch.inf
    """On the clock of `time.perf_counter`, seconds."""
    blocks: Blocks | None = None
    """How decisions become actions; None where every action is one, and decided anew at every step."""
    trust: Tensor | None = None
    """What gradient steps are multiplied by, [B]; None: nothing (see `dreammpc.planning.trust`)."""

    @property
    def device(self) -> torch.device:
        return tensor_device(self.latent)

    @property
    def num_decisions(self) -> int:
        """K."""
        if self.blocks is None or self.blocks.fitting is None:
            return self.horizon
        return self.blocks.fitting.shape[0]

    def zeros(self, num: int) -> Tensor:
        """[B, num, K, A]."""
        shape = self.latent.shape[0], num, self.num_decisions, self.imagination.action_dim
        return torch.zeros(shape, device=self.device)

    def noise(self, num: int) -> Tensor:
        """Standard-normal noise [B, num, K, A]."""
        shape = self.latent.shape[0], num, self.num_decisions, self.imagination.action_dim
        return torch.randn(shape, device=self.device)

    def policy_rollouts(self, noise: Tensor) -> Tensor:
        """Decisions [B, N, K, A] that come nearest to what the policy does under `noise` of that shape."""
        if self.blocks is None:
            return self.imagination.propose(self.latent, noise)
        return self.blocks.fit(self.imagination.propose(self.latent, self.blocks.held(noise)))

    def score(self, decisions: Tensor, multipliers: Tensor | None = None) -> Tensor:
        """J [B, N] of `decisions` [B, N, K, A]; what is not finite counts as `non_finite_score`."""
        return self.usable(self.imagined(decisions, multipliers).objective)

    def usable(self, scores: Tensor) -> Tensor:
        """`scores`, and `non_finite_score` where they are not finite."""
        return torch.where(scores.isfinite(), scores, self.non_finite_score)

    def imagined(self, decisions: Tensor, multipliers: Tensor | None = None) -> Imagined:
        """Scores of `decisions` [B, N, K, A]; without `multipliers`, with the mean of the last call's."""
        actions = decisions if self.blocks is None else self.blocks.actions(decisions)
        if not self.objective.costs:
            return self.imagination.score(self.latent, actions, self.objective)
        if self.objective.constraints and multipliers is None:
            multipliers = candidate_multipliers(self.warm_start["multipliers"], None, actions.shape[1])
        past = self.episode, self.references, multipliers
        return self.imagination.score(self.latent, actions, self.objective, *past)

    def shifted(self, name: str) -> Tensor:
        """The last plan's decisions [B, …, K, A] of that name, as they stand now; the last action repeats."""
        sequence = self.warm_start[name]
        if self.blocks is not None:
            age = self.warm_start.get("age", None)
            steps = torch.ones_like(self.warm_start["started"]) if age is None else age
            return self.blocks.shifted(sequence, steps[:, 0])
        return torch.cat([sequence[..., 1:, :], sequence[..., -1:, :]], -2)

    def out_of_time(self) -> bool:
        """Whether the deadline has passed; never under `torch.compile`, where a plan is one graph."""
        if torch.compiler.is_compiling() or self.deadline == torch.inf:
            return False
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() >= self.deadline
