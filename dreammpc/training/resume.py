"""Opening the folder of a new run, or of one that goes on."""

from datetime import datetime
from pathlib import Path
from typing import Any

from dreammpc.interfaces import UsageError
from dreammpc.training.checkpoint import DESCRIPTION, load_checkpoint
from dreammpc.training.replicas import world_size


def open_folder(folder: str | Path) -> Path:
    """Make the folder of a run and prove that it can be written.

    Raises:
        UsageError: no permission, no space, or a file in the way.
    """
    path = Path(folder).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{datetime.now():%H%M%S%f}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"run folder {path} cannot be written: {error.strerror}") from error
    return path


def open_resume(checkpoint: str | Path, **expected: Any) -> dict[str, Any]:
    """The description of the checkpoint that a run goes on from.

    Args:
        checkpoint: a `last.ckpt`.
        expected: facts that must agree with it, such as `task="walker-walk"`.

    Raises:
        UsageError: the file is missing or damaged, holds weights only, differs from `expected`, or belongs
            to another number of processes (each has a replay of its own).
    """
    facts = load_checkpoint(checkpoint)[DESCRIPTION]
    if "resume" not in facts:
        raise UsageError(f"checkpoint {checkpoint} holds weights only; resume from last.ckpt beside it")
    for name, value in expected.items():
        if facts[name] != value:
            raise UsageError(f"checkpoint {checkpoint} has {name} {_short(facts[name])}, not {_short(value)}")
    saved_by, now = len(facts["resume"]["ranks"]), world_size()
    if saved_by != now:
        raise UsageError(
            f"checkpoint {checkpoint} was saved by {saved_by} process{'es' * (saved_by > 1)}, and {now} would"
            f" go on; as many must, each with its own replay: `--devices {saved_by}` on one machine"
        )
    return facts


def _short(value: Any) -> str:
    return str(value.get("name", value)) if isinstance(value, dict) else str(value)
