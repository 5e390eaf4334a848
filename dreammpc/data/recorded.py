"""Recorded data as a whole: looked through once, told of, and put into a replay to learn from."""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dreammpc.data.episode import Bounds, Cleaner, Episode
from dreammpc.data.formats import Source
from dreammpc.data.recorder import amount
from dreammpc.data.replay import Replay
from dreammpc.interfaces import UsageError

RECORDED = "recorded"
"""In place of bounds: the least and the greatest action that there is."""
LOST = "what was observed after them is not in the data"
LOST_END = (
    "their episodes terminate there, which is not learned, as what was observed after them is not in the data"
    " (a column next_observation)"
)
CHUNK = 4096
"""Transitions put into a replay at once."""


class Recorded:
    """What can be learned from of some data, every episode of which is looked at when this is made.

    Args:
        source: the data.
        bounds: of actions, in the data's own units: `low, high`, each a number or [A]; `RECORDED`; or None,
            which takes those that the data declare, and -1 to 1 where they declare none.
        drop: leave out transitions that cannot be learned from, instead of raising.
        most: transitions that are taken, whole episodes from the first on; None takes all.

    Attributes:
        transitions, episodes: that are learned from; `terminated` and `truncated` of them ended so.
        obs_dim, action_dim, channels: 0 where there is none.
        longest: transitions of the longest piece.
        returns: of every episode, in order, as they were stored.
        dropped: transitions that are left out, by reason.

    Raises:
        UsageError: no transition is left, shapes that change, or see `Cleaner`.
    """

    def __init__(self, source: Source, bounds: Any = None, drop: bool = False, most: int | None = None):
        self.source, self.name, self.most = source, source.name, most
        self.transitions = self.episodes = self.terminated = self.truncated = self.longest = 0
        self.obs_dim = self.action_dim = self.channels = 0
        self.returns: list[float] = []
        self.dropped: Counter[str] = Counter()
        self.plans = True
        """Whether every transition has a plan beside it."""
        self.assumed = False
        """Whether nothing says what an action's bounds are."""
        self.bounds, self.drop = self._bounds(bounds), drop
        cleaner = Cleaner(self.name, self.bounds, drop)
        for piece, whole in self._pieces(cleaner):
            if whole is not None:
                self.returns.append(float(np.sum(whole.reward, dtype=np.float64)))
                self.dropped[LOST_END if whole.lost_end else LOST] += whole.lost
            if piece is None:
                continue
            self.episodes += 1
            self.transitions += len(piece)
            self.terminated += piece.terminated
            self.truncated += piece.truncated and not piece.terminated
            self.longest = max(self.longest, len(piece))
            self.plans &= bool(piece.expert)
        self.dropped += cleaner.dropped  # without what is zero
        self.dropped += Counter(getattr(source, "absent", {}))
        if not self.transitions:
            reasons = ", ".join(f"{number} left out, as {why}" for why, number in self.dropped.items())
            raise UsageError(
                f"{self.name} has no transition to learn from{f' ({reasons})' if reasons else ''}"
            )

    def pieces(self) -> Iterator[Episode]:
        """Episodes to learn from, checked, with actions in [-1, 1]."""
        cleaner = Cleaner(self.name, self.bounds, self.drop)
        return (piece for piece, _ in self._pieces(cleaner) if piece is not None)

    def _pieces(self, cleaner: Cleaner) -> Iterator[tuple[Episode | None, Episode | None]]:
        """Each piece with the episode that it is of, which is None for all pieces but the first of it."""
        taken = 0
        for episode in self.source.episodes():
            whole: Episode | None = episode
            if len(episode):
                self._check_shapes(episode)
                for piece in cleaner(episode):
                    if self.most is not None and taken + len(piece) > self.most:
                        if taken == 0:
                            yield piece.piece(0, self.most), whole
                        return
                    taken += len(piece)
                    yield piece, whole
                    whole = None
            if whole is not None:
                yield None, whole

    def _check_shapes(self, episode: Episode) -> None:
        seen = episode.obs
        if episode.action.ndim != 2 or ("observation" in seen and seen["observation"].ndim != 2):
            raise UsageError(f"{self.name}: {episode.name}: observations and actions must be vectors")
        obs_dim = seen["observation"].shape[1] if "observation" in seen else 0
        channels = seen["pixels"].shape[1] if "pixels" in seen else 0
        now = obs_dim, episode.action.shape[1], channels
        if not self.action_dim:
            self.obs_dim, self.action_dim, self.channels = now
        elif now != (self.obs_dim, self.action_dim, self.channels):
            raise UsageError(
                f"{self.name}: {episode.name} has {now[0]} observations and {now[1]} actions, the first"
                f" {self.obs_dim} and {self.action_dim}"
            )

    def _bounds(self, given: Any) -> Bounds:
        facts = self.source.facts
        low: Any = np.inf
        high: Any = -np.inf
        width = 0
        for episode in self.source.episodes():
            if len(episode):
                self._check_shapes(episode)
                width = episode.action.shape[1]
                if given != RECORDED:
                    break
                action, known = episode.action, np.isfinite(episode.action)
                low = np.minimum(low, np.where(known, action, np.inf).min(0))
                high = np.maximum(high, np.where(known, action, -np.inf).max(0))
        self.obs_dim = self.action_dim = self.channels = 0
        if given is None:
            low, high = facts.get("action_low"), facts.get("action_high")
            self.assumed = low is None or high is None
            low, high = (-1.0, 1.0) if self.assumed else (low, high)
        elif given != RECORDED:
            low, high = given
        try:
            lows, highs = (np.broadcast_to(np.asarray(each, float), (width,)) for each in (low, high))
        except ValueError:
            raise UsageError(
                f"{self.name}: bounds are {np.size(low)} and {np.size(high)} numbers, and its actions have"
                f" {width}"
            ) from None
        return Bounds(lows, highs, self.name)

    def check_spaces(self, obs_dim: int, action_dim: int, channels: int, task: str) -> None:
        """Raise UsageError unless observations and actions are as wide as those of a task.

        Args:
            obs_dim: of the vector, 0 where it is not observed.
            channels: of a frame, 0 where none is observed.
        """
        has, needs = (self.obs_dim, self.action_dim), (obs_dim, action_dim)
        if has != needs:
            raise UsageError(
                f"{self.name} has {has[0]} observations and {has[1]} actions, but task {task} has"
                f" {needs[0]} and {needs[1]}"
            )
        if self.channels != channels:
            raise UsageError(
                f"{self.name} has frames of {self.channels} channels, but those of task {task} have"
                f" {channels}"
            )

    def check_repeat(self, action_repeat: int, task: str) -> None:
        """Raise UsageError if the data say that a decision was as many control steps as here it is not."""
        told = self.source.facts.get("action_repeat")
        if told is not None and told != action_repeat:
            raise UsageError(
                f"{self.name} was recorded with an action repeat of {told}, but task {task} has"
                f" {action_repeat}; env.action_repeat={told} takes that of the data"
            )

    def said(self) -> list[str]:
        """What there is, and what is left out, in lines."""
        cut = self.episodes - self.terminated - self.truncated
        ends = [f"{self.terminated:,} terminated", f"{self.truncated:,} at a time limit"]
        ends += [f"{cut:,} cut without an end, learned as at a time limit"] if cut else []
        finite = [one for one in self.returns if np.isfinite(one)]
        returns = f"{np.mean(finite):.1f} ({min(finite):.1f} to {max(finite):.1f})" if finite else "no number"
        of_each = [f"{self.obs_dim} observation{'s' * (self.obs_dim != 1)}"] if self.obs_dim else []
        of_each += [f"frames of {self.channels} × 64 × 64"] if self.channels else []
        of_each += [f"{self.action_dim} action{'s' * (self.action_dim != 1)}"]
        there = (
            f"{self.name}: {amount(self.transitions, self.episodes)} ({', '.join(ends)}); the whole episodes,"
            f" as stored, return {returns};"
            f" {', '.join(of_each)}"
            f"{'' if self.bounds.same else f', scaled from {self.bounds}'}"
            f"{', taken to be within -1 and 1 as no bounds are declared (data.bounds)' * self.assumed}"
        )
        return [
            there,
            *(
                f"{self.name}: left out {count:,} transition{'s' * (count != 1)}: {why}"
                for why, count in self.dropped.items()
            ),
        ]

    def fill(self, replay: Replay, plans: Any = None) -> str:
        """Put all transitions into `replay`, which is to hold them all.

        Args:
            plans: makes of an action [T, A] what stands for a plan where none was stored; None where none are
                kept.

        Returns:
            A checksum of what was put there.
        """
        total = 0
        for piece in self.pieces():
            for part in in_parts(piece):
                if plans is not None and not part.expert:
                    part.expert = plans(part.action)
                batch = part.transitions()
                if part.first != piece.first:
                    batch["is_init"][:] = False
                replay.extend(batch)
                for values in (*part.obs.values(), part.action, part.reward):
                    total = zlib.crc32(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data, total)
        return f"{total:08x}"


def in_parts(episode: Episode, size: int = CHUNK) -> Sequence[Episode]:
    """A long episode in parts that follow one another."""
    return [episode.piece(i, min(i + size, len(episode))) for i in range(0, len(episode), size)]
