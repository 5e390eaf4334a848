"""A loop at 50 Hz in the simulator on this machine's clock: missed deadlines, jitter, planning time.

    python benchmarks/loop_rate.py make [-o FOLDER]                    # export, with machine code
    python benchmarks/loop_rate.py run [-o FOLDER] [--seconds 60]      # nothing else may run meanwhile

`walker-walk` is the packaged agent (nano). `5M` is a model of that size with random weights, for times alone.
"""

import argparse
from pathlib import Path

import torch

from dreammpc.agent import Agent
from dreammpc.cli import deploy_commands
from dreammpc.configuration.planners import build_planner
from dreammpc.deploy import check
from dreammpc.deploy.export import export
from dreammpc.envs import make_env
from dreammpc.models import SIZES, TDMPC2Model

TASK = "walker-walk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("-o", "--output", default="loop_rate", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--models", default="walker-walk,5M")
    parser.add_argument("--ahead", default="0,1")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.models.split(","):
        file = options.output / f"{name}.pt2"
        if options.what == "make":
            make(name, file)
            continue
        for ahead in map(int, options.ahead.split(",")):
            print(f"{name}, --ahead {ahead}", flush=True)
            fixed = {"task": None, "policy": None, "max_rate": None, "latency": None, "log": None}
            given = {"hz": 50.0, "seconds": options.seconds, "ahead": ahead, "on_miss": "plan"}
            deploy_commands.loop(str(file), **fixed, **given, watchdog=0.0, seed=0)


def make(name: str, file: Path) -> None:
    """Export a packaged agent, or random weights of a size."""
    torch.set_num_threads(1)
    if name not in SIZES:
        deploy_commands.export(name, "dream_mpc", "aoti", str(file), ahead=1, seed=0, steps=100)
        return
    torch.manual_seed(0)
    env = make_env(TASK, 1, 0)
    size, A = SIZES[name], env.action_spec.shape[-1]
    model = TDMPC2Model(env.observation_spec["observation"].shape[-1], A, 0.99, **vars(size))
    check.SHARE = 0.0  # candidates of random weights are all equally good, so rounding decides
    agent = Agent(model, build_planner({"name": "dream_mpc"}, A))
    about = {"task": TASK, "agent": f"random {name}", "planner": {"name": "dream_mpc"}}
    _, _, found = export(agent, file, "aoti", about, env, steps=20, ahead=1)
    env.close()
    print(f"{name}: {found.ms:.2f} ms a plan (CPU)")


if __name__ == "__main__":
    main()
