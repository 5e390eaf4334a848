"""Draw docs/first_command.svg from docs/first_command.csv: evaluations of the first command's three seeds.

python benchmarks/plot_first_command.py
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DOCS = Path(__file__).resolve().parents[1] / "docs"
COLORS = ("tab:blue", "tab:orange", "tab:green")


def main() -> None:
    panels: dict[str, dict] = defaultdict(lambda: defaultdict(list))
    with open(DOCS / "first_command.csv") as file:
        for row in csv.DictReader(file):
            point = int(row["env_steps"]) / 1000, float(row["return"])
            panels[row["command"]][row["planner"], int(row["seed"])].append(point)
    matplotlib.rcParams["svg.hashsalt"] = "first command"
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.0), sharey=True, squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for (planner, seed), points in sorted(lines.items()):
            color = COLORS[(seed - 1) % len(COLORS)]
            if planner == "policy":
                axis.plot(*zip(*points, strict=True), "x", color=color)
            else:
                axis.plot(*zip(*points, strict=True), marker="o", ms=3, color=color, label=f"seed {seed}")
        axis.set(title=title, xlabel="environment steps (thousands)", ylim=(0, 1000))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("return, mean of 10 episodes")
    axes[0][-1].plot([], [], "kx", label="bare policy at the end")
    axes[0][-1].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(DOCS / "first_command.svg", metadata={"Date": None})


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
