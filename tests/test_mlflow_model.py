"""An agent at MLflow: registered, loaded, served; its addresses wherever a checkpoint goes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import PENDULUM, recipe, refused, run_here
from tensordict import TensorDict

from dreammpc import load_agent
from dreammpc.algorithms import TDMPC2
from dreammpc.cli import parser as cli
from dreammpc.configuration.planners import build_planner
from dreammpc.interfaces import RunError, UsageError
from dreammpc.tracking import MLflowTracker, default_tracking_uri
from dreammpc.trained import find_agent, locate, mlflow_download
from dreammpc.trained.mlflow_model import register, save_model
from dreammpc.training.checkpoint_format import load_checkpoint

AGENT = "cartpole-swingup"


class Own(TDMPC2):
    """Named by its dotted path."""


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """MLflow's address, and a run there with a registered agent and a checkpoint."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = default_tracking_uri(folder)
    logger = MLflowTracker(uri, "dreammpc", run_name="seed1", folder=folder / "run")
    (folder / "run/checkpoints").mkdir()
    last = folder / "run/checkpoints/last.ckpt"
    last.write_bytes(find_agent(AGENT).read_bytes())
    logger.log_artifact(last, "checkpoints")
    logger.finalize("success")
    said = register(last, "carts", {"name": "policy"}, uri)
    return uri, logger.version, said


@pytest.fixture(autouse=True)
def today(there, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", there[0])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {key: value.float() for key, value in load_checkpoint(path)["state_dict"].items()}


def test_a_registered_agent_belongs_to_its_run(there):
    from mlflow import MlflowClient

    uri, run, said = there
    assert said.startswith(f"models:/carts/1 of run {run} at {uri}; serve it: mlflow models serve -m models:")
    client = MlflowClient(uri)
    assert client.get_run(run).info.status == "FINISHED"
    assert "model/MLmodel" in [file.path for file in client.list_artifacts(run, "model")]


def test_every_address_means_the_same_weights(there):
    from mlflow import MlflowClient

    uri, run, _ = there
    MlflowClient(uri).set_registered_model_alias("carts", "champion", 1)
    mine = weights(find_agent(AGENT))
    texts = ["models:/carts/1", "models:/carts", "models:/carts@champion"]
    for text in [*texts, f"runs:/{run}/model", f"runs:/{run}/checkpoints/last.ckpt"]:
        found = weights(locate(text))
        assert found.keys() == mine.keys() and all(torch.equal(found[key], mine[key]) for key in mine)
    assert locate("models:/carts/1") == locate("models:/carts/1")  # fetched once


def test_a_loaded_model_acts_as_the_agent(there):
    import mlflow

    mlflow.set_tracking_uri(there[0])
    model = mlflow.pyfunc.load_model("models:/carts/1")
    agent = load_agent("models:/carts/1", "policy")
    observations = np.random.default_rng(0).normal(size=(3, agent.model.obs_dim)).astype(np.float32)
    obs = TensorDict({"observation": torch.from_numpy(observations)}, [3])
    expected, _ = agent.step(obs, agent.initial_carry(3), torch.ones(3, 1, dtype=torch.bool))
    actions = model.predict(observations, params={"seed": 0})
    assert actions.dtype == np.float32 and np.array_equal(actions, expected.action.numpy())


def test_a_served_agent_remembers_the_plans_of_an_episode(tmp_path):
    """As an agent that plays, and each call stands alone without the name of an episode."""
    import mlflow

    settings = {"name": "mppi", "num_samples": 64, "iterations": 1}
    save_model(find_agent(AGENT), tmp_path / "model", settings)
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    agent = load_agent(AGENT, build_planner(settings, 1))
    carry, first = agent.initial_carry(1), torch.ones(1, 1, dtype=torch.bool)
    for seed in range(3):
        seen = np.full((1, agent.model.obs_dim), seed / 10, np.float32)
        torch.manual_seed(seed)
        obs = TensorDict({"observation": torch.from_numpy(seen)}, [1])
        plan, carry = agent.step(obs, carry, first & (seed == 0))
        of_episode = served.predict(seen, params={"episode": "a", "seed": seed})
        assert np.array_equal(of_episode, plan.action.numpy())
        alone = [served.predict(seen, params={"seed": seed}) for _ in range(2)]
        assert np.array_equal(*alone) and (seed == 0) == np.array_equal(alone[0], of_episode)


def test_a_served_agent_refuses_what_is_not_finite(tmp_path):
    import mlflow

    save_model(find_agent(AGENT), tmp_path / "model", {"name": "policy"})
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    seen = np.zeros((2, served.metadata.signature.inputs.inputs[0].shape[1]), np.float32)
    seen[1, 2] = np.nan
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"observation\[2\] of row 1 is not finite"):
        served.predict(seen)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models:/carts/7", "has none"),
        ("models:/wagons/1", "has none"),
        ("models:/wagons", "has no model 'wagons'"),
        ("models:/carts@nobody", "has none"),
        ("models:/carts/x", "expected models:/NAME/VERSION, models:/NAME@ALIAS or runs:/ID/PATH"),
        ("models:/a' or 'b'='b", "expected models:/NAME"),
        ("runs:/../x", "expected models:/NAME"),
        ("runs:/0123456789abcdef0123456789abcdef/model", "has none"),
        ("runs:/RUN/checkpoints", "is no file and no model; there are: checkpoints/last.ckpt"),
        ("runs:/RUN/x.ckpt", "is no file and no model; there are: checkpoints, model"),
    ],
)
def test_what_is_not_there(text, said, there):
    text = text.replace("RUN", there[1])
    with pytest.raises(UsageError) as caught:
        locate(text)
    assert said in str(caught.value) and text in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_of_another_program(there, tmp_path):
    from mlflow import MlflowClient

    (tmp_path / "MLmodel").write_text("flavors: {}")
    MlflowClient(there[0]).log_artifacts(there[1], str(tmp_path), "other")
    with pytest.raises(UsageError, match=r"is a model of another program: it has no artifacts/agent\.ckpt"):
        locate(f"runs:/{there[1]}/other")


