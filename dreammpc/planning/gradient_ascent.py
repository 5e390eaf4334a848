"""Gradient ascent: every candidate climbs J through the model (the refinement of Dream-MPC)."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from dreammpc.interfaces import UsageError, first_line
from dreammpc.planning.constraints import candidate_multipliers
from dreammpc.planning.context import PlanningContext
from dreammpc.planning.objective_terms import NotDifferentiable
from dreammpc.planning.penalty_steps import Penalties, length
from dreammpc.planning.search import SearchState, take
from dreammpc.plugins.settings import Count, NonNegative, NonNegativeOrInf, check, one_of

STEP_RULES = ("fixed", "normalized", "backtracking", "line_search")
StepRule = Annotated[str, one_of(*STEP_RULES)]
Optimizer = Annotated[str, one_of("sgd", "adam")]
ClipOver = Annotated[str, one_of("candidate", "all")]
BACKTRACKS = 4
"""Step sizes tried at once by `backtracking` and `line_search`: α, α/2, α/4, α/8."""
BETAS, EPS = (0.9, 0.999), 1e-8
"""Adam's (Kingma & Ba 2015, arXiv 1412.6980, Algorithm 1)."""


@dataclass(frozen=True)
class GradientAscent:
    """Gradient steps on J for each candidate (arXiv 2605.04568, Algorithm 1).

    Args:
        iterations: steps I.
        step_size: α.
        step_rule: `fixed` adds α·d, with d the gradient or Adam's direction; `normalized` moves every
            candidate by α per coordinate (root mean square) along d; `backtracking` tries α, α/2, α/4, α/8
            times d in one batch and takes the best by J, or stays where none is better; `line_search` does
            so along d scaled as in `normalized`: as far on a flat J as on a steep one.
        optimizer: `sgd` climbs along the gradient; `adam` along its running mean over its running root mean
            square. Adam's moments go on in the next call, shifted like the candidates, where a candidate
            continues one of the last call's (reuse strategies `index` and `matched`); else they start anew.
        clip: norm at which gradients are clipped.
        clip_over: `candidate` clips each by itself; `all` uses one norm over an environment's candidates,
            so that one exploding candidate flattens the rest.
        project: back onto [-1, 1] after every step, not only at the end.
        within_policy: [-1, 1] is narrowed to the range of the policy rollouts' actions, at each step ahead
            and in each coordinate: candidates climb no further than the policy itself would try.

    Beside a constraint with a penalty, a step goes along the boundary (see `penalty_steps`).
    """

    iterations: Count = 1
    step_size: NonNegative = 0.1
    step_rule: StepRule = "fixed"
    optimizer: Optimizer = "sgd"
    clip: NonNegativeOrInf = 20.0
    clip_over: ClipOver = "candidate"
    project: bool = True
    within_policy: bool = False
    needs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self)

    def count(self, incoming: int) -> int:
        if incoming < 1:
            raise ValueError(f"candidates to ascend from must be at least 1, got {incoming}")
        return incoming

    def carry_shapes(self, incoming: int, horizon: int, action_dim: int) -> dict[str, tuple[int, ...]]:
        """Adam's `moment_1`, `moment_2` [N, H, A] and `adam_steps` [N]."""
        if self.optimizer == "sgd":
            return {}
        shape = (incoming, horizon, action_dim)
        return {"moment_1": shape, "moment_2": shape, "adam_steps": (incoming,)}

    def __call__(self, context: PlanningContext, state: SearchState) -> SearchState:
        """`iterations · N · H` model steps, five times as many where step sizes are tried."""
        actions, moments = state.candidates, self._moments(context, state)
        bounds = self._bounds(state)
        own = None
        if context.objective.constraints:
            last = context.warm_start["multipliers"]
            own = candidate_multipliers(last, state.parents, actions.shape[1])
        for i in range(self.iterations):
            if context.out_of_time():
                state = replace(state, statistics=replace(state.statistics, stopped_early=True))
                break
            gradient, scores, penalties = score_gradient(context, actions, own)
            if state.policy_scores is None and state.starts_with_policy and i == 0:
                state = replace(state, policy_scores=scores[:, : state.policy_rollouts.shape[1]])
            whole, (gradient, norm, clipped) = gradient, self._clip(gradient)
            statistics = state.statistics.after(scores, actions.shape[1] * context.horizon)
            statistics = replace(statistics, gradient_norm=norm, clipped=clipped)
            state = replace(state, scores=None, scores_before_step=scores, statistics=statistics)
            direction, moments = self._direction(gradient, moments)
            if self.step_rule in ("normalized", "line_search"):
                direction = direction / (direction.square().mean((-2, -1), keepdim=True).sqrt() + 1e-6)
            if context.trust is not None:
                direction = direction * context.trust[:, None, None, None]
            search = self.step_rule in ("backtracking", "line_search")
            sizes = [self.step_size * 0.5**k for k in range(BACKTRACKS if search else 1)]
            steps = [size * direction for size in sizes]
            if penalties is not None:
                scale = length(direction) / length(whole)
                pairs = zip(steps, sizes, strict=True)
                steps = [penalties.beside(step, size * scale) for step, size in pairs]
            if search:
                actions, scores, state = self._backtrack(context, state, actions, scores, steps, bounds, own)
                state = replace(state, scores=scores, scores_before_step=None)
            else:
                actions = (actions + steps[0]).clamp(*bounds) if self.project else actions + steps[0]
        if own is not None:  # candidates are compared under the same multipliers
            state = replace(state, scores=None, policy_scores=None)
        return replace(
            state,
            candidates=actions.clamp(*bounds),
            starts_with_policy=False,
            mean=None,  # the candidates have left the Gaussian
            carry={**state.carry, **(moments or {})},
        )

    def _bounds(self, state: SearchState) -> tuple[Any, Any]:
        """Least and greatest action: numbers, or [B, 1, H, A]."""
        if not self.within_policy:
            return -1, 1
        rollouts = state.policy_rollouts.clamp(-1, 1)
        return rollouts.amin(1, keepdim=True), rollouts.amax(1, keepdim=True)

    def _clip(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The clipped gradient [B, N, H, A]; mean norm before and share clipped, both [B]."""
        over = (-2, -1) if self.clip_over == "candidate" else (-3, -2, -1)
        norm = gradient.square().sum(over, keepdim=True).sqrt()
        gradient = gradient * (self.clip / (norm + 1e-6)).clamp(max=1.0)
        return gradient, norm.mean((1, 2, 3)), (norm > self.clip).to(norm.dtype).mean((1, 2, 3))

    def _moments(self, context: PlanningContext, state: SearchState) -> dict[str, Tensor] | None:
        """Adam's moments of the candidates: their parents', shifted; zeros where they have none."""
        if self.optimizer == "sgd":
            return None
        names = ("moment_1", "moment_2", "adam_steps")
        if state.parents is None:
            zeros = torch.zeros_like(state.candidates)
            return dict(zip(names, (zeros, zeros, zeros[..., 0, 0]), strict=True))
        first, second = (take(context.shifted(name), state.parents) for name in names[:2])
        steps = context.warm_start["adam_steps"].gather(1, state.parents)
        return dict(zip(names, (first, second, steps), strict=True))

    def _direction(
        self, gradient: Tensor, moments: dict[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Where to go, [B, N, H, A], and the moments after this step."""
        if moments is None:
            return gradient, None
        steps = moments["adam_steps"] + 1
        first = BETAS[0] * moments["moment_1"] + (1 - BETAS[0]) * gradient
        second = BETAS[1] * moments["moment_2"] + (1 - BETAS[1]) * gradient.square()
        power = steps[..., None, None]
        mean, square = first / (1 - BETAS[0] ** power), second / (1 - BETAS[1] ** power)
        return mean / (square.sqrt() + EPS), {"moment_1": first, "moment_2": second, "adam_steps": steps}

    def _backtrack(
        self,
        context: PlanningContext,
        state: SearchState,
        actions: Tensor,
        scores: Tensor,
        steps: list[Tensor],
        bounds: tuple[Any, Any],
        multipliers: Tensor | None,
    ) -> tuple[Tensor, Tensor, SearchState]:
        """The best of staying and of all `steps` for each candidate, its J [B, N], and the state."""
        tried = torch.stack([(actions + step).clamp(*bounds) for step in steps], 2)
        if multipliers is not None:
            multipliers = multipliers.repeat_interleave(BACKTRACKS, 1)
        found, state = state.score(context, tried.flatten(1, 2), multipliers=multipliers)
        found = found.unflatten(1, tried.shape[1:3])
        tried = torch.cat([actions.unsqueeze(2), tried], 2)
        scores, index = torch.cat([scores.unsqueeze(2), found], 2).max(2)
        index = index[:, :, None, None, None].expand(-1, -1, 1, *tried.shape[3:])
        return tried.gather(2, index).squeeze(2), scores, state


def score_gradient(
    context: PlanningContext, actions: Tensor, multipliers: Tensor | None = None
) -> tuple[Tensor, Tensor, Penalties | None]:
    """∇J [B, N, H, A] (zero where it is not finite) and J [B, N] of `actions`, and its penalties.

    The gradient is of J without the penalties of constraints, which come by themselves: they have a kink.

    By `torch.func.vjp` and not `torch.func.grad`, which always records the backward pass as well, for
    second derivatives that no one asks for: about a quarter of a gradient's time on CPU.

    Raises:
        NotDifferentiable: J does not depend differentiably on the actions.
        UsageError: the model's functions fail only where they are differentiated.
    """
    penalized = [i for i, c in enumerate(context.objective.constraints) if c.treatment == "penalty"]
    weights = tuple(float(context.objective.constraints[i].weight) for i in penalized)

    def score(actions: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """J without penalties, and what they are of; and J."""
        found = context.imagined(actions, multipliers)
        scores = context.usable(found.objective)
        if not torch.compiler.is_compiling() and not scores.requires_grad:
            raise NotDifferentiable(
                "gradient planning needs a J that is differentiable in the actions, but none of the model's"
                " step, outcome and value passes a gradient on; detach(), no_grad or numpy in it?"
                " dreammpc.planning.contract.check_model names the method"
            )
        if found.violations is None or not penalized:
            return (scores,), scores
        violations = [found.violations[..., i] for i in penalized]
        taken = [weight * g.clamp(min=0) for weight, g in zip(weights, violations, strict=True)]
        return (scores + torch.stack(taken).sum(0), *violations), scores

    if torch.compiler.is_compiling():
        smooth, pullback, scores = torch.func.vjp(score, actions, has_aux=True)  # type: ignore[misc]
    else:
        try:
            smooth, pullback, scores = torch.func.vjp(score, actions, has_aux=True)  # type: ignore[misc]
        except NotDifferentiable:
            raise
        except (RuntimeError, UsageError) as error:
            with torch.no_grad():
                context.score(actions, multipliers)  # what fails by itself says so
            raise UsageError(
                "gradient planning differentiates the model by torch.func.vjp, and there it fails (numpy, or"
                f" PyTorch's older autograd in it?): {first_line(error)}; planners that only"
                " sample, such as mppi, need no gradient"
            ) from error
    usable, gradients = scores.isfinite().to(scores.dtype), []
    for i in range(len(smooth)):
        ahead = tuple(usable if i == k else torch.zeros_like(usable) for k in range(len(smooth)))
        gradient = pullback(ahead)[0]
        gradients.append(torch.where(gradient.isfinite(), gradient, 0.0))
    if not penalized:
        return gradients[0], scores, None
    violations = torch.where(scores.isfinite()[..., None], torch.stack(smooth[1:], -1), 0.0)
    return gradients[0], scores, Penalties(violations, tuple(gradients[1:]), weights)
