"""Objective terms: costs of an imagined trajectory that are subtracted from J, by name or of a user's own.

A term is a frozen dataclass of settings with a `weight` and a method `__call__(trajectory)`; a planner takes
them as `terms=[…]`. `dreammpc.planning.contract.check_term` checks one. Letters: see `dreammpc.interfaces`.
"""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import Class, Registry, frozen_dataclass_lacks, place
from dreammpc.plugins.settings import checked_settings, settings_of

log = logging.getLogger(__name__)

TERMS = Registry("term", "dreammpc.terms")
"""Classes of objective terms by name."""


class NotDifferentiable(UsageError):
    """A gradient planner was given what passes no gradient on."""


class Trajectory(NamedTuple):
    """What an imagined candidate passes through, for a flat batch of M candidates."""

    latents: TensorDictBase
    """TensorDict [H+1, M], from the present latent on."""
    actions: Tensor
    """[H, M, A]."""
    last_action: Tensor
    """[M, A], the action that was executed last; zeros where there was none."""
    started: Tensor
    """[M], 1 where there was a last action, 0 at an episode's first step."""
    time: Tensor
    """[M], agent steps since the episode began."""
    rewards: Tensor
    """[H, M]."""
    discounts: Tensor
    """[H+1, M], D_0..D_H."""
    model: Any
    """The planning model."""
    reference: Any = None
    """What the term's own `prepare` returned, if it has one."""


class ObjectiveTerm(Protocol):
    """A cost of trajectories. A frozen dataclass: settings only, no tensors.

    It may have a method `prepare(model, device)`, which is called once per plan and whose result is the
    trajectory's `reference`, and an attribute `differentiable = False`: then a gradient planner accepts that
    the term only ranks candidates.
    """

    weight: float
    """By how much the cost counts in J."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """The cost of each candidate, [M]; smaller is better."""
        ...


def register_term(name: str) -> Callable[[Class], Class]:
    """Class decorator: make an objective term selectable as `terms=[NAME]`.

    Raises:
        UsageError: the name is taken by another class, or the class is not a term.
    """
    return TERMS.register(name, what_term_lacks)


def what_term_lacks(cls: Any) -> str:
    """Why `cls` is not a term's class; empty if it is."""
    return frozen_dataclass_lacks(cls, "weight", ("__call__",))


def check_term_class(name: str, cls: Any) -> None:
    """Raise UsageError unless `cls` is a frozen dataclass with a `weight` that can be called."""
    if reason := what_term_lacks(cls):
        raise UsageError(f"term {name!r} is not an objective term: {place(cls)} {reason}")


def make_term(given: Any) -> Any:
    """An objective term from its name, from `{name: NAME, …settings}`, or as it is.

    Raises:
        UsageError: an unknown name or setting, or what is no term.
    """
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, dict):
        settings = dict(given)
        name = settings.pop("name", None)
        if not isinstance(name, str) or "." in name:
            raise UsageError(f"terms: expected a name, or _target_ with a dotted path, got {given!r}")
        cls = TERMS[name]
        check_term_class(name, cls)
        given = cls(**checked_settings(f"term {name!r}", settings_of(cls), settings))
    if not torch.compiler.is_compiling():
        check_term_class(str(given), type(given))
        check_weight(given)
    return given


def check_weight(term: Any) -> None:
    """Raise UsageError unless the weight is a finite number."""
    if not (isinstance(term.weight, int | float) and math.isfinite(term.weight)):
        raise UsageError(f"term {term_name(term)}: weight must be a finite number, got {term.weight!r}")


def make_terms(given: Any) -> tuple[Any, ...]:
    """See `make_term`, for a list of them."""
    if isinstance(given, str | dict) or not isinstance(given, Sequence):
        raise UsageError(f"terms must be a list of objective terms, got {given!r}")
    return tuple(make_term(each) for each in given)


def term_name(term: Any) -> str:
    """The name that a term is registered by, or its class's."""
    return next((name for name in TERMS._things if TERMS._things[name] is type(term)), type(term).__name__)


