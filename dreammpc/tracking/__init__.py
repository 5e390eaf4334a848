"""Where a run's numbers, videos and origins go.

    make_loggers     the loggers of a run, made together; record_evaluation: of scores, in MLflow
    address          of MLflow, checked
    JSONLLogger      one line of JSON per log call, always there, needs nothing
    MLflowTracker    the same, followed by a background thread that sends it to MLflow and can't hurt training
    sync             sends what is left of runs that have ended
    provenance_tags  which code, which versions, which machine
    write_video      frames to mp4; write_gif for pages that show no video

Names load on first use, so that a run without MLflow never pays for its import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreammpc.tracking.jsonl import JSONLLogger
    from dreammpc.tracking.loggers import (
        address,
        after_fit,
        finish_run,
        finished_if_not,
        make_loggers,
        record_evaluation,
    )
    from dreammpc.tracking.mlflow_logger import MLflowTracker, default_tracking_uri
    from dreammpc.tracking.provenance import provenance_tags
    from dreammpc.tracking.syncing import sync
    from dreammpc.tracking.video import write_gif, write_video

__all__ = [
    "JSONLLogger",
    "MLflowTracker",
    "address",
    "after_fit",
    "default_tracking_uri",
    "finish_run",
    "finished_if_not",
    "make_loggers",
    "provenance_tags",
    "record_evaluation",
    "sync",
    "write_gif",
    "write_video",
]

_HOMES = {
    "address": "loggers",
    "after_fit": "loggers",
    "JSONLLogger": "jsonl",
    "MLflowTracker": "mlflow_logger",
    "default_tracking_uri": "mlflow_logger",
    "finish_run": "loggers",
    "finished_if_not": "loggers",
    "make_loggers": "loggers",
    "provenance_tags": "provenance",
    "record_evaluation": "loggers",
    "sync": "syncing",
    "write_gif": "video",
    "write_video": "video",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
