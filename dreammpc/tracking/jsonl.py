"""Metrics as lines of JSON: what is left of a run when all else is down."""

import contextlib
import json
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dreammpc.interfaces import RunError
from dreammpc.support.atomic import from_json, write_text
from dreammpc.support.run_folder import LOG, NOTE, ORIGIN, PARAMS
from dreammpc.tracking.note import STATUS, read_note

LARGEST = sys.float_info.max
"""JSON has larger numbers, but none that can be computed with."""


class JSONLLogger(Logger):
    """Append `{"env_steps": int, "wall_s": float, **metrics}` to `folder/metrics.jsonl`, line by line.

    `wall_s` is seconds since the run's start, without the time between a stop and its resume. JSON has no NaN
    and no infinity: such a metric is null, and a further key, `"nonfinite": {name: "nan" | "inf" | "-inf"}`,
    says which it was. Only rank zero writes.

    Args:
        folder: the run folder, made if missing.
        resume_step: the clock (see `Feed`) of the checkpoint that the run goes on from. Later lines are
            dropped, in one atomic step, so that no step appears twice, and so is the comparison at an earlier
            end. None begins a run: what is there was written by one that ended before its first checkpoint,
            and goes. Infinity keeps all.
    """

    def __init__(self, folder: str | Path, resume_step: float | None = None) -> None:
        super().__init__()
        self._path = Path(folder).resolve() / LOG
        self.goes_on = False
        """Whether the run goes on when Lightning's `fit` is over, which calls `finalize`."""
        self._elapsed = 0.0
        self._tags: dict[str, Any] = {}
        if getattr(rank_zero_only, "rank", 0) == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._elapsed = _rewind(self._path, -math.inf if resume_step is None else resume_step)
        self._start = time.monotonic()

    @property
    def name(self) -> str:
        """The name of the file without its ending."""
        return self._path.stem

    @property
    def version(self) -> str | None:
        """None: a folder holds one run."""
        return None

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self._path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line.

        Args:
            metrics: scalars by name; tensors of one element are read, which waits for their device.
            step: environment steps (0 if None).

        Raises:
            RunError: the folder is gone.
        """
        wall = self._elapsed + time.monotonic() - self._start
        line: dict[str, Any] = {"env_steps": int(step or 0), "wall_s": round(wall, 3)}
        nonfinite = {}
        for name, value in metrics.items():
            number = float(value)
            if math.isfinite(number):
                line[name] = number
            else:
                line[name] = None
                nonfinite[name] = str(number)
        if nonfinite:
            line["nonfinite"] = nonfinite
        # Opened anew each time: 50 µs, and the line survives whatever happens to this process.
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except FileNotFoundError as error:
            raise RunError(f"run folder {self._path.parent} was deleted", saveable=False) from error

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Write `params.json`; what JSON does not know is written as its `str`."""
        values = vars(params) if isinstance(params, Namespace) else dict(params)
        text = json.dumps(values, indent=2, default=str) + "\n"
        write_text(self._path.with_name(PARAMS), text)

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Add to `origin.json`: which code, versions and machine the run came from, and when it began.

        `began` is the time at which `wall_s` was 0, as if the run had never paused.
        """
        began = time.time() - (self._elapsed + time.monotonic() - self._start)
        self._tags |= {**tags, "began": datetime.fromtimestamp(began, UTC).isoformat()}
        write_text(self._path.with_name(ORIGIN), json.dumps(self._tags, indent=2, default=str) + "\n")

    @rank_zero_only
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Nothing: a file of the run folder is where it belongs."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Keep in `origin.json` how the run ended, for `dreammpc sync`; the last status holds.

        Does nothing while `goes_on` is true.

        Args:
            status: "success" or "finished", "failed", "killed" or "aborted".

        Raises:
            ValueError: on any other status.
        """
        if status not in STATUS:
            raise ValueError(f"unknown status {status!r}; there are {', '.join(STATUS)}")
        if self.goes_on:
            return
        with contextlib.suppress(OSError):  # a full disk, a deleted folder: said by what met it first
            self.log_tags({"ended": status})

    def hint(self) -> str:
        """One line that says where to look at the run."""
        return f"log: {self._path}"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without those torn by a kill or not of ours; none if there is no log."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(record_of(line))
    return found


def last_record(folder: Path, within: int = 1 << 16) -> dict[str, Any]:
    """The last whole line of a run's log, of its last `within` bytes; empty if there is none."""
    with contextlib.suppress(OSError), (folder / LOG).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - within))
        for line in reversed(file.read().splitlines()):
            with contextlib.suppress(ValueError):
                return record_of(line.decode())
    return {}


def record_of(line: str) -> dict[str, Any]:
    """A line of a log. Raises ValueError if it is torn or not one."""
    record = from_json(line)
    if not isinstance(record, dict):
        raise ValueError("no object")
    for name, value in record.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
        if not (number or value is None or name == "nonfinite"):
            raise ValueError(f"{name} is no number")
    if None in (record.setdefault("env_steps", 0), record.setdefault("wall_s", 0.0)):
        raise ValueError("no step or time")
    return record


def _rewind(path: Path, last_step: float) -> float:
    """Drop lines later than `last_step`, those of an earlier end, and a last line torn by a kill.

    What is noted of lines at MLflow is rewound as well. With a `last_step` of -inf a run begins, of which
    there is nothing yet.

    Returns:
        The last `wall_s` kept.
    """
    note = read_note(path.parent)
    if last_step == -math.inf:
        for name in (LOG, PARAMS, ORIGIN, NOTE):
            path.with_name(name).unlink(missing_ok=True)
    if not path.exists():
        return 0.0
    kept, wall, place, delivered = [], 0.0, 0, 0
    text = path.read_bytes()
    for line in text.splitlines(keepends=True):
        place += len(line)
        try:
            record = record_of(line.decode())
        except ValueError:
            continue
        ended = last_step < math.inf and any(name.startswith("final/") for name in record)
        if record["env_steps"] <= last_step and not ended:
            kept.append(line if line.endswith(b"\n") else line + b"\n")
            wall = record["wall_s"]
            delivered += len(line) if note and place <= note.offset else 0
    if note:
        note.offset, note.status = delivered, None
        note.save(path.parent)
    if (rewound := b"".join(kept)) != text:
        write_text(path, rewound.decode())
    return wall
