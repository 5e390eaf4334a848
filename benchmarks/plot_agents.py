"""Draw what planners return on trained agents: a line for each agent, a mark for each planner.

    python benchmarks/plot_agents.py docs/hard_tasks.png ROWS… --planners policy dream_mpc mppi

Reads rows of `lightning run evaluate`. Planners are named as in the tables of `benchmarks/agents.py`, with
the settings in which they differ from their defaults. Agents that the first planner did not play are left
out.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from agents import by_agent
from matplotlib.backend_bases import FigureCanvasBase

from dreammpc.evaluation.rows import read_rows
from dreammpc.interfaces import UsageError

MARKS = "|osD^vPX"


def plot(target: str, rows: list[dict], planners: list[str]) -> None:
    """Means over episodes, with a thin line of one standard error to either side."""
    agents = by_agent(rows)
    known = sorted({name for played in agents.values() for name in played})
    for name in planners:
        if name not in known:
            raise UsageError(f"no rows of {name!r}; there are: {', '.join(known)}")
    agents = {name: played for name, played in agents.items() if planners[0] in played}
    kinds = FigureCanvasBase.get_supported_filetypes()
    if Path(target).suffix[1:] not in kinds:
        raise UsageError(f"{target}: expected a picture's name that ends in .{', .'.join(kinds)}")
    figure, axis = plt.subplots(figsize=(9, 0.9 + 0.42 * len(agents)), layout="constrained")
    for index, planner in enumerate(planners):
        lines = [line for line, played in enumerate(agents.values()) if played.get(planner)]
        returns = [played[planner] for played in agents.values() if played.get(planner)]
        values = [np.array(list(each.values())) for each in returns]
        heights = [line + 0.09 * (index - (len(planners) - 1) / 2) for line in lines]
        errors = [each.std(ddof=1) / len(each) ** 0.5 for each in values]
        means = [each.mean() for each in values]
        mark = {"fmt": MARKS[index % len(MARKS)], "ms": 7 if index else 11, "mew": 1 if index else 2}
        color = "0.25" if not index else f"C{index - 1}"
        axis.errorbar(means, heights, xerr=errors, label=planner, color=color, elinewidth=0.8, **mark)
    names = [f"{task}, {checkpoint.rpartition('/')[2]}" for task, checkpoint in agents]
    axis.set_yticks(range(len(agents)), names)
    axis.invert_yaxis()
    axis.set(xlabel="mean return, ± standard error over episodes", xlim=(0, None))
    axis.grid(axis="x", alpha=0.25)
    for line in range(len(agents) - 1):
        axis.axhline(line + 0.5, color="0.9", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(target, dpi=110, facecolor="white")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="the picture to write, such as agents.png or agents.svg")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--planners", nargs="+", required=True)
    own = parser.parse_args()
    try:
        plot(own.target, read_rows(own.rows), own.planners)
    except (UsageError, OSError) as error:
        sys.exit(f"error: {error}")
