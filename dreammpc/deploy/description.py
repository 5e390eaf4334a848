"""What an exported file says of itself: JSON in the archive, `dreammpc` in the metadata."""

import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from dreammpc import __version__
from dreammpc.agent import Agent
from dreammpc.deploy.graph import DRAWS, RESULTS, Entry, Program
from dreammpc.interfaces import UsageError
from dreammpc.plugins.settings import Count, Limit, Positive, fitted, one_of
from dreammpc.support.atomic import from_json

FORMAT = 2
NAME = "dreammpc.json"
KEY = "dreammpc"
NEEDED = ("kind", "task", "planner", "torch", "machine", "action_repeat", "inputs", "outputs")
"""Entries without which a file cannot be run."""
TYPES: dict[str, Any] = {
    **dict.fromkeys(("task", "torch", "machine"), str),
    **dict.fromkeys(("agent", "algorithm", "model"), str | None),
    **dict.fromkeys(("planner", "observation", "action", "record"), dict),
    **dict.fromkeys(("inputs", "outputs"), list[dict]),
    "seconds_per_action": Annotated[float, Limit("above 0 and finite", lambda x: 0 < x < np.inf)] | None,
    "action_repeat": Positive | None,
}
"""Of the entries that are there."""
DTYPES = ("bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64")
ENTRY = {"name": str, "kind": str, "shape": list[Count], "dtype": Annotated[str, one_of(*DTYPES)]}
"""What each of `inputs` and `outputs` says."""


def describe(
    agent: Agent, made: Program, kind: str, about: Mapping[str, Any], env: Any = None
) -> dict[str, Any]:
    """Names, shapes, units, bounds and normalization of an exported agent, as JSON has them.

    Args:
        agent: what is exported.
        made: its program.
        kind: of the file, one of `formats.FORMATS`.
        about: what else to say, such as `task` and `planner`.
        env: its task's environments, which know the actions' own bounds; None leaves these null.
    """
    own = getattr(env, "_own_actions", None)
    carry = [
        {**plain(entry), "kind": "carry", "initial": initial(made.initial[entry.name])}
        for entry in made.carry
    ]
    return {
        "format": FORMAT,
        "kind": kind,
        "dreammpc": __version__,
        "torch": torch.__version__.partition("+")[0],
        "machine": platform.machine(),
        **about,
        "seconds_per_action": None if env is None else 1 / env.fps,
        "action_repeat": None if env is None else env.action_repeat,
        "inputs": [*map(plain, made.inputs), *carry],
        "outputs": [*map(plain, made.outputs), *({**plain(e), "kind": "carry"} for e in made.carry)],
        "observation": {
            "names": (getattr(env, "layout", "") or None) if env is not None else None,
            "units": "as the task's environment gives them, in its order, unscaled",
            "normalization": normalization(agent.model),
        },
        "action": {
            "low": -1.0,
            "high": 1.0,
            "own_low": None if own is None else own.low.tolist(),
            "own_high": None if own is None else own.high.tolist(),
            "units": "-1 is own_low and 1 is own_high, linear between",
        },
    }


def plain(entry: Entry) -> dict[str, Any]:
    """An entry as JSON has it."""
    own = ("pending", "ahead", *RESULTS)
    kind = "noise" if entry.distribution else entry.name if entry.name in own else "observation"
    found = {"name": entry.name, "kind": kind, "shape": list(entry.shape), "dtype": entry.dtype}
    return found | ({"distribution": entry.distribution} if entry.distribution else {})


def initial(value: torch.Tensor) -> Any:
    """0 where the carry begins with zeros, else its values."""
    return value.tolist() if value.any() else 0


def normalization(model: Any) -> dict[str, Any] | None:
    """What the file itself does to a vector that is observed; None if it takes it as it comes."""
    norm = getattr(model, "normalizer", None)
    if norm is None:
        return None
    return {
        "where": "inside the file",
        "mean": norm.mean.tolist(),
        "std": norm.variance.sqrt().tolist(),
        "rule": "(x - mean) / std, cut at 10 standard deviations",
    }


