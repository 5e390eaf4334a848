"""Dream-MPC: a handful of policy rollouts improved by gradient ascent through the model.

Spieler & Behnke, ICML 2026, arXiv 2605.04568. Two presets share this class: `dream_mpc` (our default) and
`dream_mpc_paper` (what the released program does, which differs from the paper's text in several places).

Shapes: B environments, N candidates, H horizon, A action dimension.
"""

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Plan
from dreammpc.planning import warm_start
from dreammpc.planning.imagination import Imagination, Objective, check_at_least, check_choice
from dreammpc.planning.mppi import LARGE_ACTION_DIM
from dreammpc.planning.registry import register_planner

STEP_RULES = ("fixed", "normalized", "backtracking")
BACKTRACKS = 4
"""Step sizes tried at once by the backtracking rule: α, α/2, α/4, α/8."""


@register_planner("dream_mpc")
@dataclass(frozen=True)
class DreamMPC:
    """Policy-seeded gradient planning.

    Args:
        horizon: H.
        num_candidates: N policy rollouts.
        iterations: gradient steps I; two more from 20 action dimensions on, as in the released program.
        step_size: α.
        step_rule: `fixed` adds α·∇J; `normalized` moves every candidate by α per coordinate (root mean
            square) along its gradient; `backtracking` tries α, α/2, α/4, α/8 and no step, in one batch,
            and takes the best by J.
        clip: norm at which gradients are clipped.
        clip_over: `candidate` clips each by itself; `all` uses one norm over an environment's candidates,
            so that one exploding candidate flattens the rest (released behaviour).
        reuse: weight ρ of the previous candidates, shifted by one step, in the warm start.
        include_mode: the first candidate is the policy's noise-free rollout.
        selection: `rescored` takes the best by J after the last step, with the un-optimised policy
            rollouts still in the running, so that by the model's own J the plan is never worse than the
            policy; `before_last_step` ranks by J from before the last step (released behaviour).
        non_finite: `lose` drops candidates whose J is not finite and falls back on the policy if none
            is; `zero` sets such J to 0, which can win when returns are negative (released behaviour).
        min_std: least standard deviation of exploration noise (times `noise_scale`).
        uncertainty_coef, uncertainty, value_reduction: see `Objective`.

    Raises:
        ValueError: a setting out of range.
    """

    action_dim: int
    horizon: int = 3
    num_candidates: int = 5
    iterations: int = 1
    step_size: float = 0.1
    step_rule: str = "fixed"
    clip: float = 20.0
    clip_over: str = "candidate"
    reuse: float = 0.1
    include_mode: bool = True
    selection: str = "rescored"
    non_finite: str = "lose"
    min_std: float = 0.2
    uncertainty_coef: float = 0.01
    uncertainty: str = "std"
    value_reduction: str = "mean"

    def __post_init__(self):
        for name in ("horizon", "num_candidates", "action_dim"):
            check_at_least(name, getattr(self, name), 1)
        for name in ("iterations", "step_size", "reuse", "min_std", "clip"):
            check_at_least(name, getattr(self, name), 0)
        if self.reuse > 1:
            raise ValueError(f"reuse must be at most 1, got {self.reuse}")
        check_choice("step_rule", self.step_rule, STEP_RULES)
        check_choice("clip_over", self.clip_over, ("candidate", "all"))
        check_choice("selection", self.selection, ("rescored", "before_last_step"))
        check_choice("non_finite", self.non_finite, ("lose", "zero"))
        self.objective  # noqa: B018 (validates the choices)

    @property
    def objective(self) -> Objective:
        return Objective(self.uncertainty_coef, self.uncertainty, self.value_reduction)

    @property
    def num_iterations(self) -> int:
        return self.iterations + (2 if self.action_dim >= LARGE_ACTION_DIM else 0)

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with the previous candidates [B, N, H, A]."""
        shape = (self.num_candidates, self.horizon, self.action_dim)
        return warm_start.fresh(batch_size, device, candidates=shape)

    def plan(
        self, imagination: Imagination, latent: TensorDictBase, state: TensorDictBase, noise_scale: float
    ) -> Plan:
        """Propose with the policy, ascend J, choose (arXiv 2605.04568, Algorithm 1)."""
        proposals = imagination.propose(latent, self._proposal_noise(latent))
        reuse = self.reuse * state["started"][..., None, None]
        candidates = reuse * warm_start.shift(state["candidates"]) + (1 - reuse) * proposals

        scores = torch.zeros_like(candidates[..., 0, 0])
        grad_norm, clipped = scores, scores
        for _ in range(self.num_iterations):
            gradient, scores = self._gradient(imagination, latent, candidates)
            gradient, grad_norm, clipped = self._clip(gradient)
            candidates = self._ascend(imagination, latent, candidates, gradient)
        candidates = candidates.clamp(-1, 1)

        running = candidates
        if self.selection == "rescored":
            running = torch.cat([candidates, proposals], 1)
            scores = self._score(imagination, latent, running)
        best, value, usable = choose(running, scores)
        sequence = torch.where(usable[:, None, None], best, proposals[:, 0]).nan_to_num(0.0)
        std = candidates.nan_to_num(0.0).std(1, unbiased=False).clamp(min=self.min_std)
        noise = torch.randn_like(sequence[:, 0]) * noise_scale
        action = (sequence[:, 0] + std[:, 0] * noise).clamp(-1, 1)
        diagnostics = {
            "objective": value,
            "objective_policy": scores[:, -self.num_candidates :].amax(1),
            "gradient_norm": grad_norm.mean(1),
            "clipped": clipped.mean(1),
            "fallback": (~usable).to(value.dtype),
            "evaluations": torch.full_like(value, float(self._evaluations())),
        }
        carry = warm_start.carry_on(state, candidates=candidates.nan_to_num(0.0))
        return Plan(action, sequence, std, value, carry, TensorDict(diagnostics, [action.shape[0]]))

    def _proposal_noise(self, latent: TensorDictBase) -> Tensor:
        """Standard-normal noise [B, N, H, A]; the first candidate's is zero if it is the mode."""
        shape = (latent.shape[0], self.num_candidates, self.horizon, self.action_dim)
        noise = torch.randn(shape, device=latent.device)
        return torch.cat([torch.zeros_like(noise[:, :1]), noise[:, 1:]], 1) if self.include_mode else noise

    def _score(self, imagination: Imagination, latent: TensorDictBase, actions: Tensor) -> Tensor:
        """J [B, N'] of `actions` [B, N', H, A], with what is not finite made to lose (or to count as 0)."""
        scores = imagination.score(latent, actions, self.objective).objective
        return torch.where(scores.isfinite(), scores, 0.0 if self.non_finite == "zero" else -torch.inf)

    def _gradient(
        self, imagination: Imagination, latent: TensorDictBase, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """∇J [B, N, H, A] (zero where it is not finite) and J [B, N]."""

        def total(actions: Tensor) -> tuple[Tensor, Tensor]:
            scores = self._score(imagination, latent, actions)
            return torch.where(scores.isfinite(), scores, 0.0).sum(), scores

        gradient, scores = torch.func.grad(total, has_aux=True)(actions)
        return torch.where(gradient.isfinite(), gradient, 0.0), scores

    def _clip(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The clipped gradient, its norm before and whether it was clipped, both [B, N]."""
        over = (-2, -1) if self.clip_over == "candidate" else (-3, -2, -1)
        norm = gradient.square().sum(over, keepdim=True).sqrt()
        gradient = gradient * (self.clip / (norm + 1e-6)).clamp(max=1.0)
        norm = norm.squeeze(-1).squeeze(-1).expand(gradient.shape[:2])
        return gradient, norm, (norm > self.clip).to(norm.dtype)

    def _ascend(
        self, imagination: Imagination, latent: TensorDictBase, actions: Tensor, gradient: Tensor
    ) -> Tensor:
        """One step along `gradient` by the step rule; projected on [-1, 1] unless that comes at the end."""
        if self.step_rule == "normalized":
            rms = gradient.square().mean((-2, -1), keepdim=True).sqrt()
            gradient = gradient / (rms + 1e-6)
        if self.step_rule != "backtracking":
            stepped = actions + self.step_size * gradient
            return stepped if self.selection == "before_last_step" else stepped.clamp(-1, 1)
        sizes = [self.step_size * 0.5**i for i in range(BACKTRACKS)] + [0.0]
        tried = torch.stack([(actions + size * gradient).clamp(-1, 1) for size in sizes], 2)
        scores = self._score(imagination, latent, tried.flatten(1, 2)).unflatten(1, tried.shape[1:3])
        index = scores.argmax(2)[:, :, None, None, None].expand(-1, -1, 1, *tried.shape[3:])
        return tried.gather(2, index).squeeze(2)

    def _evaluations(self) -> int:
        """Model steps per environment and call, all of them (the paper counts N·I·H alone)."""
        rollouts = self.num_iterations * (1 + (BACKTRACKS + 1) * (self.step_rule == "backtracking"))
        rollouts += 2 * (self.selection == "rescored")
        return self.num_candidates * (self.horizon - 1 + self.horizon * rollouts)


def choose(sequences: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best of `sequences` [B, N, H, A] by `scores` [B, N].

    Returns:
        The sequence [B, H, A], its score [B], and whether it is usable (finite score and actions), [B].
    """
    value, index = scores.max(1)
    rows = index[:, None, None, None].expand(-1, 1, *sequences.shape[2:])
    best = sequences.gather(1, rows).squeeze(1)
    return best, value, value.isfinite() & best.isfinite().flatten(1).all(1)


@register_planner("dream_mpc_paper")
@dataclass(frozen=True)
class DreamMPCPaper(DreamMPC):
    """Dream-MPC with the released program's behaviour in every point where it differs from our default."""

    clip_over: str = "all"
    include_mode: bool = False
    selection: str = "before_last_step"
    non_finite: str = "zero"
    uncertainty: str = "released"
