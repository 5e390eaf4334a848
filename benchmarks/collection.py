"""CPU time of collecting with a random policy, of two checkouts in turn: what checks and wrappers cost.

    python benchmarks/collection.py BEFORE AFTER [TASK ...]     # folders of checkouts

Each has a process of its own, which collects a block of steps when it is told to, in turn with the other.
Printed are medians of the blocks, and the median ratio of two blocks that follow each other.
"""

import argparse
import os
import statistics
import subprocess
import sys

BLOCKS, STEPS = 40, 50
CHILD = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from tensordict.nn import TensorDictModule
from torchrl.data import Composite
from torchrl.envs.transforms import TensorDictPrimer
from dreammpc.configuration.assembly import build_env
from dreammpc.data import make_collector

torch.set_num_threads(1)
env = build_env(sys.argv[1], 0)
shape = env.action_spec.shape
policy = TensorDictModule(lambda seen: torch.rand(shape) * 2 - 1, ["observation"], ["action"])
policy.make_tensordict_primer = lambda: TensorDictPrimer(Composite(shape=(1,)))
frames = iter(make_collector(env, policy))
for line in sys.stdin:
    began = time.process_time()
    for _ in range(int(line)):
        next(frames)
    print(time.process_time() - began, flush=True)
"""


class Side:
    """A process that collects with one checkout."""

    def __init__(self, tree: str, task: str):
        environment = {**os.environ, "PYTHONPATH": tree, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, task]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.block()  # what is made once

    def block(self) -> float:
        """Microseconds of CPU time per step."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{STEPS}\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            sys.exit("a process ended: its last lines are above")
        return 1e6 * float(line) / STEPS

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def main(before: str, after: str, tasks: list[str]) -> None:
    """Print a row of the docs' table for each task."""
    print("| task | before, us (steps/s) | after, us (steps/s) | after / before |\n|---|---:|---:|---:|")
    for task in tasks:
        sides = Side(before, task), Side(after, task)
        pairs = [[side.block() for side in sides] for _ in range(BLOCKS)]
        for side in sides:
            side.close()
        cells = [
            f"{(t := statistics.median(times)):.0f} ({1e6 / t:.0f})" for times in zip(*pairs, strict=True)
        ]
        ratios = [second / first for first, second in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {task} | {cells[0]} | {cells[1]} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("tasks", nargs="*", default=["cartpole-swingup", "gym-InvertedPendulum-v5"])
    args = parser.parse_args()
    main(args.before, args.after, args.tasks)
