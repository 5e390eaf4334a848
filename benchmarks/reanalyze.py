"""How much of BMPC's training time reanalyze takes, for each planner that collects and plans anew.

    python benchmarks/reanalyze.py --planners dream_mpc mppi
    python benchmarks/reanalyze.py --model 5M --compile

Trains as the recipe does (collect, sample, update; without Lightning, logging and evaluation) and prints a
Markdown table: milliseconds per update in all, of them collecting (the planner's call and the simulator) and
reanalyze, and reanalyze's share, over the timed updates. Run it alone: a second busy process multiplies the
times.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch

from dreammpc.configuration import assembly
from dreammpc.configuration.planners import build_planner
from dreammpc.configuration.schemas import BMPCConfig
from dreammpc.models import SIZES


class Stopwatch:
    """Seconds spent in a function."""

    def __init__(self, function: Callable):
        self.function, self.seconds = function, 0.0

    def __call__(self, *arguments):
        began = time.perf_counter()
        result = self.function(*arguments)
        self.seconds += time.perf_counter() - began
        return result


def measure(planner: str, args: argparse.Namespace) -> tuple[float, float, float]:
    """Milliseconds per update: in all, collecting, reanalyze."""
    torch.manual_seed(0)
    config = BMPCConfig(utd=args.utd, seed_steps=1000)
    total = args.warm_up + args.updates
    env = assembly.build_env(args.task, 0)
    size = asdict(replace(SIZES[args.model], num_heads=2))
    model = assembly.build_model(env, size, config)
    chosen = build_planner({"name": planner}, model.action_dim)
    agent = assembly.build_agent(model, chosen, config, args.compile)
    steps = config.seed_steps + int(total / args.utd) + 100
    feed = assembly.build_feed(env, agent, steps * env.action_repeat, 0, config)
    algorithm = assembly.build_algorithm(agent, feed, config, args.compile)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.manual_backward = lambda loss: loss.backward()

    feed.agent.random = True
    while feed.agent_steps < feed.seed_steps:
        feed._collect()
    feed.owed, feed.updates = 0.0, 1  # leave out the seed phase's updates
    collecting = Stopwatch(feed._collect)
    reanalyzing = Stopwatch(algorithm.replanned)
    feed._collect, algorithm.replanned = collecting, reanalyzing
    for i in range(total):
        if i == args.warm_up:
            collecting.seconds = reanalyzing.seconds = 0.0
            began = time.perf_counter()
        algorithm.training_step(next(feed), i)
    seconds = time.perf_counter() - began
    feed.close()
    return tuple(1e3 * x / args.updates for x in (seconds, collecting.seconds, reanalyzing.seconds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--planners", nargs="+", default=["dream_mpc", "mppi"])
    parser.add_argument("--task", default="walker-walk")
    parser.add_argument("--model", default="nano", choices=list(SIZES))
    parser.add_argument(
        "--utd", type=float, default=0.5, help="updates per agent step, as the recipe's default"
    )
    parser.add_argument("--updates", type=int, default=200, help="timed updates")
    parser.add_argument("--warm-up", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mode = "compiled" if args.compile else "eager"
    print(
        f"torch {torch.__version__}, {args.threads} threads, {mode}, {args.task}, {args.model},"
        f" utd {args.utd}, {args.updates} updates\n"
    )
    print("| planner | ms per update | collecting | reanalyze | reanalyze's share |")
    print("|---|---:|---:|---:|---:|")
    for planner in args.planners:
        whole, collecting, reanalyze = measure(planner, args)
        print(
            f"| {planner} | {whole:.1f} | {collecting:.1f} | {reanalyze:.1f} | {reanalyze / whole:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
