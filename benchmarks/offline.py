"""What recorded data and earlier weights are worth: the tables of docs/data.md.

    python benchmarks/offline.py record runs/offline     # data of mixed quality, 50,000 transitions a task
    python benchmarks/offline.py train runs/offline      # what is left of the list, run by run
    python benchmarks/offline.py table runs/offline      # of what is done

`train` begins with what matters most and can be stopped at any time: a run that was interrupted goes on, one
that ended is not repeated. `--only WORD` runs those whose names have it. The data are a packaged agent's: its
policy plays a quarter of the episodes each greedily and with three, 30 and 300 times its exploration noise,
the last of which is nearly random.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dreammpc.agent import Agent
from dreammpc.configuration.planners import build_planner
from dreammpc.data.recorder import Recorder
from dreammpc.evaluation import Evaluator
from dreammpc.trained.loading import load_model

TASKS = {
    "walker-walk": "agent:walker-walk/tdmpc2-seed1",
    "cartpole-swingup": "agent:cartpole-swingup/tdmpc2-seed1",
}
NOISE = (0.0, 3.0, 30.0, 300.0)
EPISODES = 25
"""With each noise; an episode has 500 decisions."""
PLANNERS = ("policy", "mppi", "dream_mpc")
"""`mppi`, whose episodes take minutes, after learning from the data alone only."""
SEEDS = (1, 2, 3)
ALL = (
    "tracking=none",
    "evaluation.video=false",
    "evaluation.episodes=5",
    "evaluation.every=5000",
    "eval_planner=policy",
)


def record(folder: Path) -> None:
    """The data of every task, and the mean return of each part."""
    for task, agent in TASKS.items():
        target = folder / f"{task}.h5"
        if target.exists():
            continue
        model, _ = load_model(agent)
        recorder, told = Recorder(target), {}
        evaluator = Evaluator(task, EPISODES, 0)
        for number, noise in enumerate(NOISE):
            evaluator.seeds = list(range(number * EPISODES, (number + 1) * EPISODES))
            recorder.expect(evaluator.env)
            player = Agent(model, build_planner({"name": "policy"}, model.action_dim), noise)
            told[noise] = evaluator.play(player, record=recorder).mean
        evaluator.close()
        print(recorder.save())
        target.with_suffix(".json").write_text(json.dumps({"agent": agent, "returns": told}))


def runs(folder: Path) -> dict[str, list[str]]:
    """Words of every training by its name, the most important first."""
    data = {task: f"data={folder / task}.h5" for task in TASKS}
    listed: dict[str, list[str]] = {}
    for task in TASKS:
        listed[f"{task}/offline/seed1"] = [
            f"task={task}",
            data[task],
            "steps=0",
            "data.updates=20000",
            "seed=1",
        ]
    for seed in SEEDS:
        for task in TASKS:
            own = [f"task={task}", "steps=20000", f"seed={seed}"]
            listed[f"{task}/scratch/seed{seed}"] = own
            listed[f"{task}/then-online/seed{seed}"] = [*own, data[task], "data.updates=10000"]
        own = ["task=walker-run", "steps=20000", f"seed={seed}"]
        listed[f"walker-run/scratch/seed{seed}"] = own
        listed[f"walker-run/from-walk/seed{seed}"] = [*own, f"init={TASKS['walker-walk']}"]
    for seed in SEEDS:
        for task in TASKS:
            own = [f"task={task}", "steps=20000", f"seed={seed}"]
            listed[f"{task}/beside/seed{seed}"] = [*own, data[task]]
            if seed > 1:
                words = [f"task={task}", data[task], "steps=0", "data.updates=20000", f"seed={seed}"]
                listed[f"{task}/offline/seed{seed}"] = words
    return listed


def finals(folder: Path) -> dict[str, float]:
    """Mean return by planner at the end of a run; empty before that."""
    try:
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return {}
    return {key.removeprefix("final/"): value for key, value in last.items() if key.startswith("final/")}


def train(folder: Path, only: str) -> None:
    """Run what is left, one after the other."""
    for name, words in runs(folder).items():
        own = folder / name
        if only not in name or finals(own):
            continue
        played = PLANNERS if "/offline/" in name else [each for each in PLANNERS if each != "mppi"]
        command = [*words, f"folder={own}", "resume=auto", *ALL, f"evaluation.planners={','.join(played)}"]
        print(name, *words, flush=True)
        code = subprocess.run([sys.executable, "-m", "dreammpc.cli", "run", "train", *command]).returncode
        if code >= 128:
            sys.exit(code)


def table(folder: Path) -> None:
    """Print what the data give and what was learned, as Markdown."""
    print("| data | greedy | 3 × noise | 30 × noise | 300 × noise | all |\n|---|---:|---:|---:|---:|---:|")
    for task in TASKS:
        file = folder / f"{task}.json"
        if file.exists():
            means = list(json.loads(file.read_text())["returns"].values())
            print(f"| {task} | {' | '.join(f'{mean:.0f}' for mean in [*means, np.mean(means)])} |")
    print(f"\n| run | seeds | {' | '.join(PLANNERS)} |\n|---|---:|{'---:|' * len(PLANNERS)}")
    groups: dict[str, list[dict[str, float]]] = {}
    for name in runs(folder):
        if found := finals(folder / name):
            groups.setdefault(name.rpartition("/")[0], []).append(found)
    for group, found in groups.items():
        cells = []
        for planner in PLANNERS:
            values = [one[planner] for one in found if planner in one]
            several = f" ({', '.join(f'{value:.0f}' for value in values)})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.0f}{several}" if values else "")
        print(f"| {group} | {len(found)} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("record", "train", "table"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="runs whose names have this")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.what == "train":
        train(options.folder, options.only)
    else:
        {"record": record, "table": table}[options.what](options.folder)


if __name__ == "__main__":
    main()
