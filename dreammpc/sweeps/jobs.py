"""The grid of a sweep: one folder for each run, and how far it has come."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreammpc.evaluation.rows import read_rows
from dreammpc.interfaces import UsageError
from dreammpc.support.atomic import from_json, write_text
from dreammpc.support.names import file_name
from dreammpc.support.run_folder import CHECKPOINTS, LAST, resumable_in
from dreammpc.tracking.jsonl import last_record

SHORT = 0.99
"""A run is over at this share of its steps: agent steps do not always add up to what was asked for."""


@dataclass(frozen=True)
class Job:
    """One training, and the evaluation that may follow."""

    task: str
    seed: int
    planner: str | None
    """That collects; None leaves it to the recipe."""
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINTS / LAST

    @property
    def scores(self) -> Path:
        """Where the evaluation's rows go."""
        return self.folder / "scores.csv"

    def state(self, steps: int) -> str:
        """`finished` (`steps` environment steps and the comparison after them), `interrupted` or `new`."""
        if self.finals() and last_record(self.folder).get("env_steps", 0) >= SHORT * steps:
            return "finished"
        return "interrupted" if resumable_in(self.folder) else "new"

    def finals(self) -> dict[str, float]:
        """Mean return by planner at the end of the training; empty before it."""
        last = last_record(self.folder).items()
        return {key.removeprefix("final/"): value for key, value in last if key.startswith("final/")}

    def evaluated(self, planners: Sequence[str]) -> bool:
        """Whether `scores` has rows of all `planners`, later than the checkpoint."""
        if not planners:
            return True
        try:
            if self.scores.stat().st_mtime < self.checkpoint.stat().st_mtime:
                return False
            return set(planners) <= {row["planner"] for row in read_rows([self.scores])}
        except (OSError, UsageError):  # one of the files is missing, or the scores are damaged
            return False


def grid(folder: Path, tasks: Sequence[str], seeds: Sequence[int], planners: Sequence[str]) -> list[Job]:
    """All runs, seed by seed, so that every task has one run before any has two.

    Raises:
        UsageError: no seed, one that is named twice, or tasks whose folders would have one name.
    """
    for name, values in (("seeds", seeds), ("planners", planners)):
        if len(set(values)) < len(values) or not (values or name == "planners"):
            raise UsageError(f"{name}: expected different ones, at least one, got {list(values)}")
    collecting: Sequence[str | None] = planners or [None]
    places: dict[Path, str] = {}
    for task in tasks:
        # Earlier versions took the task's name as it is.
        place = folder / (task if (folder / task).is_dir() else file_name(task))
        if other := places.get(place):
            raise UsageError(f"tasks: {other} and {task} would have one folder, {place}; give each a sweep")
        places[place] = task
    return [
        Job(task, seed, planner, place / (f"{planner}-seed{seed}" if planner else f"seed{seed}"))
        for seed, planner, (place, task) in itertools.product(seeds, collecting, places.items())
    ]


def reserve_folder(folder: Path, overrides: Sequence[str], dry: bool = False) -> None:
    """Note the trainings' overrides in `folder/sweep.json`; a folder holds runs of one kind only.

    More `steps`, other tracking and other devices do not make another kind. `dry` only looks.

    Raises:
        UsageError: the folder belongs to a sweep with other overrides.
    """
    loose = ("steps", "tracking", "trainer")
    own = sorted(word for word in overrides if word.partition("=")[0].split(".")[0] not in loose)
    note = folder / "sweep.json"
    try:
        there = from_json(note.read_text(encoding="utf-8"))["overrides"]
        there = [str(word) for word in there]
    except (OSError, ValueError, KeyError, TypeError):
        if dry:
            return
        write_text(note, json.dumps({"overrides": own}))
        return
    if there != own:
        raise UsageError(
            f"folder {folder} holds a sweep with {' '.join(there) or 'no overrides'}, not with"
            f" {' '.join(own) or 'none'}; choose another with folder="
        )
