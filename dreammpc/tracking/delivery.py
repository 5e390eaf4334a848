"""Sends a run folder's log and files to MLflow; `mlflow.json` keeps what has been sent."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from dreammpc.support.atomic import from_json
from dreammpc.support.run_folder import LOG, ORIGIN, PARAMS
from dreammpc.tracking.jsonl import record_of
from dreammpc.tracking.mlflow_run import Line, MlflowRun, Rejected
from dreammpc.tracking.note import RUNNING, Note

log = logging.getLogger(__name__)

LINES_PER_BATCH = 50
NONFINITE = ("nan", "inf", "-inf")


class Delivery:
    """Sends what a run's folder has and MLflow has not, from the place where the last delivery stopped.

    Args:
        folder: of the run. The log there may grow meanwhile.
        note: how far the run is delivered; saved in the folder as it goes on.
        uri: MLflow's whole address.
        tags: of the run, beside those of `origin.json`.
    """

    def __init__(self, folder: Path, note: Note, uri: str, tags: Mapping[str, str] | None = None) -> None:
        self.note = note
        self.run = MlflowRun(uri, note.experiment, note.run_name, note.token, note.run)
        self.torn = 0
        """Lines that were left out, since they are torn or not of a log."""
        self._folder = folder.resolve()
        self._tags = tags or {}
        self._described: dict[str, str] = {}
        self._lock = threading.Lock()  # of the note
        self._ended_ms: int | None = None
        self._disk_failed = False
        self.change()

    def change(self, want: Mapping[str, str | None] | None = None, **values: Any) -> None:
        """Set fields of the note and want more artifacts; a folder that is gone was deleted, and stays so."""
        with self._lock:
            self.note.artifacts |= want or {}
            for name, value in values.items():
                setattr(self.note, name, value)
            try:
                self.note.save(self._folder)
            except OSError as error:
                if not self._disk_failed and self._folder.exists():
                    log.warning("%s: how much MLflow has can't be noted: %s", self._folder, error)
                self._disk_failed = True

    def complete(self) -> bool:
        """Whether MLflow has all of a run that has ended."""
        note = self.note
        ended = note.status is not None and note.status == note.reported
        return ended and not note.artifacts and self._next()[0] == note.offset

    def send(self) -> int:
        """Send all that is there; return how many lines of the log that were.

        Raises:
            Exception: whatever MLflow raises while the server can't be reached. What was sent until then is
                noted.
        """
        if self.run.experiment_id is None:
            self._connect()
        self._send_descriptions()
        lines = self._send_lines()
        while names := list(self.note.artifacts):
            self._send_artifact(names[0])
        status = self.note.status
        if status not in (None, RUNNING, self.note.reported):
            self.run.write_status(status, self._ended_ms)
            self.change(reported=status)
        return lines

    def _connect(self) -> None:
        run = self.run.connect(self._began())
        if self.note.run not in (None, run):  # a new one, for that is gone
            self.change(offset=0)
        self.change(run=run, reported=None)

    def _send_descriptions(self) -> None:
        for name, write in ((ORIGIN, self.run.write_tags), (PARAMS, self.run.write_params)):
            path = self._folder / name
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "{}"
            if text == self._described.get(name):
                continue
            try:
                content = from_json(text)
                if name == ORIGIN:
                    content.pop("ended", None)  # MLflow has a status
                    content |= self._tags
                write(content)
            except (Rejected, ValueError, TypeError, AttributeError) as reason:
                log.warning("MLflow does not take all of %s: %s", path, reason)
            self._described[name] = text

    def _send_lines(self) -> int:
        count, began = 0, self._began()
        while True:
            end, lines = self._next(began)
            if end == self.note.offset:
                return count
            self._write(lines)
            self._ended_ms = lines[-1][1] if lines else self._ended_ms
            count += len(lines)
            self.change(offset=end)

    def _write(self, lines: Sequence[Line]) -> None:
        try:
            self.run.write_metrics(lines)
        except Rejected as reason:
            if len(lines) == 1:
                log.warning("MLflow does not take a line of %s: %s", self._folder / LOG, reason)
                return
            for line in lines:  # a bad one must not take its neighbors along, nor hold up what follows
                self._write([line])

    def _next(self, began: float | None = None) -> tuple[int, list[Line]]:
        """Some more lines, and where in the log they end. A line without its end is in writing."""
        end, lines = self.note.offset, []
        with suppress(FileNotFoundError), (self._folder / LOG).open("rb") as file:
            file.seek(end)
            for line in islice(file, LINES_PER_BATCH):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    lines.append(metrics_of(line.decode(), began))
                except ValueError:
                    self.torn += 1
        return end, lines

    def _send_artifact(self, name: str) -> None:
        place, path = self.note.artifacts[name], (self._folder / name).resolve()
        try:
            if not path.is_relative_to(self._folder):
                raise Rejected(f"{name} lies outside of {self._folder}")
            self.run.write_artifact(path, place)
        except Rejected as reason:
            log.warning("MLflow does not get a file: %s", reason)
        with self._lock:
            self.note.artifacts.pop(name)
        self.change()

    def _began(self) -> float | None:
        """Seconds since 1970 at which `wall_s` was 0, if that is known."""
        try:
            origin = from_json((self._folder / ORIGIN).read_text(encoding="utf-8"))
            return datetime.fromisoformat(origin["began"]).timestamp()
        except (LookupError, TypeError, ValueError, OverflowError, OSError):
            return None


def metrics_of(line: str, began: float | None) -> Line:
    """A line of a log as MLflow's step, milliseconds since 1970 and metrics.

    Args:
        line: of `metrics.jsonl`.
        began: seconds since 1970 at which `wall_s` was 0; None takes the time of now.

    Raises:
        ValueError: the line is torn or not one of ours.
    """
    record = record_of(line)
    step, wall = int(record.pop("env_steps")), record.pop("wall_s")
    seconds = time.time() if began is None else began + wall
    nonfinite = record.pop("nonfinite", {})
    if not (abs(step) < 2**63 and 0 <= seconds < 1e11 and isinstance(nonfinite, dict)):
        raise ValueError("no step, no time or no names")
    for name, text in nonfinite.items():
        if text not in NONFINITE:
            raise ValueError(f"{name} is {text!r}")
        record[name] = float(text)
    return step, int(1000 * seconds), {name: value for name, value in record.items() if value is not None}