def test_a_store_whose_package_is_missing_is_named(there, monkeypatch):
    from mlflow import MlflowClient

    client = MlflowClient(there[0])
    run = client.create_run(client.create_experiment("far", artifact_location="s3://bucket/far")).info.run_id
    monkeypatch.setitem(sys.modules, "boto3", None)
    text = f"runs:/{run}/agent.ckpt"
    with pytest.raises(UsageError) as caught:
        locate(text)
    line = rf"checkpoint {text}: the store .* keeps it needs boto(3|core), which is not installed here"
    assert re.fullmatch(line, str(caught.value))


def test_an_algorithm_by_dotted_path_is_registered_when_its_training_ends(tmp_path):
    """It was chosen for the training, and is named for those who register the file later."""
    words = [word for word in PENDULUM if word != "tracking=none"]
    small = "planner=policy", "evaluation.planners=[policy]", "evaluation.video=false"
    own = f"algorithm={__name__}.Own", "tracking.register=poles"
    done = run_here("train", *words, *small, *own, cwd=tmp_path)
    assert "models:/poles/1 of run " in done.stdout
    last = tmp_path / "run/checkpoints/last.ckpt"
    with pytest.raises(UsageError, match=rf"if you trust it, add algorithm={__name__}\.Own"):
        register(last, "poles", {"name": "policy"}, "http://127.0.0.1:9")
    with pytest.raises(RunError) as error:
        register(last, "poles", {"_target_": "policy"}, "http://127.0.0.1:9", named=[f"{__name__}.Own"])
    command = (
        f"dreammpc register {last} poles --uri http://127.0.0.1:9 planner=policy algorithm={__name__}.Own"
    )
    assert str(error.value).endswith(f"later, {command}")


def test_no_mlflow(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"models:/x/1: MLflow at http://127.* can't be read"):
        locate("models:/x/1")
    with pytest.raises(RunError, match=r"MLflow at http://127.* can't be written") as error:
        register(AGENT, "carts", {"name": "mppi", "num_samples": 64, "num_policy": 24})
    path = find_agent(AGENT)
    later = f"later, dreammpc register {path} carts planner=mppi planner.num_samples=64"
    assert str(error.value).endswith(later)
    with pytest.raises(RunError, match=r"carts --uri http://127\.0\.0\.1:9 planner=policy$"):
        register(AGENT, "carts", {"name": "policy"}, "http://127.0.0.1:9")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UsageError, match=r"there is no MLflow at sqlite:.*MLFLOW_TRACKING_URI"):
        locate("models:/x/1")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(mlflow_download, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="models:/x/1 needs MLflow, which is not installed here"):
        locate("models:/x/1")


def test_commands_take_addresses(there, tmp_path, monkeypatch, capsys):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    settings = ["planner=mppi", "planner.num_samples=64"]
    cli.main(["register", AGENT, "more", *settings, "--uri", there[0]])
    out, err = capsys.readouterr()
    assert out.startswith("models:/more/1 of run") and not err
    assert not list(tmp_path.iterdir())
    MlflowClient(there[0]).set_registered_model_alias("more", "latest-one", 1)
    words = ["--planners", "policy", "--episodes", "1", "--name", f"{AGENT}/mine"]
    cli.main(["export-agent", "models:/more/1", *words])
    assert (tmp_path / f"agents/{AGENT}/mine.ckpt").exists()
    cli.main(["demo", "models:/more@latest-one", "planner=policy", "--no-video"])
    assert f"{AGENT}, models:/more@latest-one, planned by policy" in capsys.readouterr().out
    words = ["checkpoint=models:/more@latest-one", "planner=policy", "episodes=1", "output=x.csv"]
    monkeypatch.setattr("sys.argv", ["evaluate.py", *words])
    with pytest.raises(SystemExit) as stop:
        recipe("evaluate")()
    assert stop.value.code == 0
    assert "models:/more@latest-one" in (tmp_path / "x.csv").read_text()


def test_words_that_cannot_be_registered(monkeypatch, capsys):
    for words, said in (
        (["tracking.register=a/b"], "tracking.register: expected letters, digits"),
        (["tracking=none", "tracking.register=a"], "tracking.register needs tracking=mlflow"),
    ):
        assert said in refused("train", words, monkeypatch, capsys)
    assert "dreammpc register" in refused(
        "evaluate", ["checkpoint=x", "tracking=mlflow", "tracking.register=a"], monkeypatch, capsys
    )
