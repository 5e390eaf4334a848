"""Opening the folder of a new run, or of one that goes on; finding the checkpoint that it goes on from."""

import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from dreammpc.interfaces import UsageError
from dreammpc.support import faults
from dreammpc.support.atomic import check_not_read
from dreammpc.support.names import file_name, printable
from dreammpc.support.run_folder import CHECKPOINTS, LAST, resumable_in
from dreammpc.tracking.provenance import versions
from dreammpc.training.archive import damaged, names
from dreammpc.training.checkpoint_format import DESCRIPTION, load_checkpoint
from dreammpc.training.distributed_env import world_size
from dreammpc.training.owner import check_free, own
from dreammpc.training.replicas import broadcast_from_rank_zero

log = logging.getLogger(__name__)

RUNS = Path("runs")
"""Where runs lie that were given no folder."""


def open_folder(folder: str | Path) -> Path:
    """Make a folder and prove that it can be written.

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
        raise UsageError(f"folder {path} cannot be written: {error.strerror}") from error
    return path


def open_target(file: str | Path, read: Iterable[str | Path] = ()) -> Path:
    """The path of a file that is going to be written; its folder is made.

    Args:
        file: its name.
        read: files that the same command reads.

    Raises:
        UsageError: it is a folder or one of those that are `read`, or its folder cannot be written.
    """
    path = Path(file)
    if path.is_dir():
        raise UsageError(f"{path} is a folder, and a file of that name cannot be written")
    check_not_read(path, read)
    open_folder(path.parent)
    return path


def open_run(folder: str | Path | None, resume: str | Path | None, task: str = "", seed: int = 0) -> Path:
    """The folder of a run, which belongs to this training from here on (see `owner`).

    Args:
        folder: its name; it must hold no run yet. None makes a new one, `runs/TASK/seedN-TIME`.
        resume: a checkpoint, whose run's folder is taken instead.
        task, seed: of the run.

    Raises:
        UsageError: it cannot be written, a new run would go over another one, or another training owns it.
    """
    path = open_folder(broadcast_from_rank_zero(lambda: str(_open_first(folder, resume, task, seed))))
    faults.keep_in(path)
    return path


def _open_first(folder: str | Path | None, resume: str | Path | None, task: str, seed: int) -> Path:
    """What the first of the processes of a run does."""
    if resume is not None:
        path = Path(resume).absolute().parent.parent
        check_links(path)
        own(open_folder(path))
        return path
    if folder is None:
        place = (RUNS / file_name(task)).absolute()
        made = [each for each in (place, *place.parents) if not each.exists()]
        path = new_folder(RUNS / file_name(task) / f"seed{seed}-{datetime.now():%Y%m%d-%H%M%S}")
        own(path, [path.absolute(), *made])
        return path
    path = Path(folder).resolve()
    made = [each for each in (path, *path.parents) if not each.exists()]
    check_links(path)
    own(open_folder(folder), made)
    if taken := resumable_in(Path(folder)):
        raise UsageError(
            f"run folder {folder} holds a run already ({taken[0].name}): go on with it by resume=auto,"
            " or choose another folder"
        )
    return Path(folder)


def check_links(folder: Path) -> None:
    """Raise UsageError if a link in a run's folder leads out of it: what the run writes would go there.

    So it is with a folder that cannot be looked through, and with one within another run's checkpoints.
    """
    inside = folder.resolve()
    for path in (inside, *inside.parents):
        if path.name == CHECKPOINTS and resumable_in(path.parent):
            raise UsageError(
                f"run folder {folder} lies among the checkpoints of the run {path.parent}: choose another"
            )
    try:
        for path in folder.rglob("*"):
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise UsageError(
                    f"run folder {folder}: {path.relative_to(folder)} in it is a link to {path.resolve()},"
                    " and a run writes within its folder only: put the file or folder itself there"
                )
    except (OSError, RuntimeError) as error:  # the latter of links in a circle
        why = " ".join(str(error).split())
        raise UsageError(f"run folder {folder} cannot be looked through ({why}): choose another") from error


def new_folder(path: Path) -> Path:
    """Make a folder that was not there: `path`, or with `-2`, `-3`, … behind where that is taken.

    Raises:
        UsageError: it cannot be made.
    """
    for number in itertools.count(1):
        new = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            new.mkdir(parents=True)
            return new
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"folder {path.resolve()} cannot be written: {error.strerror}") from error
    raise AssertionError("unreachable")


def open_resume(checkpoint: str | Path, steps: int | None = None, **expected: Any) -> dict[str, Any]:
    """The description of the checkpoint that a run goes on from.

    Args:
        checkpoint: a `last.ckpt`.
        steps: environment steps at which the run is to end, if that is known.
        expected: facts that must agree with it, such as `task="walker-walk"`.

    Raises:
        UsageError: the file is missing or damaged, holds weights only, has no replay beside it, is beyond
            `steps`, differs from `expected`, or belongs to another number of processes (each has a replay of
            its own).
    """
    facts = load_resumable(checkpoint)
    replay = Path(checkpoint).parent / "replay"
    for rank, share in enumerate(facts["resume"]["ranks"]):
        if lost := [name for name in names(share) if not (replay / f"rank{rank}" / name).exists()]:
            raise UsageError(
                f"checkpoint {checkpoint} resumes with the folder {replay} beside it, and there is no"
                f" rank{rank}/{lost[0]} in that: copy replay/ too, from where the checkpoint was saved"
                " (to evaluate it, the file alone is enough)"
            )
    if steps is not None and facts["env_steps"] > steps and facts["config"]["steps"] > steps:
        raise UsageError(
            f"checkpoint {checkpoint} is at {facts['env_steps']} environment steps: steps must be more,"
            f" got {steps}"
        )
    for name, value in expected.items():
        if facts[name] != value:
            raise UsageError(f"checkpoint {checkpoint} has {_difference(name, facts[name], value)}")
    here, there = versions(), facts.get("versions", {})
    other = [f"{name} {was} (here {here.get(name)})" for name, was in there.items() if here.get(name) != was]
    if other:
        log.warning(
            "checkpoint %s was written with %s: not exact to the bit", checkpoint, printable(", ".join(other))
        )
    saved_by, now = len(facts["resume"]["ranks"]), world_size()
    if saved_by != now:
        raise UsageError(
            f"checkpoint {checkpoint} was saved by {saved_by} process{'es' * (saved_by > 1)}, and {now} would"
            f" go on; as many must, each with its own replay: `--devices {saved_by}` on one machine"
        )
    return facts


def load_resumable(checkpoint: str | Path) -> dict[str, Any]:
    """The description of a checkpoint that has all that a run is to go on from.

    Raises:
        UsageError: the file is missing or damaged, or holds weights only.
    """
    facts = load_checkpoint(checkpoint)[DESCRIPTION]
    if "resume" not in facts:
        raise UsageError(f"checkpoint {checkpoint} holds weights only; resume from {LAST} beside it")
    for name in ("task", "model", "env_steps", "config.steps", "config.algorithm.name", "resume.ranks"):
        part: Any = facts
        for key in name.split("."):
            part = part.get(key) if isinstance(part, dict) else None
        if part is None:
            raise UsageError(f"checkpoint {checkpoint} is damaged: it lacks {name}")
    return facts


def find_resumable(folders: list[Path], **expected: Any) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, its replay included.

    In each folder `last.ckpt` is newer than `previous.ckpt`; among folders the time of writing decides.

    Args:
        folders: of runs.
        expected: facts of the run that it must have, by their names in its configuration, such as `seed=1`.

    Returns:
        The checkpoint, or None if there is none at all; and a line for each damaged one that was passed over.

    Raises:
        UsageError: there are checkpoints, and all of them are damaged; or the run is still going on.
    """
    said: list[str] = []
    for path in _newest_first(folders):
        try:
            facts = load_resumable(path)
        except UsageError as error:
            said.append(str(error))
            continue
        if any(facts["config"].get(name) != value for name, value in expected.items()):
            continue
        if os.environ.get("RANK", "0") == "0":  # the others of this very training may come after it
            check_free(path.parent.parent)
        shares = enumerate(facts["resume"]["ranks"])
        torn = [name for i, share in shares if (name := damaged(path.parent / "replay" / f"rank{i}", share))]
        if not torn:
            return path, said
        said.append(f"checkpoint {path}: its replay file {torn[0]} is missing or damaged")
    if said:
        raise UsageError(f"no whole checkpoint to go on from: {'; '.join(said)}")
    return None, []


def runs_of(task: str) -> list[Path]:
    """Folders of the runs of a task that were given none; earlier versions took the task's name as it is."""
    return sorted(folder for name in {file_name(task), task} for folder in (RUNS / name).glob("*/"))


def _newest_first(folders: list[Path]) -> Iterator[Path]:
    found = {folder: paths for folder in folders if (paths := resumable_in(folder))}
    for folder in sorted(found, key=lambda f: found[f][0].stat().st_mtime, reverse=True):
        yield from found[folder]


def _difference(name: str, was: Any, now: Any) -> str:
    """`NAME a, not b`; of settings that bear one name, the first that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        if was.get("name") == now.get("name"):
            key = next(key for key in {**now, **was} if was.get(key, "none") != now.get(key, "none"))
            return f"{name}.{key}={was.get(key, 'none')}, not {now.get(key, 'none')}"
        was, now = was.get("name", was), now.get("name", now)
    return f"{name} {was}, not {now}"
