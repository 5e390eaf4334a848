"""Recorded episodes: what readers of data sets give, how it is checked, and the transitions it becomes."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from dreammpc.interfaces import LARGEST, UsageError

TOLERANCE = 1e-4
"""Of half the width between an action's bounds: a value that is rounded to beyond one counts as on it."""


@dataclass
class Episode:
    """T consecutive transitions, of a whole episode or a piece of one.

    An episode that is neither `terminated` nor `truncated` was cut where the data end: nothing is known of
    what came after, so it is learned as a time limit is.
    """

    name: str
    """For messages, such as `episode 3`."""
    obs: dict[str, np.ndarray]
    """What was observed, [T+1, ...]: `observation`, numbers, and `pixels`, bytes [T+1, C, 64, 64]."""
    action: np.ndarray
    """[T, A]."""
    reward: np.ndarray
    """[T]."""
    terminated: bool = False
    truncated: bool = False
    expert: dict[str, np.ndarray] = field(default_factory=dict)
    """Plans that were stored beside the actions: `mean`, `std` [T, A], `value` [T, 1]; often none."""
    first: int = 0
    """Its first step, of a piece."""
    lost: int = 0
    """Transitions at its end that the data do not have whole: what was observed after them is missing."""
    lost_end: bool = False
    """Whether a termination is lost with them."""

    def __len__(self) -> int:
        return len(self.action)

    def piece(self, start: int, stop: int) -> "Episode":
        """Transitions `start` to `stop`; only the last piece has the episode's end."""
        last = stop == len(self)
        return Episode(
            self.name,
            {key: value[start : stop + 1] for key, value in self.obs.items()},
            self.action[start:stop],
            self.reward[start:stop],
            self.terminated and last,
            self.truncated and last,
            {key: value[start:stop] for key, value in self.expert.items()},
            self.first + start,
        )

    def transitions(self) -> TensorDictBase:
        """What `Replay.extend` takes, TensorDict [1, T]."""
        size = len(self)
        is_init, terminated = torch.zeros(size, 1, dtype=torch.bool), torch.zeros(size, 1, dtype=torch.bool)
        is_init[0], terminated[-1] = True, self.terminated
        seen = {key: torch.as_tensor(np.ascontiguousarray(value)) for key, value in self.obs.items()}
        after: dict[str, Any] = {key: value[1:] for key, value in seen.items()}
        after |= {"reward": torch.as_tensor(self.reward.copy()).unsqueeze(-1), "terminated": terminated}
        content: dict[str, Any] = {key: value[:-1] for key, value in seen.items()}
        content |= {"action": torch.as_tensor(self.action.copy()), "is_init": is_init, "next": after}
        if self.expert:
            content["expert"] = {key: torch.as_tensor(value.copy()) for key, value in self.expert.items()}
        return TensorDict(content, [size]).unsqueeze(0)


