"""MLflow: what is written arrives, and nothing that goes wrong there reaches training."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from followers import end_thread
from forked import start_python

from dreammpc import tracking
from dreammpc.interfaces import RunError
from dreammpc.tracking import addresses, mlflow_logger
from dreammpc.tracking.follower import Follower
from dreammpc.tracking.mlflow_run import MlflowRun, Rejected

# MLflow


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One SQLite database for all tests: making one takes seconds."""
    return tracking.default_tracking_uri(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def tracker(uri, tmp_path):
    def make(**options):
        return tracking.MLflowTracker(uri, "cartpole", folder=tmp_path, **options)

    return make


def run_of(tracker):
    from mlflow import MlflowClient

    client = MlflowClient(tracker._uri)
    return client, client.get_run(tracker.version)


def test_mlflow_gets_everything(tracker, uri, tmp_path, capfd):
    from mlflow.entities import RunStatus

    file = tmp_path / "video.mp4"
    file.write_text("film")
    logger = tracker(run_name="cartpole-seed1", tags={"git.revision": "abc", "long": "t" * 9000})
    logger.log_hyperparams({"planner": {"horizon": 3, "nested": {"x (m)": None}}, "long": "p" * 7000})
    for step in range(0, 3000, 1000):
        logger.log_metrics({"loss": step / 2, "bad": math.nan, "eval/return": torch.tensor(1.0)}, step=step)
    logger.log_artifact(file, "videos")
    logger.finalize("success")

    client, run = run_of(logger)
    assert RunStatus.to_string(RunStatus.from_string(run.info.status)) == "FINISHED"
    assert run.info.run_name == "cartpole-seed1"
    assert run.data.params["planner.horizon"] == "3"
    assert run.data.params["planner.nested.x _m_"] == "None"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["git.revision"] == "abc"
    history = client.get_metric_history(logger.version, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.0), (1000, 500.0), (2000, 1000.0)]
    assert math.isnan(run.data.metrics["bad"])
    assert [info.path for info in client.list_artifacts(logger.version, "videos")] == ["videos/video.mp4"]
    database = Path(uri.removeprefix("sqlite:///"))
    assert list((database.parent / "mlartifacts").rglob("video.mp4"))
    assert json.loads((tmp_path / "mlflow.json").read_text())["run"] == logger.version and logger.delivered
    assert abs(history[0].timestamp - 1000 * time.time()) < 600_000
    assert logger.name == "cartpole"
    assert logger.hint() == (
        f"MLflow run 'cartpole-seed1' (id {logger.version}): mlflow ui --backend-store-uri {uri}"
    )
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_resume_goes_on_in_the_same_run(tracker):
    first = tracker(run_name="resumed")
    first.log_hyperparams({"seed": 1, "steps": 1000})
    first.log_metrics({"loss": 1.0}, step=1000)
    first.finalize("killed")
    assert run_of(first)[1].info.status == "KILLED"

    second = tracker(run_id=first.version, tags={"resumed": "yes"})
    assert second.version == first.version
    assert run_of(second)[1].info.status == "RUNNING"
    second.log_hyperparams({"seed": 1, "steps": 2000, "new": True})
    second.log_metrics({"loss": 0.5}, step=2000)
    second.finalize("failed")
    client, run = run_of(second)
    assert run.info.status == "FAILED"
    assert run.data.params == {"seed": "1", "steps": "1000", "new": "True"}
    assert run.data.tags["changed.steps"] == "2000"
    assert run.data.tags["resumed"] == "yes"
    assert [metric.step for metric in client.get_metric_history(second.version, "loss")] == [1000, 2000]


def test_a_run_that_is_gone_is_made_anew(tracker, caplog):
    logger = tracker(run_id="0123456789abcdef0123456789abcdef")
    assert logger.version and logger.version != "0123456789abcdef0123456789abcdef"
    assert "a new one is made" in caplog.text


def test_a_run_that_is_gone_gets_its_log_again(tracker):
    from mlflow import MlflowClient

    first = tracker()
    first.log_metrics({"loss": 1.0}, step=1)
    first.finalize("success")
    client = MlflowClient(first._uri)
    client._tracking_client.store._hard_delete_run(first.version)
    second = tracker(run_id=first.version, resume_step=1)
    second.finalize("success")
    assert second.version != first.version
    assert run_of(second)[1].data.metrics == {"loss": 1.0}


def test_a_missing_artifact_holds_nothing_up(tracker, tmp_path, caplog):
    logger = tracker()
    logger.log_artifact(tmp_path / "nothing.mp4")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finalize("success")
    assert "nothing.mp4 cannot be read" in caplog.text
    with pytest.raises(ValueError, match="subpath"):
        logger.log_artifact(tmp_path.parent / "elsewhere.mp4")
    assert run_of(logger)[1].data.metrics == {"loss": 1.0}


