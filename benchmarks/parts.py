"""Time a plan of mppi for several environments on a CPU, scored in parts and all at once, in turns.

    python benchmarks/parts.py --sizes nano 1M 5M --batch 10 --threads 1

`Imagination.score` takes `CPU_ROWS` sequences at a time, whose layers' outputs a CPU's caches hold. Prints a
Markdown table: median milliseconds of a call for all environments, the ratio, and whether the actions
are the same bits.
"""

import argparse
import statistics

import torch
from planners import make_case, random_model, timed
from tensordict import TensorDict

from dreammpc.models import SIZES
from dreammpc.planning import imagination


def row(size: str, batch: int, rounds: int) -> list[str]:
    """Times of one model size."""
    model = random_model(size, torch.device("cpu"))
    obs = torch.randn(batch, model.obs_dim)
    latent = model.observe(TensorDict({"observation": obs}, obs.shape[:1]), None, None).float()
    sizes = {"parts": imagination.CPU_ROWS, "whole": batch * 10_000}
    cases = {name: make_case("mppi", model, latent, "eager", {}) for name in sizes}
    times: dict[str, list[float]] = {name: [] for name in sizes}
    actions = {}
    for _ in range(rounds):
        for name, case in cases.items():
            imagination.CPU_ROWS = sizes[name]
            torch.manual_seed(len(times[name]))
            times[name].append(timed(case, torch.device("cpu")))
    for name, case in cases.items():
        imagination.CPU_ROWS = sizes[name]
        torch.manual_seed(rounds)
        actions[name] = case.call()
    imagination.CPU_ROWS = sizes["parts"]
    parts, whole = (statistics.median(times[name]) for name in ("parts", "whole"))
    same = "yes" if torch.equal(actions["parts"], actions["whole"]) else "no"
    return [size, str(batch), f"{whole:.0f}", f"{parts:.0f}", f"{whole / parts:.2f}", same]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["nano", "1M", "5M"], choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=10, help="environments")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| size | environments | all at once, ms | in parts, ms | times faster | same bits |")
    print("|---|---:|---:|---:|---:|---|")
    with torch.no_grad():
        for each in args.sizes:
            print(f"| {' | '.join(row(each, args.batch, args.rounds))} |", flush=True)