class Bounds:
    """Actions in the data's own units as numbers in [-1, 1].

    Args:
        low, high: [A]. Where both are -1 and 1, an action stays as it is, to the bit.
        name: of the data, for messages.

    Raises:
        UsageError: bounds that are not finite or not in order.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, name: str):
        self.low, self.high, self.name = np.asarray(low, np.float64), np.asarray(high, np.float64), name
        if not (
            np.isfinite(self.low).all() and np.isfinite(self.high).all() and (self.low <= self.high).all()
        ):
            raise UsageError(f"{name}: bounds of actions must be finite and in order, got {self}")
        self.same = bool((self.low == -1).all() and (self.high == 1).all())
        self.middle, self.half = self.low / 2 + self.high / 2, self.high / 2 - self.low / 2

    def inside(self, action: np.ndarray) -> np.ndarray:
        """Which rows of `action` [T, A] lie within the bounds, [T]; NaN lies nowhere."""
        slack = TOLERANCE * np.maximum(self.half, np.finfo(np.float32).eps)
        found: np.ndarray = (action >= self.low - slack) & (action <= self.high + slack)
        return np.all(found, -1)

    def scaled(self, action: np.ndarray) -> np.ndarray:
        """[T, A] as float32 in [-1, 1]; 0 for an entry whose bounds are one number."""
        if not self.same:
            half = np.where(self.half == 0, 1.0, self.half)
            action = np.where(self.half == 0, 0.0, (action - self.middle) / half)
        return np.clip(np.asarray(action, np.float32), -1, 1)

    def __str__(self) -> str:
        return f"{shortened(self.low)} to {shortened(self.high)}"


def shortened(values: np.ndarray) -> str:
    """One number where all are equal, else the first ones."""
    if len(set(values.tolist())) == 1:
        return f"{values[0]:g}"
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"[{shown}{', …' if len(values) > 6 else ''}]"


class Cleaner:
    """Takes out of episodes what cannot be learned from, or refuses it; counts what it took.

    Args:
        name: of the data, for messages.
        bounds: of the actions; what comes out is scaled.
        drop: leave unusable transitions out, which cuts their episode there; else they are an error.
    """

    def __init__(self, name: str, bounds: Bounds, drop: bool):
        self.name, self.bounds, self.drop = name, bounds, drop
        self.dropped: Counter[str] = Counter()

    def __call__(self, episode: Episode) -> Iterator[Episode]:
        """The pieces of `episode` that are whole, as float32, actions in [-1, 1].

        Raises:
            UsageError: something unusable, unless it is to be dropped.
        """
        episode = as_float32(episode)
        bad = self._unusable(episode)
        keep = np.ones(len(episode), bool)
        for reason, rows in bad.items():
            rows = rows & keep
            if rows.any() and not self.drop:
                step = episode.first + int(np.flatnonzero(rows)[0])
                if "observation" in reason and usable(episode.obs["observation"][step - episode.first]):
                    step += 1  # it is the one after that cannot be used
                other = ", data.bounds= gives other bounds" if "outside" in reason else ""
                raise UsageError(
                    f"{self.name}: {episode.name}, step {step}: {reason}; data.invalid=drop leaves such"
                    f" transitions out{other}"
                )
            self.dropped[reason] += int(rows.sum())
            keep &= ~rows
        edges = np.flatnonzero(np.diff(np.concatenate([[0], keep, [0]])))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            piece = episode.piece(int(start), int(stop))
            piece.action = self.bounds.scaled(piece.action)
            if "mean" in piece.expert and not self.bounds.same:
                piece.expert = {}  # plans are of the actions as they were
            yield piece

    def _unusable(self, episode: Episode) -> dict[str, np.ndarray]:
        """By reason, which transitions are, [T]."""
        found: dict[str, np.ndarray] = {}
        if (seen := episode.obs.get("observation")) is not None:
            finite, small = np.isfinite(seen).all(-1), usable(seen)
            found["the observation is not finite"] = ~(finite[:-1] & finite[1:])
            found[f"the observation is beyond {LARGEST:g}"] = ~(small[:-1] & small[1:])
        found["the reward is not finite"] = ~np.isfinite(episode.reward)
        found[f"the reward is beyond {LARGEST:g}"] = ~usable(episode.reward[:, None])
        found["the action is not finite"] = ~np.isfinite(episode.action).all(-1)
        outside = f"the action is outside of the bounds {self.bounds}"
        found[outside] = ~self.bounds.inside(episode.action) & ~found["the action is not finite"]
        return found


def usable(values: np.ndarray) -> np.ndarray:
    """Which rows of `values` [..., N] can be learned from, [...]."""
    return np.asarray((np.abs(values) <= LARGEST).all(-1))


def as_float32(episode: Episode) -> Episode:
    """Numbers as they are learned from; actions keep their type until they are scaled."""
    seen: Mapping[str, np.ndarray] = episode.obs
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is told
        obs = {
            key: value if key == "pixels" else np.asarray(value, np.float32) for key, value in seen.items()
        }
        return replace(episode, obs=obs, reward=np.asarray(episode.reward, np.float32))
