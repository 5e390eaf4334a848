"""`evaluate` on several agents, in this process: tables, files, MLflow, video, and one line for each mistake.

The agents are untrained ones in checkpoints made here, and a decision lasts 200 control steps.
"""

import importlib.util
import sys
from dataclasses import asdict
from pathlib import Path

import gymnasium
import pytest
import torch

from dreammpc.configuration import assembly
from dreammpc.configuration.schemas import AlgorithmConfig, BMPCConfig
from dreammpc.evaluation.rows import read_rows, write_rows
from dreammpc.interfaces import UsageError
from dreammpc.models import SIZES
from dreammpc.trained.compare import compare
from dreammpc.training.checkpoint import DESCRIPTION, FORMAT, save_atomically

WALKS = ("Left-v0", "Right-v0")
RECIPE = Path(__file__).parent.parent / "recipes/evaluate.py"


def make_checkpoint(path: Path, seed: int, task: str = "cartpole-swingup", algorithm: str = "tdmpc2") -> None:
    settings = {
        "seed": seed,
        "algorithm": {"name": algorithm},
        "env": {"action_repeat": 200},
        "model": {"name": "nano", **asdict(SIZES["nano"])},
    }
    torch.manual_seed(seed)
    learner = {"tdmpc2": AlgorithmConfig, "bmpc": BMPCConfig}[algorithm](discount=0.99)
    model = assembly.build_model(assembly.build_env(task, 0), settings["model"], learner)
    facts = assembly.describe(task, model, settings, [], env_steps=1000, format=FORMAT)
    weights = {f"agent.model.{key}": value for key, value in model.state_dict().items()}
    save_atomically({DESCRIPTION: facts, "state_dict": weights}, path)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """With two agents of one task, which differ in the seed of training."""
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        make_checkpoint(tmp_path / f"trained-{seed}.ckpt", seed)
    return tmp_path


def evaluate(monkeypatch, *arguments: str) -> int:
    """Run the recipe; its exit code."""
    spec = importlib.util.spec_from_file_location("recipe_evaluate", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        module.evaluate()
    return stop.value.code


def test_several_agents_of_several_tasks(folder, monkeypatch, capsys):
    make_checkpoint(folder / "other.ckpt", 1, "cup-catch")
    arguments = ["checkpoint=trained-*.ckpt,other.ckpt", "planner=policy,dream_mpc", "seeds=5,7"]
    assert evaluate(monkeypatch, *arguments, "output=scores", "video=both.gif") == 0
    out = capsys.readouterr().out
    for counted in ("2 tasks", "1 to 2 training seeds", "2 episodes per agent"):
        assert counted in out
    assert "2 episodes from seeds 5, 7, greedy" in out
    assert "95 % stratified-bootstrap" in out and "cup-catch: one training seed only" in out
    assert (folder / "both.gif").stat().st_size > 1000
    rows = read_rows(["scores.csv"])
    assert rows == read_rows(["scores.json"])
    assert [row["episode_seed"] for row in rows] == [5, 7] * 6
    assert {(row["task"], row["train_seed"], row["checkpoint"]) for row in rows} == {
        ("cartpole-swingup", 1, "trained-1.ckpt"),
        ("cartpole-swingup", 2, "trained-2.ckpt"),
        ("cup-catch", 1, "other.ckpt"),
    }
    assert {row["length"] for row in rows} == {5} and {row["action_repeat"] for row in rows} == {200}
    assert "mlflow" not in out and not list(folder.glob("mlflow*"))
    assert evaluate(monkeypatch, "checkpoint=trained-2.ckpt", *arguments[1:], "output=again.csv") == 0
    again = [row["return"] for row in read_rows("again.csv")]
    assert again == [row["return"] for row in rows if row["checkpoint"] == "trained-2.ckpt"]
    with pytest.raises(UsageError, match="seeds must be from 0 to 2147483647"):
        next(compare("other.ckpt", "policy", seeds=[5000000000]))
    (played,) = compare("other.ckpt", "policy", seeds=[5, 7])
    write_rows(played.rows, "library.csv")
    same = [row["return"] for row in rows if row["task"] == "cup-catch" and row["planner"] == "policy"]
    assert [row["return"] for row in read_rows("library.csv")] == same
    assert evaluate(monkeypatch, "checkpoint=other.ckpt", "planners=policy", "episodes=1") == 0


def test_mlflow_has_every_episode(folder, monkeypatch, capsys):
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{folder}/mlflow.db"
    settings = ["output=two.csv", "tracking=mlflow", f"tracking.uri={uri}"]
    assert evaluate(monkeypatch, "checkpoint=trained-2.ckpt", "planner=policy", "episodes=2", *settings) == 0
    assert "mlflow ui" in capsys.readouterr().out.strip().splitlines()[-1]
    rows = read_rows(["two.csv"])
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("dreammpc").experiment_id])
    assert run.info.run_name == "evaluate cartpole-swingup: policy" and run.info.status == "FINISHED"
    assert run.data.tags["dreammpc.kind"] == "evaluation"
    name = "cartpole-swingup/seed2/policy/return"
    assert [p.value for p in client.get_metric_history(run.info.run_id, name)] == [r["return"] for r in rows]
    assert run.data.metrics[f"mean/{name}"] == pytest.approx(sum(r["return"] for r in rows) / 2)
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["two.csv"]


