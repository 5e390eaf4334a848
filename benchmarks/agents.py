"""Tables of trained agents, one line each, and of their tasks against published curves.

    python benchmarks/agents.py dreammpc/trained/agents/*/tdmpc2-seed?.csv --against mppi policy
    python benchmarks/agents.py scores.csv --reference learning_curves.json --published tdmpc2 bmpc

Reads rows of `lightning run evaluate`. The first table has the mean return of each agent and planner, and
how far `--planner` is from the others on the same starts (mean difference ± its standard error). With
`--reference` (docs/evaluation.md) a second one has the planner's mean over the agents of each task, and its
ratio to the first published curve after `--at` environment steps, interpolated.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from dreammpc.evaluation.results import default_settings
from dreammpc.evaluation.rows import Row, read_rows
from dreammpc.interfaces import UsageError

Agent = tuple[str, str]
"""Task and checkpoint."""


def by_agent(rows: list[Row]) -> dict[Agent, dict[str, dict[int, float]]]:
    """Agent → planner, with what is not as its defaults are → start → return."""
    found: dict[Agent, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    defaults = {name: default_settings(name) for name in {row["planner"] for row in rows}}
    for row in rows:
        usual = defaults[row["planner"]]
        other = [f"{key}={value}" for key, value in row["settings"].items() if value != usual.get(key, value)]
        returns = found[row["task"], row["checkpoint"]][" ".join([row["planner"], *other])]
        if row["episode_seed"] in returns:
            raise UsageError(f"{row['checkpoint']}: {row['planner']} played a start twice")
        returns[row["episode_seed"]] = row["return"]
    return found


def difference(planners: dict[str, dict[int, float]], one: str, other: str) -> str:
    """`+3.1 ± 0.4`, over the starts that both have; empty where there are fewer than two."""
    starts = sorted(set(planners[one]) & set(planners[other]))
    if len(starts) < 2:
        return ""
    gains = np.array([planners[one][start] - planners[other][start] for start in starts])
    return f"{gains.mean():+.1f} ± {gains.std(ddof=1) / len(gains) ** 0.5:.1f}"


def mean(returns: dict[int, float]) -> float:
    return float(np.mean(list(returns.values()))) if returns else float("nan")


def table(heads: list[str], lines: list[list[str]], words: int = 1) -> str:
    """Markdown, its first `words` columns to the left."""
    rule = ["---"] * words + ["---:"] * (len(heads) - words)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heads, rule, *lines])


def agents_table(rows: list[Row], planner: str, against: list[str]) -> str:
    agents = by_agent(rows)
    planners = list(dict.fromkeys(name for played in agents.values() for name in played))
    for name in (planner, *against):
        if name not in planners:
            raise UsageError(f"no rows of planner {name!r}; there are: {', '.join(planners)}")
    lines = []
    for (task, checkpoint), found in agents.items():
        returns = [f"{mean(found[name]):.1f}" if found[name] else "" for name in planners]
        gains = [difference(found, planner, other) for other in against]
        lines.append([f"{task}, {checkpoint.rpartition('/')[2]}", *returns, *gains])
    heads = [f"`{name}`" for name in planners] + [f"`{planner}` - `{other}`" for other in against]
    return table(["agent", *heads], lines)


def tasks_table(rows: list[Row], planner: str, curves: dict, published: list[str], at: float) -> str:
    steps, returns = defaultdict(list), defaultdict(list)
    for (task, checkpoint), found in by_agent(rows).items():
        returns[task].append(mean(found[planner]))
        steps[task].append(next(row["env_steps"] for row in rows if row["checkpoint"] == checkpoint))
    lines, ratios = [], []
    for task, means in returns.items():
        try:
            found = [(curves[name][task]["env_steps"], curves[name][task]["mean"]) for name in published]
        except KeyError as error:
            raise UsageError(f"the reference has no {error.args[0]!r} for {task}") from error
        points = [float(np.interp(at, *curve, left=np.nan, right=np.nan)) for curve in found]
        ratios.append(np.mean(means) / points[0])
        said = ", ".join(
            f"{count:,}" for count in (steps[task] if len(set(steps[task])) > 1 else steps[task][:1])
        )
        each = ", ".join(f"{value:.0f}" for value in means)
        shown = [f"{np.mean(means):.0f}", *(f"{point:.0f}" for point in points), f"{ratios[-1]:.2f}"]
        lines.append([task, said, each, *shown])
    names = [f"published, {name}" for name in published]
    heads = ["task", "environment steps", f"`{planner}`", "mean", *names, f"ratio to {published[0]}"]
    return f"{table(heads, lines, 3)}\n\nmean ratio {np.mean(ratios):.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="+", help="CSV or JSON files")
    parser.add_argument("--planner", default="dream_mpc")
    parser.add_argument("--against", nargs="*", default=[], help="other planners")
    parser.add_argument("--reference", type=Path, help="JSON file of published curves")
    parser.add_argument("--published", nargs="+", default=["tdmpc2"], help="which of them")
    parser.add_argument("--at", type=float, default=100_000, help="environment steps")
    args = parser.parse_args()
    try:
        rows = read_rows(args.rows)
        print(agents_table(rows, args.planner, args.against))
        if args.reference:
            curves = json.loads(args.reference.read_text())
            print(f"\n{tasks_table(rows, args.planner, curves, args.published, args.at)}")
    except (UsageError, OSError, json.JSONDecodeError) as error:
        sys.exit(f"error: {error}")
