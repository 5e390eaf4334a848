"""Ten value heads, and the least of all in targets and plans, against two: the table of docs/ablations.md.

    python benchmarks/heads.py docs/heads

Reads rows of `lightning run evaluate` in four files of a folder: `two.csv` and `ten.csv` with `policy` and
`dream_mpc`, whose plans take the least head at their end, and `two_mean.csv` and `ten_mean.csv` with
`dream_mpc` and `planner.value_reduction=mean`.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from dreammpc.evaluation.rows import read_rows
from dreammpc.interfaces import UsageError

Returns = dict[tuple[str, int], dict[int, float]]
"""Task and training seed → start → return."""


def returns(path: Path, planner: str) -> Returns:
    found: Returns = defaultdict(dict)
    for row in read_rows([str(path)]):
        if row["planner"] == planner:
            found[row["task"], row["train_seed"]][row["episode_seed"]] = row["return"]
    return found


def line(name: str, values: np.ndarray, differences: np.ndarray) -> str:
    """Means of `values` [runs, columns], and of `differences` [n] with their standard error."""
    error = differences.std(ddof=1) / len(differences) ** 0.5
    shown = [f"{value:.0f}" for value in values.mean(0)]
    return f"| {name} | {' | '.join(shown)} | {differences.mean():+.0f} ± {error:.0f} |"


def table(folder: Path) -> str:
    """Markdown: a line for each run, over its starts; for each task and for all, over their runs."""
    columns = [
        returns(folder / f"{heads}{suffix}.csv", planner)
        for planner, suffix in (("policy", ""), ("dream_mpc", ""), ("dream_mpc", "_mean"))
        for heads in ("two", "ten")
    ]
    lines = [
        "| agent | `policy`, 2 | 10 | `dream_mpc`, 2 | 10 | plans with the mean head, 2 | 10 | 10 - 2 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    tasks: dict[str, list[list[float]]] = defaultdict(list)
    for run, two in columns[2].items():
        gains = [columns[3][run][start] - value for start, value in two.items()]
        tasks[run[0]].append([float(np.mean(list(column[run].values()))) for column in columns])
        lines.append(line(f"{run[0]}, {run[1]}", np.array(tasks[run[0]][-1:]), np.array(gains)))
    for name, means in [*tasks.items(), ("all", [run for runs in tasks.values() for run in runs])]:
        values = np.array(means)
        lines.append(line(name, values, values[:, 3] - values[:, 2]))
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the four files")
    try:
        print(table(parser.parse_args().folder))
    except (UsageError, OSError, KeyError) as error:
        sys.exit(f"error: {error}")
