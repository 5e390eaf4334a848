"""Draw what benchmarks/planners.py measured: latency over model steps, and print its table.

    python benchmarks/plot_planners.py docs/planners.png cpu.json --size 5M

A column per batch, a row per mode, of one device, size and dtype: that of the first row that is chosen.
"""

import argparse
import itertools
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from other_planners import OTHERS

GROUP = ("device", "size", "batch", "dtype", "mode")
HEAD = ("planner", "model steps", "median ms", "min ms", "times faster than mppi", "calls", "first call s")


def table_head() -> str:
    return f"| {' | '.join([*GROUP, *HEAD])} |\n|{'---|' * (len(GROUP) + 1)}{'---:|' * (len(HEAD) - 1)}"


def table_row(row: dict) -> str:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    cells = [*(str(row[key]) for key in (*GROUP, "planner")), f"{row['steps']:.0f}"]
    cells += [f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}", ratio, str(row["calls"])]
    cells.append(f"{row['first_s']:.1f}")
    return f"| {' | '.join(cells)} |"


def plot(rows: list[dict], target: str) -> None:
    kept = [row for row in rows if all(row[key] == rows[0][key] for key in ("device", "size", "dtype"))]
    modes, batches = ([*dict.fromkeys(row[key] for row in kept)] for key in ("mode", "batch"))
    size = (5.2 * len(batches), 4.0 * len(modes))
    figure, axes = plt.subplots(
        len(modes), len(batches), figsize=size, squeeze=False, layout="constrained", sharex=True, sharey=True
    )
    times, steps = [row["median_ms"] for row in kept], [row["steps"] for row in kept if row["steps"]]
    for (mode, batch), axis in zip(itertools.product(modes, batches), axes.flat, strict=True):
        axis.set(xscale="log", yscale="log", ylim=(min(times) / 1.6, max(times) * 1.6))
        axis.set(xlim=(min(steps, default=1) / 4, max(steps, default=1) * 4))
        axis.set_title(f"{mode}, {batch} environment{'s' if batch > 1 else ''}", fontsize=11)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        shown = [row for row in kept if (row["mode"], row["batch"]) == (mode, batch)]
        points(axis, sorted(shown, key=lambda row: row["median_ms"]))
    figure.supxlabel("model steps per action and environment (policy: none)", fontsize=11)
    figure.supylabel("median ms per call", fontsize=11)
    what = ", ".join(rows[0][key] for key in ("size", "device", "dtype"))
    figure.suptitle(f"TD-MPC2 {what}. Orange: other libraries, same model", fontsize=12)
    figure.savefig(target, dpi=110, facecolor="white")


def points(axis, rows: list[dict]) -> None:
    """A point for each row, rising in time, and its name in a column to the right."""
    to_axes = axis.transData + axis.transAxes.inverted()
    heights = [to_axes.transform((1, row["median_ms"]))[1] for row in rows]
    for row, height in zip(rows, spread(heights, 0.075), strict=True):
        ms, steps = row["median_ms"], row["steps"] or axis.get_xlim()[0]
        color = "tab:orange" if row["planner"] in OTHERS else "tab:blue"
        axis.plot(steps, ms, "o" if row["steps"] else ">", color=color, ms=6, clip_on=False, zorder=3)
        axis.annotate(
            f"{row['planner']}  {ms:.3g} ms" if ms < 1000 else f"{row['planner']}  {1e-3 * ms:.3g} s",
            (steps, ms),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=color,
            arrowprops={"arrowstyle": "-", "color": "0.75", "lw": 0.7, "relpos": (0, 0.5)},
        )


def spread(heights: list[float], gap: float, top: float = 1.0) -> list[float]:
    """Rising heights moved apart by `gap` at least: upwards first, then down from `top`."""
    up = list(itertools.accumulate(heights, lambda below, height: max(height, below + gap)))
    down = itertools.accumulate(
        reversed(up), lambda above, height: min(height, above - gap), initial=top + gap
    )
    return list(down)[:0:-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", help="picture to draw")
    parser.add_argument("files", nargs="+", help="saved with --json")
    for key in (*GROUP, "planner"):
        parser.add_argument(f"--{key}", nargs="+", help="rows to show; all, if not given")
    args = parser.parse_args()
    rows = [row for file in args.files for row in json.loads(Path(file).read_text())["rows"]]
    for key in (*GROUP, "planner"):
        rows = [row for row in rows if getattr(args, key) is None or str(row[key]) in getattr(args, key)]
    if not rows:
        parser.error("no saved row is of that choice")
    print("\n".join([table_head(), *map(table_row, rows)]))
    plot(rows, args.target)


if __name__ == "__main__":
    main()
