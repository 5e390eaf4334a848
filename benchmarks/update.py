"""Time one TD-MPC2 update (horizon 3), eager and compiled, fp32 and bf16.

    python benchmarks/update.py --sizes nano 1M 5M --threads 2
    python benchmarks/update.py --sizes nano --settings compiled-fp32 --profile
    python benchmarks/update.py --sizes nano --obs pixels --batch-size 32
    python benchmarks/update.py --device cuda --sizes 5M --settings compiled-bf16 graphs-bf16

Prints a Markdown table: median and minimum milliseconds over the timed updates, the median's ratio to the
first setting of the same size, and the floor, the least that the matrix products of an update take by
themselves in the same precision (`benchmarks/products.py`), with their rate and the minimum's ratio to it;
all in one run. Run it alone, or with one thread and `--clock cpu`, which counts CPU time.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict

import torch
from device import multiply_as_trainings, named_device
from products import CLOCKS, floor
from tensordict import TensorDict

from dreammpc.agent import Agent
from dreammpc.algorithms import TDMPC2
from dreammpc.interfaces import OBS_KEYS
from dreammpc.models import SIZES, TDMPC2Model
from dreammpc.planning import make_planner

SETTINGS = ("eager-fp32", "compiled-fp32", "eager-bf16", "compiled-bf16")
GRAPHS = ("graphs-fp32", "graphs-bf16")
"""On a GPU; on a CPU they are what is compiled, called on fixed buffers."""
MODES = {"eager": "off", "compiled": "default", "graphs": "graphs"}


def random_batch(
    obs: str, obs_dim: int, action_dim: int, size: int, horizon: int, device: torch.device
) -> TensorDict:
    def observed() -> dict[str, torch.Tensor]:
        shape = (size, horizon, 9, 64, 64)
        make = {
            "observation": lambda: normal(obs_dim),
            "pixels": lambda: torch.randint(256, shape, dtype=torch.uint8, device=device),
        }
        return {key: make[key]() for key in OBS_KEYS[obs]}

    def normal(*shape):
        return torch.randn(size, horizon, *shape, device=device)

    after = {
        **observed(),
        "reward": normal(1).abs(),
        "terminated": torch.zeros(size, horizon, 1, dtype=torch.bool, device=device),
    }
    content = {**observed(), "action": normal(action_dim).clamp(-1, 1), "next": after}
    return TensorDict(content, [size, horizon], device=device)


class Update:
    """The arithmetic of `TDMPC2.training_step` without a Trainer."""

    def __init__(
        self, obs: str, size: str, compile: str, bf16: bool, batch: TensorDict, device: torch.device
    ):
        obs_dim = batch["observation"].shape[-1] if "observation" in OBS_KEYS[obs] else 0
        model = TDMPC2Model(obs_dim, batch["action"].shape[-1], obs=obs, **asdict(SIZES[size]))
        agent = Agent(model, make_planner("policy", model.action_dim))
        self.algorithm = TDMPC2(agent, compile=compile).to(device)
        self.optimizers = self.algorithm.configure_optimizers()
        self.algorithm.optimizers = lambda: self.optimizers
        self.algorithm.manual_backward = lambda loss: loss.backward()
        self.batch, self.bf16, self.device = batch, bf16, device

    def __call__(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=False):
            self.algorithm.training_step(self.batch, 0)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure(update: Update, runs: int, clock: str = "wall") -> tuple[float, float, float]:
    """Seconds of the first call; median and minimum milliseconds of `runs` calls after five more."""
    now = CLOCKS[clock]
    began = time.perf_counter()
    update()
    first = time.perf_counter() - began
    for _ in range(5):
        update()
    times = []
    for _ in range(runs):
        began = now()
        update()
        times.append(1e3 * (now() - began))
    return first, statistics.median(times), min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["nano", "1M", "5M"], choices=list(SIZES))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS + GRAPHS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", type=named_device, default="cpu")
    parser.add_argument("--obs", choices=list(OBS_KEYS), default="state")
    parser.add_argument("--obs-dim", type=int, default=24)
    parser.add_argument("--action-dim", type=int, default=6)
    parser.add_argument("--json", help="a file to which a line for each setting is added")
    parser.add_argument("--profile", action="store_true", help="print where the time of five updates goes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = args.device
    multiply_as_trainings(device)
    if args.profile:
        torch._inductor.config.cpp.enable_kernel_profile = True

    print(
        f"torch {torch.__version__}, {args.threads} threads, {device}, {args.clock} clock, "
        f"AMX {torch.cpu._is_amx_tile_supported()}"
    )
    print(
        "| size | setting | median ms | min ms | against first | floor ms | GFLOP/s | against floor"
        " | first call s |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for size in args.sizes:
        base = None
        for setting in args.settings:
            torch.manual_seed(0)
            batch = random_batch(args.obs, args.obs_dim, args.action_dim, args.batch_size, 3, device)
            update = Update(args.obs, size, MODES[setting.split("-")[0]], "bf16" in setting, batch, device)
            first, median, least = measure(update, args.runs, args.clock)
            base = base or median
            eager = Update(args.obs, size, "off", "bf16" in setting, batch, device)
            least_possible = floor(eager, device, clock=args.clock)
            cells = [
                size,
                setting,
                f"{median:.1f}",
                f"{least:.1f}",
                f"{median / base:.2f}",
                f"{least_possible.ms:.1f}",
                f"{least_possible.gflops:.0f}",
                f"{least / least_possible.ms:.2f}",
                f"{first:.1f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            if args.json:
                with open(args.json, "a") as file:
                    row = {"what": "update", "size": size, "setting": setting, "ms": median, "first_s": first}
                    file.write(json.dumps(row) + "\n")
            if args.profile:
                with torch.profiler.profile() as profile:
                    for _ in range(5):
                        update()
                print(
                    profile.key_averages().table(
                        sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=100
                    )
                )


if __name__ == "__main__":
    main()
