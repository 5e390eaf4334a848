"""The recipes as a user runs them: files left behind, exit codes, resume, and one line for each mistake."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import TINY, logged, refused, run_here
from forked import Forked
from hydra.core.override_parser.overrides_parser import OverridesParser

from dreammpc.configuration.command_line import override_text, rewrite, words
from dreammpc.configuration.recipe import compose, with_resumed
from dreammpc.evaluation.rows import read_rows
from dreammpc.training.checkpoint import Checkpoints
from dreammpc.training.checkpoint_format import DESCRIPTION, FORMAT
from dreammpc.training.files import save_atomically


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A short training with MLflow, from another folder than the checkout's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return folder, run_here("train", *TINY, "tracking.register=cart", cwd=folder)


def test_train_leaves_what_it_says(run):
    folder, result = run
    lines = logged(folder / "run")
    steps = [line["env_steps"] for line in lines]
    assert steps == sorted(steps) and steps[-1] == 6000
    assert any("loss/value" in line for line in lines) and any("eval/return" in line for line in lines)
    assert "| policy " in result.stdout and "| dream_mpc " in result.stdout
    last_lines = result.stdout.strip().splitlines()[-2:]
    assert "mlflow ui --backend-store-uri sqlite:///" in last_lines[0]
    assert last_lines[1].startswith("models:/cart/1 of run ")
    for name in ("last", "best"):
        content = torch.load(folder / f"run/checkpoints/{name}.ckpt", weights_only=True)
        assert content["dreammpc"]["task"] == "cartpole-swingup"
    assert not list((folder / "run").rglob("*.tmp"))
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith("mlflow")) == [
        "mlartifacts",
        "run",
    ]


def test_train_reaches_mlflow(run):
    from mlflow.tracking import MlflowClient

    folder, _ = run
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("dreammpc")
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.status == "FINISHED"
    assert record.data.params["task"] == "cartpole-swingup" and record.data.params["algorithm.utd"] == "0.2"
    assert record.data.tags["version.torch"].startswith("2.") and "version.dreammpc" in record.data.tags
    history = client.get_metric_history(record.info.run_id, "loss/value")
    assert history and history[-1].step <= 6000
    artifacts = {a.path for a in client.list_artifacts(record.info.run_id, "checkpoints")}
    assert artifacts == {"checkpoints/last.ckpt", "checkpoints/best.ckpt"}
    assert client.get_model_version("cart", "1").run_id == record.info.run_id


def test_video_can_be_read(run):
    import imageio.v3 as iio

    folder, _ = run
    frames = iio.imread(folder / "run/cartpole-swingup.mp4")
    assert frames.shape == (50, 256, 256, 3)
    assert frames.std() > 5  # not a blank picture


def test_evaluate_compares_planners(run):
    folder, _ = run
    ours = ["checkpoint=run/checkpoints/last.ckpt", "planner=policy,dream_mpc,mppi", "episodes=1"]
    sizes = {"num_samples": 16, "num_elites": 8, "num_policy": 4, "iterations": 1}
    ours += [f"planner.{name}={value}" for name, value in sizes.items()]
    run_here("evaluate", *ours, "output=scores.json", cwd=folder)
    scores = {row["planner"]: row for row in read_rows([folder / "scores.json"])}
    assert list(scores) == ["policy", "dream_mpc", "mppi"]
    # 16 samples, 1 iteration, horizon 3, and two steps for the four policy rollouts.
    assert scores["mppi"]["diagnostics.evaluations"] == 16 * 3 + 4 * 2
    assert scores["mppi"]["settings"]["num_samples"] == 16 and scores["mppi"]["train_seed"] == 1
    assert {row["mode"] for row in scores.values()} == {"greedy"}
    run_here(
        "evaluate",
        ours[0],
        "planner=dream_mpc",
        "planner.iterations=1",
        "episodes=1",
        "output=again",
        cwd=folder,
    )
    (repeated,) = read_rows([folder / "again.csv"])
    assert repeated["return"] == scores["dream_mpc"]["return"] and repeated["episode_seed"] == 1000
    assert [repeated] == read_rows([folder / "again.json"])


def test_resume_takes_the_runs_own_settings(run):
    folder, _ = run
    run_here(
        "train",
        "resume=run/checkpoints/last.ckpt",
        "steps=7000",
        "tracking=none",
        "evaluation.video=false",
        cwd=folder,
    )
    facts = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)["dreammpc"]
    assert facts["env_steps"] == 7000
    assert facts["config"]["algorithm"]["batch_size"] == 16  # from the first run's command line
    assert facts["resume"]["ranks"][0]["replay"]["written"] == 350
    steps = [line["env_steps"] for line in logged(folder / "run")]
    assert steps == sorted(steps) and steps[-1] == 7000


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_and_says_where(tmp_path, number, code):
    process = Forked("run", "train", *TINY, "steps=2000000", "tracking=none", cwd=tmp_path)
    log = tmp_path / "run/metrics.jsonl"
    while not (log.exists() and "loss/value" in log.read_text()):
        assert process.running, process.wait()
        time.sleep(0.05)
    os.kill(process.pid, number)
    done = process.wait()
    assert done.returncode == code, done.stderr
    assert "stopped after" in done.stdout and "resume=" in done.stdout and "Traceback" not in done.stderr
    facts = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["dreammpc"]
    assert facts["resume"]["ranks"][0]["feed"]["agent_steps"] * 20 == facts["env_steps"] > 0


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("task=walker-wlak", ["'walker-wlak'", "walker-walk"]),
        ("planner=mpi", ["'mpi'", "mppi", "dream_mpc"]),
        ("model=7M", ["'7M'", "5M", "nano"]),
        ("experiment=nope", ["'nope'", "walker-walk"]),
        ("learning=nanoo", ["'nanoo'", "nano", "published"]),
        ("planner.num_samplez=3", ["planner 'dream_mpc'", "'num_samplez'", "num_candidates"]),
        ("algorithm.utdd=1", ["algorithm.utdd", "did you mean algorithm.utd?"]),
        ("nonsense=1", ["'nonsense'", "task", "steps"]),
        ("seed=abc", ["seed", "abc", "Integer"]),
        ("seed=5000000000", ["seed must be from 0 to 2147483647, got 5000000000"]),
        ("planner.horizon=0", ["horizon", "at least 1", "0"]),
        ("planner.horizon=far", ["horizon", "type int", "'far'"]),
        ("planner.step_size=-1", ["step_size", "at least 0", "-1"]),
        ("planner.num_candidates=0", ["num_candidates", "at least 1", "0"]),
        ("planner._target_=no.such.Planner", ["no.such.Planner", "No module named 'no'"]),
        ("planner._target_=dreammpc.planning.MPPJ", ["MPPJ", "did you mean MPPI?"]),
        ("planner._target_=dreammpc.planning.Imagination", ["Imagination", "is not a dataclass"]),
        ("planner.step_rule=leap", ["step_rule", "backtracking", "leap"]),
        ("model.latent_dim=30", ["latent_dim", "multiple of 8", "30"]),
        ("model.num_enc_layers=0", ["num_enc_layers must be at least 1, got 0"]),
        ("model.name=1M", ["model.name is '1M' over nano's settings; use model=1M"]),
        ("algorithm.target_heads=9", ["algorithm.target_heads", "at most the model's 2", "model.num_heads"]),
        ("algorithm.dropout=1", ["algorithm.dropout", "below 1", "1.0"]),
        ("evaluation.every=null", ["evaluation.every must not be null"]),
        ("steps=-1", ["steps", "at least 0", "-1"]),
        ("steps=0", ["steps=0", "data=PATH data.updates=N"]),
        ("algorithm.lr_decay_from=1", ["algorithm.lr_decay_from", "below 1", "1.0"]),
        ("algorithm.noise_correlation=1", ["algorithm.noise_correlation", "below 1", "1.0"]),
        ("env.num_envs=0", ["env.num_envs", "at least 1"]),
        ("env.num_envs=1000000", ["env.num_envs=1000000", "more than the run has steps"]),
        ("obs=pixel", ["env.obs", "'pixel'", "did you mean pixels?", "both", "state"]),
        ("evaluation.planners=policy,mpi", ["mpi", "mppi"]),
        ("tracking=wandb", ["tracking", "mlflow", "none", "wandb"]),
        ("trainer.devices=999", ["devices", "999"]),
        ("trainer.num_nodes=2", ["trainer.num_nodes=2", "--num-nodes 2"]),
        ("trainer.threads=0", ["trainer.threads must be at least 1, got 0"]),
        ("trainer.strategy=ddp_spawn", ["trainer.strategy must be one of auto, got 'ddp_spawn'"]),
        ("replay.folder=here", ["replay.folder", "replay.storage=memmap", "storage is memory"]),
        (
            "algorithm.capacity=2",
            ["algorithm.capacity", "algorithm.horizon=2", "4 environments, 8 transitions, got 2"],
        ),
        ("trainer.accelerator=abacus", ["abacus", "cpu"]),
        ("evaluation.planners=[mpi]", ["mpi", "mppi"]),
        ("resume=missing.ckpt", ["missing.ckpt", "does not exist"]),
        ("folder=/proc/nowhere", ["/proc/nowhere", "cannot be written"]),
    ],
)
def test_mistakes_are_one_line(argument, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = refused("train", [argument, "trainer.compile=false"], monkeypatch, capsys)
    for word in words:
        assert word in line, line
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def test_checkpoint_mistakes_are_one_line(run, monkeypatch, capsys):
    folder, _ = run
    monkeypatch.chdir(folder)
    path = "run/checkpoints/last.ckpt"
    line = refused("train", [f"resume={path}", "task=walker-walk"], monkeypatch, capsys)
    assert "task cartpole-swingup" in line and "walker-walk" in line
    line = refused("train", [f"resume={path}", "model=1M"], monkeypatch, capsys)
    assert "model nano" in line and "1M" in line
    line = refused("train", ["resume=run/checkpoints/best.ckpt"], monkeypatch, capsys)
    assert "weights only" in line and "last.ckpt" in line
    line = refused("train", [f"resume={path}", "steps=100"], monkeypatch, capsys)
    assert "environment steps: steps must be more, got 100" in line
    line = refused("evaluate", [f"checkpoint={path}", "task=walker-walk"], monkeypatch, capsys)
    assert "cartpole-swingup" in line and "walker-walk" in line
    line = refused(
        "evaluate", [f"checkpoint={path}", "planner=policy", "planner.num_samples=3"], monkeypatch, capsys
    )
    assert "num_samples" in line and "policy" in line
    Path("torn.ckpt").write_bytes(Path(path).read_bytes()[:1000])
    line = refused("evaluate", ["checkpoint=torn.ckpt"], monkeypatch, capsys)
    assert "torn.ckpt" in line and "damaged" in line
    line = refused("evaluate", ["checkpoint=run/checkpoints/lost.ckpt"], monkeypatch, capsys)
    assert "lost.ckpt" in line and "last.ckpt" in line


def test_a_new_choice_of_planners_goes_without_the_settings_of_the_old_one(tmp_path):
    path = tmp_path / "run/checkpoints/last.ckpt"
    config = {"seed": 3, "eval_planner": ["policy", "mppi"], "eval_settings": {"num_samples": 64}}
    config["planner"] = {"name": "dream_mpc", "horizon": 2}
    save_atomically({DESCRIPTION: {"format": FORMAT, "config": config}}, path)
    folder = f"folder={path.parent.parent}"
    now = [f"resume={path}", "eval_planner=[policy]"]
    assert with_resumed(now, "train") == ["seed=3", "planner.horizon=2", folder, *now]
    now = [f"resume={path}", "++eval_settings.num_samples=32"]
    assert with_resumed(now, "train") == [
        "seed=3",
        "eval_planner=['policy','mppi']",
        "planner.horizon=2",
        folder,
        *now,
    ]
    now = [f"resume={path}", "planner=cem", "eval_planner=[policy]"]
    assert with_resumed(now, "train") == ["seed=3", folder, *now]


OLD = {"batch_size": 128, "lr": 2e-3, "target_rate": 0.03}
"""What a run of 5M learned with: the laptop's settings, as it was once, and a rate of its own."""


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([], OLD),
        (["steps=2000", "algorithm.lr=1e-4"], {**OLD, "lr": 1e-4}),
        (["learning=nano"], {**OLD, "lr": 1e-3}),
    ],
)
def test_a_run_goes_on_with_its_own_settings_and_not_with_those_of_its_size(now, expected, tmp_path):
    """Before settings followed the size, `model=5M` learned as nano does."""
    path = tmp_path / "run/checkpoints/last.ckpt"
    config = {"model": {"name": "5M"}, "algorithm": {"name": "tdmpc2", **OLD}}
    save_atomically({DESCRIPTION: {"format": FORMAT, "config": config}}, path)
    config = compose("train", with_resumed([f"resume={path}", *now], "train"))
    assert config.model.name == "5M"
    assert {name: getattr(config.algorithm, name) for name in OLD} == expected


