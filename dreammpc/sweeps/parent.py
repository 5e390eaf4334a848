"""The run that a sweep's trainings belong to in MLflow."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from dreammpc.support.run_folder import OWN_FOLDER
from dreammpc.tracking import JSONLLogger, make_loggers


def parent_run(
    folder: Path, params: Mapping[str, Any], kind: str, uri: str | None, experiment: str
) -> JSONLLogger:
    """The sweep's run, as a logger: that of an earlier start from the same folder, or a new one.

    Without MLflow its record waits in the folder for `dreammpc sync`.

    Args:
        folder: of the sweep, whose name the run gets.
        params: of the run.
        kind, uri, experiment: as in `make_loggers`.
    """
    from filelock import FileLock

    place, name = folder / OWN_FOLDER, folder.name
    place.mkdir(exist_ok=True)
    about = {**params, "tracking": {"experiment": experiment, "run_name": name}}
    goes_on = {"env_steps": inf, "tracking_run": None}
    with FileLock(place / ".lock"):  # of several starts at once only one makes the run
        return make_loggers(place, about, kind, uri, experiment, name, goes_on)[0]
