"""Plot the evaluation curves of runs, one line per run, and list their evaluations and final scores.

    python benchmarks/plot_runs.py docs/curves.png runs/cartpole-swingup/*
    python benchmarks/plot_runs.py bmpc.png runs/* --reference learning_curves.json --published tdmpc2 bmpc
    python benchmarks/plot_runs.py agents.png dreammpc/trained/agents/*/tdmpc2-seed*.json

Reads each run folder's metrics.jsonl and params.json, or the card of a trained agent. Published curves
(docs/evaluation.md) are points.
"""

import argparse
import json
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read(folder: Path) -> dict:
    if folder.suffix == ".json":
        card = json.loads(folder.read_text())
        final = {f"final/{row['planner']}": row["return"] for row in card["evaluations"]}
        kept = {key: card[key] for key in ("task", "seed", "curve")}
        return {**kept, "settings": {}, "final": final, "minutes": (card["seconds"] or 0) / 60}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    params = json.loads((folder / "params.json").read_text())
    curve = [(line["env_steps"], line["eval/return"]) for line in lines if "eval/return" in line]
    final = {key: value for line in lines for key, value in line.items() if key.startswith("final/")}
    return {
        "task": params["task"],
        "seed": params["seed"],
        "settings": dict(flatten(params)),
        "curve": curve,
        "final": final,
        "minutes": lines[-1]["wall_s"] / 60,
    }


def flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def label(run: dict, group: list[dict]) -> str:
    """The seed, and whatever learning setting differs within the group, of those that all its runs know."""
    known = set.intersection(*(set(r["settings"]) for r in group))
    names = [n for n in run["settings"] if n.startswith(("algorithm.", "model.", "planner.", "env."))]
    differ = [n for n in names if n in known and len({str(r["settings"][n]) for r in group}) > 1]
    chosen = {n.rpartition(".")[0] for n in differ if n.endswith(".name")}  # whose name says the rest
    said = [n for n in differ if n.endswith(".name") or n.split(".")[0] not in chosen]
    words = [
        f"{run['settings'][n]}" if n.endswith(".name") else f"{n.split('.')[-1]} {run['settings'][n]}"
        for n in said
    ]
    return textwrap.fill(", ".join([f"seed {run['seed']}", *words]), 40)


def main(target: str, folders: list[str], reference: Path | None, published: list[str]) -> None:
    runs = [read(Path(folder)) for folder in folders]
    curves = json.loads(reference.read_text()) if reference else {}
    by_task = defaultdict(list)
    for run in runs:
        by_task[run["task"]].append(run)
    columns = min(3, len(by_task))
    rows = -(-len(by_task) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for axis in axes.flat[len(by_task) :]:
        axis.axis("off")
    for axis, (task, group) in zip(axes.flat, by_task.items(), strict=False):
        for run in sorted(group, key=lambda run: run["seed"]):
            steps, returns = zip(*run["curve"], strict=True)
            axis.plot([s / 1000 for s in steps], returns, marker="o", ms=3, label=label(run, group))
        last = max(steps for run in group for steps, _ in run["curve"])
        for number, name in enumerate(published):
            found = curves[name].get(task, {"env_steps": [], "mean": []})
            count = 1 + sum(steps < last for steps in found["env_steps"])
            places = [steps / 1000 for steps in found["env_steps"][:count]]
            axis.plot(
                places, found["mean"][:count], "x+"[number % 2], color="black", label=f"{name}, published"
            )
        axis.set(title=task, xlabel="environment steps (thousands)", ylim=(0, 1000))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7).set_in_layout(False)
    for row in axes:
        row[0].set_ylabel("return, mean of 10 episodes")
    figure.tight_layout()
    figure.savefig(target, dpi=130)

    names = list(dict.fromkeys(name for run in runs for name in run["final"]))
    heads = ["task", "seed", *(f"`{name.removeprefix('final/')}`" for name in names)]
    print(f"| {' | '.join(heads)} | evaluations on the way | minutes |")
    print(f"|---|---:|{'---:|' * len(names)}---|---:|")
    for run in runs:
        scores = [f"{run['final'][name]:.1f}" if name in run["final"] else "" for name in names]
        curve = ", ".join(f"{score:.0f}" for _, score in run["curve"])
        print(f"| {' | '.join([run['task'], str(run['seed']), *scores, curve])} | {run['minutes']:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="picture to draw")
    parser.add_argument("folders", nargs="+", help="of runs")
    parser.add_argument("--reference", type=Path, help="JSON file of published curves")
    parser.add_argument("--published", nargs="+", default=[], help="which of them")
    args = parser.parse_args()
    main(args.target, args.folders, args.reference, args.published)