PATHS = [
    *("runs/a/last.ckpt", "swëep dir/last.ckpt", "it's = here/last.ckpt", "null", "a b\\", "1e3", "a,b.h5"),
    *("walks.h5", "[a].h5", "x: {y}.h5", "~/a b", "x$y"),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["resume", "data"])
def test_what_is_printed_can_be_typed(path, key):
    (word,) = shlex.split(override_text(key, path))
    for typed in ([word], rewrite([word], "train")):
        (override,) = OverridesParser.create().parse_overrides(typed)
        assert override.key_or_group in (key, "data.path") and override.value() == path


def test_what_needs_no_quotes_is_printed_without():
    assert words(resume="runs/a/last.ckpt", data="walks.h5") == "resume=runs/a/last.ckpt data=walks.h5"
    assert words(resume="my runs/last.ckpt") == "'resume=my runs/last.ckpt'"
    assert words(a=64, b=0.5, c=True, e=Path("a/b")) == "a=64 b=0.5 c=True e=a/b"
    assert words(a="64", c="true", d=[1, 2]) == """'a='"'"'64'"'"'' 'c='"'"'true'"'"'' 'd=[1, 2]'"""


def test_a_run_that_fails_names_its_checkpoint_as_one_types_it():
    last = Path("my runs/last.ckpt")
    feed = SimpleNamespace(env_steps=6)
    run = SimpleNamespace(_started=False, _good=(last, 5), last=last, feed=feed)
    error = ValueError()
    Checkpoints.on_exception(run, None, None, error)
    for line in (*error.__notes__, Checkpoints._unwritten(run, OSError(28, "full"))):
        assert line.endswith("with 'resume=my runs/last.ckpt'")
