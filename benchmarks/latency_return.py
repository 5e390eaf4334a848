"""The return of an exported agent over an added latency, with and without planning ahead, in simulated time.

    python benchmarks/latency_return.py [--agent walker-walk] [--hz 50] [--episodes 5] [-o FOLDER]

Sensing, planning and acting take so many milliseconds together, whatever the machine. Without plan-ahead the
action for what was observed acts so much later; with it, the action for the state that the model predicts for
then. Rows are added to FOLDER/AGENT.csv as they are known, and a second call goes on. FOLDER/latency.svg is
drawn of all agents there.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from dreammpc.cli import deploy_commands
from dreammpc.deploy import ExportedAgent
from dreammpc.deploy.plant import simulate
from dreammpc.envs import make_env
from dreammpc.runtime.threads import set_threads

LATENCIES = (0, 10, 20, 40)
"""Milliseconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agent", default="walker-walk")
    parser.add_argument("--planner", default="dream_mpc")
    parser.add_argument("--hz", type=float, default=50.0)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("-o", "--output", default="latency", type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"{options.agent}.pt2"
    if not file.exists():
        words = (options.agent, options.planner, "pt2", str(file))
        deploy_commands.export(*words, ahead=2, seed=0, steps=20)
    set_threads(0)
    agent = ExportedAgent(file)
    task, repeats = agent.description["task"], agent.description["action_repeat"]
    env, path = make_env(task, 1, 0, 1), file.with_suffix(".csv")
    done = set(rows_of(path)) if path.exists() else set()
    for seed in range(options.episodes):
        for ms in LATENCIES:
            for ahead in (False, True) if ms else (False,):
                if (ms, ahead, seed) in done:
                    continue
                value = simulate(agent, env, repeats, options.hz, 1e-3 * ms, ahead, seed, 1_000_000)
                with path.open("a", newline="") as rows:
                    csv.writer(rows).writerow([ms, int(ahead), seed, f"{value:.2f}"])
                print(task, ms, ahead, seed, f"{value:.1f}", flush=True)
    env.close()
    draw(options.output)


def rows_of(path: Path) -> dict[tuple[int, bool, int], float]:
    """Latency in milliseconds, whether it planned ahead, the start → the return."""
    with path.open() as file:
        return {(int(ms), ahead == "1", int(s)): float(value) for ms, ahead, s, value in csv.reader(file)}


def draw(folder: Path) -> None:
    """One panel an agent, mean and single episodes; and the means as Markdown."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    paths = sorted(folder.glob("*.csv"))
    figure, axes = plt.subplots(1, len(paths), figsize=(4 * len(paths), 3), squeeze=False)
    for axis, path in zip(axes[0], paths, strict=True):
        for ahead, color, label in ((False, "#c0392b", "no plan-ahead"), (True, "#1f6fb2", "plan-ahead")):
            found = defaultdict(list)
            for (ms, planned, _), value in rows_of(path).items():
                if planned == ahead or ms == 0:  # without latency both are the same
                    found[ms].append(value)
            ms = sorted(found)
            means = [np.mean(found[one]) for one in ms]
            axis.plot(ms, means, "o-", color=color, label=label)
            for one in ms:
                axis.plot([one] * len(found[one]), found[one], ".", color=color, alpha=0.35, markersize=4)
            cells = " | ".join(f"{mean:.0f}" for mean in means)
            print(f"| {path.stem} | {label} | {len(found[0])} | {cells} |")
        axis.set(title=path.stem, xlabel="added latency, ms", ylim=(0, None), xticks=LATENCIES)
    axes[0][0].set_ylabel("return")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(folder / "latency.svg")


if __name__ == "__main__":
    main()
