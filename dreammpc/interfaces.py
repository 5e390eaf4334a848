"""The narrow waist between world models, planners and everything around them.

Models know one flat batch of latents, planners know batches of candidate action sequences, and
`planning/imagination.py` alone joins the two. A world model of your own needs the methods of
`PlanningModel` (to plan in it) or `WorldModel` (to also act from observations); a planner of your own
needs those of `Planner`.

Letters used in shapes, here and in every file: B environments, N candidates, M = B·N (or any flat batch),
H planning horizon, A action dimension, K value heads. Batch first. Actions lie in [-1, 1].
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from tensordict import TensorDictBase
from torch import Tensor


class UsageError(ValueError):
    """A mistake of the user's, worded as one clear line; the command line prints it and exits with 2."""


OBS_KEYS = {"state": ("observation",), "pixels": ("pixels",), "both": ("observation", "pixels")}
"""What can be observed of a task, and under which keys: proprioception, frames, or both."""

FRAME_SHAPE = (3, 64, 64)
"""Of one camera's frame, bytes: color, height, width (64×64 as in TD-MPC2, arXiv 2310.16828)."""

STACK = 3
"""Frames that an encoder sees at once (arXiv 2310.16828, App. H)."""

LARGEST = 1e15
"""Of an observation's entries and of a reward. The square of what is ten thousand times larger overflows
float32."""

MEMORY = "memory"
"""A belief's entry that only the next `observe` reads (recent frames): planning goes on without it."""


class RunError(RuntimeError):
    """What ends a run and is no mistake of the user's (a full disk, NaN in a simulator), in one clear line.

    The command line prints it and exits with 1.

    Args:
        message: the line.
        saveable: whether the state of the training is still one to save.
    """

    def __init__(self, message: str, saveable: bool = True):
        super().__init__(message)
        self.saveable = saveable


class ForeignError(RunError):
    """An exception of code that is not ours, such as an environment's, in one line; it is its cause.

    `dreammpc.support.faults` writes the traceback to a file.
    """


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, 400 characters of it, or its name if it says nothing."""
    return str(error).strip().partition("\n")[0][:400] or type(error).__name__


class Outcome(NamedTuple):
    """What imagined transitions yield, for a flat batch."""

    reward: Tensor
    """[M], reward per agent step (already summed over the action repeat)."""
    discount: Tensor
    """[M], γ·(1 - termination): the planner never sees γ or termination by themselves."""


class Plan(NamedTuple):
    """What a planner returns for a batch of environments."""

    action: Tensor
    """[B, A], to execute now, within [-1, 1]."""
    mean: Tensor
    """[B, H, A], the chosen sequence."""
    std: Tensor
    """[B, H, A], the planner's spread around it (what exploration noise and distillation use)."""
    value: Tensor
    """[B], the model's own return of the chosen sequence, in return units; 0 on fallback."""
    state: TensorDictBase
    """TensorDict [B], the warm start for the next call."""
    diagnostics: TensorDictBase
    """TensorDict [B] of scalars per environment. Every built-in planner has these keys, and may have more.

    In return units: `objective`, the best J of all that could have been chosen; `objective_before`, that of
    the first candidates, before any refinement; `objective_policy`, that of the un-optimized policy rollouts;
    `gain`, objective - objective_policy. Where nothing was finite these are 0 and `fallback` is 1; where a
    planner never scores policy rollouts (`dream_mpc_paper`) the last two are NaN.
    Counts and flags: `gradient_norm`, mean over candidates at the last gradient step, and `clipped`, the
    share of them whose gradient was clipped (both 0 without gradients); `evaluations`, model steps of this
    call; `fallback`, 1 where no candidate was usable and the policy acts; `stopped_early`, 1 where the time
    budget ended the call.
    """


@runtime_checkable
class PlanningModel(Protocol):
    """A latent model in which a planner can imagine. Nothing is changed in place, nothing is detached."""

    action_dim: int

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """The next latent, TensorDict [M], after `action` [M, A] in `latent` [M]."""
        ...

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """Reward and discount of transitions; apart from `step` so that all steps are read in one batch."""
        ...

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """Return-to-go of taking `action` [M, A] in `latent` [M], one decoded scalar per head: [M, K].

        A model of state values ignores the action. The spread over heads is the model's uncertainty; a
        model without an ensemble returns K = 1.
        """
        ...

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """Policy action [M, A] for standard-normal `noise` [M, A]; zero noise gives the mode."""
        ...


@runtime_checkable
class WorldModel(PlanningModel, Protocol):
    """A planning model that also turns observations into latents."""

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """The belief before the first observation of an episode, TensorDict [B]."""
        ...

    def observe(self, obs: TensorDictBase, prev_action: Tensor, belief: TensorDictBase) -> TensorDictBase:
        """The belief [B] after seeing `obs` [B], given the last action [B, A] and the last belief [B].

        The belief is the latent from which planners imagine, and may have an entry `MEMORY` besides.
        """
        ...


class Imagined(NamedTuple):
    """Scores of candidate sequences, all [B, N]."""

    objective: Tensor
    """J: discounted rewards plus terminal value minus uncertainty, in return units."""
    uncertainty: Tensor
    """The uncertainty term before its coefficient."""
    unconstrained: Tensor | None = None
    """J without what constraints take from it; None without constraints."""
    violations: Tensor | None = None
    """[B, N, C], by how much the cost of each constraint exceeds its limit; None without constraints."""


@runtime_checkable
class Planner(Protocol):
    """Improves the policy's actions inside a model. A frozen dataclass: settings only, no tensors."""

    def initial_state(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """Warm start of an episode's first step, TensorDict [B]."""
        ...

    def plan(self, imagination: Any, latent: TensorDictBase, state: TensorDictBase) -> Plan:
        """Plan for `latent` [B] from the warm start `state` [B]; the agent adds exploration noise."""
        ...
