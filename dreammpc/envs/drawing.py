"""Rendering: which observations a task can give, frames as uint8 images, and whether this machine renders."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from mujoco import FatalError
from torch.nn.functional import interpolate

from dreammpc.envs.checks import Mismatch, as_array, declared, described
from dreammpc.interfaces import FRAME_SHAPE, OBS_KEYS, RunError, UsageError
from dreammpc.plugins.registry import unknown
from dreammpc.support.faults import exception_line


def observed(obs: str) -> tuple[str, ...]:
    """The keys of an observation.

    Raises:
        UsageError: no such choice.
    """
    if obs not in OBS_KEYS:
        raise UsageError(unknown(f"obs {obs!r}", obs, OBS_KEYS))
    return OBS_KEYS[obs]


class Undrawable(UsageError):
    """A task gives no picture; the text says why."""


def picture(frame: Any) -> np.ndarray:
    """What `render()` gave as uint8 [height, width, 3].

    Gray is repeated, alpha is dropped, channels that come first (and do not come last) go last, and floats,
    which must lie in [0, 1], are multiplied by 255.

    Raises:
        Mismatch: it is no picture.
    """
    if frame is None or isinstance(frame, list | tuple | str):
        raise _no_picture(frame)
    array = as_array(frame)
    if array is None or array.dtype.kind not in "fiub" or array.ndim not in (2, 3) or 0 in array.shape:
        raise _no_picture(frame)
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = array.transpose(1, 2, 0)
    if array.shape[2] not in CHANNELS:
        raise _no_picture(frame)
    array = array[..., :3]
    if array.dtype != np.uint8:
        scale = 1 if array.dtype.kind in "iu" else 255
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 255 / scale):
            raise Mismatch(
                f"render() gave {array.dtype} from {low:g} to {high:g}: expected uint8, whole numbers from 0"
                " to 255, or floats from 0 to 1"
            )
        array = np.rint(array * np.float32(scale)).astype(np.uint8)
    return array if array.shape[2] == 3 else np.repeat(array, 3, axis=2)


def scaled(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture, uint8 [H, W, 3], as one of uint8 [height, width, 3], by averaging."""
    if frame.shape[:2] == (height, width):
        return frame
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1).unsqueeze(0).float()
    averaged = interpolate(pixels, (height, width), mode="area")
    return averaged[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


CHANNELS = (1, 3, 4)
"""Gray, color, color with alpha."""


def rendered(task: str, draw: Callable[[], Any]) -> np.ndarray:
    """The picture that an environment's `draw` gives, uint8 [height, width, 3].

    Raises:
        Undrawable: it gave none, or raised something.
    """
    try:
        return picture(draw())
    except Mismatch as error:
        raise Undrawable(f"task {task!r}: {error}") from error
    except (Exception, SystemExit) as error:
        raise Undrawable(f"task {task!r}: render() raised {exception_line(error)}") from error


def _no_picture(frame: Any) -> Mismatch:
    many = " (of render_mode rgb_array_list?)" if isinstance(frame, list | tuple) else ""
    return Mismatch(f"render() must give a picture, uint8 [height, width, 3], got {described(frame)}{many}")


def draw(env: gymnasium.Env) -> np.ndarray:
    """The present frame of `env`, uint8 [3, 64, 64]: those that it observes, if it does, else a drawing.

    Of several that it observes the channels follow each other.
    """
    _, height, width = FRAME_SHAPE
    if declared(env, "sees"):
        return env.get_wrapper_attr("seen")(height, width).transpose(2, 0, 1)
    frame = picture(env.render(height=height, width=width))  # type: ignore[call-arg]
    if frame.shape != (height, width, 3):
        raise Mismatch(
            f"render(height={height}, width={width}) must give uint8 {[height, width, 3]},"
            f" got {described(frame)}"
        )
    return frame.transpose(2, 0, 1)


def check_drawing(env: gymnasium.Env, task: str, obs: str) -> None:
    """Draw one frame. Resets `env` with a seed, so whoever goes on with it seeds it again.

    Raises:
        UsageError: the environments of this task do not draw, or not in the size that was asked for.
    """
    env.reset(seed=0)
    try:
        draw(env)
    except (TypeError, NotImplementedError) as error:
        raise UsageError(
            f"obs={obs}: task {task!r} cannot be drawn: it lacks render(height=, width=): {error}"
        ) from error
    except Mismatch as error:
        raise UsageError(f"obs={obs}: task {task!r} cannot be drawn: {error}") from error


def advice(error: BaseException) -> str:
    """What may help against an error, if a graphics library raised it; else nothing."""
    files = [Path(frame.f_code.co_filename).parts for frame, _ in traceback.walk_tb(error.__traceback__)]
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
        files += [Path(frame.f_code.co_filename).parts for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, FatalError) or any(GRAPHICS & set(parts) for parts in files):
        return (
            "; without a display install EGL (Debian and Ubuntu: libegl1) or OSMesa (libosmesa6) and set the"
            " environment variable MUJOCO_GL to egl or osmesa"
        )
    return ""


GRAPHICS = {"OpenGL", "glfw", "_render", "renderer.py", "mujoco_rendering.py", "egl", "osmesa"}
"""Packages and files that draw, in paths of what is on the stack when drawing fails."""


@contextlib.contextmanager
def explained(obs: str) -> Iterator[None]:
    """Turn what graphics libraries raise into one line that says what mends it.

    Raises:
        UsageError: there is no renderer.
    """
    try:
        yield
    except RunError:  # of an environment, and no renderer's
        raise
    except (RuntimeError, ImportError, AttributeError, OSError, gymnasium.error.Error, FatalError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"obs={obs}: nothing can be drawn here ({reason}){advice(error)}") from error
