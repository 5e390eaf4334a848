"""Checkpoints that are named by MLflow's addresses: `models:/NAME/3`, `models:/NAME@ALIAS`, `runs:/ID/PATH`.

Of a model only the weights are read; its code is not run.
"""

import functools
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreammpc.interfaces import RunError, UsageError
from dreammpc.tracking.addresses import full_address, store_address
from dreammpc.tracking.follower import one_line
from dreammpc.tracking.loggers import address
from dreammpc.tracking.mlflow_run import ENVIRONMENT, SQLITE

SCHEMES = ("models:/", "runs:/")
WEIGHTS = "artifacts/agent.ckpt"
"""Where the agent is in a model's folder."""


def is_address(text: str) -> bool:
    """Whether a checkpoint is named by an address of MLflow."""
    return text.startswith(SCHEMES)


def download(text: str) -> Path:
    """The checkpoint at an address of MLflow, fetched once in the life of this process.

    The server is that of MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder.

    Raises:
        UsageError: MLflow, or what it needs for the store that has the file, is not installed; no such
            address, model, version, run or file, or a model of another program.
        RunError: MLflow cannot be reached.
    """
    if find_spec("mlflow") is None:
        raise UsageError(f"checkpoint {text} needs MLflow, which is not installed here")
    return _download(text, store_address(address(None)))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="dreammpc-")  # goes with the process


@functools.cache
def _download(text: str, uri: str) -> Path:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException

    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise UsageError(
            f"checkpoint {text}: there is no MLflow at {uri}; say where with MLFLOW_TRACKING_URI"
        )
    try:
        store, path = _store(text, full_address(uri))
        return Path(
            store.download_artifacts(_weights(store, path, text), tempfile.mkdtemp(dir=_folder().name))
        )
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise UsageError(f"checkpoint {text}: MLflow at {uri} has none: {one_line(error)}") from error
        raise RunError(f"checkpoint {text}: MLflow at {uri} can't be read ({one_line(error)})") from error
    except ModuleNotFoundError as error:
        raise UsageError(
            f"checkpoint {text}: the store where MLflow at {uri} keeps it needs {error.name}, which is not"
            " installed here"
        ) from error
    except OSError as error:
        raise RunError(f"checkpoint {text}: MLflow at {uri} can't be read ({one_line(error)})") from error


def _store(text: str, uri: str) -> tuple[Any, str]:
    """A store of artifacts, and the path in it that an address means."""
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = MlflowClient(uri, uri)
    if found := re.fullmatch(r"runs:/(\w[\w-]*)/(.+?)/*", text):
        place, path = client.get_run(found[1]).info.artifact_uri, found[2]
    elif found := re.fullmatch(r"models:/([^/@'\\]+)(?:/(\d+)|@([\w.-]+))?", text):
        name, version, alias = found.groups()
        if alias:
            version = client.get_model_version_by_alias(name, alias).version
        elif version is None:
            versions = client.search_model_versions(f"name='{name}'")
            if not versions:
                raise UsageError(f"checkpoint {text}: MLflow has no model {name!r}")
            version = max(versions, key=lambda each: int(each.version)).version
        place, path = client.get_model_version_download_uri(name, version), ""
    else:
        raise UsageError(
            f"checkpoint {text}: expected models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH"
        )
    return get_artifact_repository(place, tracking_uri=uri), path


def _weights(store: Any, path: str, text: str) -> str:
    """The path of the checkpoint: `path` itself, or the agent of the model that it names."""

    def files(folder: str) -> list[str]:
        return [each.path for each in store.list_artifacts(folder or None)]

    inside = f"{path}/" if path else ""
    there = files(path)
    if f"{inside}MLmodel" in there:
        if f"{inside}{WEIGHTS}" not in files(f"{inside}artifacts"):
            raise UsageError(f"checkpoint {text} is a model of another program: it has no {WEIGHTS}")
        return f"{inside}{WEIGHTS}"
    if there or path not in (known := files(path.rpartition("/")[0])):
        known = there or known
        raise UsageError(
            f"checkpoint {text} is no file and no model; there are: {', '.join(known) or 'none'}"
        )
    return path
