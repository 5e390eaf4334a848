"""An MLflow run as a Lightning logger that training never waits for."""

import logging
import math
import re
import shlex
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dreammpc.tracking.addresses import starred, whole
from dreammpc.tracking.mlflow_run import SQLITE, MlflowRun, noted_run
from dreammpc.tracking.outbox import Outbox

log = logging.getLogger(__name__)

CONNECT_WAIT_S = 5.0
CREATE_WAIT_S = 60.0  # a new database takes 3 s of migrations, longer on a busy machine
FINALIZE_WAIT_S = 10.0

# Longest texts that MLflow takes (mlflow/utils/validation.py); a tag's limit was once 5000.
LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 5000

STATUS = {
    "success": "FINISHED",
    "finished": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
    "aborted": "KILLED",
}


def default_tracking_uri(folder: str | Path) -> str:
    """MLflow's address of a database `mlflow.db` in `folder`; absolute, to hold in any working folder."""
    return f"{SQLITE}{(Path(folder).resolve() / 'mlflow.db').as_posix()}"


class MLflowTracker(Logger):
    """Log to an MLflow run from a background thread; nothing here raises or blocks because of the server.

    The constructor waits at most 5 s for a server (60 s for a local database, which may have to be made).
    Without an answer training starts all the same: records wait in `folder` and are sent when the server is
    back, and the run is made then. Ranks other than zero do nothing.

    Args:
        tracking_uri: `http://…`, `sqlite:///…` (see `default_tracking_uri`) or what else MLflow takes; with
            stars in it, the address that was kept under them (`addresses.keep`).
        experiment: made if missing. With SQLite, artifacts lie in `mlartifacts/` beside the database.
        run_name: name of a new run; MLflow invents one by default.
        run_id: a run to go on with. If it is gone a new one is made, with a warning.
        tags: of the run; a tag that exists is replaced.
        folder: the run folder. What could not be delivered waits there in `mlflow_spool.jsonl`, and goes to
            the run of the next tracker with this folder.
        resume_step: environment steps of the checkpoint that a run goes on from. Without `run_id` the run
            that was last written to from `folder` goes on; later metrics that wait there are dropped.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        run_name: str | None = None,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        folder: str | Path = ".",
        resume_step: int | None = None,
    ) -> None:
        super().__init__()
        tracking_uri = whole(tracking_uri)
        self._uri = starred(tracking_uri)  # for messages
        self._experiment = experiment
        self._run_name = run_name
        self._folder = Path(folder).resolve()
        self._run: MlflowRun | None = None
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        note = self._folder / "mlflow_run.json"
        if run_id is None and resume_step is not None:
            run_id = noted_run(note, self._uri)
        self._run = MlflowRun(tracking_uri, experiment, run_name, run_id, note)
        last_step = math.inf if resume_step is None else resume_step
        self._outbox = Outbox(
            self._run.deliver,
            self._folder / "mlflow_spool.jsonl",
            f"MLflow at {self._uri}",
            keep=lambda item: is_ours(item, self._folder) and item.get("step", 0) <= last_step,
        )
        self._outbox.put({"kind": "status", "status": "RUNNING"})
        self.log_tags(tags or {})
        self._outbox.flush(CREATE_WAIT_S if tracking_uri.startswith(SQLITE) else CONNECT_WAIT_S)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._experiment

    @property
    def version(self) -> str | None:
        """The run's id; None before the server has answered, and on ranks other than zero."""
        return self._run.run_id if self._run else None

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None before the server has answered, and on ranks other than zero."""
        return self._run.experiment_id if self._run else None

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._folder)

    def hint(self) -> str:
        """One line that says how to look at the run."""
        if self.experiment_id is None:
            return f"MLflow at {self._uri} does not answer yet; the run appears there when it does"
        run = (
            f"MLflow run {self._run_name!r} (id {self.version})"
            if self._run_name
            else f"MLflow run {self.version}"
        )
        if self._uri.startswith(("http://", "https://")):
            return f"{run}: {self._uri.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.version}"
        return f"{run}: mlflow ui --backend-store-uri {shlex.quote(self._uri)}"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue metrics.

        Args:
            metrics: scalars by name; tensors of one element are read, which waits for their device.
            step: environment steps (0 if None).
        """
        values = {_clean(name): float(value) for name, value in metrics.items()}
        now = int(time.time() * 1000)
        if values:
            self._outbox.put({"kind": "metrics", "step": int(step or 0), "time_ms": now, "values": values})

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Queue params: nested mappings become dotted names, long values are cut to MLflow's limit.

        A param that a resumed run has already and that differs is kept as a tag `changed.<name>`.
        """
        tree = vars(params) if isinstance(params, Namespace) else params
        values = {_clean(name): _cut(value, LONGEST_PARAM) for name, value in _flatten(tree)}
        if values:
            self._outbox.put({"kind": "params", "values": values})

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Queue tags; a tag that exists is replaced."""
        values = {_clean(name): _cut(value, LONGEST_TAG) for name, value in tags.items()}
        if values:
            self._outbox.put({"kind": "tags", "values": values})

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Queue a file, which must stay as it is until it is sent: `finalize` waits for that.

        Args:
            path: the file.
            artifact_path: folder inside the run's artifacts; its top by default.
        """
        item = {"kind": "artifact", "path": str(Path(path).resolve()), "artifact_path": artifact_path}
        self._outbox.put(item)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Set the run's status and wait, 10 s at most, until all is sent; one line says what is not.

        May be called more than once, with logging in between; the last status holds.

        Args:
            status: "success" or "finished", "failed", "killed" or "aborted".

        Raises:
            ValueError: on any other status.
        """
        if status.lower() not in STATUS:
            raise ValueError(f"unknown status {status!r}; there are {', '.join(STATUS)}")
        self._outbox.put({"kind": "status", "status": STATUS[status.lower()]})
        if not self._outbox.flush(FINALIZE_WAIT_S):
            left, spool = len(self._outbox), self._outbox.spool
            log.warning("MLflow at %s: %d records not sent, kept in %s", self._uri, left, spool)


def is_ours(item: Mapping[str, Any], folder: Path) -> bool:
    """Whether an item of a spool file is one that a run in `folder` puts there; no file from elsewhere is."""
    kind, values = item.get("kind"), item.get("values")
    if kind == "status":
        return item.get("status") in ("RUNNING", *STATUS.values())
    if kind == "artifact":
        path, place = item.get("path"), item.get("artifact_path")
        inside = isinstance(path, str) and Path(path).resolve().is_relative_to(folder)
        return inside and (place is None or (isinstance(place, str) and bool(re.fullmatch(r"\w+", place))))
    if kind not in ("metrics", "params", "tags") or not isinstance(values, dict):
        return False
    if kind != "metrics":
        return all(isinstance(value, str) for value in values.values())
    numbers = [*values.values(), item.get("step"), item.get("time_ms")]
    return all(isinstance(number, int | float) for number in numbers)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _clean(name: str) -> str:
    """A name that MLflow takes: letters, digits, `_ - . / ` and spaces."""
    return re.sub(r"[^\w./ -]", "_", name)[:LONGEST_NAME]


def _cut(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"
