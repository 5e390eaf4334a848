"""Exceptions told in one line that names whose code they came from; their tracebacks, kept in a file.

An environment, a planner, a term of an objective, a callback or a model of a user's own may raise anything.
The line says what was raised and where in that code; the traceback goes to `errors.log` in the run's
folder, or to a temporary file where there is no run.
"""

import contextlib
import errno
import sysconfig
import tempfile
import traceback
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from dreammpc.interfaces import ForeignError, RunError, UsageError

NAME = "errors.log"
LONGEST = 400
"""Characters of an exception's text that a line keeps."""

PACKAGE = Path(__file__).resolve().parents[1]
RECIPES = (PACKAGE / "recipes", PACKAGE.parent / "recipes")
INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")]
STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
BELOW = (
    *("torch", "torchrl", "tensordict", "lightning", "hydra", "omegaconf", "numpy", "gymnasium", "mujoco"),
    *("dm_control", "mlflow", "imageio_ffmpeg", "PIL", "tqdm"),
)
"""Packages that this one stands on: what they raise is laid to whoever called them."""

STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What the system says of a disk that is full, read-only or failing."""

MEMORY_SETTINGS = "the model's size, algorithm.batch_size, the planner's samples or env.num_envs"
"""What takes memory, beside the replay, whose share is said and refused before."""

_folder: Path | None = None


class Place(NamedTuple):
    """Where an exception came from."""

    frame: FrameType
    line: int
    foreign: bool
    """Whether that is neither this package's code nor that of one that it stands on."""

    def __str__(self) -> str:
        return f"{Path(self.frame.f_code.co_filename).name}:{self.line}, in {self.frame.f_code.co_name}"


def keep_in(folder: Path | None) -> None:
    """Let the tracebacks that follow go to `errors.log` in `folder`; with None to a temporary file."""
    global _folder
    _folder = folder


def report(error: BaseException) -> str:
    """One line that tells of `error`; a traceback that says more than the line is written to a file."""
    parts = [error_line(error), *getattr(error, "__notes__", [])]
    plain = isinstance(error, RunError | UsageError) or is_storage_error(error)
    if isinstance(error, ForeignError) or not plain:
        parts.append(f"traceback: {_keep(error.__cause__ or error)}")
    return "; ".join(parts)


def error_line(error: BaseException) -> str:
    """The line without notes, and nothing is written."""
    if isinstance(error, RunError | UsageError):
        return str(error)
    if isinstance(error, OSError) and is_storage_error(error):
        return f"{error.filename or 'a file'} cannot be written: {error.strerror}"
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    # What others raised first: a StopIteration, say, that Python has made a RuntimeError of.
    error = next((each for each in chain if raised_by_foreign_code(each)), error)
    place, whose = source_line(error), "a fault of dreammpc, or of what it was given: "
    if is_out_of_memory(error):
        whose = f"out of memory, lower {MEMORY_SETTINGS}: "
    elif place is not None and place.foreign:
        whose = f"{_owner(place.frame)}: "
    return whose + exception_line(error)


def is_storage_error(error: BaseException) -> bool:
    """Whether a disk raised it."""
    return isinstance(error, OSError) and error.errno in STORAGE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or the GPU had no room for what was to be computed."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's
    return named or "can't allocate memory" in str(error)  # torch's, on a CPU


def exception_line(error: BaseException) -> str:
    """An exception in one line: its type, its text, and the line of code that it came from."""
    text = " ".join(str(error).split())
    text = f"{text[:LONGEST]}…" if len(text) > LONGEST else text
    place = source_line(error)
    return f"{type(error).__name__}{': ' * bool(text)}{text}" + (f" ({place})" if place else "")


def source_line(error: BaseException) -> Place | None:
    """The innermost line of foreign code that an exception passed; without any, that of this package."""
    ours, foreign = None, None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE):
            ours = Place(frame, line, False)
        elif file.is_file() and not _below(file):
            foreign = Place(frame, line, True)
    return foreign or ours


def raised_by_foreign_code(error: BaseException) -> bool:
    """Whether neither this package nor one that it stands on raised it."""
    place = source_line(error)
    return place is not None and place.foreign and not isinstance(error, UsageError)


def _below(file: Path) -> bool:
    """Whether a file is a recipe's, the standard library's, or one of a package that this one stands on."""
    for folder in INSTALLED:
        if file.is_relative_to(folder):
            return file.relative_to(folder).parts[0] in BELOW
    return any(file.is_relative_to(folder) for folder in (STDLIB, *RECIPES))


def _owner(frame: FrameType) -> str:
    """Whose code a frame runs: the class of its `self`, with what that is to us, or the function's name."""
    owner = frame.f_locals.get("self")
    if owner is None:
        return f"function {frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"
    roles = {
        "planner": "plan",
        "callback": "on_train_batch_end",
        "model": "parameters",
        "environment": "reset",
    }
    role = next((role for role, method in roles.items() if hasattr(owner, method)), "object")
    return f"{role} {type(owner).__module__}.{type(owner).__qualname__}"


def _keep(error: BaseException) -> Path:
    """Write the traceback; returns the file."""
    text = "".join(traceback.format_exception(error))
    entry = f"{datetime.now():%Y-%m-%d %H:%M:%S}\n{text}\n"
    if _folder is not None:
        with contextlib.suppress(OSError), (_folder / NAME).open("a", encoding="utf-8") as file:
            file.write(entry)
            return _folder / NAME
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", prefix="dreammpc-", suffix=".log", delete=False
    ) as temporary:
        temporary.write(entry)
    return Path(temporary.name)
