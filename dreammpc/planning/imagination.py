"""Rolls out and scores candidate action sequences: the only place where planners meet models.

Models know flat batches [M], planners know [B, N, H, A] (letters: see `dreammpc.interfaces`).
"""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Imagined, Outcome, PlanningModel
from dreammpc.planning.constraints import constrained, make_constraints
from dreammpc.planning.objective_terms import (
    Trajectory,
    episode_start,
    make_terms,
    prepare_terms,
    weighted_costs,
)
from dreammpc.planning.shapes import check_latent, checked_outcome, checked_tensor
from dreammpc.planning.value_heads import ValueReduction, reduce_heads, sample_std
from dreammpc.plugins.settings import Finite, Fraction, NonNegative, check, one_of
from dreammpc.runtime.devices import tensor_device

UncertaintyKind = Annotated[str, one_of("std", "terminal", "released")]
CPU_ROWS = 512
"""Sequences that are scored at a time on a CPU, whose caches then hold what layers hand on."""


@dataclass(frozen=True)
class Objective:
    """The score of a candidate: J = Σ D_t·r_t + D_H·V(z_H) - λ·u (Dream-MPC, arXiv 2605.04568, §3).

    Args:
        uncertainty_coef: λ.
        uncertainty: `std` is the spread of the heads at (z_t, a_t), discounted by D_t, plus that of the
            terminal value, differentiable; `terminal` is that of the terminal value alone, whose heads are
            computed anyway: a quarter of the value network's work at H = 3; `released` is what the
            published program computes: mean·std at (z_{t+1}, a_t) plus mean·std of the terminal value,
            neither discounted nor differentiated, so that λ only re-ranks candidates.
        value_reduction: how the terminal value's heads become one number, see `reduce_heads`.
        value_std_weight: w of `mean-std`.
        terms: further costs, each subtracted from J times its weight (see `objective_terms`).
        terminal_value: without it J ends with the rewards, for horizons that reach the end.
        constraints: costs that must stay below a limit (see `constraints`).
        value_lambda: λ of the λ-return (Dreamer, arXiv 1912.01603, Eq. 6). The return after h < H steps has
            the weight (1-λ)·λ^(h-1), that after H steps λ^(H-1). With 1 only the last counts.
    """

    uncertainty_coef: Finite = 0.0
    uncertainty: UncertaintyKind = "std"
    value_reduction: ValueReduction = "mean"
    value_std_weight: NonNegative = 1.0
    terms: tuple[Any, ...] = ()
    terminal_value: bool = True
    constraints: tuple[Any, ...] = ()
    value_lambda: Fraction = 1.0

    def __post_init__(self) -> None:
        make_costs(self)
        check(self)

    def mixed(self, returns: Tensor) -> Tensor:
        """The λ-return [M] of the returns after 1 to H steps, [H, M]."""
        mixed = returns[-1]
        for shorter in reversed(returns[:-1].unbind()):
            mixed = shorter + self.value_lambda * (mixed - shorter)
        return mixed

    @property
    def costs(self) -> tuple[Any, ...]:
        """All terms that look at trajectories: those of J, and those of the constraints."""
        return (*self.terms, *(constraint.term for constraint in self.constraints))

    @property
    def rejects(self) -> bool:
        """Whether candidates that violate a constraint are ranked behind all others."""
        return any(constraint.treatment == "reject" for constraint in self.constraints)

    def reduce(self, heads: Tensor) -> Tensor:
        """[M, K] → [M]."""
        return reduce_heads(heads, self.value_reduction, self.value_std_weight)

    def spread(self, heads: Tensor) -> Tensor:
        """Uncertainty of each value, [M, K] → [M]."""
        std = sample_std(heads)
        return heads.mean(-1) * std if self.uncertainty == "released" else std


def make_costs(settings: Any) -> None:
    """Make the `terms` and `constraints` of a frozen dataclass from what was given for them."""
    object.__setattr__(settings, "terms", make_terms(settings.terms))
    object.__setattr__(settings, "constraints", make_constraints(settings.constraints))


