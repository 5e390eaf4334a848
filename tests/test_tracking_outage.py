"""MLflow absent, dying, frozen, coming back, locked: training does not wait, no number is lost or doubled.

The server is a stand-in on the loopback that keeps what the real one keeps of the few calls that a run makes.
"""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest
from followers import end_thread

from dreammpc import tracking
from dreammpc.cli import parser as cli
from dreammpc.interfaces import RunError, UsageError
from dreammpc.runtime.processes import Terminated
from dreammpc.support.run_folder import find_runs
from dreammpc.sweeps import parent_run
from dreammpc.tracking import follower, mlflow_logger
from dreammpc.tracking.mlflow_run import MlflowRun
from dreammpc.training.owner import own, release_folders


class FakeMLflow:
    """`mode`: up; frozen (accepts a call, never answers); deaf (does what it is told, answers 503)."""

    def __init__(self):
        self.mode, self.port, self.calls, self.held = "up", 0, 0, 0
        self.runs: dict[str, dict] = {}
        self.tags: dict[str, list[dict]] = {}
        self.metrics: dict[str, list[tuple[int, float]]] = {}
        self.server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                query = {name: values[0] for name, values in parse_qs(urlparse(self.path).query).items()}
                self.answer(query)

            def do_POST(self):
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, body):
                fake.calls += 1
                if fake.mode == "frozen":
                    fake.held += 1
                    fake.thaw.wait(300)
                    fake.held -= 1
                    return
                path = urlparse(self.path).path.split("mlflow/", 1)[-1]
                code, content = fake.handle(path, body)
                if fake.mode == "deaf":
                    code, content = 503, {"error_code": "TEMPORARILY_UNAVAILABLE"}
                text = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args): ...

        self.thaw = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def stop(self) -> None:
        self.thaw.set()
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def handle(self, path: str, body: dict) -> tuple[int, dict]:
        if path == "experiments/get-by-name":
            return 200, {"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}
        if path == "runs/create":
            run_id = f"run{len(self.runs)}"
            info = {"run_id": run_id, "experiment_id": "1", "lifecycle_stage": "active", "status": "RUNNING"}
            info |= {name: body.get(name) for name in ("run_name", "start_time")}
            self.runs[run_id] = {"info": info, "data": {"tags": body.get("tags", []), "params": []}}
            return 200, {"run": self.runs[run_id]}
        if path == "runs/search":
            wanted = re.search(r"'(\w+)'", body["filter"])[1]
            found = [run for run in self.runs.values() if wanted in json.dumps(run["data"]["tags"])]
            return 200, {"runs": found}
        if path == "runs/get":
            return 200, {"run": self.runs[body["run_id"]]}
        if path == "runs/update":
            self.runs[body["run_id"]]["info"] |= {k: v for k, v in body.items() if v is not None}
            return 200, {"run_info": self.runs[body["run_id"]]["info"]}
        if path == "runs/log-batch":
            self.tags.setdefault(body["run_id"], []).extend(body.get("tags", []))
            for metric in body.get("metrics", []):
                self.metrics.setdefault(metric["key"], []).append((metric["step"], metric["value"]))
            return 200, {}
        if path == "metrics/get-history":
            entries = self.metrics.get(body["metric_key"], [])
            return 200, {
                "metrics": [
                    {"key": body["metric_key"], "value": value, "step": step, "timestamp": 0}
                    for step, value in entries
                ]
            }
        return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": path}

    def steps(self, metric: str = "loss") -> list[int]:
        return [step for step, _ in self.metrics.get(metric, [])]

    def statuses(self) -> list[str]:
        return [run["info"]["status"] for run in self.runs.values()]


@pytest.fixture
def fake(monkeypatch):
    for name, seconds in {"GATHER_S": 0.01, "FIRST_PAUSE_S": 0.05, "LONGEST_PAUSE_S": 0.2}.items():
        monkeypatch.setattr(follower, name, seconds)
    monkeypatch.setattr(mlflow_logger, "CONNECT_WAIT_S", 0.5)
    monkeypatch.setattr(mlflow_logger, "FINALIZE_WAIT_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server = FakeMLflow()
    yield server
    server.stop()


@pytest.fixture
def tracker(fake, tmp_path):
    def make(**options):
        return tracking.MLflowTracker(fake.uri, "cartpole", **{"folder": tmp_path} | options)

    return make


def log(logger, *steps: int) -> None:
    for step in steps:
        logger.log_metrics({"loss": step / 10}, step=step)


def delivered(logger, seconds: float = 300) -> bool:
    deadline = time.monotonic() + seconds
    while not logger.delivered and time.monotonic() < deadline:
        time.sleep(0.02)
    return logger.delivered


@pytest.mark.parametrize("outage", ["down", "frozen", "deaf"])
def test_an_outage_in_mid_run_leaves_no_gap_and_no_repetition(fake, tracker, outage, caplog):
    logger = tracker()
    log(logger, 1, 2)
    assert delivered(logger)
    fake.mode = outage
    if outage == "down":
        fake.stop()
    calls = fake.calls
    log(logger, 3, 4)
    deadline = time.monotonic() + 300
    while outage != "down" and fake.calls == calls and time.monotonic() < deadline:
        time.sleep(0.02)
    log(logger, *range(5, 200))
    logger.finalize("success")  # returns, whatever the server does
    fake.mode = "up"
    fake.thaw.set()
    if outage == "down":
        fake.start()
    assert delivered(logger)
    assert fake.steps() == list(range(1, 200))
    assert fake.runs["run0"]["info"]["status"] == "FINISHED" and len(fake.runs) == 1
    assert caplog.text.count("can't be written") == 1


def test_logging_does_not_wait_for_a_call_that_is_under_way(fake, tracker, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    logger = tracker()
    assert delivered(logger)
    fake.mode = "frozen"
    log(logger, 1)
    deadline = time.monotonic() + 300
    while not fake.held and time.monotonic() < deadline:
        time.sleep(0.02)
    log(logger, 2, 3)
    logger.finalize("success")
    assert fake.held == 1  # unanswered still
    fake.mode = "up"
    fake.thaw.set()
    assert delivered(logger)
    assert fake.steps() == [1, 2, 3]


@pytest.mark.parametrize("outage", ["frozen", "deaf"])
def test_a_server_that_does_not_answer_at_the_start(fake, tracker, outage):
    fake.mode = outage
    logger = tracker()
    log(logger, 1, 2)
    assert logger.version is None
    fake.mode = "up"
    fake.thaw.set()
    assert delivered(logger)
    assert fake.steps() == [1, 2]
    assert list(fake.runs) == [logger.version]  # also where a run was made and nobody heard of it


def test_resume_repeats_no_step_and_drops_what_waits_from_after_the_checkpoint(fake, tracker, tmp_path):
    first = tracker()
    log(first, 100, 200, 300)
    assert delivered(first)
    fake.stop()
    log(first, 400, 500)
    first.finalize("killed")
    left = {name: (tmp_path / name).read_text() for name in ("metrics.jsonl", "mlflow.json")}
    fake.start()
    assert delivered(first)
    # As if that process had been killed before the server came back: back to a checkpoint of step 400.
    fake.metrics["loss"] = fake.metrics["loss"][:3]
    (tmp_path / "mlflow.json").write_text(left["mlflow.json"])
    (tmp_path / "metrics.jsonl").write_text(left["metrics.jsonl"] + '{"env_st')
    again = tracker(resume_step=400)  # its checkpoint was saved before the server had answered: no run_id
    log(again, 500, 600)
    again.finalize("success")
    assert delivered(again)
    assert fake.steps() == [100, 200, 300, 400, 500, 600] and len(fake.runs) == 1

    rewound = tracker(run_id="run0", resume_step=300)
    log(rewound, 400, 500, 600, 700)
    assert delivered(rewound)
    assert fake.steps() == [100, 200, 300, 400, 500, 600, 700]


def test_a_kill_while_the_server_is_away_loses_no_line(fake, tracker, tmp_path):
    logger = tracker(folder=tmp_path / "run")
    assert delivered(logger)
    fake.stop()
    log(logger, *range(200))
    shutil.copytree(tmp_path / "run", tmp_path / "killed")  # as it is at a kill
    end_thread(logger)
    fake.start()
    assert rest(tracking.sync([tmp_path / "killed"], fake.uri)) == [
        f"200 lines and 0 files sent to run run0 at {fake.uri}"
    ]
    assert fake.steps() == list(range(200)) and fake.statuses() == ["KILLED"]


# sync


def rest(said) -> list[str]:
    """Of each line of `sync` what follows the folder's name."""
    return [line.partition(": ")[2] for line in said]


def test_sync_sends_what_is_missing_and_then_nothing(fake, tracker, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake.uri)
    logger = tracker()
    log(logger, 1, 2)
    assert delivered(logger)
    fake.stop()
    log(logger, *range(3, 203))
    logger.finalize("success")
    assert logger.hint().endswith(f"send the rest with dreammpc sync {tmp_path}")
    with pytest.raises(RunError, match=f"{tmp_path} keeps all, send it later"):
        list(tracking.sync([tmp_path]))
    end_thread(logger)
    fake.start()
    to = f"run run0 at {fake.uri}"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 500, "lo\n{"env_steps": 600')
    assert rest(tracking.sync([tmp_path])) == [f"200 lines and 0 files sent to {to}, 1 torn lines left out"]
    calls = fake.calls
    assert rest(tracking.sync([tmp_path])) == [f"0 lines and 0 files sent to {to}"]
    assert fake.calls == calls and len(fake.runs) == 1
    assert fake.steps() == list(range(1, 203)) and fake.statuses() == ["FINISHED"]


def test_a_broken_sync_goes_on_where_it_was(fake, tmp_path):
    logger = tracking.JSONLLogger(tmp_path)
    log(logger, *range(500))
    handle, left = fake.handle, [3]

    def fail(path, body):
        if path == "runs/log-batch" and body.get("metrics"):
            left[0] -= 1
            if left[0] < 0:
                return 503, {"error_code": "TEMPORARILY_UNAVAILABLE"}
        return handle(path, body)

    fake.handle = fail
    with pytest.raises(RunError, match="keeps all"):
        list(tracking.sync([tmp_path], fake.uri))
    assert len(fake.steps()) == 150
    fake.handle = handle
    assert rest(tracking.sync([tmp_path], fake.uri)) == [
        f"350 lines and 0 files sent to run run0 at {fake.uri}"
    ]
    assert fake.steps() == list(range(500))


def test_sync_of_a_run_without_tracking_that_went_on(fake, tracker, tmp_path):
    """Delivered in part, then resumed with tracking=none: steps after the checkpoint are not there twice."""
    logger = tracker()
    log(logger, 100, 200, 300)
    assert delivered(logger)
    logger.finalize("killed")
    resumed = {"env_steps": 200, "tracking_run": None}
    (again,) = tracking.make_loggers(tmp_path, {}, kind="none", resumed=resumed)
    again.log_metrics({"loss": 1.0}, step=300)
    again.log_metrics({"loss": 1.0, "final/mppi": 5.0}, step=400)
    assert rest(tracking.sync([tmp_path], fake.uri)) == [
        f"2 lines and 0 files sent to run run0 at {fake.uri}"
    ]
    assert fake.steps() == [100, 200, 300, 400] and fake.statuses() == ["FINISHED"]


def test_the_last_comparison_of_a_run_that_goes_on_is_not_sent_twice(fake, tracker):
    for resumed, end in ((None, 200), (200, 200), (200, 300)):
        logger = tracker(resume_step=resumed, run_id=resumed and "run0")
        if end != resumed:
            log(logger, end)
        logger.log_metrics({"final/mppi": 5.0}, step=end)
        assert delivered(logger)
        logger.finalize("success")
    assert fake.steps() == [200, 300]
    assert fake.metrics["final/mppi"] == [(200, 5.0), (300, 5.0)]


@contextmanager
def training(folder):
    raise UsageError(f"{folder} is in training")
    yield


def test_sync_says_how_a_run_without_mlflow_ended(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake.uri)
    for name, status in (("a", "success"), ("b", "failed"), ("c", "killed")):
        log(logger := tracking.JSONLLogger(tmp_path / name), 1)
        logger.finalize(status)
    log(tracking.JSONLLogger(tmp_path / "d, killed without a word"), 1)
    tracking.JSONLLogger(tmp_path / "e, of an earlier version").log_metrics({"final/policy": 1.0}, step=1)
    list(tracking.sync([tmp_path]))
    assert fake.statuses() == ["FINISHED", "FAILED", "KILLED", "KILLED", "FINISHED"]


def test_a_run_that_ended_before_its_first_line_is_sent_too(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake.uri)
    parent_run(tmp_path, {}, "none", None, "mine")  # of a sweep that was killed
    for seed in (1, 2):
        (early,) = tracking.make_loggers(tmp_path / f"walker-walk/seed{seed}", {}, kind="none")
        early.log_tags({"began": "2026-01-01T00:00:00+00:00"})
        early.goes_on = False
    early.finalize("failed")
    assert rest(tracking.sync([tmp_path]))[0] == f"0 lines and 0 files sent to run run0 at {fake.uri}"
    assert fake.statuses() == ["KILLED", "KILLED", "FAILED"]
    for run in ("run1", "run2"):
        assert {"key": "mlflow.parentRunId", "value": "run0"} in fake.tags[run]
    assert len(rest(tracking.sync([tmp_path / "walker-walk/seed1"]))) == 1
    with pytest.raises(UsageError, match=r"there is no metrics\.jsonl"):  # for a report it is none
        find_runs(tmp_path)


def test_a_sweep_that_was_sent_while_it_ran_ends_as_it_ended(fake, tmp_path):
    def start():
        return parent_run(tmp_path / "sweep", {}, "none", None, "mine")

    def sync() -> list[str]:
        list(tracking.sync([tmp_path], fake.uri))
        return fake.statuses()

    (tmp_path / "sweep").mkdir()
    parent = start()
    tracking.make_loggers(tmp_path / "sweep/a", {}, kind="none")
    tracking.make_loggers(tmp_path / "z, of no sweep", {}, kind="none")
    assert sync() == ["KILLED"] * 3
    assert {"key": "mlflow.parentRunId", "value": "run0"} in fake.tags["run1"]
    assert not [tag for tag in fake.tags["run2"] if tag["key"] == "mlflow.parentRunId"]
    tracking.finish_run([parent], {"final/policy": 1.0}, 1, {})
    assert sync() == ["FINISHED", "KILLED", "KILLED"]
    start()  # again, and killed
    assert sync() == ["KILLED"] * 3
    assert not [tag for tag in fake.tags["run0"] if tag["key"] == "ended"]  # which a resumed run would keep


def test_a_synced_run_began_when_it_began(fake, tmp_path):
    logger = tracking.JSONLLogger(tmp_path)
    logger.log_tags({})
    began = json.loads((tmp_path / "origin.json").read_text())["began"]
    time.sleep(0.05)
    list(tracking.sync([tmp_path], fake.uri))
    assert fake.runs["run0"]["info"]["start_time"] == int(1000 * datetime.fromisoformat(began).timestamp())


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt, "KILLED"), (Terminated, "KILLED"), (RunError, "FAILED"), (SystemExit, "FAILED")],
)
def test_what_comes_after_a_fit_ends_the_run_too(error, status, fake, tracker, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(MlflowRun, "write_artifact", lambda run, path, place: sent.append((path.name, place)))
    logger = tracker(run_name="seed1")
    logger.goes_on = True
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_text("weights")
    files = {"checkpoints": [tmp_path / "checkpoints/last.ckpt", tmp_path / "checkpoints/best.ckpt"]}
    with pytest.raises(error) as raised, tracking.after_fit([logger], files, "go on"):
        logger.finalize("success")  # as Lightning does after a fit
        assert delivered(logger) and fake.statuses() == ["RUNNING"]
        assert "ended" not in json.loads((tmp_path / "origin.json").read_text())
        raise error("for whatever reason")
    assert raised.value.__notes__ == ["go on"]
    assert delivered(logger) and fake.statuses() == [status] and sent == [("last.ckpt", "checkpoints")]
    assert json.loads((tmp_path / "origin.json").read_text())["ended"] == status.lower()


def test_a_run_that_goes_on_has_not_ended(tmp_path):
    loggers = tracking.make_loggers(tmp_path, {}, kind="none")
    loggers[0].finalize("failed")  # as Lightning does, which knows of its `fit` alone
    assert "ended" not in json.loads((tmp_path / "origin.json").read_text())
    tracking.finish_run(loggers, {}, 0, {}, "killed")
    assert json.loads((tmp_path / "origin.json").read_text())["ended"] == "killed"
    tracking.make_loggers(tmp_path, {}, kind="none", resumed={"env_steps": 1, "tracking_run": None})
    assert "ended" not in json.loads((tmp_path / "origin.json").read_text())
    gone = tracking.JSONLLogger(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone")
    gone.finalize("failed")  # leaves it to the error that ended the run to say so


def test_sync_takes_a_sweep_and_says_what_it_cannot(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake.uri)
    log(parent_run(tmp_path, {"tasks": ["walker-walk"]}, "none", None, "mine"), 1)
    for name in ("walker-walk/seed1", "walker-walk/seed2"):
        log(tracking.JSONLLogger(tmp_path / name), 1)
    settings = {"experiment": "mine", "run_name": None}
    params = {"task": "walker-walk", "seed": 2, "tracking": settings}
    tracking.JSONLLogger(tmp_path / "walker-walk/seed2", 1).log_hyperparams(params)

    def own(folder):
        return training(folder) if folder.name == "seed1" else nullcontext()

    said = tracking.sync([tmp_path], own=own)
    assert [next(said).partition(": ")[0] for _ in range(2)] == [
        str(tmp_path / ".mlflow"),
        str(tmp_path / "walker-walk/seed2"),
    ]
    with pytest.raises(UsageError, match="seed1 is in training"):
        next(said)
    names = [run["info"]["run_name"] for run in fake.runs.values()]
    assert names == [tmp_path.name, "walker-walk-seed2"]
    assert {"key": "mlflow.parentRunId", "value": "run0"} in fake.tags["run1"]


def test_what_sync_cannot_send(fake, tracker, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fake.uri)
    (tmp_path / "empty").mkdir()
    for paths, uri, said in (
        (["nowhere"], None, "nowhere is no folder"),
        ([tmp_path / "empty"], None, "empty is no run folder and has none in it: there is no metrics.jsonl"),
        ([tmp_path / "empty"], "htp://x", "--uri: MLflow has no addresses htp:"),
    ):
        with pytest.raises(UsageError, match=said):
            list(tracking.sync(paths, uri))
    logger = tracker()
    log(logger, 1)
    logger.finalize("success")
    assert delivered(logger)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=f"was recorded at {fake.uri}: add --uri {fake.uri} to go on there"):
        list(tracking.sync([tmp_path]))


def test_the_command_sends_and_refuses_a_run_in_training(fake, tmp_path, capsys):
    for name in ("a", "b"):
        log(tracking.JSONLLogger(tmp_path / name), 1)
    words = ["sync", str(tmp_path), "--uri", fake.uri]
    own(tmp_path / "a")
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/b: 1 lines and 0 files sent to run run0 at {fake.uri}\n"
    assert f"{tmp_path}/a is in training, in process" in err and err.count("\n") == 1
    assert caught.value.code == 2 and not (tmp_path / "a/mlflow.json").exists()
    release_folders()
    cli.main(words)
    assert capsys.readouterr().out.startswith(f"{tmp_path}/a: 1 lines")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["metrics.jsonl", "mlflow.json"]
    (tmp_path / "a/mlflow.json").unlink()
    fake.stop()
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 1 and capsys.readouterr().err.count("\n") == 1


LOCK = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for _ in range(5):
    database.execute("BEGIN EXCLUSIVE")
    time.sleep(0.15)
    database.execute("COMMIT")
    time.sleep(0.02)
"""


def test_a_database_locked_by_four_processes(tmp_path, caplog):
    logger = tracking.MLflowTracker(tracking.default_tracking_uri(tmp_path), "cartpole", folder=tmp_path)
    database = tmp_path / "mlflow.db"
    lockers = [subprocess.Popen([sys.executable, "-c", LOCK, str(database)]) for _ in range(4)]
    for step in range(40):
        log(logger, step)
        time.sleep(0.02)
    assert [locker.wait(300) for locker in lockers] == [0] * 4
    assert delivered(logger)
    from mlflow import MlflowClient

    client = MlflowClient(logger._uri)
    assert [entry.step for entry in client.get_metric_history(logger.version, "loss")] == list(range(40))
