"""The calls to MLflow behind `MLflowTracker`, made from its background thread."""

import json
import logging
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreammpc.support.atomic import from_json
from dreammpc.tracking.addresses import starred
from dreammpc.tracking.outbox import Item, Rejected

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

SQLITE = "sqlite:///"

# Limits of one call (mlflow/utils/validation.py).
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100

# The outbox tries again, so MLflow need not: its own defaults block for minutes. Telemetry, progress bars and
# printed links have no place in a training's background. Whatever the user has set stays.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}


TOKEN = "dreammpc.made_by"


def noted_run(note: Path, uri: str) -> str | None:
    """The id of the run that was last written to at `uri` (without password), from the file `note`."""
    try:
        content = from_json(note.read_text())
        return content["run"] if content["uri"] == uri else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


class MlflowRun:
    """One run, found or made at the first delivery that reaches the server.

    Args:
        uri: MLflow's tracking URI.
        experiment: found by name, restored if deleted, made if missing.
        run_name: name of a run that is made.
        run_id: the run to go on with; if it is gone or no id of one, one is made.
        note: a file to which the run's id is written once it is known (see `noted_run`).

    Attributes:
        run_id: id of the run; of a run to be made, None until it is.
        experiment_id: None until the first delivery.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str | None,
        run_id: str | None,
        note: Path | None = None,
    ) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: F401  here, in the caller's thread: two threads importing at once can deadlock

        logging.getLogger("alembic").setLevel(logging.WARNING)
        # A locked database comes with a traceback, and is tried again: the outbox says so in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.run_id = run_id if isinstance(run_id, str) and re.fullmatch(r"\w[\w-]{0,255}", run_id) else None
        self.experiment_id: str | None = None
        self._uri = uri
        self._experiment = experiment
        self._run_name = run_name
        self._note = note
        self._token: str | None = None
        """Marks the run that is made here, to find it where a server made it and its answer was lost."""
        self._params: dict[str, str] = {}
        self._doubt = self.run_id is not None
        """Whether MLflow may have some of the metrics that are to be written."""
        self._steps: dict[str, set[int]] = {}
        """The steps that MLflow has of each metric, as far as they were asked for."""
        self._connection: tuple[MlflowClient, str] | None = None  # and the run's id

    def deliver(self, items: list[Item]) -> None:
        """Write items of one kind: `metrics`, `params`, `tags`, `artifact` or `status`.

        A metric that MLflow already has of the same step is not written again: a resumed run repeats the
        steps since its checkpoint, and a call that failed may have arrived all the same.

        Raises:
            Rejected: if MLflow refuses the items themselves.
            Exception: whatever MLflow raises while the server can't be reached.
        """
        from mlflow.exceptions import MlflowException

        if self._connection is None:
            self._connection = self._connect()
        try:
            getattr(self, f"_write_{items[0]['kind']}")(*self._connection, items)
        except Exception as error:
            if isinstance(error, MlflowException) and error.error_code in FINAL_ERRORS:
                raise Rejected(error.message) from error
            self._doubt, self._steps = True, {}
            raise

    def _write_metrics(self, client: "MlflowClient", run_id: str, items: list[Item]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key=name, value=value, timestamp=item["time_ms"], step=item["step"])
            for item in items
            for name, value in item["values"].items()
            if not (self._doubt and item["step"] in self._steps_of(client, run_id, name))
        ]
        for part in _parts(metrics, METRICS_PER_CALL):
            client.log_batch(run_id, metrics=part)

    def _steps_of(self, client: "MlflowClient", run_id: str, metric: str) -> set[int]:
        if metric not in self._steps:
            self._steps[metric] = {entry.step for entry in client.get_metric_history(run_id, metric)}
        return self._steps[metric]

    def _write_params(self, client: "MlflowClient", run_id: str, items: list[Item]) -> None:
        """MLflow's params never change: what a resumed run changes is kept as a tag `changed.<param>`."""
        from mlflow.entities import Param, RunTag

        params = dict(chain.from_iterable(item["values"].items() for item in items))
        new = {name: value for name, value in params.items() if name not in self._params}
        changed = {
            name: params[name] for name in params.keys() - new.keys() if params[name] != self._params[name]
        }
        for part in _parts(new.items(), PARAMS_PER_CALL):
            client.log_batch(run_id, params=[Param(name, value) for name, value in part])
        for part in _parts(changed.items(), PARAMS_PER_CALL):
            client.log_batch(run_id, tags=[RunTag(f"changed.{name}", value) for name, value in part])
        self._params |= new

    def _write_tags(self, client: "MlflowClient", run_id: str, items: list[Item]) -> None:
        from mlflow.entities import RunTag

        tags = dict(chain.from_iterable(item["values"].items() for item in items))
        for part in _parts(tags.items(), PARAMS_PER_CALL):
            client.log_batch(run_id, tags=[RunTag(name, value) for name, value in part])

    def _write_artifact(self, client: "MlflowClient", run_id: str, items: list[Item]) -> None:
        for item in items:
            if not Path(item["path"]).exists():
                raise Rejected(f"there is no file {item['path']} any more")
            client.log_artifact(run_id, item["path"], item["artifact_path"])

    def _write_status(self, client: "MlflowClient", run_id: str, items: list[Item]) -> None:
        status = items[-1]["status"]
        if status == "RUNNING":
            client.update_run(run_id, status=status)
        else:
            client.set_terminated(run_id, status)

    def _connect(self) -> tuple["MlflowClient", str]:
        from mlflow import MlflowClient
        from mlflow.tracking.context.registry import resolve_tags

        with self._creation_lock():
            client = MlflowClient(self._uri)
            experiment_id = self._find_experiment(client)
        run = self._find_run(client, self.run_id) if self.run_id else None
        if run is None and self._token is not None:
            made = client.search_runs([experiment_id], f"tags.`{TOKEN}` = '{self._token}'")
            run = made[0] if made else None
        if run is None:
            self._token = self._token or uuid.uuid4().hex
            # resolve_tags: user and script, which MLflow's table of runs shows
            tags = {**resolve_tags(), TOKEN: self._token}
            run = client.create_run(experiment_id, tags=tags, run_name=self._run_name)
        self._params = dict(run.data.params)
        self.run_id, self.experiment_id = run.info.run_id, run.info.experiment_id
        if self._note is not None:
            with suppress(OSError):
                self._note.write_text(json.dumps({"uri": starred(self._uri), "run": self.run_id}))
        return client, run.info.run_id

    def _creation_lock(self) -> AbstractContextManager[Any]:
        """Keep several processes from making the same SQLite database at once, which leaves it broken."""
        if not self._uri.startswith(SQLITE):
            return nullcontext()
        from filelock import FileLock

        database = Path(self._uri.removeprefix(SQLITE))
        database.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{database}.lock", timeout=120)

    def _find_experiment(self, client: "MlflowClient") -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return client.create_experiment(self._experiment, artifact_location=self._artifact_location())
            except MlflowException:  # another process may have been faster
                found = client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _artifact_location(self) -> str | None:
        """Beside an SQLite database; MLflow's default there is a folder of whatever is the working folder."""
        if not self._uri.startswith(SQLITE):
            return None
        folder = Path(self._uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts"
        return (folder / re.sub(r"/|^\.+", "_", self._experiment)).as_uri()

    def _find_run(self, client: "MlflowClient", run_id: str) -> "Run | None":
        from mlflow.exceptions import MlflowException

        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            log.warning("MLflow has no run %s (any more): a new one is made", run_id)
            return None
        if run.info.lifecycle_stage == "deleted":
            client.restore_run(run_id)
        return run


def _parts(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut `values` into lists of at most `size`."""
    iterator = iter(values)
    while part := list(islice(iterator, size)):
        yield part
