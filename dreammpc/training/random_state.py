"""The global random streams as plain containers."""

import random
from typing import Any

import numpy as np
import torch

from dreammpc.envs.state import set_stream_state, stream_state
from dreammpc.runtime.devices import CPU


def random_state(device: torch.device = CPU) -> dict[str, Any]:
    """The global random streams of Python, NumPy, torch and of its `device` as plain containers."""
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": stream_state(np.random),
        "python": [version, list(internal), gauss_next],
    }
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device = CPU) -> bool:
    """Put back what `random_state` returned.

    Returns:
        Whether that is all of it; False if the state was taken on another kind of device, whose stream
        cannot go on in `device`.
    """
    torch.set_rng_state(state["torch"])
    set_stream_state(np.random, state["numpy"])
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device.type == "cuda" and "device" in state:
        torch.cuda.set_rng_state(state["device"], device)
    return ("device" in state) == (device.type == "cuda")
