"""Collection in worker processes: what they act with, what the replay gets, how they end."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from drift import make_drift
from feeds import make_agent

from dreammpc.configuration.collectors import build_collector, count_rows
from dreammpc.configuration.schemas import CollectorConfig, TrainConfig
from dreammpc.data import Feed, Replay, WorkerCollector, WorkersDied
from dreammpc.data import mailbox as mailbox_module
from dreammpc.data.collector import get_state, set_state, stateless
from dreammpc.data.mailbox import Mailbox
from dreammpc.interfaces import UsageError

TESTS = Path(__file__).parent


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", ["multiprocess", "async"])
def test_too_little_shared_memory_is_said_before_it_ends_a_process(kind, monkeypatch):
    agent, config = make_agent(), TrainConfig("cartpole-swingup", collector=CollectorConfig(kind))
    free = {"/dev/shm": 48_000}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free[str(path)]))
    with pytest.raises(UsageError, match=rf"2 workers of collector={kind} share .* has 48 kB free; make"):
        build_collector(make_drift(1), agent, 5, config)
    free["/dev/shm"] = 1_000_000
    build_collector(make_drift(1), agent, 5, config)
    config.collector.steps = 100_000
    with pytest.raises(UsageError, match=r"lower collector\.steps"):
        build_collector(make_drift(1), agent, 5, config)


def test_workers_act_with_the_newest_weights_and_start_again_when_one_dies(forked_workers, caplog):
    agent = make_agent()
    collector = WorkerCollector(make_drift, agent, workers=2, num_envs=2, steps=8, seed=5, restarts=1)
    replay = Replay(1000, collector.rows, window=3, batch_size=64)
    feed = Feed(collector, agent, replay, seed_steps=64, total_steps=10**6, utd=0.1, action_repeat=1)

    feed._collect()
    seeded = replay.rows(0, 32)
    assert len(seeded["action"].unique()) == 64  # random, and of another stream in every worker
    assert len(seeded["observation"][:4].unique(dim=0)) == 4
    feed._collect()
    for _ in range(2):  # the mode of the policy, whose weights change
        with torch.no_grad():
            for parameter in agent.model.actor.parameters():
                parameter.add_(torch.randn_like(parameter))
        feed._collect()
        rows = replay.rows(replay.written - 32, replay.written)
        latent = agent.model.observe(rows.select("observation"), None, None)
        mode = agent.model.policy(latent, torch.zeros(32, 2))
        torch.testing.assert_close(rows["action"], mode, rtol=1e-4, atol=1e-5)

    # Rows of four environments interleaved: a window stays in one of them and in one episode.
    batch = replay.sample()
    assert (batch["next", "observation"][:, :-1] == batch["observation"][:, 1:]).all()
    assert [length for _, length in feed.finished] == [20] * 4

    processes = [process.pid for process in collector._collector.procs]
    os.kill(processes[0], signal.SIGKILL)
    with caplog.at_level(logging.WARNING):
        feed._collect()
    assert "worker 0 died (exit code -9)" in caplog.text  # TorchRL may have killed the other by then
    assert "; all start again (1 of 1)" in caplog.text
    assert not any(alive(pid) for pid in processes)
    assert replay.written == feed.agent_steps == 5 * 32
    batch = replay.sample()
    assert (batch["next", "observation"][:, :-1] == batch["observation"][:, 1:]).all()

    processes = [process.pid for process in collector._collector.procs]
    os.kill(processes[1], signal.SIGKILL)
    with pytest.raises(WorkersDied, match=r"workers died 2 times: worker 1 died \(exit code -9\)"):
        next(collector)
    assert not any(alive(pid) for pid in processes)


def test_workers_that_die_while_they_start_are_started_again(forked_workers, caplog):
    def die(seed):
        os.kill(os.getpid(), signal.SIGKILL)

    collector = WorkerCollector(die, make_agent(), workers=2, num_envs=1, steps=8, seed=5, restarts=1)
    with pytest.raises(WorkersDied, match="workers died 2 times: a worker died while it started"):
        next(collector)
    assert "all start again (1 of 1)" in caplog.text


def test_a_worker_that_ended_because_another_died_is_not_called_dead():
    def dead(*codes):
        collector = WorkerCollector(make_drift, None, workers=2, num_envs=1, steps=1, seed=1)
        collector._collector = SimpleNamespace(
            procs=[SimpleNamespace(exitcode=code) for code in codes], shutdown=lambda timeout: None
        )
        text, collector._collector = collector._dead(), None
        return text

    assert dead(-9, 0) == dead(-9, None) == dead(-9, -signal.SIGTERM) == "worker 0 died (exit code -9)"
    assert dead(None, 0) == "worker 1 died (exit code 0)"  # something in it called exit()
    assert dead(None, -signal.SIGTERM) == ""


ENDLESS = """
import sys, threading
from drift import make_drift
from feeds import make_agent
from dreammpc.data import WorkerCollector

