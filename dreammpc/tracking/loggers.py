"""The loggers of a run: a local JSONL file, which MLflow gets too unless it is not wanted."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dreammpc.interfaces import UsageError
from dreammpc.runtime.processes import sigterm_interrupts
from dreammpc.support.run_folder import OWN_FOLDER
from dreammpc.tracking.jsonl import JSONLLogger
from dreammpc.tracking.provenance import provenance_tags

KINDS = ("mlflow", "none")
PARENT_TAG = "mlflow.parentRunId"
"""By which MLflow nests runs."""

KIND_TAG = "dreammpc.kind"
"""Of runs that no training made: what they are."""

SCHEMES = (
    "http",
    "https",
    "sqlite",
    "postgresql",
    "mysql",
    "mssql",
    "file",
    "databricks",
    "databricks-uc",
    "uc",
)
"""Of the addresses that MLflow takes; packages may bring others."""


def check_uri(uri: str, key: str) -> None:
    """Raise UsageError unless MLflow knows such addresses as `uri`; `key` is how it was given."""
    scheme = uri.partition(":")[0].partition("+")[0] if ":" in uri else ""
    if len(scheme) < 2:  # a path, on Windows with its drive
        return
    there = [*SCHEMES, *(each.name for each in entry_points(group="mlflow.tracking_store"))]
    if scheme.lower() not in there:
        raise UsageError(
            f"{key}: MLflow has no addresses {scheme}:…; there are: {', '.join(there)}, and paths"
        )
    try:
        parts = urlsplit(uri)
        fits = parts.hostname or scheme.lower() not in ("http", "https")
        parts.port  # noqa: B018  raises
    except ValueError:
        fits = None
    if not fits:
        raise UsageError(f"{key}: expected {scheme}://HOST:PORT, with a port of digits up to 65535")


def check_folder(uri: str, key: str) -> None:
    """Raise UsageError if `uri`, given as `key`, is a folder and the MLflow that is installed writes none."""
    scheme = uri.partition(":")[0].lower() if ":" in uri else ""
    if scheme != "file" and (len(scheme) > 1 or uri in SCHEMES):
        return
    from mlflow import environment_variables

    allowed = getattr(environment_variables, "MLFLOW_ALLOW_FILE_STORE", None)  # of newer versions
    try:
        fits = allowed is None or allowed.get()
    except ValueError as error:
        raise UsageError(str(error)) from error
    if allowed is not None and not fits:
        raise UsageError(
            f"{key}={uri}: this version of MLflow writes no folders; choose sqlite:///mlflow.db, or set"
            f" {allowed.name}=true in the environment"
        )


def address(uri: str | None, key: str = "tracking.uri") -> str:
    """Of MLflow: `uri`, given as `key`, else what MLFLOW_TRACKING_URI says, else `mlflow.db` in this folder.

    Raises:
        UsageError: see `check_uri` and `check_folder`.
    """
    from dreammpc.tracking.mlflow_logger import usual_uri

    found, key = uri or usual_uri(), key if uri else "MLFLOW_TRACKING_URI"
    check_uri(found, key)
    check_folder(found, key)
    return found


def check_model_name(name: str, key: str) -> None:
    """Raise UsageError unless MLflow can register a model called `name`; `key` is how it was given."""
    if not re.fullmatch(r"\w[\w. -]*", name):
        raise UsageError(f"{key}: expected letters, digits, spaces and . - _, got {name!r}")


def make_loggers(
    folder: Path,
    params: dict[str, Any],
    kind: str = "mlflow",
    uri: str | None = None,
    experiment: str = "dreammpc",
    run_name: str | None = None,
    resumed: dict[str, Any] | None = None,
    parent: str | None = None,
) -> list[JSONLLogger]:
    """Loggers that have the run's parameters already. The run goes on until `finish_run` ends it.

    Args:
        folder: the run's folder.
        params: nested plain values.
        kind: one of `KINDS`; `none` never imports MLflow.
        uri: of MLflow; `None` takes `MLFLOW_TRACKING_URI`, else `mlflow.db` in the working folder.
        experiment, run_name: MLflow's.
        resumed: the description of the checkpoint that the run goes on from, with `env_steps` and
            `tracking_run`; later lines of the local log are dropped and the same MLflow run goes on.
        parent: id of the MLflow run that this one is shown under.

    Raises:
        UsageError: MLflow is wanted and not installed.
    """
    if kind == "mlflow" and find_spec("mlflow") is None:
        raise UsageError("tracking=mlflow needs MLflow, which is not installed here; choose tracking=none")
    run_id = resumed["tracking_run"] if resumed else None
    step = resumed.get("clock", resumed["env_steps"]) if resumed else None
    logger, tags = JSONLLogger(folder, step) if kind == "none" else None, provenance_tags()
    if logger is None:
        from dreammpc.tracking.mlflow_logger import MLflowTracker

        tags |= {} if parent is None else {PARENT_TAG: parent}
        logger = MLflowTracker(address(uri), experiment, run_name, run_id, tags, folder, step)
    else:
        logger.log_tags(tags)
    logger.log_hyperparams(params)
    logger.goes_on = True
    return [logger]


def finish_run(
    loggers: Sequence[JSONLLogger],
    metrics: dict[str, float],
    env_steps: int,
    artifacts: dict[str, list[Path]],
    status: str = "success",
) -> str:
    """Log the last metrics and artifacts (folder → files) and say in one line where to look at the run.

    `status` is `success`, `failed` or `killed`.
    """
    hint = ""
    for logger in loggers:
        if metrics:
            logger.log_metrics(metrics, step=env_steps)
        for place, paths in artifacts.items():
            for path in filter(Path.exists, paths):
                logger.log_artifact(path, place)
        logger.goes_on = False
        logger.finalize(status)
        hint = logger.hint()
    return hint


@contextmanager
def finished_if_not(loggers: Sequence[JSONLLogger], artifacts: dict[str, list[Path]]) -> Iterator[None]:
    """Finish a run that fails or is interrupted within, with its artifacts."""
    try:
        yield
    except BaseException as error:
        # Of a KeyboardInterrupt in a `fit` Lightning makes a SystemExit.
        killed = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
        finish_run(loggers, {}, 0, artifacts, "killed" if killed else "failed")
        raise


@contextmanager
def after_fit(loggers: Sequence[JSONLLogger], artifacts: dict[str, list[Path]], note: str) -> Iterator[None]:
    """`finished_if_not`, where SIGTERM interrupts too; what is raised gets a note."""
    with finished_if_not(loggers, artifacts), sigterm_interrupts():
        try:
            yield
        except BaseException as error:
            error.add_note(note)
            raise


def record_evaluation(
    params: dict[str, Any],
    episodes: list[dict[str, float]],
    metrics: dict[str, float],
    artifacts: list[Path],
    uri: str | None = None,
    experiment: str = "dreammpc",
    run_name: str | None = None,
    parent: str | None = None,
    folder: Path = Path("."),
) -> str:
    """An MLflow run of scores that no training made; says in one line where to look at it.

    Args:
        params: nested plain values.
        episodes: metrics of episode 0, 1, …, logged at that step.
        metrics: over all episodes.
        artifacts: files.
        uri, experiment, run_name, parent: MLflow's, as in `make_loggers`.
        folder: has a folder `.mlflow`, where records wait that could not be sent.
    """
    from dreammpc.tracking.mlflow_logger import MLflowTracker

    place = folder / OWN_FOLDER / f"evaluation-{datetime.now():%Y%m%d-%H%M%S-%f}"
    tags = provenance_tags() | {KIND_TAG: "evaluation"} | ({PARENT_TAG: parent} if parent else {})
    run = MLflowTracker(address(uri), experiment, run_name, None, tags, place)
    run.log_hyperparams(params)
    for number, values in enumerate(episodes):
        run.log_metrics(values, step=number)
    run.log_metrics(metrics)
    for path in filter(Path.exists, artifacts):
        run.log_artifact(shutil.copy(path, place))
    run.finalize("success")
    if run.delivered:
        shutil.rmtree(place)
        with suppress(OSError):  # others wait there
            place.parent.rmdir()
    return run.hint()
