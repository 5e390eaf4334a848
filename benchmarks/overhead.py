"""Time everything around an update: Lightning, collector, replay, logging, progress bar.

    python benchmarks/overhead.py

Trains with an update that does nothing and an agent that acts at random (so that neither the update's nor the
planner's arithmetic counts), one update per step, and prints milliseconds per step, with and without MLflow.
"""

import argparse
import itertools
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch

from dreammpc.agent import Agent
from dreammpc.algorithms import TDMPC2
from dreammpc.configuration import assembly
from dreammpc.configuration.schemas import AlgorithmConfig
from dreammpc.models import SIZES
from dreammpc.planning import make_planner
from dreammpc.support.progress import Progress
from dreammpc.tracking import make_loggers
from dreammpc.training import Checkpoints, Evaluation, GracefulStop, Monitor, ProgressBar, make_trainer


class NoUpdate(TDMPC2):
    """Returns as many metrics as the real update."""

    def update(self, batch):
        return {f"metric/{i}": self.value_scale for i in range(11)}


def run(task: str, steps: int, tracking: str) -> float:
    env = assembly.build_env(task, 0)
    model = assembly.build_model(env, asdict(SIZES["nano"]))
    agent = Agent(model, make_planner("policy", model.action_dim))
    algorithm = NoUpdate(agent)
    feed = assembly.build_feed(
        env, agent, (steps + 10) * env.action_repeat, 0, AlgorithmConfig(seed_steps=10)
    )
    feed.seed_steps = 10**9  # act at random to the end
    feed.owed = 0.0
    collect = feed._collect

    def collect_and_owe() -> None:
        collect()
        feed.owed += 1 if feed.agent_steps > 10 else 0

    feed._collect = collect_and_owe
    with tempfile.TemporaryDirectory() as folder:
        loggers = make_loggers(Path(folder), {}, tracking, f"sqlite:///{folder}/mlflow.db")
        checkpoints = Checkpoints(Path(folder), feed, {}, every=10**9)
        monitor = Monitor(feed)
        evaluation = Evaluation(feed, lambda: {}, checkpoints, every=10**9)
        callbacks = [
            GracefulStop(feed),
            monitor,
            evaluation,
            checkpoints,
            ProgressBar(feed, monitor, evaluation, Progress()),
        ]
        trainer = make_trainer(folder, callbacks, loggers, "cpu")
        clock = []
        checkpoints.on_train_batch_start = lambda *args: clock.append(time.perf_counter())
        trainer.fit(algorithm, feed.turns())
    assert feed.updates >= steps
    times = sorted(b - a for a, b in itertools.pairwise(clock))
    return 1e3 * sum(times) / len(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="cartpole-swingup")
    parser.add_argument("--steps", type=int, default=3000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| tracking | mean ms per step |")
    print("|---|---:|")
    for tracking in ("none", "mlflow"):
        print(f"| {tracking} | {run(args.task, args.steps, tracking):.2f} |", flush=True)


if __name__ == "__main__":
    main()
