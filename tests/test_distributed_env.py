"""What the environment says of other processes, and what a user is told of it."""

import logging
import socket
import threading
import time
from datetime import timedelta

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.distributed import TCPStore

from dreammpc.interfaces import UsageError
from dreammpc.training import distributed_env, make_trainer
from dreammpc.training.distributed_env import check_launched_processes
from dreammpc.training.replicas import broadcast_from_rank_zero

LEFT = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
UNSET = "unset WORLD_SIZE RANK LOCAL_RANK MASTER_ADDR MASTER_PORT"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*LEFT, "SLURM_NTASKS", "SLURM_PROCID", "SLURM_JOB_ID", "DREAMMPC_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)
    yield
    rank_zero_only.rank = 0


@pytest.mark.parametrize(
    ("there", "devices", "nodes", "said"),
    [
        (LEFT, 1, 1, f"WORLD_SIZE=4 RANK=0 .* 4 processes train together, but 1 would .* `{UNSET}`"),
        (LEFT, "auto", 1, "but 1 would"),
        (LEFT, 2, 1, "but 2 would"),
        (LEFT, 2, 2, None),
        (LEFT, 4, 1, None),
        ({"WORLD_SIZE": "four"}, 1, 1, "WORLD_SIZE=four is set, and is no number; type `unset WORLD_SIZE`"),
        ({"WORLD_SIZE": "4", "RANK": "1"}, 4, 1, "without LOCAL_RANK, MASTER_ADDR, MASTER_PORT; type `unset"),
        ({"RANK": "3"}, 1, 1, "RANK=3 is set, but for one process; type `unset RANK`"),
        ({"WORLD_SIZE": "1", "RANK": "0"}, 1, 1, None),
        (
            {},
            1,
            2,
            "trainer.num_nodes=2 needs .* on each: `lightning run RECIPE --num-nodes 2",
        ),
    ],
)
def test_processes_that_were_not_asked_for_are_refused(there, devices, nodes, said, monkeypatch):
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    if said is None:
        check_launched_processes(devices, nodes)
        return
    with pytest.raises(UsageError, match=said):
        check_launched_processes(devices, nodes)


@pytest.mark.parametrize(("task", "lines"), [("0", 1), ("1", 0)])
def test_a_task_of_slurm_trains_by_itself_and_says_so(task, lines, tmp_path, monkeypatch, caplog):
    job = {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "4", "SLURM_PROCID": task, "SLURM_JOB_NAME": "train"}
    for name, value in {**job, "SLURM_LOCALID": task, "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "a"}.items():
        monkeypatch.setenv(name, value)
    rank_zero_only.rank = int(task)
    trainer = make_trainer(tmp_path, [], [], "cpu", 1)
    assert (trainer.world_size, trainer.global_rank, rank_zero_only.rank) == (1, 0, 0)
    told = [record.getMessage() for record in caplog.records if "SLURM has 4 tasks" in record.getMessage()]
    assert len(told) == lines and all("srun --ntasks-per-node=1 lightning run train" in text for text in told)


def test_who_waits_says_for_whom(monkeypatch, caplog):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in {
        **LEFT,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed_env, "WAIT_WARNING_S", 0.05)
    made = []
    with caplog.at_level(logging.WARNING):
        waiting = threading.Thread(
            target=lambda: made.append(broadcast_from_rank_zero(lambda: "it")), daemon=True
        )
        waiting.start()
        deadline = time.monotonic() + 300
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.02)
    (line,) = (record.getMessage() for record in caplog.records)
    assert f"waiting for 2 processes at 127.0.0.1:{port}, of which this is 0: WORLD_SIZE=2" in line
    assert f"type `{UNSET}` first" in line and not made
    other = TCPStore("127.0.0.1", port, 2, False, timedelta(seconds=300))
    waiting.join(300)
    assert made == ["it"] and other.get("dreammpc/rank_zero") == b"it"
