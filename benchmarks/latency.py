"""Time one action of an agent (observe and plan) for each planner, eager, compiled and as a CUDA graph.

    python benchmarks/latency.py --sizes 5M --batch 1 --threads 2
    python benchmarks/latency.py --device cuda --sizes 5M --batch 1 64 --modes compiled graphs

Prints a Markdown table: median and minimum milliseconds, model steps, the ratio to MPPI of the same mode, and
the floor, the least that the matrix products of a plan take by themselves (`benchmarks/products.py`), with
the minimum's ratio to it; all in one run. Run it alone, or with one thread and `--clock cpu`.
"""

import argparse
import itertools
import json
import statistics
from dataclasses import asdict

import torch
from device import multiply_as_trainings, named_device
from products import CLOCKS, floor
from tensordict import TensorDict

from dreammpc.agent import Agent
from dreammpc.models import SIZES, TDMPC2Model
from dreammpc.planning import make_planner

MODES = {"eager": "off", "recorded": "recorded", "compiled": "default", "graphs": "graphs"}
PLANNERS = ("mppi", "policy", "dream_mpc", "dream_mpc_paper")


def start(agent: Agent, obs_dim: int, batch: int) -> tuple[TensorDict, TensorDict, torch.Tensor]:
    """What `Agent.step` takes: a random observation, a fresh carry, no episode that begins."""
    obs = TensorDict({"observation": torch.randn(batch, obs_dim)}, [batch])
    return obs, agent.initial_carry(batch), torch.zeros(batch, 1, dtype=torch.bool)


def measure(
    agent: Agent, obs_dim: int, batch: int, runs: int, clock: str = "wall"
) -> tuple[float, float, float, float]:
    """Seconds of the first compiled call, median and minimum ms of others, model steps per action."""
    obs, carry, is_init = start(agent, obs_dim, batch)

    def act() -> float:
        nonlocal carry
        began = CLOCKS[clock]()
        plan, carry = agent.step(obs, carry, is_init)
        act.steps = float(plan.diagnostics["evaluations"][0])
        return CLOCKS[clock]() - began

    act()  # checks the planner, not compiled
    first = act()
    act()
    times = [1e3 * act() for _ in range(runs)]
    return first, statistics.median(times), min(times), act.steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["5M"], choices=list(SIZES))
    parser.add_argument("--planners", nargs="+", default=list(PLANNERS))
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"], choices=list(MODES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--device", type=named_device, default="cpu")
    parser.add_argument("--json", help="a file to which a line for each planner is added")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--obs-dim", type=int, default=24)
    parser.add_argument("--action-dim", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = args.device
    multiply_as_trainings(device)

    print(
        f"torch {torch.__version__}, {device}, {args.threads} threads, {args.clock} clock;"
        " observations come from the host"
    )
    print(
        "| size | B | mode | planner | median ms | min ms | model steps | times faster than mppi"
        " | floor ms | against floor | first call s |"
    )
    print("|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for size in args.sizes:
        torch.manual_seed(0)
        model = TDMPC2Model(args.obs_dim, args.action_dim, **asdict(SIZES[size]))
        # Fresh value heads and reward are constant; an agent's are not.
        torch.nn.init.normal_(model.value_heads.weights[-1], std=0.02)
        torch.nn.init.normal_(model.reward.linears[-1].get_parameter("weight"), std=0.02)
        model.to(device)
        for batch, mode in itertools.product(args.batch, args.modes):
            base = None
            for name in args.planners:
                planner = make_planner(name, args.action_dim)
                agent = Agent(model, planner, noise_scale=1.0, compile=MODES[mode])
                first, median, least, steps = measure(agent, args.obs_dim, batch, args.runs, args.clock)
                base = median if name == "mppi" else base
                eager = Agent(model, planner, noise_scale=1.0)
                arguments = start(eager, args.obs_dim, batch)
                least_possible = floor(
                    lambda eager=eager, given=arguments: eager.step(*given), device, clock=args.clock
                )
                ratio = "" if base is None else f"{base / median:.1f}"
                row = [
                    size,
                    str(batch),
                    mode,
                    name,
                    f"{median:.2f}",
                    f"{least:.2f}",
                    f"{steps:.0f}",
                    ratio,
                    f"{least_possible.ms:.2f}",
                    f"{least / least_possible.ms:.2f}",
                    f"{first:.1f}",
                ]
                print(f"| {' | '.join(row)} |", flush=True)
                if args.json:
                    said = {"what": "plan", "size": size, "batch": batch, "setting": mode, "planner": name}
                    with open(args.json, "a") as file:
                        file.write(json.dumps({**said, "ms": median, "first_s": first}) + "\n")


if __name__ == "__main__":
    main()
