"""The MLflow run that a sweep's trainings belong to."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreammpc.support.run_folder import OWN_FOLDER
from dreammpc.tracking import address, provenance_tags


def parent_run(folder: Path, uri: str | None, experiment: str, params: Mapping[str, Any]) -> Any:
    """The sweep's run, as a logger: that of an earlier start from the same folder, or a new one.

    Args:
        folder: of the sweep, whose name the run gets.
        uri: as in `make_loggers`.
        experiment: MLflow's.
        params: of the run.
    """
    from filelock import FileLock

    from dreammpc.tracking import MLflowTracker

    uri, place = address(uri), folder / OWN_FOLDER
    place.mkdir(exist_ok=True)
    with FileLock(place / ".lock"):  # of several starts at once only one makes the run
        tracker = MLflowTracker(uri, experiment, folder.name, None, provenance_tags(), place, math.inf)
    tracker.log_hyperparams(params)
    return tracker
