"""Time one action of an agent (observe and plan) for each planner, eager and compiled.

    python benchmarks/latency.py --sizes 5M --batch 1 --threads 2

Prints a Markdown table: median and minimum milliseconds, model steps, and the ratio to MPPI of the same mode,
all in one run. Run it alone.
"""

import argparse
import statistics
import time
from dataclasses import asdict

import torch
from tensordict import TensorDict

from dreammpc.agent import Agent
from dreammpc.models import SIZES, TDMPC2Model
from dreammpc.planning import make_planner

PLANNERS = ("mppi", "policy", "dream_mpc", "dream_mpc_paper")


def measure(agent: Agent, obs_dim: int, batch: int, runs: int) -> tuple[float, float, float, float]:
    """Seconds of the first call, median and minimum milliseconds of the others, model steps per action."""
    obs = TensorDict({"observation": torch.randn(batch, obs_dim)}, [batch])
    carry = agent.initial_carry(batch)
    is_init = torch.zeros(batch, 1, dtype=torch.bool)

    def act() -> float:
        nonlocal carry
        began = time.perf_counter()
        plan, carry = agent.step(obs, carry, is_init)
        act.steps = float(plan.diagnostics["evaluations"][0])
        return time.perf_counter() - began

    first = act()
    act(), act()
    times = [1e3 * act() for _ in range(runs)]
    return first, statistics.median(times), min(times), act.steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["5M"], choices=list(SIZES))
    parser.add_argument("--planners", nargs="+", default=list(PLANNERS))
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--obs-dim", type=int, default=24)
    parser.add_argument("--action-dim", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    print(f"torch {torch.__version__}, {args.threads} threads, batch {args.batch}")
    print(
        "| size | mode | planner | median ms | min ms | model steps | times faster than mppi | first call s |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for size in args.sizes:
        torch.manual_seed(0)
        model = TDMPC2Model(args.obs_dim, args.action_dim, **asdict(SIZES[size]))
        # Fresh value heads and reward are constant; an agent's are not.
        torch.nn.init.normal_(model.value_heads.weights[-1], std=0.02)
        torch.nn.init.normal_(model.reward.linears[-1].get_parameter("weight"), std=0.02)
        for mode in args.modes:
            base = None
            for name in args.planners:
                planner = make_planner(name, args.action_dim)
                agent = Agent(model, planner, noise_scale=1.0, compile=mode == "compiled")
                first, median, least, steps = measure(agent, args.obs_dim, args.batch, args.runs)
                base = median if name == "mppi" else base
                ratio = "" if base is None else f"{base / median:.1f}"
                row = [
                    size,
                    mode,
                    name,
                    f"{median:.2f}",
                    f"{least:.2f}",
                    f"{steps:.0f}",
                    ratio,
                    f"{first:.1f}",
                ]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
