"""Train on many tasks with many seeds, and go on where an earlier start ended.

lightning run sweep tasks=dmc8 seeds=1,2,3 steps=100000                  # one run after the other
lightning run sweep tasks=walker-walk,cup-catch seeds=1,2,3 jobs=2 algorithm=bmpc evaluate=policy,mppi
lightning run sweep tasks=small6 planners=dream_mpc,mppi dry=true        # says what it would do
lightning run sweep -m tasks=dmc8 seeds=1,2,3 hydra/launcher=submitit_slurm   # elsewhere: docs/sweeps.md
"""

import shlex
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

from dreammpc import sweeps
from dreammpc.cli.launch import find_recipe
from dreammpc.configuration.command_line import quoted
from dreammpc.configuration.recipe import compose, main
from dreammpc.configuration.schemas import TrainConfig
from dreammpc.interfaces import UsageError
from dreammpc.planning.factory import planner_settings
from dreammpc.sweeps.local import failure
from dreammpc.tracking import finish_run
from dreammpc.trained import loading
from dreammpc.training import open_folder

OWN = [field.name for field in fields(sweeps.SweepConfig) if field.name != "train"]


@main("sweep")
def sweep(config: sweeps.SweepConfig) -> int:
    # What there is to do. A mistake must show before hours of training, so every training is composed once.
    tasks, of_set = sweeps.expand(config.tasks)
    sweeps.check_installed(tasks)
    check_own(train := [*of_set, *config.train])
    folder = Path(config.folder).resolve()
    jobs = sweeps.grid(folder, tasks, config.seeds, config.planners)
    settings: TrainConfig = compose("train", words(jobs[0], train), OWN)
    for planner in config.planners:
        compose("train", [f"planner={planner}", *train])
    for planner in config.evaluate:
        planner_settings(planner)
    if not config.dry:
        open_folder(folder)
    sweeps.reserve_folder(folder, train, config.dry)

    states = {job: job.state(settings.steps) for job in jobs}
    left = [job for job in jobs if states[job] != "finished" or not job.evaluated(config.evaluate)]
    count = Counter(states.values())
    print(f"{len(jobs)} runs in {folder}: {', '.join(f'{n} {state}' for state, n in sorted(count.items()))}")

    def commands(job: sweeps.Job, *under: str) -> list[list[str]]:
        training = ["train", *words(job, train), *under, "resume=auto"]
        trainings = [training] if states[job] != "finished" else []
        return trainings + ([evaluation(job, config.evaluate, settings)] if config.evaluate else [])

    if config.dry:
        for job in left:
            typed = (f"lightning run {shlex.join(command)}" for command in commands(job))
            print(f"{job.name}: {states[job]}; {' && '.join(typed)}")
        return 0

    # Every run is a process of its own, which goes on by itself where it has been before.
    about = {"tasks": tasks, "seeds": config.seeds, "planners": config.planners, "train": train}
    to = settings.tracking
    parent = sweeps.parent_run(folder, about, to.kind, to.uri, to.experiment)
    under = [f"tracking.parent={parent.version}"] if parent.version else []
    script = {name: [sys.executable, str(find_recipe(name))] for name in ("train", "evaluate")}
    runner = sweeps.Runner(config.jobs, lambda line: print(line, flush=True))
    codes = runner.run((job, [[*script[key], *rest] for key, *rest in commands(job, *under)]) for job in left)

    # How it went.
    finals = [job.finals() for job in jobs if job.state(settings.steps) == "finished"]
    names = sorted(set().union(*finals))
    means = {n: sum(f[n] for f in finals if n in f) / sum(n in f for f in finals) for n in names}
    failed = {job: code for job, code in codes.items() if code}
    status = "killed" if runner.signal else "failed" if failed else "success"
    numbers = {f"final/{name}": mean for name, mean in means.items()}
    print(finish_run([parent], numbers, len(finals), {}, status))
    others = "; the same command goes on with the others" if len(finals) < len(jobs) else ""
    print(f"{len(finals)} of {len(jobs)} trainings are finished{others}")
    for name, mean in means.items():
        print(f"  {name}: mean final return {mean:.1f}")
    for job, code in failed.items() if not runner.signal else ():
        print(failure(job, code), file=sys.stderr)
    return 128 + runner.signal if runner.signal else 1 if failed else 0


def words(job: sweeps.Job, train: list[str]) -> list[str]:
    """The words of `lightning run train` for one run."""
    planner = [f"planner={job.planner}"] if job.planner else []
    return [f"task={job.task}", f"seed={job.seed}", *planner, f"folder={quoted(str(job.folder))}", *train]


def evaluation(job: sweeps.Job, planners: list[str], settings: TrainConfig) -> list[str]:
    """The recipe and words that play a trained agent with `planners` and write the episodes as rows."""
    return [
        "evaluate",
        f"checkpoint={quoted(str(job.checkpoint))}",
        *loading.confirmations(job.task, settings.algorithm.name, settings.env.kwargs),
        f"planner={','.join(planners)}",
        f"episodes={settings.evaluation.episodes}",
        f"seed={settings.evaluation.seed}",
        f"device={settings.trainer.accelerator}",
        f"output={quoted(str(job.scores))}",
    ]


def check_own(train: list[str]) -> None:
    """Refuse words that a sweep gives every training itself."""
    for word in train:
        key = word.partition("=")[0].lstrip("+~")
        if key in ("task", "seed", "resume") or key.startswith("tracking.run_name"):
            raise UsageError(f"{word}: a sweep sets {key} itself; see tasks= and seeds=")


if __name__ == "__main__":
    sweep()
