"""Files of other programs: their tensors, without running anything of theirs.

A file may hold a state dict, or whole modules, which torch's weights-only reader refuses since it would have
to import their classes. Numbers of NumPy's are read; every other class that it does not know is replaced
by an inert one of the same name.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dreammpc.interfaces import UsageError, first_line

SCALAR: Any = np.int64(0).__reduce__()[0]
NUMPY = {"numpy.dtype": np.dtype} | {f"numpy.{core}.multiarray.scalar": SCALAR for core in ("core", "_core")}
"""What single numbers of NumPy's are saved as. They are read as they are."""
DTYPES = [type(np.dtype(name)) for name in ("int32", "int64", "float32", "float64")]


class Inert:
    """Stands for an object of a class that is not imported: keeps what was saved of it, and does nothing."""

    def __init__(self, *arguments: Any, **settings: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def load_saved(path: str | Path) -> Any:
    """What `torch.save` has written to `path`, on the CPU.

    Raises:
        UsageError: no such file, or one that cannot be read so.
    """
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        classes = [(NUMPY.get(name) or type(name.rpartition(".")[2], (Inert,), {}), name) for name in names]
        with torch.serialization.safe_globals([*classes, *DTYPES]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch's reader there is no end of kinds
        what = "not a file that torch.save has written, or damaged"
        raise UsageError(f"{path}: {what}: {first_line(error)}") from error


def weights_of(saved: Any, prefix: str = "") -> dict[str, Tensor]:
    """Tensors by name of a state dict, of what holds one under `state_dict`, or of a saved module."""
    if isinstance(saved, Mapping):
        inner = saved.get("state_dict", saved.get("model", saved))
        if inner is not saved:
            return weights_of(inner)
        return {str(key): value for key, value in saved.items() if isinstance(value, Tensor)}
    found: dict[str, Tensor] = {}
    for part in ("_parameters", "_buffers"):
        own = getattr(saved, part, {})
        found |= {f"{prefix}{key}": value for key, value in own.items() if isinstance(value, Tensor)}
    for key, module in getattr(saved, "_modules", {}).items():
        found |= weights_of(module, f"{prefix}{key}.") if isinstance(module, Inert) else {}
    return found


def renamed(weights: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """`weights` with each of the regular expressions replaced, in order, in every name."""
    found = {}
    for name, value in weights.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        found[name] = value
    return found


def part_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): x for key, x in weights.items() if key.startswith(prefix)}


def shape_of(weights: Mapping[str, Tensor], name: str, path: Any, layout: str) -> tuple[int, ...]:
    """The shape of one of the `weights`.

    Raises:
        UsageError: it is missing: the file has another layout.
    """
    if name not in weights:
        some = ", ".join(list(weights)[:3]) or "no tensors"
        raise UsageError(f"{path}: not of {layout}'s layout: {name} is missing; found {some}")
    return tuple(weights[name].shape)


def count_layers(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the group of `pattern` takes in the names."""
    return len({found[1] for name in weights if (found := re.match(pattern, name))})


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Any, layout: str) -> None:
    """Load `weights` into `module`, whole and in float32.

    Raises:
        UsageError: some are missing, left over or of another shape.
    """
    try:
        module.load_state_dict({key: x.float() if x.is_floating_point() else x for key, x in weights.items()})
    except RuntimeError as error:
        line = " ".join(str(error).split("\n")[1:2]).strip()
        raise UsageError(f"{path}: not of {layout}'s layout: {line[:200]}") from error
