"""Which device a run uses. Everybody asks here: launcher, trainer, agent, evaluation, workers, benchmarks."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from tensordict import TensorDictBase

from dreammpc.interfaces import UsageError

CPU = torch.device("cpu")
NAMES = "auto, cpu, cuda (or gpu), cuda:N, mps"


def choose_device(name: str | torch.device = "auto", training: bool = False) -> torch.device:
    """The device of this process; a CUDA device always with its index.

    Args:
        name: `auto` is CUDA where there is one and the CPU elsewhere. `cuda` (`gpu`) is the GPU of this
            process's rank among those of its machine, `cuda:N` that one. `mps` is used by name only.
        training: the device is to train on, and not only to play.

    Raises:
        UsageError: an unknown name, a device that is not there, or one that cannot do it.
    """
    name = str(name)
    known = re.fullmatch(r"(auto|gpu)|(cpu|mps)(:0)?|cuda(:(?P<index>[0-9]+))?", name)
    if not known:
        raise UsageError(f"unknown device {name!r}; there are: {NAMES}")
    kind, index = name.partition(":")[0], known["index"]
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return CPU
    if kind == "mps":
        return _mps(training)
    return torch.device("cuda", _cuda_index(name, None if index is None else int(index)))


def _cuda_index(name: str, number: int | None) -> int:
    if not torch.cuda.is_available():
        raise UsageError(f"device {name}: this machine has no CUDA device that torch can use; there is cpu")
    there = torch.cuda.device_count()
    together = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if number is not None and together > 1:
        raise UsageError(f"device {name}: {together} processes cannot share it; with cuda each has its own")
    index = int(os.environ.get("LOCAL_RANK", 0)) if number is None else number
    if index >= there:
        last = f"cuda:0 to cuda:{there - 1}" if there > 1 else "cuda:0"
        asked = f"cuda:{index}" if number is None else name
        raise UsageError(f"device {asked}: there are {there} CUDA devices here, {last}")
    return index


def _mps(training: bool) -> torch.device:
    if not torch.backends.mps.is_available():
        raise UsageError("device mps: this machine has none that torch can use")
    if training:
        # torch's fused Adam for MPS ignores `found_inf`, by which the guard skips an update.
        raise UsageError(
            "device mps can play agents, but not train them: its optimizers cannot skip updates that are not"
            " finite; choose cpu or cuda"
        )
    return torch.device("mps", 0)


def device_name(device: torch.device) -> str:
    """The name of a GPU, such as `NVIDIA H100 80GB HBM3`; of anything else its type, such as `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def where(device: str, threads: int) -> str:
    """What a time was measured on: the device's name, and how many threads if it is the CPU."""
    return f"cpu, {threads} thread{'s' * (threads != 1)}" if device == "cpu" else device


def measured_on(device: torch.device) -> str:
    """`where`, of what this process measures on `device`."""
    return where(device_name(device), torch.get_num_threads())


def matmul_precision(device: torch.device) -> str:
    """Of float32 matrix products there, for `torch.set_float32_matmul_precision`: TF32 on CUDA."""
    return "high" if device.type == "cuda" else "highest"


def module_device(module: object) -> torch.device | None:
    """Where the weights of `module` are; None without weights (and buffers), or for what is no module."""
    tensor = _first_tensor(module)
    return None if tensor is None else tensor.device


def lies_at(module: object) -> int:
    """The address of the first weight of `module`: another one once they were moved; 0 without any."""
    tensor = _first_tensor(module)
    return 0 if tensor is None else tensor.data_ptr()


def _first_tensor(module: object) -> torch.Tensor | None:
    if not isinstance(module, torch.nn.Module):
        return None
    return next(chain(module.parameters(), module.buffers()), None)


def tensor_device(values: TensorDictBase) -> torch.device:
    """Where the tensors of a TensorDict are, whatever it says itself; the CPU if it has none."""
    tensors = list(
        values.values(True, True)
    )  # all of them: torch 2.14 compiles no iterator that is left halfway
    return tensors[0].device if tensors else CPU


def to_device(values: TensorDictBase, device: torch.device) -> TensorDictBase:
    """A TensorDict on `device`: itself if it is there."""
    here = tensor_device(values)
    if here == device:
        return values
    with current(here):  # on whose stream TensorDict waits for what is copied to the host
        return values.to(device)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Within it a GPU is the one whose streams and events PyTorch takes by default."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def forked_rng(device: torch.device | None) -> Iterator[None]:
    """The random streams of the CPU and of `device` are afterwards as before."""
    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        yield


@contextmanager
def seeded_rng(seed: int, device: torch.device | None) -> Iterator[None]:
    """`forked_rng`, within which random numbers of the CPU and of `device` come from `seed`.

    `torch.manual_seed` would seed every GPU there is, and nobody would put the others back.
    """
    with forked_rng(device):
        torch.default_generator.manual_seed(seed)
        if device is not None and device.type == "cuda":
            torch.cuda.default_generators[device.index].manual_seed(seed)
        elif device is not None and device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
