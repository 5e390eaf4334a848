"""mppi with as much compute as dream_mpc has: in model steps, and in milliseconds of a processor.

    python benchmarks/equal_compute.py time agent:walker-walk/bmpc-seed1 agent:cheetah-run/tdmpc2-seed1
    python benchmarks/equal_compute.py play rows.csv agent:walker-walk/bmpc-seed1 …
    dreammpc report rows.csv dreammpc/trained/agents/*/bmpc-seed?.csv -o bmpc.md

`time` plans with `dream_mpc` and with every one of `BUDGETS` in turns, from random observations,
and prints model steps and milliseconds of the processor's time for a row of the batch (least of the
rounds, so that other processes do not count); no compilation, one thread. `play` plays ten episodes of
every budget with every agent, from the starts of the packaged rows, and writes such rows.
"""

import argparse
import time
from typing import Any

import torch
from tensordict import TensorDict

from dreammpc.configuration.planners import build_planner
from dreammpc.evaluation.rows import write_rows
from dreammpc.planning import Imagination
from dreammpc.trained.compare import compare
from dreammpc.trained.loading import load_model

ROUNDS = 7


def mppi(num_policy: int, num_samples: int, iterations: int) -> dict[str, Any]:
    """With as large a share of elites as the default, 64 of 512, but two at least."""
    elites = max(2, round(num_samples / 8))
    return {
        "num_policy": num_policy,
        "num_samples": num_samples,
        "iterations": iterations,
        "num_elites": elites,
    }


BUDGETS = [
    mppi(5, 15, 2),  # 100 model steps, as many as dream_mpc takes
    mppi(24, 64, 2),  # as many milliseconds for one row
    mppi(5, 30, 1),  # 100 model steps as well
    mppi(5, 20, 2),  # about as many milliseconds for ten rows
    mppi(24, 128, 1),
    mppi(5, 10, 3),
]


def said(settings: dict[str, Any]) -> str:
    return "{num_policy} rollouts, {num_samples} samples, {iterations} iterations".format(**settings)


@torch.no_grad()
def plan_times(agent: str, batch: int) -> None:
    """Print a line for each budget."""
    model, _ = load_model(agent)
    latent = model.observe(observations(model, batch), None, None)
    names = {"dream_mpc": {"name": "dream_mpc"}, "mppi, as published": {"name": "mppi"}}
    names |= {said(budget): {"name": "mppi", **budget} for budget in BUDGETS}
    planners = {name: build_planner(settings, model.action_dim) for name, settings in names.items()}
    states = {name: planner.initial_state(batch) for name, planner in planners.items()}
    least, steps = dict.fromkeys(planners, float("inf")), {}
    for _ in range(ROUNDS):
        for name, planner in planners.items():
            began = time.process_time()
            for _ in range(3):
                plan = planner.plan(Imagination(model), latent, states[name])
                states[name] = plan.state
            least[name] = min(least[name], (time.process_time() - began) / 3)
            steps[name] = plan.diagnostics["evaluations"].mean()
    for name, seconds in least.items():
        print(f"| {agent} | {batch} | {name} | {steps[name]:.0f} | {1e3 * seconds / batch:.2f} |", flush=True)


def observations(model, batch: int):
    """Observations [batch], standard normal."""
    generator = torch.Generator().manual_seed(0)
    return TensorDict({"observation": torch.randn(batch, model.obs_dim, generator=generator)}, [batch])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("time")
    timing.add_argument("agents", nargs="+")
    timing.add_argument("--batch", nargs="+", type=int, default=[1, 10])
    playing = commands.add_parser("play")
    playing.add_argument("output")
    playing.add_argument("agents", nargs="+")
    playing.add_argument("--budgets", nargs="+", type=int, default=range(len(BUDGETS)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "time":
        print("| agent | batch | planner | model steps | CPU ms |\n|---|---:|---|---:|---:|")
        for agent in options.agents:
            for batch in options.batch:
                plan_times(agent, batch)
        return
    rows = []
    for budget in options.budgets:
        for played in compare(options.agents, "mppi", BUDGETS[budget], device="cpu"):
            rows += played.rows
            write_rows(rows, options.output)


if __name__ == "__main__":
    main()
