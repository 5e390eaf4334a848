"""Sweeps: which tasks, which runs are left, processes side by side, and one from the command line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from commands import logged, recipe, refused
from score_rows import score_rows

from dreammpc.configuration.command_line import quoted, rewrite
from dreammpc.configuration.recipe import compose
from dreammpc.envs import list_tasks
from dreammpc.evaluation.rows import read_rows, write_rows
from dreammpc.interfaces import UsageError
from dreammpc.sweeps import TASK_SETS, Runner, check_installed, expand, grid, reserve_folder
from dreammpc.sweeps.local import NOT_STARTED, ending, failure
from dreammpc.trained.compare import find_checkpoints

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_sets_of_tasks():
    assert {name: len(each.tasks) for name, each in TASK_SETS.items()} == {
        "dmc8": 8, "metaworld8": 8, "humanoidbench8": 8, "paper24": 24, "dmc-pixels6": 6, "small6": 6,
    }  # fmt: skip
    for name in ("dmc8", "dmc-pixels6", "small6"):
        assert set(TASK_SETS[name].tasks) <= set(list_tasks()), name
    tasks, overrides = expand(["small6", "hopper-hop", "walker-walk"])
    assert tasks == [*TASK_SETS["small6"].tasks, "hopper-hop"] and overrides == []
    assert expand(["dmc-pixels6"])[1] == ["obs=pixels"]
    with pytest.raises(UsageError, match=r"dmc-pixels6 .*obs=pixels"):
        expand(["walker-walk", "dmc-pixels6"])
    with pytest.raises(UsageError, match="sets: dmc8, metaworld8"):
        expand([])


def test_what_is_not_installed_is_named():
    check_installed(TASK_SETS["dmc8"].tasks)
    with pytest.raises(UsageError) as error:
        check_installed([*TASK_SETS["paper24"].tasks, "walker-wok"])
    text = str(error.value)
    for task in (*TASK_SETS["metaworld8"].tasks, *TASK_SETS["humanoidbench8"].tasks):
        if task not in list_tasks():
            assert task in text
    assert "of 25 tasks are not installed here" in text and "did you mean walker-walk?" in text
    assert "dog-run" not in text


def test_what_is_evaluated(tmp_path):
    (job,) = grid(tmp_path, ["walker-walk"], [1], [])
    assert job.evaluated([]) and not job.evaluated(["policy"])
    job.checkpoint.parent.mkdir(parents=True)
    job.checkpoint.touch()
    write_rows(score_rows(["walker-walk"], ["policy"], [1]), job.scores)
    assert job.evaluated(["policy"]) and not job.evaluated(["policy", "mppi"])
    job.checkpoint.unlink()
    assert not job.evaluated(["policy"]) and job.evaluated([])


def run_folder(folder: Path, *lines: dict, checkpoint: bool = True) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if checkpoint:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints/last.ckpt").touch()


def test_what_is_left_of_a_grid(tmp_path):
    jobs = grid(tmp_path, ["walker-walk", "cup-catch"], [1, 2], [])
    assert [job.name for job in jobs] == [
        "walker-walk/seed1", "cup-catch/seed1", "walker-walk/seed2", "cup-catch/seed2",
    ]  # fmt: skip
    final = {"env_steps": 9998, "final/policy": 5.0, "final/mppi": 7.0}
    run_folder(tmp_path / "walker-walk/seed1", {"env_steps": 5000}, final)
    run_folder(tmp_path / "cup-catch/seed1", {"env_steps": 5000, "eval/return": 1.0})
    run_folder(tmp_path / "walker-walk/seed2", {"env_steps": 5000}, checkpoint=False)  # died before the first
    assert [job.state(10_000) for job in jobs] == ["finished", "interrupted", "new", "new"]
    longer = [job.state(20_000) for job in jobs]
    assert longer == ["interrupted", "interrupted", "new", "new"]
    assert jobs[0].finals() == {"policy": 5.0, "mppi": 7.0} and jobs[1].finals() == {}
    log = tmp_path / "walker-walk/seed1/metrics.jsonl"
    log.write_text(log.read_text() + '{"env_steps": 99')  # torn
    assert jobs[0].state(10_000) == "finished"
    log.write_text(json.dumps(final) + "\n" + '{"env_steps": 12000, "loss/value": 1.0}\n')  # broke
    assert jobs[0].state(12_000) == "interrupted"
    assert [job.name for job in grid(tmp_path, ["cup-catch"], [3], ["mppi", "cem"])] == [
        "cup-catch/mppi-seed3", "cup-catch/cem-seed3",
    ]  # fmt: skip
    for seeds, planners in (([1, 1], []), ([], []), ([1], ["mppi", "mppi"])):
        with pytest.raises(UsageError, match="expected different ones"):
            grid(tmp_path, ["cup-catch"], seeds, planners)


def test_a_folder_holds_one_kind_of_runs(tmp_path):
    reserve_folder(tmp_path, ["algorithm=bmpc", "steps=1000", "tracking=none"])
    reserve_folder(tmp_path, ["steps=2000", "algorithm=bmpc", "tracking.uri=x"])
    with pytest.raises(UsageError, match=r"holds a sweep with algorithm=bmpc, not with none; .* folder="):
        reserve_folder(tmp_path, ["steps=1000"])


def test_words_of_the_command_line():
    words = [
        "tasks=dmc8,cup-catch",
        "seeds=1,2",
        "planner.horizon=5",
        "jobs=2",
        "algorithm=bmpc",
        "--cfg",
        "job",
    ]
    assert rewrite(words, "sweep") == [
        "tasks=[dmc8,cup-catch]", "seeds=[1,2]", "jobs=2", "train=['planner.horizon=5','algorithm=bmpc']",
        "--cfg", "job",
    ]  # fmt: skip
    words = ["-m", "tasks=small6", "seeds=1,2", "evaluate=policy,mppi", "hydra/launcher=joblib", "steps=5"]
    tasks = ",".join(f"[{task}]" for task in TASK_SETS["small6"].tasks)
    assert rewrite(words, "sweep") == [
        f"tasks={tasks}", "seeds=[1],[2]", "evaluate=[policy,mppi]", "hydra/launcher=joblib",
        "train=['steps=5']", "-m",
    ]  # fmt: skip
    assert compose("train", ["task=cup-catch", "tracking=none", "planner=mppi"]).tracking.kind == "none"
    with pytest.raises(UsageError, match=r"did you mean horizon\?"):
        compose("train", ["planner.horizons=5"])


PRINT = "import os, sys, time; print(os.environ['OMP_NUM_THREADS'], sys.argv[1:])"
SAVES = """
import signal, sys, time
def save(*_):
    print("saved"); sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(300)
