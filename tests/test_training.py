"""Trainer assembly: devices, speed settings, averages of metrics. Several processes: test_replicas.py."""

import os
from types import SimpleNamespace

import pytest
import torch

from dreammpc.interfaces import UsageError
from dreammpc.training import Monitor, check_devices, choose_speed, make_trainer, set_threads, trainer


def test_silent_copies_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="independent copies"):
        make_trainer(tmp_path, [], [], "cpu", 1)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_one_process_for_two_devices_is_refused(tmp_path):
    with pytest.raises(UsageError, match="start with `--devices 2`"):
        check_devices("cpu", 2)
    with pytest.raises(UsageError, match="1 processes were started, 2 would train"):
        make_trainer(tmp_path, [], [], "cpu", 2)


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
    assert choose_speed(False, "64-true", 512, "state") == (False, "64-true")
    monkeypatch.setattr(trainer, "can_compile", lambda: True)
    monkeypatch.setattr(trainer, "fast_bf16", lambda: True)
    assert choose_speed(None, None, 512, "state") == (True, "bf16-mixed")
    assert choose_speed(None, None, 128, "state") == (True, "32-true")
    assert choose_speed(None, None, 128, "both") == (torch.cuda.is_available(), "bf16-mixed")
    monkeypatch.setattr(trainer, "fast_bf16", lambda: False)
    assert choose_speed(None, None, 512, "state") == (True, "32-true")


@pytest.mark.parametrize(("amx", "avx512_bf16"), [(True, False), (False, True), (False, False)])
def test_bf16_is_fast_with_instructions_for_it(monkeypatch, amx, avx512_bf16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert trainer.fast_bf16() is (amx or avx512_bf16)


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
    owner = SimpleNamespace(
        world_size=1, loggers=[SimpleNamespace(log_metrics=lambda values, step: logged.append(values))]
    )
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