def prepare_terms(terms: Sequence[Any], model: Any, device: torch.device) -> tuple[Any, ...]:
    """What the terms want to have prepared once per plan."""
    return tuple(term.prepare(model, device) if hasattr(term, "prepare") else None for term in terms)


def cost(term: Any, trajectory: Trajectory, reference: Any, heads: bool = False) -> Tensor:
    """The cost [M] of a term, without its weight; with `heads` it may be one per head, [M, K].

    Raises:
        UsageError: a wrong shape; NaN where the model has none (looked at on a CPU).
        NotDifferentiable: no gradient where one is wanted.
    """
    found: Tensor = term(trajectory._replace(reference=reference))
    if torch.compiler.is_compiling():
        return found
    actions = trajectory.actions
    want = list(actions.shape[1:2])
    if not isinstance(found, Tensor) or list(found.shape[:1]) != want or found.ndim > 1 + heads:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UsageError(f"term {term_name(term)} must give {want}, a cost per candidate, got {got}")
    if readable(found) and found.isnan().any() and finite_trajectory(trajectory):
        raise UsageError(f"term {term_name(term)} gives NaN for candidates whose rewards are finite")
    if actions.requires_grad and not found.requires_grad and getattr(term, "differentiable", True):
        raise NotDifferentiable(
            f"term {term_name(term)} passes no gradient on to the actions, which this planner wants; with"
            " differentiable = False in its class it only ranks candidates"
        )
    return found


def finite_trajectory(trajectory: Trajectory) -> bool:
    """Whether all that the model says of it is finite: then a NaN is not the model's."""
    latents = [x for x in trajectory.latents.values(True, True) if x.is_floating_point()]
    return all(bool(x.isfinite().all()) for x in (trajectory.rewards, trajectory.actions, *latents))


def readable(values: Tensor) -> bool:
    """Whether Python may look at a tensor's values: on a CPU, while nothing is compiled or recorded."""
    return values.is_cpu and not torch.compiler.is_compiling() and _get_current_dispatch_mode() is None


def weighted_costs(terms: Sequence[Any], trajectory: Trajectory, prepared: Sequence[Any]) -> Tensor:
    """Sum of the terms' costs times their weights, [M]; `prepared` may hold more, for constraints."""
    total = torch.zeros_like(trajectory.rewards[0])
    for term, reference in zip(terms, prepared, strict=False):
        total = total + term.weight * cost(term, trajectory, reference)
    return total


def episode_start(batch_size: int, action_dim: int, device: torch.device) -> TensorDictBase:
    """What objective terms know of the past at an episode's first step, TensorDict [B] of zeros."""
    shapes = {"last_action": action_dim, "started": 1, "time": 1}
    content = {name: torch.zeros(batch_size, size, device=device) for name, size in shapes.items()}
    return TensorDict(content, [batch_size], device=device)


def term_inputs(costs: Sequence[Any], imagination: Any, state: TensorDictBase, device: torch.device) -> Any:
    """What a planning context holds for terms: `episode` and `references`; nothing where there are none.

    A model says by `rewardless = True` that it has neither reward nor value; without terms it is told once.
    """
    if not costs:
        if getattr(imagination.model, "rewardless", False) and not torch.compiler.is_compiling():
            warn_rewardless(type(imagination.model).__name__)
        return {}
    last = state["last_action"] if imagination.last_action is None else imagination.last_action
    content = {"last_action": last, "started": state["started"], "time": state["time"]}
    references = prepare_terms(costs, imagination.model, device)
    return {"episode": TensorDict(content, state.batch_size), "references": references}


@functools.cache
def warn_rewardless(model: str) -> None:
    """Say, once for each class of models, that a plan in it without terms is as good as any other."""
    log.warning(
        "%s has neither reward nor value, and the planner has no terms: every plan is as good as another."
        " terms=[…], such as goal, say what to plan for",
        model,
    )