"""


def test_runner_keeps_on_after_a_failure(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    jobs, told = grid(tmp_path, ["a", "b"], [1], []), []
    runner = Runner(2, told.append)
    bad, good = [sys.executable, "-c", "raise SystemExit(2)"], [sys.executable, "-c", PRINT, "x"]
    codes = runner.run([(jobs[0], [bad, good]), (jobs[1], [good, good])])
    assert codes == {jobs[0]: 2, jobs[1]: 0}
    assert (tmp_path / "a/seed1/run.log").read_text() == ""  # the second command was not run
    assert (tmp_path / "b/seed1/run.log").read_text() == "4 ['x']\n" * 2  # of 8 cores
    assert "a/seed1: ended with code 2" in told


def test_a_run_that_cannot_begin_stops_no_other(tmp_path):
    jobs, told = grid(tmp_path, ["a", "b", "c"], [1], []), []
    (tmp_path / "a").write_text("no folder")
    good = [sys.executable, "-c", ""]
    codes = Runner(1, told.append).run([(jobs[0], [good]), (jobs[1], [["/no/program"]]), (jobs[2], [good])])
    assert codes == {jobs[0]: NOT_STARTED, jobs[1]: NOT_STARTED, jobs[2]: 0}
    lines = [line for line in told if not line.startswith("c/seed1")]
    assert len(lines) == 2 and lines[0].startswith("a/seed1: could not be started: [Errno ")
    assert lines[1].startswith("b/seed1: could not be started: [Errno ") and "/no/program" in lines[1]
    assert failure(jobs[0], NOT_STARTED) == "a/seed1 could not be started"


def test_a_run_that_was_killed_is_told_by_its_signal(tmp_path):
    (job,), told = grid(tmp_path, ["a"], [1], []), []
    kill = "import os; print('resource_tracker: leaked', flush=True); os.kill(os.getpid(), 9)"
    codes = Runner(1, told.append).run([(job, [[sys.executable, "-c", kill]])])
    assert codes == {job: -9} and told[-1] == "a/seed1: was killed by SIGKILL (out of memory?)"
    log = tmp_path / "a/seed1/run.log"
    assert failure(job, -9) == f"a/seed1 was killed by SIGKILL (out of memory?), see {log}"
    assert failure(job, 1) == "a/seed1 ended with code 1: resource_tracker: leaked"
    assert (ending(-signal.SIGTERM), ending(-99)) == ("was killed by SIGTERM", "was killed by signal 99")


def test_a_run_that_is_interrupted_while_it_imports_leaves_no_traceback(tmp_path):
    (job,) = grid(tmp_path, ["a"], [1], [])
    imports = "import dreammpc, os, signal; os.kill(os.getpid(), signal.SIGINT)"
    assert Runner(1, lambda line: None).run([(job, [[sys.executable, "-c", imports]])]) == {job: 130}
    assert (tmp_path / "a/seed1/run.log").read_text() == "interrupted\n"


def test_runner_passes_signals_on_and_starts_nothing_new(tmp_path):
    jobs = grid(tmp_path, ["a", "b", "c"], [1], [])
    runner = Runner(2, lambda line: None)
    logs = [job.folder / "run.log" for job in jobs]

    def when_ready():
        while not all(log.exists() and "ready" in log.read_text() for log in logs[:2]):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=when_ready, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    codes = runner.run([(job, [[sys.executable, "-c", SAVES]]) for job in jobs])
    assert codes == {jobs[0]: 143, jobs[1]: 143} and runner.signal == signal.SIGTERM
    assert [log.read_text() for log in logs[:2]] == ["ready\nsaved\n"] * 2 and not logs[2].exists()
    assert signal.getsignal(signal.SIGTERM) == before


STUB = """
import json, pathlib, sys
words = dict(word.split("=", 1) for word in sys.argv[1:])
if "folder" in words:
    folder = pathlib.Path(words["folder"].strip("'"))
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints/last.ckpt").touch()
    if words["task"] == "cup-catch" and words["seed"] == "2" and words["steps"] == "1000":
        sys.exit("error: no luck")
    line = {"env_steps": int(words["steps"]), "final/policy": float(words["seed"])}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + chr(10))