def read_description(path: Path) -> dict[str, Any]:
    """What a file says of itself.

    Raises:
        UsageError: no such file, one that is damaged or none of ours, or one of another version; an entry
            that is not what it should be.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"file {path} {what}; dreammpc export makes one")
    found = from_onnx(path) if path.suffix == ".onnx" else from_archive(path)
    if not isinstance(found, dict) or "format" not in found:
        raise UsageError(f"file {path} is damaged, or was not made by dreammpc export")
    if found["format"] != FORMAT:
        raise UsageError(
            f"file {path} is of version {found['format']}, made by dreammpc {found.get('dreammpc')}; this"
            f" dreammpc ({__version__}) reads version {FORMAT}: export the agent again"
        )
    if lacking := [key for key in NEEDED if key not in found]:
        raise UsageError(f"file {path} is damaged: its description has no {', '.join(lacking)}")
    check_entries(found, f"file {path} is damaged: its description's")
    return found


def check_entries(found: Mapping[str, Any], where: str) -> None:
    """Raise UsageError unless all entries of a description are as docs/deploy.md says; `where` begins it."""
    from dreammpc.deploy.formats import FORMATS

    fitted(f"{where} kind", found["kind"], Annotated[str, one_of(*FORMATS)])
    for key, hint in TYPES.items():
        if key in found:
            fitted(f"{where} {key}", found[key], hint)
    fitted(f"{where} planner.name", found["planner"].get("name"), str)
    entries = [(f"{where} {key}", entry) for key in ("inputs", "outputs") for entry in found[key]]
    for place, entry in entries:
        for key, hint in ENTRY.items():
            fitted(f"{place}: {key}", entry.get(key), hint)
        if entry["kind"] == "noise":
            fitted(
                f"{place}: distribution", entry.get("distribution"), Annotated[str, one_of(*DRAWS.values())]
            )
        if entry["kind"] == "carry" and place.endswith("inputs"):
            check_initial(entry, place)
    sizes = {entry["kind"]: len(entry["shape"]) for _, entry in entries}
    for key, kind, size in (
        ("inputs", "observation", None),
        ("outputs", "action", 2),
        ("outputs", "plan", 3),
    ):
        if kind not in sizes or size not in (None, sizes[kind]):
            shape = "" if size is None else f" with {size} dimensions"
            raise UsageError(f"{where} {key} have no {kind}{shape}")


def check_initial(entry: Mapping[str, Any], where: str) -> None:
    """Raise UsageError unless what the carry begins with is 0 or has its shape."""
    try:
        values = torch.tensor(entry.get("initial"), dtype=getattr(torch, entry["dtype"]))
        zero = values.numel() == 1 and not values.any()
        fits = zero or list(values.shape) == entry["shape"]
    except (ValueError, TypeError, RuntimeError, OverflowError):  # text, or rows of different lengths
        fits = False
    if not fits:
        raise UsageError(
            f"{where}: initial of {entry['name']} must be 0 or numbers of shape {entry['shape']}"
        )


def from_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
            for name in archive.namelist():
                if name.endswith(f"/{NAME}"):
                    return from_json(archive.read(name).decode())
                if name.endswith("_metadata.json"):
                    return from_json(from_json(archive.read(name).decode())[KEY])
    except Exception:  # whatever zipfile and its decompressors raise of what is damaged
        pass
    return None


def from_onnx(path: Path) -> Any:
    from dreammpc.deploy.formats import needs

    runtime = needs("onnxruntime", f"to read {path}")
    try:
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = runtime.InferenceSession(str(path), options)
        return from_json(session.get_modelmeta().custom_metadata_map[KEY])
    except Exception:  # whatever the runtime raises of what is no model
        return None
