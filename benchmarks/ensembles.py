"""Ensembles of trained agents against their seeds, on the same starts.

    python benchmarks/ensembles.py play walker-walk/bmpc cup-catch/tdmpc2 --folder ensembles
    python benchmarks/ensembles.py table ensembles/*.csv --seeds dreammpc/trained/agents/*/*.csv \
        docs/line_search/*.csv

`play` is `lightning run evaluate checkpoint=agent:…-seed1,agent:…-seed2,agent:…-seed3 ensemble=true` for each
of the agents, with the policy, `dream_mpc`, `dream_mpc` with a line search and, with `--mppi N`, `mppi` on N
starts, which takes thirty times as long. What is there already is not played again. `table` finds each
ensemble's seeds in other rows, by planner and settings.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreammpc.evaluation.rows import Row, read_rows, write_rows
from dreammpc.trained.compare import compare

LINE_SEARCH = {"step_rule": "line_search", "step_size": 0.5, "iterations": 2}
CHOICES: dict[str, tuple[list[str], dict]] = {
    "default": (["policy", "dream_mpc"], {}),
    "line_search": (["dream_mpc"], LINE_SEARCH),
}


def play(agents: Sequence[str], folder: Path, starts: int, mppi: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for agent in agents:
        for name, (planners, settings) in [*CHOICES.items(), ("mppi", (["mppi"], {}))]:
            target, count = (
                folder / f"{agent.replace('/', '-')}-{name}.csv",
                mppi if name == "mppi" else starts,
            )
            if count == 0 or target.exists():
                continue
            files = [f"agent:{agent}-seed{seed}" for seed in (1, 2, 3)]
            seeds, rows = range(1000, 1000 + count), []
            for played in compare(files, planners, settings, seeds=seeds, device="cpu", ensemble=True):
                rows += played.rows
            write_rows(rows, target)


def same_planner(row: Row, other: Row) -> bool:
    """Whether both were planned alike; files of earlier versions lack later settings.

    An ensemble's value is the mean of its heads by default, that of a seed alone the least of its own.
    """
    mine, theirs = row["settings"], other["settings"]
    common = set(mine) & set(theirs) - {"value_reduction"}
    return row["planner"] == other["planner"] and all(mine[key] == theirs[key] for key in common)


def label(row: Row) -> str:
    searched = row["settings"].get("step_rule") == "line_search"
    least = row["settings"].get("value_reduction") == "min"
    return row["planner"] + ", line search" * searched + ", least head" * least


def table(ensembles: list[Row], seeds: list[Row]) -> None:
    """Lines of Markdown, and the mean differences of each planner."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in ensembles:
        groups[label(row), row["checkpoint"]].append(row)
    print(
        "| planner | agents | starts | mean of seeds | best seed | ensemble | - mean of seeds | - best seed |"
    )
    print(f"|---|---|{'---:|' * 6}")
    gains: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (planner, checkpoint), rows in sorted(groups.items()):
        mine, returns = {row["episode_seed"]: row["return"] for row in rows}, []
        for member in checkpoint.split(" + "):
            alike = [row for row in seeds if row["checkpoint"] == member and same_planner(row, rows[0])]
            returns.append({row["episode_seed"]: row["return"] for row in alike})
        if any(set(mine) - set(found) for found in returns):
            print(f"left out: --seeds has not all starts of {planner} with {checkpoint}", file=sys.stderr)
            continue
        each = np.array([[found[start] for start in mine] for found in returns])
        paired = np.array(list(mine.values())) - each.mean(0)
        error = paired.std(ddof=1) / len(paired) ** 0.5 if len(paired) > 1 else float("nan")
        best, mean = each.mean(1).max(), np.mean(list(mine.values()))
        gains[planner].append((paired.mean(), mean - best))
        name = checkpoint.split(" + ")[0].removeprefix("agent:").removesuffix("-seed1")
        cells = [planner, name, f"{len(mine)}", f"{each.mean():.0f}", f"{best:.0f}", f"{mean:.0f}"]
        print(f"| {' | '.join(cells)} | {paired.mean():+.0f} ± {error:.0f} | {mean - best:+.0f} |")
    for planner, found in gains.items():
        over_mean, over_best = np.array(found).mean(0)
        ahead = sum(gain > 0 for gain, _ in found), sum(gain > 0 for _, gain in found)
        print(
            f"\n{planner}: {over_mean:+.0f} against the mean of its seeds, {over_best:+.0f} against the best;"
            f" ahead on {ahead[0]} and {ahead[1]} of {len(found)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["play", "table"])
    parser.add_argument("given", nargs="+", help="play: TASK/NAME without -seedN; table: rows of ensembles")
    parser.add_argument("--folder", type=Path, default=Path("ensembles"))
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--mppi", type=int, default=0, help="starts that mppi plays")
    parser.add_argument("--seeds", nargs="+", default=[], help="table: rows of the seeds")
    given = parser.parse_args()
    if given.what == "play":
        play(given.given, given.folder, given.starts, given.mppi)
        return
    ensembles = [row for path in given.given for row in read_rows(path)]
    table(ensembles, [row for path in given.seeds for row in read_rows(path)])


if __name__ == "__main__":
    main()
