"""The spaces that tasks may have, and actions in [-1, 1] as those of a task's own space."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from dreammpc.envs.checks import declared
from dreammpc.interfaces import UsageError

EXACT = 2.0**53
"""Whole numbers up to here are exact as floats."""


def flat_box(envs: Sequence[gymnasium.Env], which: str, task: str, empty: bool = False) -> Box:
    """The `which` ("observation" or "action") space, which all environments share; maybe `empty`.

    Raises:
        UsageError: it is no flat Box of numbers, has no entries, or differs among them.
    """
    spaces: list[Any] = [getattr(env, f"{which}_space", None) for env in envs]
    first = spaces[0]
    if which == "action" and isinstance(first, Discrete | MultiDiscrete | MultiBinary):
        raise UsageError(
            f"task {task!r}: discrete actions, {one_line(first)}, are not supported; expected a Box"
            " (continuous)"
        )
    if not isinstance(first, Box) or len(first.shape) != 1 or np.dtype(first.dtype).kind not in "fiu":
        ours = "" if isinstance(first, gymnasium.Space) or first is None else f" of {type(first).__module__}"
        raise UsageError(
            f"task {task!r}: the {which} space must be a flat Box (continuous, 1-D),"
            f" got {one_line(first)}{ours}"
        )
    if not first.shape[0] and not empty:
        seen = declared(envs[0], "sees")
        what = f"no entries: {one_line(first)}" if not seen else "a picture alone: it needs env.obs=pixels"
        raise UsageError(f"task {task!r}: the {which} space has {what}")
    if any(space.shape != first.shape for space in spaces) or (
        which == "action" and len(set(map(repr, spaces))) > 1
    ):
        raise UsageError(
            f"task {task!r}: all environments must have the same {which} space, got {one_line(spaces)}"
        )
    return first


class Actions:
    """Actions in [-1, 1] in the bounds and the dtype of an action space; whole numbers where it wants them.

    Args:
        space: a flat Box.
        task: its name, for messages.

    Raises:
        UsageError: bounds that are not finite, not in order or all equal, or whole numbers too large to be
            told apart.

    Attributes:
        fixed: the entries that can only have one value.
    """

    def __init__(self, space: Box, task: str):
        self.dtype = space.dtype
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise UsageError(
                f"task {task!r}: action bounds must be finite, got {one_line(space)};"
                " env.action_bound=1 sets those that are not, of gym-… tasks"
            )
        if (self.low > self.high).any():
            raise UsageError(f"task {task!r}: action bounds must be in order, got {one_line(space)}")
        self.fixed = np.flatnonzero(self.low == self.high).tolist()
        if len(self.fixed) == len(self.low):
            raise UsageError(f"task {task!r}: actions have one value alone, got {one_line(space)}")
        self.whole = space.dtype.kind in "iu"
        if self.whole and max(np.abs(self.low).max(), np.abs(self.high).max()) > EXACT:
            raise UsageError(f"task {task!r}: action bounds must be at most 2**53, got {one_line(space)}")
        self.middle, self.half = self.low / 2 + self.high / 2, self.high / 2 - self.low / 2

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """`actions` [B, A] as the space's own, in an array that the caller may write to."""
        own = self.half * actions
        own += self.middle
        np.maximum(own, self.low, out=own)  # the sum may be rounded to beyond a bound
        np.minimum(own, self.high, out=own)
        if self.whole:
            np.rint(own, out=own)
        return own.astype(self.dtype, copy=False)


def one_line(spaces: Any) -> str:
    """The text of a space, without line breaks."""
    return " ".join(str(spaces).split())
