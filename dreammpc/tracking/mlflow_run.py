"""The calls to MLflow that write one run."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreammpc.support.nested import flattened
from dreammpc.tracking.note import RUNNING, is_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger(__name__)

SQLITE = "sqlite:///"

# Limits of one call (mlflow/utils/validation.py).
METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100

# The follower tries again, so MLflow need not: its own defaults block for minutes. Telemetry, progress bars
# and printed links have no place in a training's background. Whatever the user has set stays.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}
TOKEN = "dreammpc.made_by"
MODEL = "model"
"""Folder of an agent as a model among a run's artifacts."""

# Longest texts that MLflow takes (mlflow/utils/validation.py); a tag's limit was once 5000.
LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 5000


class Rejected(Exception):
    """Raised by a write whose content is wrong in itself: sending it again would not help."""


Line = tuple[int, int, Mapping[str, float]]
"""Environment steps, milliseconds since 1970, metrics."""


class MlflowRun:
    """One run, found or made at the first write that reaches the server.

    Every write raises `Rejected` if MLflow refuses the content itself, and whatever MLflow raises while the
    server cannot be reached.

    Args:
        uri: MLflow's tracking URI.
        experiment: found by name, restored if deleted, made if missing.
        run_name: name of a run that is made.
        token: tag of a run that is made, to find it where a server made it and its answer was lost.
        run_id: the run to go on with; if it is gone or no id of one, one is made.

    Attributes:
        run_id: id of the run; of a run to be made, None until it is.
        experiment_id: None until the server has answered.
    """

    def __init__(
        self, uri: str, experiment: str, run_name: str | None, token: str, run_id: str | None = None
    ) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: F401  here, in the caller's thread: two threads importing at once can deadlock

        logging.getLogger("alembic").setLevel(logging.WARNING)
        # A locked database comes with a traceback, and is tried again: the follower says so in one line.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self.run_id = run_id if is_id(run_id) else None
        self.experiment_id: str | None = None
        self._uri = uri
        self._experiment = experiment
        self._run_name = run_name
        self._token = token
        self._began: float | None = None
        self._params: dict[str, str] = {}
        self._doubt = self.run_id is not None
        """Whether MLflow may have some of the metrics that are to be written."""
        self._steps: dict[str, set[int]] = {}
        """The steps that MLflow has of each metric, as far as they were asked for."""
        self._client: MlflowClient | None = None

    def connect(self, began: float | None = None) -> str:
        """Find or make the run, if that has not been done; it is running then. Returns its id.

        Args:
            began: seconds since 1970 at which a run that is made began; now by default.
        """
        self._began = began
        return self._connected()[1]

    def write_metrics(self, lines: Iterable[Line]) -> None:
        """Write metrics, but for those that MLflow has of the same step.

        A resumed run repeats the steps since its checkpoint, and a call that failed may have arrived.
        """
        from mlflow.entities import Metric

        with self._call() as (client, run_id):
            metrics = [
                Metric(key=name, value=value, timestamp=time_ms, step=step)
                for step, time_ms, values in lines
                for name, value in ((_clean(key), value) for key, value in values.items())
                if not (self._doubt and step in self._steps_of(client, run_id, name))
            ]
            for part in _parts(metrics, METRICS_PER_CALL):
                client.log_batch(run_id, metrics=part)

    def write_params(self, tree: Mapping[str, Any]) -> None:
        """Write params: nested mappings become dotted names, long values are cut.

        MLflow's params never change: what a resumed run changes is kept as a tag `changed.<param>`.
        """
        from mlflow.entities import Param

        with self._call() as (client, run_id):
            params = {_clean(name): _cut(value, LONGEST_PARAM) for name, value in flattened(tree)}
            new = {name: value for name, value in params.items() if name not in self._params}
            for part in _parts(new.items(), PARAMS_PER_CALL):
                client.log_batch(run_id, params=[Param(name, value) for name, value in part])
            before, self._params = self._params, self._params | new
        self.write_tags({f"changed.{n}": v for n, v in params.items() if before.get(n, v) != v})

    def write_tags(self, tags: Mapping[str, Any]) -> None:
        """Write tags; one that exists is replaced."""
        from mlflow.entities import RunTag

        with self._call() as (client, run_id):
            for part in _parts(tags.items(), PARAMS_PER_CALL):
                cut = [RunTag(_clean(name), _cut(value, LONGEST_TAG)) for name, value in part]
                client.log_batch(run_id, tags=cut)

    def write_artifact(self, path: Path, place: str | None) -> None:
        """Upload a file to `place` among the run's artifacts."""
        try:
            path.open("rb").close()
        except OSError as error:
            raise Rejected(f"{path} cannot be read: {error.strerror}") from error
        with self._call() as (client, run_id):
            client.log_artifact(run_id, str(path), place)

    def write_status(self, status: str, time_ms: int | None = None) -> None:
        """Say how the run ended, and when; now by default."""
        with self._call() as (client, run_id):
            client.set_terminated(run_id, status, time_ms)

    def register(self, folder: Path, name: str) -> str:
        """Upload a model and make it a version of the registered model `name`; return the version."""
        from mlflow.exceptions import MlflowException

        with self._call() as (client, run_id):
            others = sum(each.path.startswith(MODEL) for each in client.list_artifacts(run_id))
            place = f"{MODEL}-{others + 1}" if others else MODEL  # what a version is never changes
            client.log_artifacts(run_id, str(folder), place)
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            return str(client.create_model_version(name, f"runs:/{run_id}/{place}", run_id).version)

    @contextmanager
    def _call(self) -> Iterator[tuple["MlflowClient", str]]:
        from mlflow.exceptions import MlflowException

        connection = self._connected()
        try:
            yield connection
        except Exception as error:
            if isinstance(error, MlflowException) and error.error_code in FINAL_ERRORS:
                raise Rejected(error.message) from error
            self._doubt, self._steps = True, {}
            raise

    def _steps_of(self, client: "MlflowClient", run_id: str, metric: str) -> set[int]:
        if metric not in self._steps:
            self._steps[metric] = {entry.step for entry in client.get_metric_history(run_id, metric)}
        return self._steps[metric]

    def _connected(self) -> tuple["MlflowClient", str]:
        if self._client is None or self.run_id is None:
            self._client = self._connect()
        assert self.run_id is not None
        return self._client, self.run_id

    def _connect(self) -> "MlflowClient":
        from mlflow import MlflowClient
        from mlflow.tracking.context.registry import resolve_tags

        with self._creation_lock():
            client = MlflowClient(self._uri)
            experiment_id = self._find_experiment(client)
        run = self._find_run(client, self.run_id) if self.run_id else None
        if run is None:
            made = client.search_runs([experiment_id], f"tags.`{TOKEN}` = '{self._token}'")
            run, self._doubt = (made[0], True) if made else (None, self._doubt)
        if run is None:
            # resolve_tags: user and script, which MLflow's table of runs shows
            tags = {**resolve_tags(), TOKEN: self._token}
            began = None if self._began is None else int(1000 * self._began)
            run = client.create_run(experiment_id, began, tags, self._run_name)
        elif run.info.status != RUNNING:
            client.update_run(run.info.run_id, status=RUNNING)
        self._params = dict(run.data.params)
        self.run_id, self.experiment_id = run.info.run_id, run.info.experiment_id
        return client

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


def _clean(name: str) -> str:
    """A name that MLflow takes: letters, digits, `_ - . / ` and spaces."""
    return re.sub(r"[^\w./ -]", "_", name)[:LONGEST_NAME]


def _cut(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def _parts(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut `values` into lists of at most `size`."""
    iterator = iter(values)
    while part := list(islice(iterator, size)):
        yield part
