"""Trainer assembly: devices, speed settings, replicas with equal weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreammpc.interfaces import UsageError
from dreammpc.training import Monitor, check_devices, choose_speed, make_trainer, set_threads, trainer

TWO_RANKS = """
import json, os
import torch
from tensordict import TensorDict
from dreammpc.agent import Agent
from dreammpc.algorithms import TDMPC2
from dreammpc.models import TDMPC2Model
from dreammpc.planning import make_planner
from dreammpc.training import make_trainer

rank = int(os.environ["RANK"])
torch.manual_seed(rank)  # different weights and data on every rank
model = TDMPC2Model(4, 2, enc_dim=16, mlp_dim=16, latent_dim=16, num_heads=2)
algorithm = TDMPC2(Agent(model, make_planner("policy", 2)))

def batch():
    draw = lambda *s: torch.randn(8, 3, *s)
    after = {"observation": draw(4), "reward": draw(1), "terminated": torch.zeros(8, 3, 1, dtype=torch.bool)}
    return TensorDict({"observation": draw(4), "action": draw(2).clamp(-1, 1), "next": after}, [8, 3])

class Batches:
    def __iter__(self): return iter([batch() for _ in range(3)])
    def __len__(self): return 3

first = model.encoder.linears[0].weight.detach().clone()
trainer = make_trainer(os.environ["FOLDER"], [], [], "cpu", 2)
trainer.fit_loop.max_epochs = 1
trainer.fit(algorithm, Batches())
report = {
    "first": first.sum().item(),
    "sums": [p.double().sum().item() for p in model.parameters()],
    "world": trainer.world_size,
}
open(os.environ["FOLDER"] + f"/rank{rank}.json", "w").write(json.dumps(report))
"""


def test_two_ranks_hold_equal_weights(tmp_path):
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    command = [sys.executable, "-m", "dreammpc.cli", "run", str(script), "--devices", "2"]
    environment = {**os.environ, "FOLDER": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    reports = [Path(tmp_path / f"rank{rank}.json") for rank in (0, 1)]
    assert all(p.exists() for p in reports), result.stdout + result.stderr
    one, two = (json.loads(p.read_text()) for p in reports)
    assert one["world"] == two["world"] == 2
    assert one["first"] != two["first"]  # they began differently
    assert one["sums"] == two["sums"]  # rank 0's weights, and averaged gradients since


def test_silent_copies_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="independent copies"):
        make_trainer(tmp_path, [], [], "cpu", 1)


def test_devices_that_are_not_there():
    check_devices("cpu", 1)
    with pytest.raises(UsageError, match="devices must be 1 to"):
        check_devices("cpu", 10_000)
    with pytest.raises(UsageError, match="unknown accelerator 'abacus'"):
        check_devices("abacus", 1)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            check_devices("gpu", 1)


def test_speed_is_chosen_by_what_is_there(monkeypatch):
    assert choose_speed(False, "64-true", 512) == (False, "64-true")
    monkeypatch.setattr(trainer, "can_compile", lambda: True)
    monkeypatch.setattr(trainer, "fast_bf16", lambda: True)
    assert choose_speed(None, None, 512) == (True, "bf16-mixed")
    assert choose_speed(None, None, 128) == (True, "32-true")
    monkeypatch.setattr(trainer, "fast_bf16", lambda: False)
    assert choose_speed(None, None, 512) == (True, "32-true")


def test_threads_of_narrow_models(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    set_threads(None, 128)
    assert chosen == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads(None, 512)
    assert chosen == []
    set_threads(None, 128)
    set_threads(3, 512)
    assert chosen == [1, 3]


def test_a_metric_is_averaged_over_the_updates_that_returned_it():
    """Not every update returns every metric: the policy's are missing in a seed phase, say."""
    logged, feed = [], SimpleNamespace(env_steps=0, updates=0, finished=[])
    owner = SimpleNamespace(loggers=[SimpleNamespace(log_metrics=lambda values, step: logged.append(values))])
    monitor = Monitor(feed, every=4)
    monitor.on_train_start(owner, None)
    for step, (loss, policy) in enumerate([(1.0, None), (2.0, None), (3.0, 10.0), (6.0, 20.0)], 1):
        feed.env_steps = feed.updates = step
        values = {"loss": loss} if policy is None else {"loss": loss, "policy": policy}
        monitor.on_train_batch_end(owner, None, {k: torch.tensor(v) for k, v in values.items()}, None, 0)
    (metrics,) = logged
    assert (metrics["loss"], metrics["policy"]) == (3.0, 15.0)
    feed.env_steps = feed.updates = 8
    monitor.on_train_batch_end(owner, None, {"loss": torch.tensor(7.0)}, None, 0)
    assert logged[1]["loss"] == 7.0 and "policy" not in logged[1]