class Imagination:
    """A planning model seen by a planner.

    Args:
        model: anything with the methods of `PlanningModel`.
        last_action: the action that was executed last, [B, A], for objective terms that depend on it; by
            default the first action of the planner's last plan.
        last_latent: where that was, [B], for planners that measure how far the model was right (see `trust`).
    """

    def __init__(
        self,
        model: PlanningModel,
        last_action: Tensor | None = None,
        last_latent: TensorDictBase | None = None,
    ):
        self.model, self.last_action, self.last_latent = model, last_action, last_latent
        self._stepped = False

    @property
    def action_dim(self) -> int:
        return self.model.action_dim

    def propose(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """Policy rollouts: actions [B, N, H, A] for standard-normal `noise` of that shape.

        A model of several policies has a method `proposers(latent)`, for each one the model and the latent
        [B] that it rolls out in. They take turns, candidate by candidate.
        """
        shape = noise.shape
        self.check_action_dim(shape[-1])
        if hasattr(self.model, "proposers"):
            parts, rollouts = self.model.proposers(latent), torch.empty_like(noise)
            for k, (model, own) in enumerate(parts[: shape[1]]):
                rollouts[:, k :: len(parts)] = Imagination(model).propose(own, noise[:, k :: len(parts)])
            return rollouts
        latent = repeat_rows(latent, shape[1])
        noise = noise.flatten(0, 1)
        actions: list[Tensor] = []
        for t in range(shape[2]):
            if t:
                latent = self.step(latent, actions[-1])
            actions.append(self.policy(latent, noise[:, t]))
        return torch.stack(actions, 1).view(shape).to(noise.dtype)

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """The model's next latent [M]; this and what follows raises UsageError for another shape."""
        found = self.model.step(latent, action)
        if not torch.compiler.is_compiling():
            check_latent(self.model, found, latent, entries=not self._stepped)  # once, as they take longer
            self._stepped = True
        return found

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """The model's reward and discount [M]."""
        return checked_outcome(self.model, self.model.outcome(latent, action, next_latent), len(action))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """The model's value heads [M, K]."""
        return checked_tensor(self.model, "value", self.model.value(latent, action), len(action), "K")

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """The model's policy action [M, A]."""
        return checked_tensor(self.model, "policy", self.model.policy(latent, noise), *noise.shape)

    def mode(self, latent: TensorDictBase) -> Tensor:
        """The policy's noise-free action [M, A]."""
        noise = torch.zeros(latent.shape[0], self.action_dim, device=tensor_device(latent))
        return self.policy(latent, noise)

    def state_value(self, latent: TensorDictBase) -> Tensor:
        """Value heads [M, K] at the policy's noise-free action, or what a model of several policies says."""
        own = getattr(self.model, "state_value", None)
        if own is None:
            return self.value(latent, self.mode(latent))
        return checked_tensor(self.model, "state_value", own(latent), latent.shape[0], "K")

    def score(
        self,
        latent: TensorDictBase,
        actions: Tensor,
        objective: Objective,
        episode: TensorDictBase | None = None,
        references: tuple[Any, ...] | None = None,
        multipliers: Tensor | None = None,
    ) -> Imagined:
        """J and uncertainty [B, N] of `actions` [B, N, H, A] from `latent` [B].

        Args:
            latent, actions, objective: where candidates start, the candidates, J.
            episode: what terms know of the past, `last_action` [B, A], `started` and `time` [B, 1]; by
                default nothing has happened yet.
            references: what `objective.costs` have prepared (see `objective_terms.prepare_terms`).
            multipliers: Lagrange multipliers of the constraints, [B, N, C]; zero by default.
        """
        batch, num = actions.shape[:2]
        self.check_action_dim(actions.shape[-1])
        on_cpu = actions.device.type == "cpu" and not torch.compiler.is_compiling()
        size = CPU_ROWS if on_cpu else batch * num
        past: Any = itertools.repeat(None)
        if objective.costs:
            device = actions.device
            episode = episode_start(batch, self.action_dim, device) if episode is None else episode
            past = repeat_rows(episode, num).split(size)
            references = references or prepare_terms(objective.costs, self.model, device)
        starts, plans = repeat_rows(latent, num).split(size), actions.flatten(0, 1).split(size)
        parts = zip(starts, plans, past, strict=False)
        scored = (self._score(*part, objective, references) for part in parts)
        columns = list(zip(*scored, strict=True))
        total, uncertainty = torch.cat(columns[0]), torch.cat(columns[1])
        if not objective.constraints:
            return Imagined(total.view(batch, num), uncertainty.view(batch, num))
        violations = torch.cat(columns[2])
        total, violations = total.view(batch, num), violations.view(batch, num, -1)
        ranked = constrained(total, violations, objective.constraints, multipliers)
        return Imagined(ranked, uncertainty.view(batch, num), total, violations)

    def _score(
        self,
        latent: TensorDictBase,
        actions: Tensor,
        episode: TensorDictBase | None,
        objective: Objective,
        references: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """J and uncertainty [M] and violations [M, C] of `actions` [M, H, A] from `latent` [M].

        Without constraints there are no violations. Only the dynamics run step by step; rewards and values of
        all steps are read in one batch each.
        """
        rows, horizon = actions.shape[:2]
        steps = actions.transpose(0, 1)  # [H, M, A]
        latents = [latent]
        for t in range(horizon):
            latents.append(self.step(latents[-1], steps[t]))
        last, along = latents[-1], steps.flatten(0, 1)
        visited = torch.cat(latents)  # z_0..z_H
        before, after = visited[:-rows], visited[rows:]
        outcome = self.outcome(before, along, after)
        reward, discount = outcome.reward.view(horizon, rows), outcome.discount.view(horizon, rows)
        discounts = torch.cat([torch.ones_like(discount[:1]), discount.cumprod(0)])  # D_0..D_H

        if objective.uncertainty_coef == 0 and not objective.terminal_value:
            heads = uncertainty = torch.zeros_like(reward[0])
        elif objective.uncertainty_coef == 0:
            heads = self.state_value(last)
            uncertainty = torch.zeros_like(heads[:, 0])
        elif objective.uncertainty == "terminal":
            heads = self.state_value(last)
            uncertainty = discounts[-1] * objective.spread(heads)
        else:
            at = visited if objective.uncertainty == "std" else torch.cat([after, last])
            heads = self.value(at, torch.cat([along, self.mode(last)]))
            if hasattr(self.model, "state_value"):
                heads = torch.cat([heads[:-rows], self.state_value(last)])
            spread = objective.spread(heads).view(horizon + 1, rows)
            heads = heads[-rows:]
            if objective.uncertainty == "std":
                uncertainty = (discounts * spread).sum(0)
            else:
                uncertainty = spread.sum(0).detach()
        total, violations = (discounts[:-1] * reward).sum(0), None
        if objective.terminal_value and (objective.value_lambda == 1 or horizon == 1):
            total = total + discounts[-1] * objective.reduce(heads)
        elif objective.terminal_value:
            earlier = objective.reduce(self.state_value(visited[rows:-rows])).view(horizon - 1, rows)
            values = torch.cat([earlier, objective.reduce(heads)[None]])
            returns = (discounts[:-1] * reward).cumsum(0) + discounts[1:] * values  # after 1 to H steps
            total = objective.mixed(returns)
        total = total - objective.uncertainty_coef * uncertainty
        if episode is not None:
            past = episode["last_action"], episode["started"][:, 0], episode["time"][:, 0]
            path = visited.unflatten(0, (horizon + 1, rows))
            trajectory = Trajectory(path, steps, *past, reward, discounts, self.model)
            total = total - weighted_costs(objective.terms, trajectory, references)
            rest = zip(objective.constraints, references[len(objective.terms) :], strict=True)
            found = [constraint.violation(trajectory, reference) for constraint, reference in rest]
            violations = torch.stack(found, 1) if found else None
        return total, uncertainty, violations

    def check_action_dim(self, action_dim: int) -> None:
        """Raise ValueError if a planner of `action_dim` does not fit the model."""
        if action_dim != self.action_dim:
            raise ValueError(f"the planner has action_dim {action_dim}, the model {self.action_dim}")


def repeat_rows(latent: TensorDictBase, num: int) -> TensorDictBase:
    """[B] → [B·N], each row `num` times in a row."""
    return latent.unsqueeze(1).expand(latent.shape[0], num).flatten(0, 1)
