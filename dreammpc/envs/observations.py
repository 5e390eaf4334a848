"""Observations of other forms than a flat vector as a vector, a picture, or both."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    flatten,
    flatten_space,
)

from dreammpc.envs.checks import Mismatch, described, reset_parts, step_parts
from dreammpc.envs.drawing import CHANNELS, picture, scaled
from dreammpc.interfaces import UsageError

Path = tuple[str | int, ...]
"""Keys of dictionaries and places in tuples that lead to an entry."""
NUMBERS = (Box, Discrete, MultiBinary, MultiDiscrete)


class Joined(gymnasium.ObservationWrapper):
    """The numeric entries of an observation joined in the order of its space, and the pictures in it.

    What chooses among several (Discrete and the like) becomes as many numbers, of which one is 1.

    Args:
        env: whose observations are dictionaries, tuples, images, or arrays of any number of dimensions.
        task: its name, for messages.

    Attributes:
        channels: of all pictures together, three for each.
        layout: the entries in order, with their lengths: `"goal[2], joints[7]; picture: camera"`.

    Raises:
        UsageError: an entry that is no numbers, or a stack of pictures.
    """

    def __init__(self, env: gymnasium.Env, task: str):
        super().__init__(env)
        entries = list(leaves(env.observation_space))
        pictures = [(path, space) for path, space in entries if is_picture(space)]
        for path, space in entries:
            if not isinstance(space, NUMBERS):
                given = " ".join(str(space).split())
                raise UsageError(f"task {task!r}: {_of(path)} must hold numbers, got {given}")
            if space.dtype == np.uint8 and len(space.shape or ()) > 2 and not is_picture(space):
                raise UsageError(
                    f"task {task!r}: {_of(path)} is no picture, uint8 [height, width, 1, 3 or 4], but"
                    f" {list(space.shape or ())}; frames are stacked here: leave out a wrapper that does so"
                )
        self._pictured: list[Path] = [path for path, _ in pictures]
        self._entries = [(path, space) for path, space in entries if path not in self._pictured]
        sizes = [flatten_space(space).shape[0] for _, space in self._entries]  # type: ignore[union-attr, index]
        self.observation_space = Box(-np.inf, np.inf, (sum(sizes),), np.float32)
        named = [f"{_name(path)}[{size}]" for (path, _), size in zip(self._entries, sizes, strict=True)]
        self.layout = ", ".join(named)
        self.channels = 3 * max(len(pictures), 1)
        if pictures:
            cameras = ", ".join(map(_name, self._pictured))
            self.layout += f"{'; ' * bool(named)}picture{'s' * (len(pictures) > 1)}: {cameras}"
        self._last: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As Gymnasium's, which would take a dictionary with two entries for an observation and its info."""
        observation, info = reset_parts(self.env.reset(seed=seed, options=options))
        return self.observation(observation), info

    def step(self, action: Any) -> Any:
        """As Gymnasium's, of what is held against its API first."""
        observation, *rest = step_parts(self.env.step(action))
        return self.observation(observation), *rest

    def observation(self, observation: Any) -> np.ndarray:
        """The vector, float64 [O]."""
        self._last = [_at(observation, path) for path in self._pictured]
        parts = []
        for path, space in self._entries:
            value = _at(observation, path)
            shape = getattr(value, "shape", None)
            if shape is not None and tuple(shape) != tuple(space.shape or ()):
                raise Mismatch(f"{_of(path)} must be {list(space.shape or ())}, got {described(value)}")
            parts.append(np.asarray(flatten(space, value), np.float64))
        return np.concatenate(parts) if parts else np.zeros(0)

    @property
    def sees(self) -> bool:
        """Whether there is a picture in its observations."""
        return bool(self._pictured)

    def seen(self, height: int, width: int) -> np.ndarray:
        """The pictures of the last observation, uint8 [height, width, channels], three for each."""
        return np.concatenate([scaled(picture(each), height, width) for each in self._last], 2)


def is_flat(space: Space) -> bool:
    """Whether observations are vectors already."""
    return isinstance(space, Box) and len(space.shape) == 1


def is_picture(space: Space) -> bool:
    """Whether it is a Box of bytes [H, W], [H, W, C] or [C, H, W]."""
    if not isinstance(space, Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return len(space.shape) == 2 or space.shape[2] in CHANNELS or space.shape[0] in CHANNELS


def leaves(space: Space, path: Path = ()) -> Iterator[tuple[Path, Space]]:
    """The entries of a space that are no dictionaries or tuples, in its order."""
    if isinstance(space, Dict):
        inside: Any = space.spaces.items()
    elif isinstance(space, Tuple):
        inside = enumerate(space.spaces)
    else:
        yield path, space
        return
    for key, part in inside:
        yield from leaves(part, (*path, key))


def _at(observation: Any, path: Path) -> Any:
    for i, key in enumerate(path):
        try:
            observation = observation[key]
        except (KeyError, IndexError, TypeError) as error:
            raise Mismatch(f"{_of(path[: i + 1])} is missing, got {described(observation)}") from error
    return observation


def _name(path: Path) -> str:
    return "/".join(map(str, path)) or "observation"


def _of(path: Path) -> str:
    return f"entry {_name(path)!r} of the observation" if path else "the observation"
