"""CPU time of collecting with a random policy, of two checkouts in turn: what checks and wrappers cost.

python benchmarks/collection.py BEFORE AFTER [TASK ...]     # folders of checkouts
"""

import os
import statistics
import subprocess
import sys

ROUNDS, STEPS = 2, 400
CHILD = """
import sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from tensordict.nn import TensorDictModule
from torchrl.data import Composite
from torchrl.envs.transforms import TensorDictPrimer
from dreammpc.assembly import build_env
from dreammpc.data import make_collector

torch.set_num_threads(1)
task, steps = sys.argv[1], int(sys.argv[2])
env = build_env(task, 0)
shape = env.action_spec.shape
policy = TensorDictModule(lambda seen: torch.rand(shape) * 2 - 1, ["observation"], ["action"])
policy.make_tensordict_primer = lambda: TensorDictPrimer(Composite(shape=(1,)))
frames = iter(make_collector(env, policy))
for _ in range(100):
    next(frames)
for _ in range(5):
    began = time.process_time()
    for _ in range(steps):
        next(frames)
    print(1e6 * (time.process_time() - began) / steps)
"""


def main(before: str, after: str, *tasks: str) -> None:
    """Print the median and the least of each, in microseconds of CPU time per step."""
    for task in tasks or ("cartpole-swingup", "gym-InvertedPendulum-v5"):
        times: dict[str, list[float]] = {before: [], after: []}
        for _ in range(ROUNDS):
            for tree, found in times.items():
                environment = {**os.environ, "PYTHONPATH": tree, "OMP_NUM_THREADS": "1"}
                command = [sys.executable, "-c", CHILD, task, str(STEPS)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                found += map(float, done.stdout.split())
        for name, found in zip(("before", "after"), times.values(), strict=True):
            middle = statistics.median(found)
            print(
                f"{task} {name}: {middle:.0f} us, least {min(found):.0f}; {1e6 / middle:.0f} steps/s",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
