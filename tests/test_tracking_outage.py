"""MLflow absent, dying, frozen, coming back, locked: training does not wait, no number is lost or doubled.

The server is a stand-in on the loopback that keeps what the real one keeps of the few calls that a run makes.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from dreammpc import tracking
from dreammpc.tracking import mlflow_logger, outbox

ROOT = Path(tracking.__file__).resolve().parents[2]


class FakeMLflow:
    """`mode`: up; frozen (accepts a call, never answers); deaf (does what it is told, answers 503)."""

    def __init__(self):
        self.mode, self.port, self.calls = "up", 0, 0
        self.runs: dict[str, dict] = {}
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
                    fake.thaw.wait(300)
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
            self.runs[run_id] = {"info": info, "data": {"tags": body.get("tags", []), "params": []}}
            return 200, {"run": self.runs[run_id]}
        if path == "runs/search":
            wanted = re.search(r"'(\w+)'", body["filter"])[1]
            found = [run for run in self.runs.values() if wanted in json.dumps(run["data"]["tags"])]
            return 200, {"runs": found}
        if path == "runs/get":
            return 200, {"run": self.runs[body["run_id"]]}
        if path == "runs/update":
            self.runs[body["run_id"]]["info"]["status"] = body["status"]
            return 200, {"run_info": self.runs[body["run_id"]]["info"]}
        if path == "runs/log-batch":
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


@pytest.fixture
def fake(monkeypatch):
    for name, seconds in {"GATHER_S": 0.01, "FIRST_PAUSE_S": 0.05, "LONGEST_PAUSE_S": 0.2}.items():
        monkeypatch.setattr(outbox, name, seconds)
    monkeypatch.setattr(mlflow_logger, "CONNECT_WAIT_S", 0.5)
    monkeypatch.setattr(mlflow_logger, "FINALIZE_WAIT_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server = FakeMLflow()
    yield server
    server.stop()


@pytest.fixture
def tracker(fake, tmp_path):
    def make(**options):
        return tracking.MLflowTracker(fake.uri, "cartpole", folder=tmp_path, **options)

    return make


def log(logger, *steps: int) -> None:
    """Log, and fail if that took as long as a call to a server that does not answer."""
    before = time.thread_time()
    for step in steps:
        logger.log_metrics({"loss": step / 10}, step=step)
    assert time.thread_time() - before < 1


def delivered(logger, seconds: float = 300) -> bool:
    deadline = time.monotonic() + seconds
    while len(logger._outbox) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not len(logger._outbox)


@pytest.mark.parametrize("outage", ["down", "frozen", "deaf"])
def test_an_outage_in_mid_run_leaves_no_gap_and_no_repetition(fake, tracker, tmp_path, outage, caplog):
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
    assert not (tmp_path / "mlflow_spool.jsonl").exists()
    assert caplog.text.count("can't be written") == 1


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
    left = (tmp_path / "mlflow_spool.jsonl").read_text()
    fake.start()
    assert delivered(first)
    # As if that process had been killed before the server came back: back to a checkpoint of step 400.
    fake.metrics["loss"] = fake.metrics["loss"][:3]
    (tmp_path / "mlflow_spool.jsonl").write_text(left + '{"kind": "metr')
    again = tracker(resume_step=400)  # its checkpoint was saved before the server had answered: no run_id
    log(again, 500, 600)
    again.finalize("success")
    assert delivered(again)
    assert fake.steps() == [100, 200, 300, 400, 500, 600] and len(fake.runs) == 1

    rewound = tracker(run_id="run0", resume_step=300)
    log(rewound, 400, 500, 600, 700)
    assert delivered(rewound)
    assert fake.steps() == [100, 200, 300, 400, 500, 600, 700]


def test_a_kill_loses_no_record(tmp_path):
    code = """
import os, sys, time
from pathlib import Path
from dreammpc.tracking.outbox import Outbox
outbox = Outbox(lambda items: time.sleep(60), Path(sys.argv[1]), "test")
for n in range(200):
    outbox.put({"kind": "metrics", "n": n})
print("put", flush=True)
time.sleep(60)
"""
    spool = tmp_path / "spool.jsonl"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(spool)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    sent = []
    box = outbox.Outbox(lambda items: sent.extend(item["n"] for item in items), spool, "test")
    assert box.flush(300)
    assert sent == list(range(200)) and not spool.exists()


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
