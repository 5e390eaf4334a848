"""What rows are worth: the same training in one environment and in many, over steps and over CPU time.

    PYTHONPATH=tests/helpers python benchmarks/rows.py --rows 1 64 --steps 24000 --output rows.png

Pendulums of tests/helpers, episodes of about 100 steps, one thread, nano and its policy. Trainings run
at once, each in a process; every evaluation plays five episodes. Prints a Markdown table, draws the curves.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def one(rows: int, steps: int, utd: float, every: int, seed: int) -> list[tuple[int, float, float]]:
    """Environment steps, CPU seconds and return at each evaluation of a training in this process."""
    from dreammpc.evaluation import Evaluator

    compare, times = Evaluator.compare, []

    def timed(self, *arguments):
        times.append(time.process_time())
        return compare(self, *arguments)

    Evaluator.compare = timed
    words = ["task=torchrl:pendulums:Pendulums", f"env.num_envs={rows}", f"steps={steps}", f"seed={seed}"]
    words += ["env.kwargs.shortest=100", "env.kwargs.torque=6", "model=nano", "planner=policy"]
    words += [f"algorithm.utd={utd}", "algorithm.batch_size=64", "algorithm.seed_steps=1920"]
    words += [f"evaluation.every={every}", "evaluation.episodes=5", "evaluation.planners=[policy]"]
    words += ["evaluation.video=false", "tracking=none", "trainer.compile=false"]
    sys.path.insert(0, str(ROOT / "recipes"))
    import train

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["train.py", *words, f"folder={folder}/run"]
        with contextlib.suppress(SystemExit):
            train.train()
        lines = [json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines()]
    found = [(line["env_steps"], line["eval/return"]) for line in lines if "eval/return" in line]
    return [(step, when - began, score) for (step, score), when in zip(found, times, strict=False)]


def draw(curves: dict[int, list], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for rows, points in curves.items():
        for axis, place in zip(axes, (0, 1), strict=True):
            axis.plot(
                [p[place] for p in points], [p[2] for p in points], label=f"{rows} row{'s' * (rows > 1)}"
            )
    axes[0].set(xlabel="environment steps", ylabel="return")
    axes[1].set(xlabel="CPU seconds")
    axes[0].legend()
    plt.tight_layout()
    plt.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--steps", type=int, default=24_000)
    parser.add_argument("--every", type=int, default=3_000)
    parser.add_argument("--utd", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", action="store_true", help="the first number of rows alone, in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.rows[0], options.steps, options.utd, options.every, options.seed)))
        return
    more = [f"--steps={options.steps}", f"--every={options.every}", f"--utd={options.utd}"]
    more += [f"--seed={options.seed}", "--one"]
    started = {
        rows: subprocess.Popen(
            [sys.executable, __file__, f"--rows={rows}", *more], stdout=subprocess.PIPE, text=True
        )
        for rows in options.rows
    }
    curves = {rows: json.loads(run.communicate()[0].splitlines()[-1]) for rows, run in started.items()}
    print("| rows | environment steps | CPU seconds | return |\n|---:|---:|---:|---:|")
    for rows, points in curves.items():
        for step, seconds, score in points:
            print(f"| {rows} | {step:,} | {seconds:.0f} | {score:.1f} |")
    if options.output:
        draw(curves, options.output)


if __name__ == "__main__":
    main()
