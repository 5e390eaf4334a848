"""Time a replay's sampling at its full size, and measure its memory.

    python benchmarks/replay.py                     # states: 256 slices of 4 at a million transitions
    python benchmarks/replay.py --obs pixels --rows 100000 --window 3

Rows and frames are random numbers, written as a training writes them, in episodes of `--episode` steps.
Prints a Markdown table: median and minimum milliseconds of a sample and of appending one transition, the
memory that the replay took as the operating system counts it, and what `replay_bytes` said beforehand.
"""

import argparse
import statistics
import time

import psutil
import torch
from tensordict import TensorDict

from dreammpc.data import Replay, replay_bytes
from dreammpc.training import keep_memory

CHUNK = 1000


def chunk(args: argparse.Namespace, start: int, size: int, keys: tuple[str, ...]) -> TensorDict:
    """Transitions `start` to `start + size` of one environment, [1, size]."""

    def observed() -> dict[str, torch.Tensor]:
        whole = {
            "observation": torch.randn(1, size, args.obs_dim),
            "pixels": torch.randint(256, (1, size, 3, 64, 64), dtype=torch.uint8),
        }
        return {key: whole[key] for key in keys}

    step = torch.arange(start, start + size).view(1, size, 1)
    ends = torch.zeros(1, size, 1, dtype=torch.bool)
    after = {**observed(), "reward": torch.rand(1, size, 1), "terminated": ends}
    now = {**observed(), "action": torch.rand(1, size, args.action_dim), "is_init": step % args.episode == 0}
    return TensorDict({**now, "next": after}, [1, size])


def timed(function, runs: int) -> list[float]:
    """Milliseconds of each run, sorted; three more come before."""
    times = []
    for i in range(runs + 3):
        began = time.perf_counter()
        function()
        if i >= 3:
            times.append(1e3 * (time.perf_counter() - began))
    return sorted(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--obs", choices=["state", "pixels", "both"], default="state")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--episode", type=int, default=500)
    parser.add_argument("--obs-dim", type=int, default=24)
    parser.add_argument("--action-dim", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_memory()

    keys = {"state": ("observation",), "pixels": ("pixels",), "both": ("observation", "pixels")}[args.obs]
    replay = Replay(args.rows, 1, args.window, args.batch_size, obs_keys=keys)
    content = chunk(args, 0, CHUNK, keys)
    process = psutil.Process()
    before = process.memory_info().rss
    for start in range(0, args.rows, CHUNK):
        content["is_init"] = torch.arange(start, start + CHUNK).view(1, -1, 1) % args.episode == 0
        replay.extend(content)
    taken = process.memory_info().rss - before
    samples = timed(replay.sample, args.runs)
    one = content[:, 1:2]
    appends = timed(lambda: replay.extend(one), args.runs)
    said = replay_bytes(
        args.rows, 1, args.obs_dim if "observation" in keys else 0, args.action_dim, "pixels" in keys
    )
    print(f"torch {torch.__version__}, {args.threads} threads, slices {args.batch_size} of {args.window}")
    print("| obs | transitions | sample, median ms | min ms | append ms | taken MB | said MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {args.obs} | {args.rows} | {statistics.median(samples):.2f} | {samples[0]:.2f} |"
        f" {statistics.median(appends):.2f} | {taken / 1e6:.0f} | {said / 1e6:.0f} |"
    )


if __name__ == "__main__":
    main()