if __name__ == "__main__":
    collector = WorkerCollector(make_drift, make_agent(), 1, 2, 8, seed=5, prefetch=True)
    next(collector)
    print(*(process.pid for process in collector._collector.procs), flush=True)
    end = sys.argv[1]
    while end == "wait":
        next(collector)
    next(collector)
    if end == "shutdown":
        collector.shutdown()
    if end == "error":
        raise ValueError("for whatever reason")
"""

slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("end", "number", "code"),
    [
        ("wait", signal.SIGKILL, -signal.SIGKILL),
        pytest.param("wait", signal.SIGTERM, -signal.SIGTERM, marks=slow),
        pytest.param("wait", signal.SIGINT, 1, marks=slow),  # what runs at exit ends Python by itself
        ("return", None, 0),
        pytest.param("shutdown", None, 0, marks=slow),
        pytest.param("error", None, 1, marks=slow),
    ],
)
def test_no_worker_is_left_behind(tmp_path, end, number, code):
    (tmp_path / "endless.py").write_text(ENDLESS)
    path = os.pathsep.join([str(TESTS.parent), str(TESTS / "helpers"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py"), end],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 1
    if number is not None:
        assert all(map(alive, workers))
        process.send_signal(number)
    assert process.wait(300) == code
    deadline = time.monotonic() + 300
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess:
    """Run a program in a session of its own."""
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, str(folder / "script.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        start_new_session=True,
        timeout=300,
    )


STARTING = """
import os, signal
from multiprocessing import get_context
from dreammpc.runtime.processes import in_session_of_its_own, spared_signals

def work(argument):
    in_session_of_its_own()
    print(len(argument), os.getpgrp() == os.getpid(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # which is no longer blocked

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: print(signal.Signals(number).name, flush=True))
    process = get_context("spawn").Process(target=work, args=(bytes(10**6),))  # more than a pipe holds
    with spared_signals():
        process.start()
    process.join()
    print(process.exitcode)
else:  # in the new process, which has yet to read its argument
    os.killpg(os.getpgrp(), signal.SIGINT)
    os.killpg(os.getpgrp(), signal.SIGTERM)
"""


def test_signals_while_a_worker_starts_are_for_its_parent(tmp_path):
    ended = run_script(tmp_path, STARTING)
    assert sorted(ended.stdout.split()) == ["-15", "1000000", "SIGINT", "SIGTERM", "True"], ended.stderr


DYING = """
import os, signal
from multiprocessing import get_context
from dreammpc.runtime.processes import spared_signals

if __name__ == "__main__":
    process = get_context("spawn").Process(target=len, args=(bytes(10**6),))  # more than a pipe holds
    try:
        with spared_signals():
            process.start()
    except BrokenPipeError:
        print("told")
else:  # in the new process, which has yet to read its argument
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_dies_before_it_has_read_its_arguments_is_told(tmp_path):
    ended = run_script(tmp_path, DYING)
    assert ended.stdout.split() == ["told"], ended.stderr


class Weights(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.random = False
        self.many = torch.nn.Parameter(torch.zeros(200_000))
        self.odd = torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
        self.register_buffer("last", torch.zeros(()))

    def fill(self, value: float) -> "Weights":
        with torch.no_grad():
            for tensor in (self.many, self.odd, self.last):
                tensor.fill_(value)
        return self


def test_weights_are_read_whole():
    sender, reader = Weights(), Weights()
    box = Mailbox(sender)
    done = threading.Event()

    def write() -> None:
        value = 0
        while not done.is_set():
            value += 1
            sender.random = value % 2 == 1
            box.post(sender.fill(value % 128))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen, versions = 0, set()
        while len(versions) < 50:
            seen = box.fetch(reader, seen)
            versions.add(seen)
            values = {*reader.many.unique().tolist(), *reader.odd.tolist(), reader.last.item()}
            assert len(values) == 1
            assert reader.random == (values.pop() % 2 == 1)
    finally:
        done.set()
        writer.join()
        box.close()


def test_a_reader_that_died_while_it_read_is_noticed(monkeypatch):
    monkeypatch.setattr(mailbox_module, "LOCK_S", 0.05)
    box = Mailbox(Weights())
    try:
        assert box.lock.acquire()
        with pytest.raises(TimeoutError, match="not free for writing"):
            box.post(Weights())
    finally:
        box.close()


def test_environments_are_counted_over_the_workers():
    assert count_rows(3, "serial", 2) == 3
    assert count_rows(3, "async", 2) == 6


def test_episodes_in_workers_cannot_go_on_and_the_reason_is_known():
    collector = WorkerCollector(make_drift, make_agent(), workers=1, num_envs=1, steps=8, seed=5)
    assert get_state(collector) is None and not set_state(collector, None)
    assert stateless(collector) == "they are in other processes"


def test_an_unknown_collector_is_refused():
    with pytest.raises(
        UsageError, match=r"^collector\.kind must be one of serial, multiprocess, async, ray, got 'parallel'$"
    ):
        CollectorConfig("parallel")
    with pytest.raises(UsageError, match=r"collector\.workers must be at least 1"):
        CollectorConfig("async", workers=0)
