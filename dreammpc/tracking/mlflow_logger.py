"""A run's local log that MLflow gets too, without training ever waiting for it."""

import logging
import os
import shlex
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dreammpc.tracking.addresses import full_address, redacted
from dreammpc.tracking.delivery import Delivery
from dreammpc.tracking.follower import Follower
from dreammpc.tracking.jsonl import JSONLLogger
from dreammpc.tracking.mlflow_run import SQLITE
from dreammpc.tracking.note import FINISHED, RUNNING, STATUS, Note, is_id, read_note

log = logging.getLogger(__name__)

CONNECT_WAIT_S = 5.0
FINALIZE_WAIT_S = 10.0
LOCAL_WAIT_S = 60.0  # for a database: a new one takes 3 s of migrations, longer on a busy machine


def default_tracking_uri(folder: str | Path) -> str:
    """MLflow's address of a database `mlflow.db` in `folder`; absolute, to hold in any working folder."""
    return f"{SQLITE}{(Path(folder).resolve() / 'mlflow.db').as_posix()}"


def usual_uri() -> str:
    """MLflow's address where none is given: MLFLOW_TRACKING_URI, else a database in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI", "") or default_tracking_uri(".")


class MLflowTracker(JSONLLogger):
    """Write a run's local log, which a background thread sends to an MLflow run.

    Nothing here raises or blocks because of the server. The constructor waits at most 5 s for it (60 s for a
    local database, which may have to be made). Without an answer training starts all the same, and the run is
    made when there is one; `dreammpc sync` sends what is left at the end. Ranks other than zero do nothing.

    Args:
        tracking_uri: `http://…`, `sqlite:///…` (see `default_tracking_uri`) or what else MLflow takes; with
            stars in it, the address that was kept under them (`addresses.store_address`).
        experiment: made if missing. With SQLite, artifacts lie in `mlartifacts/` beside the database.
        run_name: name of a new run; MLflow invents one by default.
        run_id: a run to go on with. If it is gone a new one is made, with a warning.
        tags: of the run; a tag that exists is replaced.
        folder: the run folder, which has the log, and `mlflow.json`: how much of it is delivered.
        resume_step: environment steps of the checkpoint that a run goes on from (see `JSONLLogger`). Without
            `run_id` the run goes on that `folder` was last delivered to at this address.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        run_name: str | None = None,
        run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        folder: str | Path = ".",
        resume_step: float | None = None,
    ) -> None:
        super().__init__(folder, resume_step)
        tracking_uri = full_address(tracking_uri)
        self._uri = redacted(tracking_uri)  # for messages
        self._experiment = experiment
        self._run_name = run_name
        self._delivery: Delivery | None = None
        if getattr(rank_zero_only, "rank", 0) != 0:
            return
        note = read_note(self._path.parent)
        if note is None or note.uri != self._uri or run_id not in (None, note.run):
            note = Note(self._uri, run=run_id if is_id(run_id) else None)
        note.experiment, note.run_name, note.status = experiment, run_name, RUNNING
        self._delivery = Delivery(self._path.parent, note, tracking_uri)
        self._follower = Follower(self._delivery.send, f"MLflow at {self._uri}", self._path.parent)
        self.log_tags(tags or {})
        self._local = tracking_uri.startswith(SQLITE)
        self._follower.flush(LOCAL_WAIT_S if self._local else CONNECT_WAIT_S)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._experiment

    @property
    def version(self) -> str | None:
        """The run's id; None before the server has answered, and on ranks other than zero."""
        return self._delivery.note.run if self._delivery else None

    @property
    def delivered(self) -> bool:
        """Whether MLflow has all that was logged."""
        return self._delivery is None or self._follower.idle

    def hint(self) -> str:
        """One line that says how to look at the run, or how to send what is not there."""
        if self._delivery and not self.delivered:
            return f"MLflow at {self._uri} does not have all of the run: send the rest with {self._sync()}"
        run = f"run {self._run_name!r} (id {self.version})" if self._run_name else f"run {self.version}"
        return f"MLflow {run}: {self._where()}"

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line to the local log (see `JSONLLogger`), to be sent."""
        super().log_metrics(metrics, step)
        self._follower.wake()

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write `params.json`, to be sent as MLflow's params.

        A param that a resumed run has already and that differs is kept as a tag `changed.<name>`.
        """
        super().log_hyperparams(params)
        self._follower.wake()

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Add to `origin.json`, to be sent as MLflow's tags."""
        super().log_tags(tags)
        self._follower.wake()

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Have a file sent, which must stay as it is until then: `finalize` waits for that.

        Args:
            path: a file in the run's folder.
            artifact_path: folder inside the run's artifacts; its top by default.

        Raises:
            ValueError: the file lies elsewhere.
        """
        assert self._delivery is not None
        name = Path(path).resolve().relative_to(self._path.parent)
        self._delivery.change(want={str(name): artifact_path})
        self._follower.wake()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Set the run's status and wait until all is sent; `hint` says whether it is.

        It waits 10 s at most, for a local database 60 s.

        May be called more than once, with logging in between; the last status holds. Does nothing while
        `goes_on` is true.

        Args:
            status: "success" or "finished", "failed", "killed" or "aborted".

        Raises:
            ValueError: on any other status.
        """
        super().finalize(status)
        if self.goes_on:
            return
        assert self._delivery is not None
        self._delivery.change(status=STATUS[status])
        self._follower.wake()
        if (
            not self._follower.flush(LOCAL_WAIT_S if self._local else FINALIZE_WAIT_S)
            and STATUS[status] != FINISHED
        ):
            log.warning(self.hint())  # which is printed of a run that ends well

    def _sync(self) -> str:
        uri = [] if self._uri == redacted(usual_uri()) else ["--uri", self._uri]
        return shlex.join(["dreammpc", "sync", str(self._path.parent), *uri])

    def _where(self) -> str:
        if self._uri.startswith(("http://", "https://")):
            experiment = self._delivery.run.experiment_id if self._delivery else None
            return f"{self._uri.rstrip('/')}/#/experiments/{experiment}/runs/{self.version}"
        return f"mlflow ui --backend-store-uri {shlex.quote(self._uri)}"
