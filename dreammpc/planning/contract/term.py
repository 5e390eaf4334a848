"""The checks of an objective term. Shapes: M candidates, H horizon, A action dimension."""

from typing import Any, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.interfaces import PlanningModel
from dreammpc.planning.contract import common
from dreammpc.planning.contract.common import expect, no_error
from dreammpc.planning.contract.watch import NO_HOST, Watch, on_device
from dreammpc.planning.objective_terms import Trajectory, check_term_class, term_name
from dreammpc.runtime.devices import seeded_rng, tensor_device

HORIZON = 3


def check_term(
    term: Any,
    model: PlanningModel | None = None,
    latent: TensorDictBase | None = None,
    *,
    heads: bool = False,
    compile: str | None = "eager",
    device: str | None = "meta",
) -> None:
    """Check that planners can rely on an objective term.

    Args:
        term: a frozen dataclass with a `weight` and a method `__call__(trajectory)`.
        model: to imagine in; `None` takes a small linear one with two actions.
        latent: example latents of the model, a TensorDict [M] of at least two rows that differ; `None` takes
            noise around `model.initial_belief`.
        heads: the term is for constraints and may return a cost per head, [M, K].
        compile: the backend under which the term must be one graph; `None` skips it.
        device: another one than the model's, where the term must work without the host; `None` skips it.

    Raises:
        ContractError: a broken promise.
        ValueError: no usable example latents.
        UsageError: the class is no term.
    """
    named = term_name(term)
    check_term_class(named, type(term))
    with no_error(named, "settings only, which can be hashed"):
        hash(term)
    expect(isinstance(term.weight, int | float), f"{named}: weight", "a number", term.weight)
    own = " (in a linear model of the checker's own; give yours as model=)" if model is None else ""
    model = common.LinearModel(2) if model is None else model
    latent = common.example_latent(model, latent)
    with no_error(named, hint=own):
        trajectory = example_trajectory(term, model, latent)
    given = {
        **common.named_tensors("latents", trajectory.latents),
        "actions": trajectory.actions,
        "rewards": trajectory.rewards,
    }
    before = common.copies(given)
    cost = call(term, trajectory, own)
    size: tuple[int | str, ...] = (latent.shape[0],)
    common.expect_tensor(named, cost, (*size, "K") if heads and cost.ndim == 2 else size)
    common.expect_unchanged(named, given, before)
    common.expect_close(named, call(term, trajectory), cost, "the same cost for the same trajectory")
    for mode, enter in common.gradient_modes().items():
        with enter():
            common.expect_close(f"{named} under {mode}", call(term, trajectory), cost, "what no_grad gives")
    changed = trajectory._replace(actions=trajectory.actions.clone())
    changed.actions[:, -1] = trajectory.actions[:, 0]
    changed = changed._replace(latents=rolled_out(model, latent, changed.actions))
    expected = "candidates that do not depend on each other"
    common.expect_close(named, call(term, changed)[:-1], cost[:-1], expected)
    if getattr(term, "differentiable", True):
        _gradient(named, term, model, latent, trajectory)
    if device is not None:
        _device(named, term, model, trajectory, torch.device(device))
    if compile is not None:
        torch.compiler.reset()
        compiled = torch.compile(term.__call__, backend=compile, fullgraph=True)
        with no_error(f"{named} under torch.compile(fullgraph=True)"), torch.no_grad():
            common.expect_close(f"{named} compiled", compiled(trajectory), cost, "what eager gives")


def rolled_out(model: Any, latent: TensorDictBase, actions: Tensor) -> TensorDictBase:
    """Latents [H+1, M] along `actions` [H, M, A] from `latent` [M]."""
    latents = [latent]
    for action in actions:
        latents.append(model.step(latents[-1], action))
    return torch.stack(latents)


def example_trajectory(term: Any, model: Any, latent: TensorDictBase) -> Trajectory:
    """Random actions from `latent` [M] in the model, in the middle of an episode."""
    size, device = latent.shape[0], tensor_device(latent)
    with seeded_rng(0, device), torch.no_grad():
        actions = torch.rand(HORIZON, size, model.action_dim, device=device) * 1.8 - 0.9
        latents = rolled_out(model, latent, actions)
        steps = [model.outcome(latents[t], actions[t], latents[t + 1]) for t in range(HORIZON)]
        rewards, discount = (torch.stack(found) for found in zip(*steps, strict=True))
        discounts = torch.cat([torch.ones_like(discount[:1]), discount.cumprod(0)])
        ones = torch.ones(size, device=device)
        reference = term.prepare(model, device) if hasattr(term, "prepare") else None
    last = actions[0].flip(0)
    return Trajectory(latents, actions, last, ones, 2 * ones, rewards, discounts, model, reference)


def call(term: Any, trajectory: Trajectory, hint: str = "") -> Tensor:
    """The cost, without gradients."""
    with no_error(term_name(term), hint=hint), torch.no_grad():
        return cast(Tensor, term(trajectory))


def _gradient(named: str, term: Any, model: Any, latent: TensorDictBase, trajectory: Trajectory) -> None:
    name, expected = (
        f"{named}: gradient with respect to the actions",
        "one that is finite, as ascent follows it",
    )
    with torch.enable_grad(), no_error(named):
        actions = trajectory.actions.clone().requires_grad_()
        cost = term(trajectory._replace(actions=actions, latents=rolled_out(model, latent, actions)))
    hint = "none: it was detached on the way (differentiable = False in the class says that it only ranks)"
    expect(cost.requires_grad, name, expected, hint)
    (gradient,) = torch.autograd.grad(cost.sum(), actions, allow_unused=True)
    expect(gradient is not None, name, expected, hint)
    expect(gradient.isfinite().all(), name, expected, "some that are not finite")


def _device(named: str, term: Any, model: Any, trajectory: Trajectory, device: torch.device) -> None:
    elsewhere = on_device(model, device)
    moved = [x.to(device) for x in trajectory[:7]]
    with Watch(device) as watch, torch.no_grad():
        reference = term.prepare(elsewhere, device) if hasattr(term, "prepare") else None
        cost = term(Trajectory._make([*moved, elsewhere, reference]))
    expect(not watch.found, f"{named} on {device}", NO_HOST, f"one that {watch.found}")
    common.expect_device(f"{named} on {device}", {": cost": cost}, device)
