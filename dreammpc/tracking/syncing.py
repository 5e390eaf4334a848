"""`dreammpc sync`: what a run's folder has and MLflow has not, sent when the run has ended."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreammpc.interfaces import RunError, UsageError
from dreammpc.support.atomic import from_json, read_json
from dreammpc.support.run_folder import BEST, CHECKPOINTS, LAST, ORIGIN, OWN_FOLDER, PARAMS, find_runs
from dreammpc.tracking.addresses import full_address, redacted, store_address
from dreammpc.tracking.delivery import Delivery
from dreammpc.tracking.follower import one_line
from dreammpc.tracking.jsonl import last_record
from dreammpc.tracking.loggers import PARENT_TAG, address
from dreammpc.tracking.note import FINISHED, RUNNING, STATUS, Note, read_note

FILES = {f"{CHECKPOINTS}/{LAST}": CHECKPOINTS, f"{CHECKPOINTS}/{BEST}": CHECKPOINTS, "*.mp4": "videos"}
"""Artifacts of a run, by their place."""


def sync(
    paths: Sequence[str | Path],
    uri: str | None = None,
    own: Callable[[Path], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[str]:
    """Send what is missing of runs; yield one line for each.

    Args:
        paths: folders of runs, or that have some below, as a sweep's.
        uri: MLflow's address; None takes MLFLOW_TRACKING_URI, else `mlflow.db` in the working folder. A run
            that has been recorded elsewhere needs it.
        own: makes this process the owner of a run's folder meanwhile; raises UsageError while it is trained.

    Raises:
        UsageError: MLflow is not installed, a folder has no run, no such address, a run is in training or was
            recorded at another address.
        RunError: MLflow could not be reached. What was sent until then is noted.
    """
    if find_spec("mlflow") is None:
        raise UsageError("sync needs MLflow, which is not installed here")
    to, refused = store_address(address(uri, key="--uri")), []
    for runs in [find_runs(Path(path), whole_sweeps=True) for path in paths]:
        parent: str | None = None
        sweep: Path | None = None
        for folder in runs:
            above = parent if sweep and folder.is_relative_to(sweep) else None
            try:
                with own(folder):
                    delivery = _delivery(folder, to, uri is not None, above)
                    yield _sent(folder, to, delivery)
            except UsageError as reason:  # the others are sent
                refused.append(str(reason))
            else:
                if folder.name == OWN_FOLDER:
                    parent, sweep = delivery.note.run, folder.parent
    if refused:
        raise UsageError("; ".join(refused))


def _delivery(folder: Path, to: str, anywhere: bool, parent: str | None) -> Delivery:
    """What is left to be sent of a run."""
    note = read_note(folder) or Note(to, *_named(folder), status=None)
    if note.uri != to and not anywhere:
        raise UsageError(
            f"{folder} was recorded at {note.uri}: add --uri {note.uri} to go on there, or another --uri"
        )
    elsewhere = note.uri != to
    if elsewhere:
        note = Note(to, note.experiment, note.run_name, artifacts=note.artifacts, status=note.status)
    if elsewhere or note.status in (None, RUNNING):  # it did not come to name all of its artifacts
        found = {path: place for pattern, place in FILES.items() for path in folder.glob(pattern)}
        note.artifacts |= {str(path.relative_to(folder)): place for path, place in found.items()}
    if ended := STATUS.get(str(read_json(folder / ORIGIN, {}).get("ended"))):
        note.status = ended
    elif note.status in (None, RUNNING):  # killed, or trained without MLflow before `ended` was kept
        finals = folder.name != OWN_FOLDER and any(key.startswith("final/") for key in last_record(folder))
        note.status = FINISHED if finals else "KILLED"
    return Delivery(folder, note, full_address(to), {} if parent is None else {PARENT_TAG: parent})


def _named(folder: Path) -> tuple[str, str]:
    """Experiment and name of a run that MLflow does not know."""
    try:
        params = from_json((folder / PARAMS).read_text(encoding="utf-8"))
        settings = params["tracking"]
        name = settings["run_name"] or f"{params['task']}-seed{params['seed']}"
        return str(settings["experiment"]), str(name)
    except (OSError, ValueError, LookupError, TypeError):
        return "dreammpc", folder.name


def _sent(folder: Path, to: str, delivery: Delivery) -> str:
    lines, files = 0, len(delivery.note.artifacts)
    if not delivery.complete():
        try:
            lines = delivery.send()
        except Exception as error:
            raise RunError(
                f"MLflow at {to} can't be written ({one_line(error)}): {folder} keeps all, send it later"
            ) from error
    torn = f", {delivery.torn} torn lines left out" if delivery.torn else ""
    return (
        f"{folder}: {lines} lines and {files} files sent to run {delivery.note.run} at {redacted(to)}{torn}"
    )
