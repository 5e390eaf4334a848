"""The built-in objective terms: smooth actions, energy, goals, references over time, the model's uncertainty.

Letters: see `dreammpc.interfaces`; O observation width, T rows of a reference.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.interfaces import MEMORY, UsageError, first_line
from dreammpc.planning.goal_frames import Frames
from dreammpc.planning.imagination import Imagination
from dreammpc.planning.objective_terms import Trajectory, register_term, term_name
from dreammpc.planning.value_heads import sample_std
from dreammpc.plugins.settings import fitted, one_of
from dreammpc.runtime.devices import CPU

At = Annotated[str, one_of("last", "along")]


@register_term("action_rate")
@dataclass(frozen=True)
class ActionRate:
    """Squared change from each action to the next, from the last executed one on, summed over steps."""

    weight: float = 1.0

    def __call__(self, trajectory: Trajectory) -> Tensor:
        actions = trajectory.actions
        first = trajectory.started.unsqueeze(-1) * (actions[0] - trajectory.last_action)
        return first.square().sum(-1) + (actions[1:] - actions[:-1]).square().sum((0, -1))


@register_term("energy")
@dataclass(frozen=True)
class Energy:
    """Squared actions, summed over steps."""

    weight: float = 1.0

    def __call__(self, trajectory: Trajectory) -> Tensor:
        return trajectory.actions.square().sum((0, -1))


@register_term("uncertainty")
@dataclass(frozen=True)
class Uncertainty:
    """Standard deviation of the model's value heads along the way, discounted and summed over steps.

    It is infinite where a head is NaN, so that such a candidate loses.
    """

    weight: float = 1.0

    def __call__(self, trajectory: Trajectory) -> Tensor:
        horizon, size = trajectory.actions.shape[:2]
        before, actions = trajectory.latents[:-1].flatten(0, 1), trajectory.actions.flatten(0, 1)
        heads = Imagination(trajectory.model).value(before, actions)
        if heads.shape[-1] == 1:  # no ensemble, no uncertainty
            return 0 * trajectory.actions.sum((0, -1))
        spread = sample_std(heads).nan_to_num(nan=torch.inf, posinf=torch.inf).view(horizon, size)
        return (trajectory.discounts[:-1] * spread).sum(0)


class Rows:
    """T observations as a tensor, which is made on a device once, without a copy from the host."""

    def __init__(self, rows: Sequence[Sequence[float]]):
        self.rows = rows
        self._on = {CPU: torch.tensor(rows, dtype=torch.float32)}

    def on(self, device: torch.device) -> Tensor:
        """[T, O] on `device`."""
        if device not in self._on:
            numbers = [torch.full((), float(x), device=device) for row in self.rows for x in row]
            self._on[device] = torch.stack(numbers).view(len(self.rows), -1)
        return self._on[device]

    def __reduce__(self) -> Any:
        return Rows, (self.rows,)


@dataclass(frozen=True)
class _ToReference:
    """Distance of latents to encoded observations."""

    weight: float = 1.0
    at: At = "last"
    distance: Callable[[TensorDictBase, TensorDictBase], Tensor] | None = None
    _rows: ClassVar[Rows | None] = None

    def __post_init__(self) -> None:
        fitted("at", self.at, At)

    def prepare(self, model: Any, device: torch.device) -> TensorDictBase:
        """Latents [T] of the observations that are meant.

        Raises:
            UsageError: the model cannot observe, or observes something else.
        """
        if not hasattr(model, "observe"):
            raise UsageError(
                f"term {term_name(self)}: {type(model).__name__} has no observe to encode a goal with"
            )
        frames: Frames | None = getattr(self, "frames", None)
        content = {} if self._rows is None else {"observation": self._rows.on(device)}
        content |= {} if frames is None else {"pixels": frames.on(device).unsqueeze(0)}
        keys = getattr(model, "obs_keys", ("observation",))
        if set(content) != set(keys):
            given = {"observation": "goal=[numbers]", "pixels": "frames=picture"}
            raise UsageError(
                f"term {term_name(self)}: its goal is no observation of the model, which sees"
                f" {' and '.join(keys)}: expected {' and '.join(given.get(key, key) for key in keys)}"
            )
        size = 1 if self._rows is None else len(self._rows.rows)
        obs = TensorDict(content, [size], device=device)
        action = torch.zeros(size, model.action_dim, device=device)
        try:
            belief = model.observe(obs, action, model.initial_belief(size, device))
        except (UsageError, RuntimeError) as error:
            raise UsageError(
                f"term {term_name(self)}: its goal is no observation of the model: {first_line(error)}"
            ) from error
        return belief.exclude(MEMORY)

    def between(self, latents: TensorDictBase, goals: TensorDictBase, model: Any) -> Tensor:
        """Distance [...] of latents [...] to goals [...]: the user's, the model's own, or the mean square."""
        distance = self.distance or getattr(model, "goal_distance", None)
        if distance is not None:
            return distance(latents, goals)
        parts = [(latents[key] - goals[key]).square() for key in latents.keys(True, True)]
        return torch.cat([part.flatten(latents.batch_dims) for part in parts], -1).mean(-1)


@register_term("goal")
@dataclass(frozen=True)
class Goal(_ToReference):
    """Distance to the latent of a goal observation.

    Args:
        weight: by how much the cost counts in J.
        at: `last` is where the candidate ends; `along` is the mean over its steps.
        distance: function of latents [M] and goal latents [M] that returns [M]; by default the model's own
            `goal_distance`, or else the mean square of their difference.
        goal: the observation, as O numbers.
        frames: what the camera sees there, for models that see frames: a picture's file, or uint8 [C, h, w].

    Raises:
        ValueError: a setting out of range.
    """

    goal: tuple[float, ...] = ()
    frames: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "goal", tuple(self.goal))
        if self.frames is not None and not isinstance(self.frames, Frames):
            object.__setattr__(self, "frames", Frames(self.frames))
        if not self.goal and self.frames is None:
            raise ValueError("goal must be an observation: numbers, or a picture as frames; got ()")
        if not all(map(math.isfinite, self.goal)):
            raise ValueError(f"goal must be an observation, a list of finite numbers, got {self.goal}")
        if self.goal:
            object.__setattr__(self, "_rows", Rows([self.goal]))

    def __call__(self, trajectory: Trajectory) -> Tensor:
        reached = trajectory.latents[1:] if self.at == "along" else trajectory.latents[-1:]
        goal = trajectory.reference.unsqueeze(0).expand(reached.shape)
        return self.between(reached, goal, trajectory.model).mean(0)


@register_term("tracking")
@dataclass(frozen=True)
class Tracking(_ToReference):
    """Distance to a reference over time: after t agent steps of an episode, to its row t.

    Args:
        weight: by how much the cost counts in J.
        at: `along` is the mean over a candidate's steps; `last` is where it ends.
        distance: see `goal`.
        reference: observations, T rows of O numbers; after the last one it stays there.
        loop: it begins anew instead.

    Raises:
        ValueError: a setting out of range.
    """

    at: At = "along"
    reference: tuple[tuple[float, ...], ...] = ()
    loop: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reference", tuple(tuple(row) for row in self.reference))
        if not self.reference or len({len(row) for row in self.reference}) != 1:
            raise ValueError("reference must be observations, rows of equally many numbers")
        if not all(math.isfinite(x) for row in self.reference for x in row):
            raise ValueError("reference must be finite numbers, got some that are not")
        object.__setattr__(self, "_rows", Rows(self.reference))

    def __call__(self, trajectory: Trajectory) -> Tensor:
        horizon, count = trajectory.actions.shape[0], len(self.reference)
        step = torch.arange(1, horizon + 1, device=trajectory.time.device).unsqueeze(1)
        row = trajectory.time.long() + step
        row = row % count if self.loop else row.clamp(max=count - 1)
        reached, row = (
            (trajectory.latents[1:], row) if self.at == "along" else (trajectory.latents[-1:], row[-1:])
        )
        goals = trajectory.reference.apply(
            lambda x: x.index_select(0, row.flatten()), batch_size=[row.numel()]
        )
        return self.between(reached, goals.view(row.shape), trajectory.model).mean(0)
