"""Environment steps per second of EnvPool, and of a task's own simulator in a loop and in processes.

    python benchmarks/backends.py --tasks walker-walk cheetah-run --sizes 1 8 32
    python benchmarks/backends.py --processes 1 8          # TorchRL's ParallelEnv, one environment in each

Random actions, whole batches. Steps are counted per second of CPU time, of this process with its threads and
of its children, so that other work on the machine counts little; on an idle machine of N cores EnvPool and
processes are up to N times as fast by the clock, a loop is not. The returns of random episodes are beside,
and those of the policy of a task's packaged agent, if there is one.
"""

import argparse
import time
from functools import partial

import psutil
import torch
from torchrl.envs import ParallelEnv

from dreammpc import load_agent, run_episodes
from dreammpc.envs import make_env
from dreammpc.trained.library import agent_names


def cpu() -> float:
    """CPU seconds of this process, its threads and its children."""
    times = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(each.user + each.system for each in times)


def speed(env, repeat: int, decisions: int) -> float:
    """Environment steps per CPU second."""
    env.rollout(5, break_when_any_done=False)
    began = cpu()
    env.rollout(decisions, break_when_any_done=False)
    return decisions * env.batch_size.numel() * repeat / (cpu() - began)


def returns(env) -> torch.Tensor:
    """Of one random episode in each row."""
    env.set_seed(0)
    torch.manual_seed(0)
    rewards = env.rollout(env.max_episode_steps, break_when_any_done=False)["next", "reward"]
    return rewards.double().sum((1, 2))


def trained_returns(env) -> torch.Tensor:
    """Of one episode of the task's packaged agent, without a planner, in each row."""
    return torch.as_tensor(
        run_episodes(env, load_agent(env.task, "policy"), seed=0).returns, dtype=torch.float64
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["cheetah-run", "walker-walk", "humanoid-run"])
    parser.add_argument("--sizes", nargs="*", type=int, default=[1, 8, 32])
    parser.add_argument("--processes", nargs="+", type=int, default=[])
    parser.add_argument("--decisions", type=int, default=100)
    parser.add_argument("--episodes", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| task | environments | loop, steps/s | EnvPool, steps/s | processes, steps/s |")
    print("|---|---:|---:|---:|---:|")
    for task in options.tasks:
        for size in options.sizes:
            found = []
            for backend in (None, "envpool"):
                env = make_env(task, size, backend=backend)
                found.append(f"{speed(env, env.action_repeat, max(options.decisions // size, 10)):,.0f}")
                env.close()
            many = ""
            if size in options.processes:
                repeat, parallel = env.action_repeat, ParallelEnv(size, partial(make_env, task))
                many = f"{speed(parallel, repeat, max(options.decisions // size, 10)):,.0f}"
                parallel.close()
            print(f"| {task} | {size} | {found[0]} | {found[1]} | {many} |", flush=True)
    if options.episodes:
        print(
            "\n| task | actions | own, mean return (std) | EnvPool, mean return (std) |\n|---|---|---:|---:|"
        )
        for task in options.tasks:
            trained = any(name.startswith(f"{task}/") for name in agent_names())
            for actions in ("random", "policy") if trained else ("random",):
                played = returns if actions == "random" else trained_returns
                both = [played(make_env(task, options.episodes, backend=name)) for name in (None, "envpool")]
                cells = [f"{each.mean():.2f} ({each.std():.2f})" for each in both]
                print(f"| {task} | {actions} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
