"""A program as a file: torch.export's archive, AOTInductor's package, or ONNX."""

import contextlib
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from dreammpc.deploy.description import KEY, NAME
from dreammpc.deploy.graph import Program
from dreammpc.interfaces import RunError, UsageError, first_line
from dreammpc.runtime.compiling import keep_compiled

FORMATS = {
    "pt2": "a graph that torch.export.load reads, on any machine with this PyTorch",
    "aoti": "machine code that PyTorch runs without Python, on machines like this one",
    "onnx": "for ONNX Runtime; random numbers are inputs",
    "policy-onnx": "the policy alone, for ONNX Runtime: an observation in, an action out",
}
ENDINGS = {"pt2": ".pt2", "aoti": ".pt2", "onnx": ".onnx", "policy-onnx": ".onnx"}


def needs(name: str, what: str) -> Any:
    """The module of an optional package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError(
            f"{what} needs {name}, which is not installed here: pip install 'dreammpc[onnx]'"
        ) from error


def check_needs(kind: str) -> None:
    """Raise UsageError unless the packages of a format are installed."""
    for package in ("onnx", "onnxscript", "onnxruntime") if kind.endswith("onnx") else ():
        needs(package, f"--format {kind}")


def write(made: Program, kind: str, description: Mapping[str, Any]) -> bytes:
    """The bytes of a file.

    Raises:
        UsageError: this program cannot be of this format, or a package for it is not installed.
        RunError: a compiler failed.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / f"agent{ENDINGS[kind]}"
        with torch.no_grad():
            exported = torch.export.export(made.module, made.example(), strict=False)
            WRITERS[kind](exported, path, description)
        return path.read_bytes()


def write_pt2(exported: Any, path: Path, description: Mapping[str, Any]) -> None:
    """An archive of torch.export."""
    torch.export.save(exported, path, extra_files={NAME: json.dumps(description)})


def write_aoti(exported: Any, path: Path, description: Mapping[str, Any]) -> None:
    """A package of AOTInductor. Random numbers are PyTorch's own, so that a seed gives an agent's."""
    keep_compiled()
    lines = {
        f"{KEY}.{key}": ";".join(
            f"{one['name']} {one['dtype']} {','.join(map(str, one['shape']))}" for one in description[key]
        )
        for key in ("inputs", "outputs")
    }  # for readers without JSON
    configs = {
        "fallback_random": True,
        "aot_inductor.metadata": {KEY: json.dumps(description), **lines},
    }
    try:
        torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=configs)
    except Exception as error:
        raise RunError(
            f"the compiler failed ({type(error).__name__}: {first_line(error)}); --format pt2 needs none"
        ) from error


def write_onnx(exported: Any, path: Path, description: Mapping[str, Any]) -> None:
    """A model of ONNX. The carry goes in as `carry.NAME` and comes out as `next.NAME`."""
    prefixed = {"carry": ("carry.", "next.")}
    names_in = [prefixed.get(e["kind"], ("", ""))[0] + e["name"] for e in description["inputs"]]
    names_out = [prefixed.get(e["kind"], ("", ""))[1] + e["name"] for e in description["outputs"]]
    try:
        simple = exported.run_decompositions(decompositions())
        model = torch.onnx.export(
            simple, dynamo=True, input_names=names_in, output_names=names_out, verbose=False
        )
    except Exception as error:
        name = description["planner"]["name"]
        raise UsageError(
            f"planner {name} cannot be exported to onnx ({missing(error)}); it can to pt2 and aoti, and"
            " the policy alone to policy-onnx"
        ) from error
    assert model is not None
    model.model.metadata_props[KEY] = json.dumps(description)
    model.save(str(path))


WRITERS: dict[str, Callable[[Any, Path, Mapping[str, Any]], None]] = {
    "pt2": write_pt2,
    "aoti": write_aoti,
    "onnx": write_onnx,
    "policy-onnx": write_onnx,
}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Of operations that ONNX does not have, above all those of backward passes."""
    aten = torch.ops.aten
    table = dict(torch.export.default_decompositions())
    asked = [aten.mish, aten.native_layer_norm_backward, aten._softmax_backward_data]
    return table | torch._decomp.get_decompositions([*asked, aten.slice_backward, aten.select_backward])


def missing(error: BaseException) -> str:
    """What ONNX lacks, from the exporter's long message."""
    found = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    return f"ONNX has no {found[1]}" if found else first_line(error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters print and warn of."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere):
                yield
    finally:
        logging.disable(level)
