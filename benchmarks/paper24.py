"""What the paper's comparison costs: simulation, updates and plans of its 24 tasks, and hours of a training.

    python benchmarks/paper24.py --sizes 5M nano --planners policy mppi dream_mpc
    python benchmarks/paper24.py --sets metaworld8 --sizes 1M

Everything is timed on one thread by the CPU time of this process, so that other work on the machine counts
little. Simulation is timed on every task that is installed; updates (TD-MPC2's, eager, horizon 3) and plans
(one environment) for each set on the task of the most observations. Prints two Markdown tables. A training of
N environment steps takes N steps of simulation and, with the action repeat R, N / R plans and N / R updates.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from tensordict import TensorDict
from update import Update, random_batch

from dreammpc.agent import Agent
from dreammpc.configuration.assembly import obs_dim
from dreammpc.envs import TaskEnv, list_tasks, make_env
from dreammpc.models import SIZES, TDMPC2Model
from dreammpc.planning import make_planner
from dreammpc.sweeps import TASK_SETS
from dreammpc.tracking import provenance_tags


def cpu_seconds(call: Callable[[], object], repetitions: int) -> float:
    """CPU time of one call, the mean after one that does not count."""
    call()
    began = time.process_time()
    for _ in range(repetitions):
        call()
    return (time.process_time() - began) / repetitions


def simulation(env: TaskEnv, decisions: int) -> float:
    """CPU seconds of one environment step under random actions, starts included."""
    state = env.reset()

    def step() -> None:
        nonlocal state
        state = env.step(state.set("action", env.action_spec.rand()))["next"].exclude("reward")
        if state["done"].any():
            state = env.reset()

    return cpu_seconds(step, decisions) / env.action_repeat


def plan(model: TDMPC2Model, planner: str, repetitions: int) -> float:
    """CPU seconds of one plan for one environment."""
    agent = Agent(model, make_planner(planner, model.action_dim))
    carry, first = agent.initial_carry(1, torch.device("cpu")), torch.zeros(1, 1, dtype=torch.bool)
    observation = TensorDict({"observation": torch.randn(1, model.obs_dim)}, [1])

    def act() -> None:
        agent.step(observation, carry, first)

    with torch.no_grad():
        return cpu_seconds(act, repetitions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["dmc8", "metaworld8", "humanoidbench8"])
    parser.add_argument("--sizes", nargs="+", default=["5M"], choices=list(SIZES))
    parser.add_argument("--planners", nargs="+", default=["policy", "mppi", "dream_mpc"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--decisions", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000_000, help="environment steps of a training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{provenance_tags()['cpu']}, one thread\n")

    installed = set(list_tasks())
    seconds: dict[str, float] = {}
    spaces: dict[str, tuple[int, int, int]] = {}
    print("| task | observations | actions | action repeat | environment steps per CPU second |")
    print("|---|---:|---:|---:|---:|")
    for task in [task for name in options.sets for task in TASK_SETS[name].tasks]:
        if task not in installed:
            print(f"| {task} | not installed | | | |")
            continue
        env = make_env(task, seed=1)
        spaces[task] = obs_dim(env), env.action_spec.shape[-1], env.action_repeat
        seconds[task] = simulation(env, options.decisions)
        env.close()
        cells = [task, *map(str, spaces[task]), f"{1 / seconds[task]:,.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)

    plans = "".join(f" {name}, ms |" for name in options.planners)
    hours = "".join(f" hours with {name} |" for name in options.planners)
    print(f"\n| set | size | update, ms |{plans}{hours}")
    print("|---|---|" + "---:|" * (1 + 2 * len(options.planners)))
    for name in options.sets:
        tasks = [task for task in TASK_SETS[name].tasks if task in spaces]
        if not tasks:
            continue
        observations, actions, repeat = max(spaces[task] for task in tasks)
        simulated = options.steps * sum(seconds[task] for task in tasks) / len(tasks)
        for size in options.sizes:
            batch = random_batch("state", observations, actions, options.batch_size, 3, torch.device("cpu"))
            update = Update("state", size, False, False, batch, torch.device("cpu"))
            updating = cpu_seconds(lambda update=update: update(), options.repetitions)
            model = TDMPC2Model(observations, actions, **asdict(SIZES[size]))
            planning = [plan(model, planner, options.repetitions) for planner in options.planners]
            decisions = options.steps / repeat
            whole = [(simulated + decisions * (updating + each)) / 3600 for each in planning]
            cells = [name, size, *(f"{1e3 * each:.1f}" for each in (updating, *planning))]
            print(f"| {' | '.join([*cells, *(f'{each:,.0f}' for each in whole)])} |", flush=True)


if __name__ == "__main__":
    main()
