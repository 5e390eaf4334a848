"""Each of the paper's 24 tasks by its name: a short training, an evaluation, and what its parts take.

    python benchmarks/each_task.py --output each_task.md
    python benchmarks/each_task.py --tasks mw-reach walker-walk --steps 2000

One process a task, on one thread. Of each it is timed by CPU time, so that other work on the machine counts
little: simulation, an update (TD-MPC2's, nano, a batch of 256, eager) and one plan of `policy`, `mppi` and
`dream_mpc` with their default settings. Then the recipe `train` runs as a user would start it, and at its end
one whole episode is played with each planner; there `mppi` has 32 samples and two iterations, and `dream_mpc`
two candidates, to show that they run, not what they reach. Memory is the most that the process held.
Rows are appended to the output as they come, and a task that it has already is left out.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from paper24 import cpu_seconds, plan, simulation
from update import Update, random_batch

from dreammpc.configuration.assembly import obs_dim
from dreammpc.envs import make_env
from dreammpc.models import SIZES, TDMPC2Model
from dreammpc.sweeps import TASK_SETS

ROOT = Path(__file__).resolve().parents[1]
PLANNERS = ("policy", "mppi", "dream_mpc")
HEAD = ("task", "steps/s", "update, ms", *(f"{name}, ms" for name in PLANNERS))
HEAD += (*(f"return with {name}" for name in PLANNERS), "memory, MB")
SMALL = ["num_samples=32", "num_elites=8", "iterations=2", "num_candidates=2"]


def train(task: str, steps: int, folder: Path) -> list[dict]:
    """The recipe as a user starts it, in this process; gives the lines of its log."""
    words = [f"task={task}", f"steps={steps}", "model=nano", "planner=policy", "algorithm.utd=0.1"]
    words += [f"algorithm.seed_steps={steps // 2}", "evaluation.episodes=1", "evaluation.planners=[]"]
    words += [f"eval_planner={','.join(PLANNERS)}", *(f"eval_planner.{word}" for word in SMALL)]
    words += [
        "evaluation.every=100000000",
        "evaluation.video=false",
        "tracking=none",
        "trainer.compile=false",
    ]
    sys.argv = ["train.py", *words, f"folder={folder}"]
    sys.path.insert(0, str(ROOT / "recipes"))
    import train as recipe

    try:
        recipe.train()
    except SystemExit as stop:
        if stop.code:
            raise
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def row(task: str, steps: int) -> list[str]:
    torch.set_num_threads(1)
    env = make_env(task, seed=1)
    observations, actions = obs_dim(env), env.action_spec.shape[-1]
    cells = [task, f"{1 / simulation(env, 60):,.0f}"]
    env.close()
    batch = random_batch("state", observations, actions, 256, 3, torch.device("cpu"))
    update = Update("state", "nano", False, False, batch, torch.device("cpu"))
    model = TDMPC2Model(observations, actions, **asdict(SIZES["nano"]))
    times = [cpu_seconds(lambda: update(), 3), *(plan(model, planner, 3) for planner in PLANNERS)]
    cells += [f"{1e3 * each:.1f}" for each in times]
    with tempfile.TemporaryDirectory() as folder:
        log = train(task, steps, Path(folder) / "run")
    last = {key: value for line in log for key, value in line.items()}
    cells += [f"{last[f'final/{name}']:.1f}" for name in PLANNERS]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [*cells, f"{held:,.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASK_SETS["paper24"].tasks))
    parser.add_argument("--steps", type=int, default=1000, help="environment steps of the training")
    parser.add_argument("--output", type=Path, default=Path("each_task.md"))
    parser.add_argument("--one", action="store_true", help="the first task alone, in this process")
    options = parser.parse_args()
    if options.one:
        print("| " + " | ".join(row(options.tasks[0], options.steps)) + " |")
        return
    if not options.output.exists():
        rule = "|---|" + "---:|" * (len(HEAD) - 1)
        options.output.write_text("| " + " | ".join(HEAD) + f" |\n{rule}\n")
    done = {line.split("|")[1].strip() for line in options.output.read_text().splitlines()[2:]}
    for task in options.tasks:
        if task in done:
            continue
        command = [sys.executable, __file__, "--one", "--tasks", task, "--steps", str(options.steps)]
        result = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in result.stdout.splitlines() if line.startswith(f"| {task} ")]
        failed = (result.stderr.strip().splitlines() or ["?"])[-1]
        with options.output.open("a") as file:
            file.write((lines[-1] if lines else f"| {task} | {failed} |") + "\n")


if __name__ == "__main__":
    main()
