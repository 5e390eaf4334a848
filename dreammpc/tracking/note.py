"""`mlflow.json` in a run's folder: how much of the run MLflow has, and in which of its runs."""

import json
import re
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dreammpc.support.atomic import from_json, write_text
from dreammpc.support.run_folder import NOTE

RUNNING, FINISHED = "RUNNING", "FINISHED"
STATUS = {
    "success": FINISHED,
    "finished": FINISHED,
    "failed": "FAILED",
    "killed": "KILLED",
    "aborted": "KILLED",
}
"""MLflow's statuses by Lightning's and ours."""


@dataclass
class Note:
    """What is delivered of a run, and what is still to be.

    Attributes:
        uri: MLflow's address, redacted; compared, never called.
        experiment, run_name: of MLflow's run.
        run: its id, once it is known.
        token: a tag of the run that finds it where it was made and the answer was lost.
        offset: bytes of `metrics.jsonl` that are delivered.
        artifacts: files of the folder that are not, with their place among MLflow's artifacts.
        status: of the run; None if it went on without MLflow.
        reported: status that MLflow was told.
    """

    uri: str
    experiment: str = "dreammpc"
    run_name: str | None = None
    run: str | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    offset: int = 0
    artifacts: dict[str, str | None] = field(default_factory=dict)
    status: str | None = RUNNING
    reported: str | None = None

    def save(self, folder: Path) -> None:
        """Write it. Raises OSError."""
        write_text(folder / NOTE, json.dumps(asdict(self)) + "\n")


def read_note(folder: Path) -> Note | None:
    """The note in a run's folder; None where there is none, or one that is damaged or not of ours."""
    try:
        note = Note(**from_json((folder / NOTE).read_text(encoding="utf-8")))
        places = [place for place in note.artifacts.values() if place is not None]
        name = [] if note.run_name is None else [note.run_name]
        texts = [note.uri, note.experiment, *name, *note.artifacts, *places]
        sound = (
            all(isinstance(text, str) for text in texts)
            and all(re.fullmatch(r"\w+", place) for place in places)
            and all(is_id(text) for text in (note.token, note.run or note.token))
            and all(each in (None, RUNNING, *STATUS.values()) for each in (note.status, note.reported))
            and (type(note.offset) is int and 0 <= note.offset < 2**63)
        )
        return note if sound else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def is_id(text: object) -> bool:
    """Whether MLflow could have given a run this id."""
    return isinstance(text, str) and re.fullmatch(r"\w[\w-]{0,255}", text) is not None
