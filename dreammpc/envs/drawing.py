"""What can be observed of a task, and whether frames of it can be drawn here."""

import contextlib
from collections.abc import Iterator

import gymnasium
import numpy as np
from mujoco import FatalError

from dreammpc.interfaces import OBS_KEYS, UsageError
from dreammpc.registry import unknown

FRAME_SHAPE = (3, 64, 64)
"""Of one frame: colour, height, width (64×64 as in TD-MPC2, arXiv 2310.16828)."""


def observed(obs: str) -> tuple[str, ...]:
    """The keys of an observation.

    Raises:
        UsageError: no such choice.
    """
    if obs not in OBS_KEYS:
        raise UsageError(unknown(f"obs {obs!r}", obs, OBS_KEYS))
    return OBS_KEYS[obs]


def draw(env: gymnasium.Env) -> np.ndarray:
    """The present frame of `env`, uint8 [3, 64, 64]."""
    _, height, width = FRAME_SHAPE
    return env.render(height=height, width=width).transpose(2, 0, 1)  # type: ignore[call-arg, union-attr]


def check_drawing(env: gymnasium.Env, task: str, obs: str) -> None:
    """Draw one frame. Resets `env` with a seed, so whoever goes on with it seeds it again.

    Raises:
        UsageError: the environments of this task do not draw, or not in the size that was asked for.
    """
    env.reset(seed=0)
    try:
        frame = draw(env)
    except (TypeError, AttributeError, NotImplementedError, ValueError) as error:
        raise UsageError(
            f"obs={obs}: task {task!r} cannot be drawn: it lacks render(height=, width=): {error}"
        ) from error
    if frame.shape != FRAME_SHAPE or frame.dtype != np.uint8:
        got = f"{frame.dtype} {list(frame.shape)}"
        raise UsageError(f"obs={obs}: a frame of task {task!r} must be uint8 {list(FRAME_SHAPE)}, got {got}")


@contextlib.contextmanager
def explained(obs: str) -> Iterator[None]:
    """Turns what graphics libraries raise into one line that says what mends it.

    Raises:
        UsageError: there is no renderer.
    """
    try:
        yield
    except (RuntimeError, ImportError, AttributeError, OSError, gymnasium.error.Error, FatalError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"obs={obs}: nothing can be drawn here ({reason}); without a display install EGL (Debian and"
            " Ubuntu: libegl1) or OSMesa (libosmesa6) and set the environment variable MUJOCO_GL"
            " to egl or osmesa"
        ) from error
