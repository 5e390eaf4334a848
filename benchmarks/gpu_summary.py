"""The tables of gpu_check.sh: what ended how, what was measured against its aim, how trainings went.

    python benchmarks/gpu_summary.py STEPS.tsv OUT

Reads OUT/times.jsonl and OUT/curves.jsonl; prints Markdown.
"""

import argparse
import contextlib
import json
import math
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

AIMS = [
    ("update 5M, bf16", {"what": "update", "size": "5M", "setting": "graphs-bf16"}, 1.2),
    (
        "dream_mpc 5M, B = 1",
        {"what": "plan", "size": "5M", "batch": 1, "setting": "graphs", "planner": "dream_mpc"},
        0.5,
    ),
    (
        "dream_mpc 5M, B = 64",
        {"what": "plan", "size": "5M", "batch": 64, "setting": "graphs", "planner": "dream_mpc"},
        1.0,
    ),
    (
        "mppi 5M, B = 1",
        {"what": "plan", "size": "5M", "batch": 1, "setting": "graphs", "planner": "mppi"},
        1.5,
    ),
]
"""What, which row of times.jsonl it is, and the most milliseconds that it should take on one H100."""
DECISIONS = 600
"""A second in training walker-walk, 5M, with 8 environments and one update a step: the aim."""
FINE = ("0", "143")
"""Exit codes: 143 of what was to be stopped."""


def read(path: Path) -> list[dict]:
    """Rows of a JSON-lines file, but for lines cut short; none if there is no file."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def find(rows: list[dict], wanted: dict) -> float | None:
    """Milliseconds of the last row with those values."""
    found = [row["ms"] for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return found[-1] if found else None


def against(times: list[dict]) -> list[tuple[str, str, str]]:
    """What was measured against its aim."""
    lines = []
    for name, wanted, aim in AIMS:
        ms = find(times, wanted)
        lines.append((name, f"≤ {aim} ms", "not measured" if ms is None else f"{ms:.2f} ms"))
    update, plan = find(times, AIMS[0][1]), find(times, AIMS[1][1])
    for name, aim, ours, theirs in (
        (
            "updates: ours against the authors' program",
            2,
            update,
            find(times, {"what": "update", "setting": "authors"}),
        ),
        ("dream_mpc against our mppi, B = 1", 3, plan, find(times, AIMS[3][1])),
        (
            "dream_mpc against the authors' plan, B = 1",
            None,
            plan,
            find(times, {"what": "plan", "setting": "authors"}),
        ),
    ):
        ratio = "not measured" if ours is None or theirs is None else f"{theirs / ours:.1f}× faster"
        lines.append((name, "" if aim is None else f"≥ {aim}×", ratio))
    return lines


def card() -> str:
    """The name of the first GPU; torch would take seconds to import."""
    if shutil.which("nvidia-smi") is None:
        return "no GPU"
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
    return found[0] if found else "no GPU"


def number(value: float | None) -> float:
    """What a log says as null is not finite."""
    return math.nan if value is None else value


def found(package: str) -> str:
    """Its version; a dash where it has none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    steps, out = [line.split("\t") for line in args.steps.read_text(errors="replace").splitlines()], args.out
    times, curves = read(out / "times.jsonl"), read(out / "curves.jsonl")
    versions = ", ".join(
        f"{name} {found(name)}" for name in ("torch", "lightning", "torchrl", "numpy", "mujoco")
    )
    print(f"# {card()}, Python {platform.python_version()}, {versions}\n")
    print("| step | outcome | s | last line |\n|---|---|---:|---|")
    for name, code, seconds, last in steps:
        outcome = "ok" if code in FINE else code if code == "skipped" else f"FAILED ({code})"
        print(f"| {name} | {outcome} | {seconds} | {last.replace('|', '/')} |")
    print("\n| | aim | measured |\n|---|---|---|")
    lines = against(times)
    rates = [
        number(row["speed/env_steps_per_s"]) / 2
        for row in curves
        if row["run"] == "walker" and "speed/env_steps_per_s" in row
    ]
    rate = (
        f"{sorted(rates)[len(rates) // 2]:.0f} (median of {len(rates)} log lines)"
        if rates
        else "not measured"
    )
    for name, aim, measured in [*lines, ("walker-walk 5M, decisions a second", f"≥ {DECISIONS}", rate)]:
        print(f"| {name} | {aim} | {measured} |")
    print("\n| training | env steps | s | last train/return | at the end | updates/s | all finite |")
    print("|---|---:|---:|---:|---|---:|---|")
    for run in dict.fromkeys(row["run"] for row in curves):
        rows = [row for row in curves if row["run"] == run]
        returns = [number(row["train/return"]) for row in rows if "train/return" in row]
        speeds = [number(row["speed/updates_per_s"]) for row in rows if "speed/updates_per_s" in row]
        skipped = sum(row.get("count/skipped_updates") or 0 for row in rows)
        other = sorted({name for row in rows for name in row.get("nonfinite", {})})
        last = max((row.get("env_steps", row.get("step", 0)) for row in rows), default=0)
        score = f"{returns[-1]:.1f}" if returns else ""
        finals = {key: value for row in rows for key, value in row.items() if key.startswith("final/")}
        end = ", ".join(f"{key.removeprefix('final/')} {number(value):.1f}" for key, value in finals.items())
        seconds = max((row["wall_s"] for row in rows if "wall_s" in row), default=0.0)
        speed = f"{speeds[-1]:.1f}" if speeds else ""
        finite = ", ".join([f"{skipped:.0f} skipped"] * bool(skipped) + other) or "yes"
        print(f"| {run} | {last} | {seconds:.0f} | {score} | {end} | {speed} | {finite} |")
    print("\n| times | ms | first call s |\n|---|---:|---:|")
    for row in times:
        name = ", ".join(
            str(row[key]) for key in ("what", "size", "batch", "setting", "planner") if key in row
        )
        print(f"| {name} | {row['ms']:.3f} | {row['first_s']:.1f} |")


if __name__ == "__main__":
    main()
