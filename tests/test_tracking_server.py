"""A real MLflow server on the loopback: sent to, gone, back, synced."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from followers import end_thread

from dreammpc import tracking

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextmanager
def serving(command: list[str], url: str, log: Path):
    """A server that answers at `url`; ended with all its processes."""
    with log.open("a") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command], stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address, and what starts a server there, with the same database each time."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    uri = f"http://127.0.0.1:{port}"
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/files"]
    return uri, lambda: serving(command, f"{uri}/health", folder / "log")


def test_a_server_that_goes_away_has_all_in_the_end(server, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri, start = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = tmp_path / "run"
    with start():
        logger = tracking.MLflowTracker(uri, "walker", run_name="seed1", folder=run, tags={"cpu": "x"})
        logger.log_hyperparams({"seed": 1})
        logger.log_metrics({"loss": 1.0, "bad": float("nan")}, step=100)
        assert logger._follower.flush(300) and logger.version
    for step in range(200, 500, 100):
        logger.log_metrics({"loss": 2.0}, step=step)
    (run / "film.mp4").write_text("film")
    logger.log_artifact(run / "film.mp4", "videos")
    logger.finalize("success")
    assert logger.hint().endswith(f"dreammpc sync {run}")
    end_thread(logger)
    with start():
        to = f"run {logger.version} at {uri}"
        assert list(tracking.sync([run])) == [f"{run}: 3 lines and 1 files sent to {to}"]
        assert list(tracking.sync([run])) == [f"{run}: 0 lines and 0 files sent to {to}"]
        client = MlflowClient(uri)
        found = client.get_run(logger.version)
        assert (found.info.status, found.data.params) == ("FINISHED", {"seed": "1"})
        assert found.data.tags["cpu"] == "x" and found.info.run_name == "seed1"
        history = client.get_metric_history(logger.version, "loss")
        assert [metric.step for metric in history] == [100, 200, 300, 400]
        assert [file.path for file in client.list_artifacts(logger.version, "videos")] == ["videos/film.mp4"]


def test_a_model_is_served(server, tmp_path, monkeypatch):
    """From a real server, by MLflow's own: what it answers is what the agent plans."""
    import torch
    from tensordict import TensorDict

    from dreammpc import load_agent
    from dreammpc.trained import register

    uri, start = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    port = free_port()
    with start():
        said = register("cartpole-swingup", "cart", {"name": "policy"})
        agent = load_agent("models:/cart/1", "policy")
        seen = torch.linspace(-1, 1, 2 * agent.model.obs_dim).reshape(2, -1)
        words = said.partition("serve it: mlflow ")[2].split()
        with serving([*words, "--port", str(port)], f"http://127.0.0.1:{port}/ping", tmp_path / "log"):
            body = json.dumps({"inputs": seen.tolist(), "params": {"seed": 3}}).encode()
            header = {"Content-Type": "application/json"}
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, header)
            with urllib.request.urlopen(asked, timeout=60) as answer:
                actions = torch.tensor(json.load(answer)["predictions"])
    first = torch.ones(2, 1, dtype=torch.bool)
    plan, _ = agent.step(TensorDict({"observation": seen}, [2]), agent.initial_carry(2), first)
    assert torch.equal(actions, plan.action)
