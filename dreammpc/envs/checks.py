"""What comes from an environment, held against what it declared and what Gymnasium asks for.

Everything that an environment returns passes through here, in training, evaluation and `check-env`.
Each function gives a value back in the one form that is used behind it, or raises `Mismatch`, whose
text says what was expected and what came. The usual forms take one comparison; the unusual ones, such as
tensors, lists and arrays of one number, are looked at in full each time.
"""

import math
import os
import traceback
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch

from dreammpc.interfaces import LARGEST, UsageError

_SQUARE = LARGEST**2


class Mismatch(UsageError):
    """A value is not what was declared; the text says what was expected and what came."""


def reset_parts(returned: Any) -> tuple[Any, Mapping]:
    """Observation and info, as `reset` must return them."""
    if isinstance(returned, tuple | list) and len(returned) == 2 and isinstance(returned[1], Mapping):
        return returned[0], returned[1]
    if isinstance(returned, tuple) and len(returned) == 2:
        returned = f"an observation and {described(returned[1])}"
    else:
        returned = described(returned)
    raise Mismatch(f"{RESET}, got {returned}")


def step_parts(returned: Any) -> tuple[Any, Any, Any, Any, Mapping]:
    """Observation, reward, terminated, truncated and info, as `step` must return them."""
    if isinstance(returned, tuple | list) and len(returned) == 5:
        if isinstance(returned[4], Mapping):
            return returned  # type: ignore[return-value]
        raise Mismatch(f"info must be a dictionary, got {described(returned[4])}")
    raise Mismatch(f"{STEP}, got {described(returned)}")


_API = "(Gymnasium's API, not Gym's before 0.26)"
RESET = f"reset() must return an observation and a dictionary {_API}"
STEP = f"step() must return observation, reward, terminated, truncated and info {_API}"


def observe(value: Any, row: np.ndarray) -> None:
    """Write an observation into `row` [O].

    Raises:
        Mismatch: not as many numbers, or one that is not finite or beyond `LARGEST`.
    """
    if not (type(value) is np.ndarray and value.shape == row.shape and value.dtype.kind == "f"):
        value = numbers(value, row.shape[0])
    with np.errstate(over="ignore"):
        squares = value.dot(value)
    if not squares <= _SQUARE:  # also where it is NaN
        _check_size(value)
    row[:] = value


def numbers(value: Any, size: int) -> np.ndarray:
    """An observation that is not an array of floats of the declared shape as one, [size]."""
    array = as_array(value)
    if array is None or array.dtype.kind not in "fiub":
        raise Mismatch(f"the observation must be {_many(size)}, got {described(value)}")
    if array.size != size or sum(n != 1 for n in array.shape) > 1:
        raise Mismatch(
            f"the observation must be {_many(size)}, as its space declares, got {described(value)}"
        )
    return array.reshape(size).astype(np.float64)


def _check_size(array: np.ndarray) -> None:
    """Raise Mismatch for the first entry that cannot be learned from."""
    wide = array.astype(np.float64)
    for entry in np.flatnonzero(~(np.abs(wide) <= LARGEST)):
        value = array[entry]
        if not np.isfinite(value):
            raise Mismatch(f"observation[{entry}] is not finite: {value}")
        raise Mismatch(
            f"observation[{entry}] is {value:g}, and nothing is learned beyond {LARGEST:g}: bring it near 1"
            " by a wrapper, such as gymnasium.wrappers.TransformObservation"
        )


def reward_of(value: Any) -> float:
    """A reward as a number.

    Raises:
        Mismatch: it is no single number, not finite, or beyond `LARGEST`.
    """
    if type(value) is not float:
        found = number(value)
        if found is None:
            raise Mismatch(f"the reward must be a number, got {described(value)}")
        value = found
    if not -LARGEST <= value <= LARGEST:
        if not np.isfinite(value):
            raise Mismatch(f"the reward is not finite: {value}")
        raise Mismatch(
            f"the reward is {value:g}, and nothing is learned beyond {LARGEST:g}: bring it near 1 by"
            " a wrapper,"
            " such as gymnasium.wrappers.TransformReward"
        )
    return value


def flag(value: Any, name: str) -> bool:
    """`terminated` or `truncated`, by its `name`.

    Raises:
        Mismatch: it is neither true nor false.
    """
    if value is True or value is False:
        return value
    found = number(value)
    if found not in (0, 1):
        raise Mismatch(f"{name} must be True or False, got {described(value)}")
    return bool(found)


def success_of(info: Mapping) -> float:
    """`info["success"]` or `info["is_success"]`, in [0, 1]; NaN where there is none.

    Raises:
        Mismatch: there is one that is no number in [0, 1].
    """
    value = info.get("success", info.get("is_success"))
    if value is None:
        return np.nan
    found = number(value)
    if found is None or not 0 <= found <= 1:
        raise Mismatch(f'info["success"] must be a number from 0 to 1, got {described(value)}')
    return found


def violation_of(info: Mapping) -> float:
    """`info["violation"]`, or `info["cost"]` as in Safety-Gymnasium; NaN where there is no such number."""
    found = number(info.get("violation", info.get("cost")))
    return np.nan if found is None else found


def number(value: Any) -> float | None:
    """A Python, NumPy or torch number, or an array of one, as a float; None for all else."""
    if isinstance(value, bool | int | float | np.generic):
        array: np.ndarray | None = np.asarray(value)
    else:
        array = as_array(value) if hasattr(value, "shape") or isinstance(value, list | tuple) else None
    if array is None or array.dtype.kind not in "fiub" or array.size != 1:
        return None
    return float(array.reshape(()))


def declared(env: gymnasium.Env, name: str, default: Any = None) -> Any:
    """An attribute of the environment or of one that it wraps."""
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def full_return(value: Any) -> float | None:
    """The return that an environment declares as a score of 1; None where it declares none.

    Raises:
        Mismatch: no positive, finite number.
    """
    score = None if value is None else number(value)
    if value is not None and (score is None or not 0 < score < math.inf):
        raise Mismatch(f"full_return must be a positive number or None, got {described(value)}")
    return score


def as_array(value: Any) -> np.ndarray | None:
    """An array of what may be a tensor, an array or nested lists; None where it is none of them."""
    try:
        return value.numpy(force=True) if isinstance(value, torch.Tensor) else np.asarray(value)
    except Exception:  # bfloat16, ragged lists, and whatever objects raise that are asked to be arrays
        return None


def old_answer(error: BaseException) -> Mismatch | None:
    """What is meant where a wrapper of Gymnasium cannot unpack what `step` or `reset` gave; else None."""
    if "values to unpack" not in str(error) or error.__traceback__ is None:
        return None
    last = traceback.extract_tb(error.__traceback__)[-1]
    if f"{os.sep}gymnasium{os.sep}" not in last.filename:
        return None
    return Mismatch(f"{RESET if last.name == 'reset' else STEP}: {error}")


def described(value: Any) -> str:
    """A value in few words, such as `an array float32 [3, 64]`."""
    if value is None or isinstance(value, bool | int | float | np.generic):
        return str(value)
    if isinstance(value, str):
        return f"the text {value[:30]!r}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = "a tensor" if isinstance(value, torch.Tensor) else "an array"
        return f"{kind} {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    kind = type(value).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    return (
        f"{article} {kind} of {len(value)}" if isinstance(value, list | tuple | dict) else f"{article} {kind}"
    )


def _many(size: int) -> str:
    return f"{size} number{'s' * (size > 1)}"