print(*sys.argv[1:])
"""


def test_the_recipe_starts_what_is_left(tmp_path, monkeypatch, capsys):
    """With stand-ins for `train` and `evaluate`, of which one run fails at first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr("dreammpc.cli.launch.find_recipe", lambda name: tmp_path / "stub.py")

    def start(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sweep.py", "tasks=walker-walk,cup-catch", "seeds=1,2", *words])
        with pytest.raises(SystemExit) as stop:
            recipe("sweep")()
        told = capsys.readouterr()
        return stop.value.code, told.out, told.err

    first = ["tracking=none", "steps=1000", "folder=a sweep", "jobs=2", "algorithm.utd=0.5"]
    code, out, err = start(*first, "dry=true")
    assert code == 0 and "4 new" in out and "task=walker-walk seed=1" in out
    assert not (tmp_path / "a sweep").exists()
    code, out, err = start(*first)
    assert code == 1 and "3 of 4 trainings are finished" in out and "policy: mean final return 1.3" in out
    assert err == "cup-catch/seed2 ended with code 1: error: no luck\n"
    whole = tmp_path / "a sweep/.mlflow"  # the record that `dreammpc sync` sends
    assert json.loads((whole / "origin.json").read_text())["ended"] == "failed"
    assert json.loads((whole / "params.json").read_text())["tracking"]["run_name"] == "a sweep"
    log = (tmp_path / "a sweep/walker-walk/seed2/run.log").read_text()
    assert log.startswith("task=walker-walk seed=2 folder='") and "algorithm.utd=0.5" in log
    assert log.endswith("resume=auto\n")
    other = ["tracking=none", "steps=1000", "folder=a sweep"]
    assert "algorithm.utd=0.5, not with none" in start(*other, "dry=true")[2]
    again = ["tracking=none", "steps=1001", "folder=a sweep", "algorithm.utd=0.5"]
    code, out, err = start(*again)
    assert code == 0 and "3 finished, 1 interrupted" in out  # 1001 is 1000, nearly
    assert out.count("begins") == 1
    code, out, err = start(*again, "dry=true")
    assert code == 0 and "4 finished" in out and "lightning run" not in out
    code, out, err = start(*again, "evaluate=policy,mppi", "dry=true")
    assert out.count("seed1: finished; lightning run evaluate") == 2 and "run train" not in out
    assert "planner=policy,mppi episodes=10 seed=1000 device=auto" in out and out.count("\n") == 5
    code, out, err = start(*again, "evaluate=mppi", "seeds=3", "dry=true")
    assert out.count(": new; lightning run train task=") == out.count(" && lightning run evaluate ") == 2
    code, out, err = start(*again, "evaluate=mppi")
    assert code == 0 and out.count("begins") == 4  # none has been evaluated
    assert "checkpoint=" in (tmp_path / "a sweep/cup-catch/seed1/run.log").read_text().splitlines()[-1]
    code, out, err = start("tracking=none", "folder=a sweep", "algorithm.utd=2")
    assert code == 2 and "holds a sweep with algorithm.utd=0.5" in err


def test_a_run_without_a_folder_leaves_the_others_and_their_means(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr("dreammpc.cli.launch.find_recipe", lambda name: tmp_path / "stub.py")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/cup-catch").write_text("no folder")
    words = ["tasks=cup-catch,walker-walk", "seeds=1", "tracking=none", "steps=1000", "folder=runs"]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
    with pytest.raises(SystemExit) as stop:
        recipe("sweep")()
    out, err = capsys.readouterr()
    assert stop.value.code == 1 and "cup-catch/seed1: could not be started: [Errno " in out
    assert "1 of 2 trainings are finished" in out and "policy: mean final return 1.0" in out
    assert err == "cup-catch/seed1 could not be started\n"


@pytest.mark.parametrize("name", ["a,b", "exp[1]", "[x]", "my sweep (1)", "it's"])
def test_a_sweep_in_any_folder_evaluates_its_own_checkpoints(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["tasks=cup-catch", "seeds=1", "evaluate=policy", "dry=true", f"folder={quoted(name)}"]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
    with pytest.raises(SystemExit) as stop:
        recipe("sweep")()
    assert stop.value.code == 0
    _, _, typed = capsys.readouterr().out.partition(" && lightning run evaluate ")
    config = compose("evaluate", shlex.split(typed))
    (job,) = grid(tmp_path / name, ["cup-catch"], [1], [])
    assert config.checkpoint == [str(job.checkpoint)] and config.output == str(job.scores)
    job.checkpoint.parent.mkdir(parents=True)
    job.checkpoint.touch()
    assert find_checkpoints(config.checkpoint) == config.checkpoint
    alike = str(tmp_path / "*/cup-catch/seed?/checkpoints/last.ckpt")
    assert find_checkpoints([alike]) == config.checkpoint


TINY = [
    "tasks=cartpole-swingup", "folder=sweep", "env.action_repeat=20", "algorithm.seed_steps=1200",
    "algorithm.batch_size=8", "algorithm.utd=0.1", "evaluation.every=100000", "evaluation.episodes=1",
    "evaluation.planners=[policy]", "evaluation.video=false", "trainer.compile=false", "planner=policy",
]  # fmt: skip


def launch(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dreammpc.cli", "run", "sweep", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_ended(tmp_path):
    """Started three times: with one seed, with more seeds and steps, and when nothing is left."""
    first = launch(*TINY, "seeds=1", "steps=1600", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "1 runs" in first.stdout and "1 of 1 trainings are finished" in first.stdout
    more = [*TINY, "seeds=1,2", "steps=2400", "evaluate=policy"]
    second = launch(*more, cwd=tmp_path)
    assert second.returncode == 0, (
        second.stderr + (tmp_path / "sweep/cartpole-swingup/seed1/run.log").read_text()
    )
    assert "1 interrupted, 1 new" in second.stdout and "2 of 2 trainings are finished" in second.stdout
    for seed in (1, 2):
        folder = tmp_path / f"sweep/cartpole-swingup/seed{seed}"
        lines = logged(folder)
        steps = [line["env_steps"] for line in lines]
        assert steps == sorted(steps) and lines[-1]["final/policy"] >= 0
        assert steps[-1] == 2400
        assert [row["planner"] for row in read_rows([folder / "scores.csv"])] == ["policy"]
    third = launch(*more, cwd=tmp_path)
    assert third.returncode == 0 and "2 finished" in third.stdout and "begins" not in third.stdout

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("dreammpc").experiment_id])
    assert len(runs) == 3
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    under = {run.data.tags.get("mlflow.parentRunId") for run in runs if run is not parent}
    assert under == {parent.info.run_id} and parent.info.run_name == "sweep"
    assert parent.info.status == "FINISHED" and "final/policy" in parent.data.metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tasks=humanoidbench8"], "8 of 8 tasks are not installed here: h1hand-balance_hard"),
        (["seeds=1,2"], "tasks"),
        (["tasks=cup-catch", "planner.horizom=3"], "did you mean planner.horizon?"),
        (["tasks=cup-catch", "planners=mppi,mpi"], "'mpi'"),
        (["tasks=cup-catch", "evaluate=policy,mpi"], "unknown planner 'mpi'"),
        (["tasks=cup-catch", "evaluate=policy,policy"], "evaluate=policy,policy names a planner twice"),
        (["tasks=cup-catch", "evaluation.seed=-1"], "evaluation.seed must be from 0 to 2147483647, got -1"),
        (["tasks=cup-catch", "seeds=-1"], "seed must be from 0 to 2147483647, got -1"),
        (["tasks=cup-catch", "job=2"], "unknown key 'job'; did you mean jobs?"),
        (["tasks=cup-catch", "jobs=0"], "jobs must be at least 1"),
        (["tasks=cup-catch", "seed=3"], "a sweep sets seed itself"),
        (["tasks=cup-catch", "seeds=1,1"], "expected different ones"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in refused("sweep", words, monkeypatch, capsys)
    assert not list(tmp_path.iterdir())
