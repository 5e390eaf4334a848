"""States of environments as plain containers, so that a training goes on in the middle of an episode.

An environment offers it by two methods, on the Gymnasium environment itself or on one that it wraps:

    get_state() -> dict | None    tensors, numbers, strings, lists and dictionaries; None: not now
    set_state(state) -> None      on an equal environment that has been reset

After `set_state` the same actions must give the same observations, rewards and resets, to the bit. An
environment without these methods is no mistake: its episode starts anew where a training goes on.
"""

from collections.abc import Iterable
from typing import Any

import gymnasium
import numpy as np
import torch


def state_of(env: gymnasium.Env) -> dict[str, Any] | None:
    """The state of an environment that offers it, by itself or by one that it wraps."""
    return env.get_wrapper_attr("get_state")() if env.has_wrapper_attr("get_state") else None


def stream_state(stream: np.random.RandomState) -> list[Any]:
    """A NumPy random stream as plain values."""
    kind, keys, position, has_gauss, gauss = stream.get_state(legacy=True)
    return [kind, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss]


def set_stream_state(stream: np.random.RandomState, state: list[Any]) -> None:
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


def set_mujoco_state(model: Any, data: Any, state: dict[str, Any]) -> None:
    """Put back what `mujoco_state` returned, and compute what depends on positions and velocities alone."""
    import mujoco

    for name, values in state["model"].items():
        getattr(model, name)[:] = values.numpy()
    mujoco.mj_setState(model, data, state["data"].numpy(), mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_step1(model, data)
