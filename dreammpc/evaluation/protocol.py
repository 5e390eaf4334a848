"""Which rows can be compared: one mode, and for a task one action repeat, environment and set of starts."""

import json
from collections import defaultdict
from collections.abc import Sequence

from dreammpc.evaluation.rows import Row
from dreammpc.interfaces import UsageError


def check_protocol(rows: Sequence[Row]) -> None:
    """Raise UsageError if rows cannot be held against each other."""
    modes = in_order(rows, "mode")
    if len(modes) > 1:
        who = [next(row for row in rows if row["mode"] == mode) for mode in modes[:2]]
        raise UsageError(
            f"several modes: {who[0]['planner']} on {who[0]['task']} acted {modes[0]}, {who[1]['planner']} on"
            f" {who[1]['task']} {modes[1]}; report scores of one mode"
        )
    for task in in_order(rows, "task"):
        of_task = [row for row in rows if row["task"] == task]
        repeats = in_order(of_task, "action_repeat")
        if len(repeats) > 1:
            raise UsageError(
                f"{task}: several action repeats, {repeats[0]} and {repeats[1]}; report one of them"
            )
        variants = [variant or "unknown" for variant in in_order(of_task, "variant")]
        if len(variants) > 1:
            raise UsageError(
                f"{task}: several versions of its environment, {' and '.join(variants)}; report one of them"
            )
        starts: dict[tuple, set[int]] = defaultdict(set)
        for row in of_task:
            starts[row["planner"], row["checkpoint"], json.dumps(row["settings"], sort_keys=True)].add(
                row["episode_seed"]
            )
        (first, seeds), *rest = starts.items()
        for other, theirs in rest:
            if theirs != seeds:
                raise UsageError(
                    f"{task}: {first[0]} ({first[1]}) played {_starts_text(seeds)}, {other[0]} ({other[1]})"
                    f" {_starts_text(theirs)}; evaluate all from the same starts"
                )


def _starts_text(seeds: set[int]) -> str:
    return f"{len(seeds)} starts from seed {min(seeds)}"


def in_order(rows: Sequence[Row], name: str) -> list:
    """The different values of a column, in order of appearance."""
    return list(dict.fromkeys(row.get(name) for row in rows))
