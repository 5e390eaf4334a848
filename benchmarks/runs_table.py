"""A table of training runs, by task and algorithm, beside published curves at equal environment steps.

    python benchmarks/runs_table.py RUN… --reference learning_curves.json [--rows scores.csv]

RUN is a run's folder. What an agent returns (in tasks whose published curves are of success, its success at
the last step) is, in this order: the mean of its rows of `lightning run evaluate` with `--planner`; its
last evaluation; the mean of its last ten logged training episodes, with exploration. Steps are that figure's.
Several seeds are averaged, and the published curves read where the seeds are in the mean, in a straight line
between their points. `best` is the highest of all curves of states there. Hours are those of the run's own
clock, whatever else its machine did.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np

from dreammpc.evaluation.rows import Row, read_rows
from dreammpc.interfaces import UsageError

EPISODES = 10
"""Of training, where nothing was evaluated."""
PIXELS = "-pixels"


class Found(NamedTuple):
    """What is known of a run."""

    seed: int
    steps: int
    hours: float
    value: float
    source: str


def read(folder: Path, quantity: str, rows: list[Row], planner: str) -> Found:
    """The best that a run's folder and `rows` say of `quantity`, "return" or "success"."""
    params = json.loads((folder / "params.json").read_text())
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    name = params["task"], params["algorithm"]["name"], params["seed"]
    own = [row for row in rows if (row["task"], row["algorithm"], row["train_seed"]) == name]
    own = [row for row in own if row["planner"] == planner]
    evaluations = [line for line in log if f"eval/{quantity}" in line]
    trained = [line for line in log if f"train/{quantity}" in line][-EPISODES:]
    if own:
        steps, value, source = own[0]["env_steps"], mean(row[quantity] for row in own), f"{len(own)} episodes"
    elif evaluations:
        steps, value = evaluations[-1]["env_steps"], evaluations[-1][f"eval/{quantity}"]
        source = f"{params['evaluation']['episodes']} episodes"
    elif trained:
        steps, value = trained[-1]["env_steps"], mean(line[f"train/{quantity}"] for line in trained)
        source = f"{len(trained)} training episodes"
    else:
        raise UsageError(f"{folder}: nothing is known of its {quantity} yet")
    clock = [line["wall_s"] for line in log if line["env_steps"] <= steps]
    return Found(params["seed"], steps, clock[-1] / 3600, value, source)


def at(curve: dict, steps: float) -> float:
    """A curve's mean there; NaN outside of it."""
    return float(np.interp(steps, curve["env_steps"], curve["mean"], left=np.nan, right=np.nan))


def line(task: str, algorithm: str, runs: list[Found], curves: dict, published: list[str]) -> str:
    metric = curves["tdmpc2"][task]["metric"]
    digits = 2 if metric == "success" else 0
    steps = mean(run.steps for run in runs)
    found = {
        name: at(tasks[task], steps)
        for name, tasks in curves.items()
        if task in tasks and not name.endswith(PIXELS)
    }
    best = max(found, key=lambda name: np.nan_to_num(found[name], nan=-np.inf))
    cells = [
        task,
        algorithm,
        ", ".join(f"{run.steps:,}" for run in runs),
        ", ".join(str(run.seed) for run in runs),
        f"{sum(run.hours for run in runs):.2f}",
        ", ".join(f"{run.value:.{digits}f}" for run in runs),
        "; ".join(dict.fromkeys(run.source for run in runs)),
        *(f"{found[name]:.{digits}f}" if name in found else "" for name in published),
        f"{found[best]:.{digits}f} ({best})",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="JSON file of published curves")
    parser.add_argument("--published", nargs="+", default=["bmpc", "tdmpc2"])
    parser.add_argument("--rows", nargs="*", default=[], help="CSV or JSON files of evaluations")
    parser.add_argument("--planner", default="dream_mpc")
    args = parser.parse_args()
    curves = json.loads(args.reference.read_text())
    rows = read_rows(args.rows) if args.rows else []
    groups = defaultdict(list)
    for folder in args.runs:
        params = json.loads((folder / "params.json").read_text())
        groups[params["task"], params["algorithm"]["name"]].append(folder)
    heads = [
        "task",
        "algorithm",
        "environment steps",
        "seeds",
        "hours",
        "ours",
        "of",
        *args.published,
        "best",
    ]
    print(f"| {' | '.join(heads)} |\n|---|---|---|---|---:|---|---|{'---:|' * (len(args.published) + 1)}")
    for (task, algorithm), folders in groups.items():
        quantity = "success" if curves["tdmpc2"][task]["metric"] == "success" else "return"
        found = [read(folder, quantity, rows, args.planner) for folder in folders]
        print(line(task, algorithm, found, curves, args.published))


if __name__ == "__main__":
    try:
        main()
    except (UsageError, OSError, json.JSONDecodeError) as error:
        sys.exit(f"error: {error}")
