"""The files of a run's folder by their names, and which folders are of runs."""

from pathlib import Path

from dreammpc.interfaces import UsageError

LOG, NOTE = "metrics.jsonl", "mlflow.json"
PARAMS, ORIGIN = "params.json", "origin.json"
CHECKPOINTS = "checkpoints"
LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
OWN_FOLDER = ".mlflow"
"""Has the records of what is no training: a sweep as a whole, evaluations."""


def resumable_in(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder from which it could go on, the newer one first."""
    return [path for name in (LAST, PREVIOUS) if (path := folder / CHECKPOINTS / name).exists()]


def find_runs(folder: Path, whole_sweeps: bool = False) -> list[Path]:
    """The folder itself where it is that of a run, else all that are below it, sorted.

    Args:
        folder: of a run, or with some in it.
        whole_sweeps: also runs that ended before they had a log, and the records of what is no training, a
            sweep's before those of its runs.

    Raises:
        UsageError: no such folder, or there is none in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder")
    names = (LOG, NOTE, ORIGIN) if whole_sweeps else (LOG,)
    if any((folder / name).is_file() for name in names):
        return [folder]
    found = sorted({path.parent for name in names for path in folder.rglob(name)})
    if not whole_sweeps:
        found = [path for path in found if OWN_FOLDER not in path.relative_to(folder).parts]
    if not found:
        above = next((path for path in folder.resolve().parents if (path / LOG).is_file()), None)
        hint = f"; {above} is one" if above else ""
        raise UsageError(f"{folder} is no run folder and has none in it: there is no {LOG}{hint}")
    return found
