"""States of environments as plain containers, so that a training goes on in the middle of an episode.

An environment offers it by two methods, on the Gymnasium environment itself or on one that it wraps:

    get_state() -> state | None   tensors, arrays, numbers, strings, lists and dictionaries; None: not now
    set_state(state) -> None      on an equal environment that has been reset

After `set_state` the same actions must give the same observations, rewards and resets, to the bit. Steps
that a time limit of Gymnasium's has counted are kept beside it. An environment without these methods, or
with others of the same names, is no mistake: its episode starts anew where a training goes on.
"""

import inspect
from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TimeLimit


class Unusable(ValueError):
    """An environment's state cannot be saved or put back; the text says why."""


class NotOffered(Unusable):
    """The environment has no `get_state`, which is no mistake."""


REMEMBER = {
    *(
        "AtariPreprocessing",
        "Autoreset",
        "DelayObservation",
        "FrameStackObservation",
        "MaxAndSkipObservation",
    ),
    *("NormalizeObservation", "NormalizeReward", "RepeatAction", "StickyAction", "TimeAwareObservation"),
}
"""Gymnasium's wrappers on whose own memory what follows depends, and which do not offer it."""


def state_of(env: gymnasium.Env) -> dict[str, Any]:
    """The state of an environment that offers it, by itself or by one that it wraps, in plain containers.

    Raises:
        Unusable: it offers none, or one that cannot be used.
    """
    owner, limits = _layers(env)
    try:
        own = owner.get_state()  # type: ignore[attr-defined]
    except Exception as error:
        raise Unusable(f"get_state() of {_name(owner)} raised {type(error).__name__}: {error}") from error
    if own is None:
        raise Unusable(f"get_state() of {_name(owner)} gave None")
    return {
        "own": plain(own, f"get_state() of {_name(owner)}"),
        "elapsed": [limit._elapsed_steps for limit in limits],
    }


def restore(env: gymnasium.Env, state: dict[str, Any]) -> None:
    """Put back what `state_of` of an equal environment returned.

    Raises:
        Unusable: the environment offers no state any more, or raises something.
    """
    owner, limits = _layers(env)
    if set(state) != {"own", "elapsed"}:  # of an earlier version
        state = {"own": state, "elapsed": []}
    try:
        owner.set_state(unplain(state["own"]))  # type: ignore[attr-defined]
    except Exception as error:
        raise Unusable(f"set_state() of {_name(owner)} raised {type(error).__name__}: {error}") from error
    for limit, elapsed in zip(limits, state["elapsed"], strict=False):
        limit._elapsed_steps = elapsed


def _layers(env: gymnasium.Env) -> tuple[gymnasium.Env, list[TimeLimit]]:
    """The environment or wrapper that offers its state, and the time limits around it.

    Raises:
        Unusable: there is none, its methods are others than ours, or a wrapper around it remembers something.
    """
    limits = []
    while not hasattr(env, "get_state"):
        if isinstance(env, TimeLimit):
            limits.append(env)
        if type(env).__name__ in REMEMBER:
            raise Unusable(f"wrapper {_name(env)} keeps a memory that cannot be saved")
        if not isinstance(env, gymnasium.Wrapper):
            raise NotOffered(f"{_name(env)} has no get_state()")
        env = env.env
    for name, given in (("get_state", ()), ("set_state", ({},))):
        method = getattr(env, name, None)
        if method is None:
            raise Unusable(f"{_name(env)} has a get_state() but no set_state(state)")
        try:
            inspect.signature(method).bind(*given)
        except (TypeError, ValueError):
            expected = "get_state()" if name == "get_state" else "set_state(state)"
            found = inspect.signature(method)
            raise Unusable(f"{_name(env)} has {name}{found}, and {expected} is what can be used") from None
    return env, limits


def _name(env: gymnasium.Env) -> str:
    return type(env).__qualname__


_ARRAY = "numpy"
"""The only key of a dictionary that stands for what was NumPy's: dtype, shape, whether a scalar, bytes."""
_BYTES = "bytes"
"""The only key of a dictionary that stands for bytes, as which a checkpoint holds none: a tensor of them."""


def plain(value: Any, whose: str) -> Any:
    """A state in what a checkpoint may hold: NumPy's arrays and numbers, and bytes, are marked as such.

    Raises:
        Unusable: it holds something else.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is bytes:
        return {_BYTES: _tensor(value)}
    if type(value) is torch.Tensor:
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(plain(item, whose) for item in value)
    if (
        type(value) is dict
        and not {_ARRAY, _BYTES} & set(value)
        and all(type(key) in (str, int) for key in value)
    ):
        return {key: plain(item, whose) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcU":
        array = np.asarray(value)
        return {
            _ARRAY: [
                array.dtype.str,
                list(array.shape),
                isinstance(value, np.generic),
                _tensor(array.tobytes()),
            ]
        }
    raise Unusable(f"{whose} holds {type(value).__qualname__}, which cannot be saved as plain data")


def _tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def unplain(value: Any) -> Any:
    """What `plain` was given, NumPy's arrays and numbers included."""
    if isinstance(value, dict):
        if set(value) == {_BYTES}:
            return value[_BYTES].numpy().tobytes()
        if set(value) == {_ARRAY}:
            kind, shape, single, data = value[_ARRAY]
            array = np.frombuffer(data.numpy().tobytes(), np.dtype(kind)).reshape(shape).copy()
            return array[()] if single else array
        return {key: unplain(item) for key, item in value.items()}
    return type(value)(map(unplain, value)) if type(value) in (list, tuple) else value


def stream_state(stream: Any) -> list[Any]:
    """A NumPy `RandomState`, or `numpy.random` itself for the global one, as plain values."""
    kind, keys, position, has_gauss, gauss = stream.get_state(legacy=True)
    return [kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss]


def set_stream_state(stream: Any, state: list[Any]) -> None:
    """Put back what `stream_state` returned."""
    kind, keys, position, has_gauss, gauss = state
    stream.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))


def mujoco_state(model: Any, data: Any, of_model: Iterable[str] = ()) -> dict[str, Any]:
    """The simulation's state, all that `mj_step` reads (MuJoCo's mjSTATE_INTEGRATION).

    Args:
        model, data: MuJoCo's own MjModel and MjData.
        of_model: names of the model's arrays that episodes change.
    """
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    values = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, values, kind)
    arrays = {name: torch.tensor(getattr(model, name)) for name in of_model}
    return {"data": torch.from_numpy(values), "model": arrays}


def set_mujoco_state(model: Any, data: Any, state: dict[str, Any], of_model: Iterable[str] = ()) -> None:
    """Put back what `mujoco_state` returned, and compute what depends on positions and velocities alone.

    Of the model's arrays only those of `of_model` are written, whatever names the state has: MuJoCo trusts
    its model, and an index in it that is wrong leads anywhere in memory.
    """
    import mujoco

    for name in of_model:
        if name in state["model"]:
            getattr(model, name)[:] = state["model"][name].numpy()
    mujoco.mj_setState(model, data, state["data"].numpy(), mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_step1(model, data)