def test_a_dead_server_is_waited_for_twice_and_raises_nothing(uri, tmp_path, caplog, monkeypatch):
    waits, flush = [], Follower.flush
    monkeypatch.setattr(mlflow_logger, "CONNECT_WAIT_S", 0.5)
    monkeypatch.setattr(mlflow_logger, "FINALIZE_WAIT_S", 0.25)
    monkeypatch.setattr(Follower, "flush", lambda self, most: waits.append(most) or flush(self, most))
    logger = tracking.MLflowTracker("http://127.0.0.1:9", "cartpole", run_name="late", folder=tmp_path)
    logger.log_hyperparams({"seed": 1})
    logger.log_metrics({"loss": math.nan}, step=1)
    logger.log_metrics({"loss": 2.0}, step=2)
    logger.finalize("success")
    assert waits == [0.5, 0.25]
    assert logger.version is None and not logger.delivered
    assert logger.hint().endswith(f"send the rest with dreammpc sync {tmp_path} --uri http://127.0.0.1:9")
    assert caplog.text.count("can't be written") == 1
    end_thread(logger)

    with pytest.raises(RunError, match=rf"can't be written.*{tmp_path} keeps all"):
        list(tracking.sync([tmp_path], "http://127.0.0.1:9"))
    said = list(tracking.sync([tmp_path], uri))
    note = json.loads((tmp_path / "mlflow.json").read_text())
    assert said == [f"{tmp_path}: 2 lines and 0 files sent to run {note['run']} at {uri}"]
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    run = client.get_run(note["run"])
    assert (run.data.params, run.info.status) == ({"seed": "1"}, "FINISHED")
    history = client.get_metric_history(note["run"], "loss")
    assert [metric.step for metric in history] == [1, 2] and math.isnan(history[0].value)


def test_an_unknown_status_is_refused(tracker):
    with pytest.raises(ValueError, match="'gone'; there are success, finished, failed"):
        tracker().finalize("gone")


CREATE = """
from dreammpc.tracking import MLflowTracker, default_tracking_uri
tracker = MLflowTracker(default_tracking_uri({database!r}), "shared", run_name={name!r}, folder={folder!r})
tracker.log_metrics({{"loss": 1.0}}, step=1)
tracker.finalize("success")
print(tracker.version, tracker.delivered)
"""


def test_two_processes_make_one_fresh_database(tmp_path):
    runs = [
        start_python(CREATE.format(database=str(tmp_path / "db"), name=name, folder=str(tmp_path / name)))
        for name in "ab"
    ]
    ids = set()
    for done in [run.wait() for run in runs]:
        assert done.stderr == ""
        run_id, left = done.stdout.split()
        assert left == "True"
        ids.add(run_id)
    assert len(ids) == 2 and "None" not in ids


def test_only_what_is_refused_is_dropped(tracker, monkeypatch, caplog):
    write = MlflowRun.write_metrics

    def refuse(run, lines):
        if any(values == {"n": 3.0} for _, _, values in lines):
            raise Rejected("three is not a number")
        write(run, lines)

    monkeypatch.setattr(MlflowRun, "write_metrics", refuse)
    logger = tracker()
    for n in range(6):
        logger.log_metrics({"n": n}, step=n)
    logger.finalize("success")
    client, _ = run_of(logger)
    assert [entry.step for entry in client.get_metric_history(logger.version, "n")] == [0, 1, 2, 4, 5]
    assert caplog.text.count("three is not a number") == 1


def test_passwords_stay_out_of_messages():
    hidden = addresses.redacted("at http://me:pa55@host:5000/x and sqlite:////a/b@c:d/mlflow.db")
    assert hidden == "at http://me:***@host:5000/x and sqlite:////a/b@c:d/mlflow.db"


def test_sync_of_a_run_without_tracking_sends_its_files(uri, tmp_path):
    from mlflow import MlflowClient

    logger = tracking.JSONLLogger(tmp_path)
    logger.log_metrics({"final/mppi": 1.0}, step=1)
    (tmp_path / "checkpoints").mkdir()
    for name in ("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "walker.mp4"):
        (tmp_path / name).touch()
    (said,) = tracking.sync([tmp_path], uri)
    assert ": 1 lines and 2 files sent to run " in said
    client, run = MlflowClient(uri), said.split(" sent to run ")[1].split()[0]
    places = [file.path for place in ("checkpoints", "videos") for file in client.list_artifacts(run, place)]
    assert places == ["checkpoints/last.ckpt", "videos/walker.mp4"]
    assert client.get_run(run).info.status == "FINISHED"