@pytest.fixture
def walks(tmp_path, monkeypatch) -> Path:
    """With agents of two tasks of a package that no file may have imported, and one of another task.

    The package leaves a mark where it is imported.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modules").mkdir()
    entry = "gymnasium.envs.classic_control:PendulumEnv"
    lines = [f"gymnasium.register({name!r}, {entry!r}, max_episode_steps=400)" for name in WALKS]
    mark = 'from pathlib import Path; Path("MARK").touch()'
    (tmp_path / "modules/walks.py").write_text("\n".join(["import gymnasium", mark, *lines]))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    for name in WALKS:
        make_checkpoint(path := tmp_path / f"{name}.ckpt", 1, "gym-Pendulum-v1")
        content = torch.load(path, weights_only=True)
        content[DESCRIPTION]["task"] = f"gym-walks:{name}"
        save_atomically(content, path)
    make_checkpoint(tmp_path / "Pendulum.ckpt", 1, "gym-Pendulum-v1")
    yield tmp_path
    sys.modules.pop("walks", None)
    for name in WALKS:
        gymnasium.registry.pop(name, None)


def test_tasks_of_packages_are_confirmed_together_and_each_agent_plays_its_own(walks, monkeypatch, capsys):
    arguments = ["checkpoint=*.ckpt", "planner=policy", "episodes=1"]
    left, right = tasks = [f"gym-walks:{name}" for name in WALKS]
    for named in ([], ["task="], [f"task=gym-Pendulum-v1,{right}"]):
        assert evaluate(monkeypatch, *arguments, *named) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"add task={left} (one task= is played by all checkpoints; task=A,B lets each" in line
        assert not (walks / "MARK").exists(), "a file alone has nothing imported"
    assert evaluate(monkeypatch, *arguments, f"task={','.join(tasks)}", "output=scores.csv") == 0
    assert "trained on" not in "".join(capsys.readouterr())
    played = {row["checkpoint"]: row["task"] for row in read_rows("scores.csv")}
    assert played == dict(
        zip(["Left-v0.ckpt", "Right-v0.ckpt", "Pendulum.ckpt"], [*tasks, "gym-Pendulum-v1"], strict=True)
    )
    assert evaluate(monkeypatch, *arguments, f"task={left},{right},gym-walks:Up-v0") == 2
    assert capsys.readouterr().err.endswith("no checkpoint was trained on gym-walks:Up-v0\n")


def test_a_task_in_place_of_that_of_training_is_said(walks, monkeypatch, capsys, caplog):
    arguments = ["checkpoint=*.ckpt", "planner=policy", "episodes=1", "task=gym-walks:Left-v0"]
    assert evaluate(monkeypatch, *arguments, "output=scores.csv") == 0
    assert [record.getMessage() for record in caplog.records if "trained" in record.getMessage()] == [
        "Pendulum.ckpt: trained on task gym-Pendulum-v1, played on task gym-walks:Left-v0",
        "Right-v0.ckpt: trained on task gym-walks:Right-v0, played on task gym-walks:Left-v0",
    ]
    assert {row["task"] for row in read_rows("scores.csv")} == {"gym-walks:Left-v0"}


def test_an_algorithm_is_one_that_a_checkpoint_names(folder, monkeypatch, capsys):
    arguments = ["checkpoint=trained-1.ckpt", "planner=policy", "episodes=1"]
    assert evaluate(monkeypatch, *arguments, "algorithm=tdmpc2") == 0
    capsys.readouterr()
    assert evaluate(monkeypatch, *arguments, "algorithm=bmpc") == 2
    assert capsys.readouterr().err == "error: algorithm=bmpc trained none of these; they name tdmpc2\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["checkpoint=lost-*.ckpt"], ["lost-*.ckpt", "no file matches"]),
        (["checkpoint=a.ckpt,a.ckpt"], ["a.ckpt", "twice"]),
        (["checkpoint=a.ckpt", "planner=policy,mppi,policy"], ["planner=policy,mppi,policy", "policy twice"]),
        (["checkpoint=a.ckpt", "planner="], ["planner=", "at least one name"]),
        (["checkpoint=a.ckpt", "planer=policy"], ["planer", "did you mean planner?"]),
        (["checkpoint=a.ckpt", "output=scores.txt"], ["scores.txt", ".csv or .json"]),
        (["checkpoint=a.ckpt", "output=folder.csv"], ["folder.csv is a folder"]),
        (["checkpoint=a.csv", "output=a"], ["a.csv is what is read; name another file"]),
        (["checkpoint=a.ckpt", "video=folder.mp4"], ["folder.mp4 is a folder"]),
        (["checkpoint=."], ["checkpoint . is a folder", "expected a file"]),
        (["checkpoint=a.ckpt", "episodes=100000000000"], ["episodes must be from 1 to 10000"]),
        (["checkpoint=a.ckpt", "video=both.avi"], ["both.avi", ".mp4 or .gif"]),
        (["checkpoint=a.ckpt", "seeds=1,1"], ["seeds", "different"]),
        (["checkpoint=a.ckpt", "seeds=1,2", "episodes=5"], ["episodes=5", "2 seeds", "one episode for each"]),
        (["checkpoint=a.ckpt", "seeds="], ["seeds= names none"]),
        (["checkpoint=a.ckpt", "seed=-1"], ["seed must be from 0 to 2147483647, got -1"]),
        (["checkpoint=a.ckpt", "seeds=-1,2"], ["seeds must be from 0 to 2147483647, got -1"]),
        (["checkpoint=a.ckpt", "seed=5000000000"], ["seed must be from 0 to 2147483647, got 5000000000"]),
        (["checkpoint=it's=here.ckpt"], ["it's=here.ckpt", "does not exist"]),
        (["planner=policy"], ["checkpoint= is needed: lightning run evaluate checkpoint="]),
        (["checkpoint=ä b.ckpt", "output=ä b.txt"], ["output ä b.txt", ".csv or .json"]),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("folder.csv", "folder.mp4"):
        (tmp_path / name).mkdir()
    (tmp_path / "a.csv").touch()
    assert evaluate(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert len(list(tmp_path.rglob("*"))) == 3, "nothing may be left behind"
