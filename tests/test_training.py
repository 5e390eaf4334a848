"""Trainer assembly: devices, speed settings, averages of metrics. Several processes: test_replicas.py."""

import math
import os
import shutil
import sysconfig
from types import SimpleNamespace

import pytest
import torch

from dreammpc.interfaces import UsageError
from dreammpc.training import Monitor, check_devices, choose_speed, make_trainer, speed


def test_silent_copies_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"WORLD_SIZE=2 say .* 2 processes .* but 1 would .* --devices N"):
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
    with pytest.raises(UsageError, match="unknown device 'abacus'"):
        check_devices("abacus", 1)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            check_devices("gpu", 1)


CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def chosen(device, *arguments):
    found = choose_speed(device, *arguments)
    return found.compile, found.precision


def test_speed_is_chosen_by_what_is_there(monkeypatch):
    """By the device that was chosen, also where there is another one."""
    assert chosen(CPU, False, "32-true", 512, "state") == ("off", "32-true")
    monkeypatch.setattr(speed, "missing_compiler", lambda device: "")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(speed, "gains_bf16", lambda: True)
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        assert chosen(CPU, None, None, 512, "state") == ("default", "bf16-mixed")
        assert chosen(CPU, None, None, 128, "state") == ("default", "32-true")
        assert chosen(CPU, None, None, 128, "both") == ("off", "bf16-mixed")
        assert chosen(GPU, None, None, 128, "state") == (speed.ON_CUDA, "32-true")
        assert chosen(GPU, None, None, 128, "pixels") == (speed.ON_CUDA, "bf16-mixed")
    assert chosen(GPU, "graphs", None, 512, "state") == ("graphs", "bf16-mixed")
    assert choose_speed(GPU, None, None, 512, "state").matmul == "high"
    assert choose_speed(CPU, None, None, 512, "state").matmul == "highest"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert chosen(GPU, None, None, 512, "state")[1] == "32-true"


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(speed, "missing_compiler", lambda device: "a compiler")
    assert chosen(CPU, None, None, 512, "state")[0] == "off"
    with pytest.raises(UsageError, match=r"trainer.compile=default needs a compiler; choose off"):
        choose_speed(CPU, True, None, 512, "state")


def test_what_compiling_for_a_gpu_needs(monkeypatch, tmp_path):
    """Triton, and what it compiles its own module with."""
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: False)
    assert speed.missing_compiler(GPU) == "Triton"
    monkeypatch.setattr(torch.utils._triton, "has_triton", lambda: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    assert speed.missing_compiler(GPU) == "a C compiler (CC, gcc or clang)"
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    assert speed.missing_compiler(GPU) == f"Python's headers ({tmp_path / 'Python.h'})"
    (tmp_path / "Python.h").touch()
    assert speed.missing_compiler(GPU) == ""


def test_what_runs_seldom_is_not_compiled_on_a_cpu(monkeypatch):
    """Compiling takes longer than it spares; unless somebody asks for it."""
    monkeypatch.setattr(speed, "missing_compiler", lambda device: "")

    def modes(device, asked, width, *calls):
        found = choose_speed(device, asked, "32-true", width, "state", calls)
        return found.plans, found.compile

    assert modes(CPU, None, 128, 2_000, 8_000) == ("recorded", "default")
    assert modes(CPU, None, 128, 25_000, 25_000) == ("recorded", "default")
    assert modes(CPU, None, 128, math.inf, 25_000) == ("default", "default")  # no quick planner
    assert modes(CPU, None, 128, 500, 500) == ("off", "off")
    assert modes(CPU, None, 512, 6_000, 2_000) == ("default", "default")
    assert modes(CPU, "default", 128, 1, 1) == ("default", "default")
    assert modes(GPU, None, 128, 1, 1) == (speed.ON_CUDA, speed.ON_CUDA)
    found = choose_speed(CPU, None, "32-true", 128, "state", (2_000, 8_000))
    assert "trainer.compile=default (plans recorded)" in str(found)


def test_graphs_on_a_cpu_are_said_to_be_none(caplog):
    assert chosen(CPU, "graphs", None, 512, "state")[0] == "graphs"
    assert "graphs is for CUDA: on cpu updates and plans are compiled alone" in caplog.text


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "bf16-true", "16", "64", "transformer-engine"])
def test_precisions_that_would_train_wrongly_are_refused(precision):
    with pytest.raises(UsageError, match=rf"precision={precision}: .*; there are: 32-true, bf16-mixed"):
        choose_speed(CPU, "off", precision, 512, "state")


@pytest.mark.parametrize(("amx", "avx512_bf16"), [(True, False), (False, True), (False, False)])
def test_bf16_is_fast_with_instructions_for_it(monkeypatch, amx, avx512_bf16):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(speed, "gains_bf16", lambda: True)
    assert speed.fast_bf16(CPU) is (amx or avx512_bf16)
    monkeypatch.setattr(speed, "gains_bf16", lambda: False)  # an Intel without AMX: half of float32's rate
    assert not speed.fast_bf16(CPU)


def test_a_metric_is_averaged_over_the_updates_that_returned_it():
    """Not every update returns every metric: the policy's are missing in a seed phase, say."""
    logged, feed = [], SimpleNamespace(env_steps=0, clock=0, updates=0, finished=[])
    owner = SimpleNamespace(
        world_size=1, loggers=[SimpleNamespace(log_metrics=lambda values, step: logged.append(values))]
    )
    monitor = Monitor(feed, every=4)
    monitor.on_train_start(owner, None)
    for step, (loss, policy) in enumerate([(1.0, None), (2.0, None), (3.0, 10.0), (6.0, 20.0)], 1):
        feed.env_steps = feed.clock = feed.updates = step
        values = {"loss": loss} if policy is None else {"loss": loss, "policy": policy}
        monitor.on_train_batch_end(owner, None, {k: torch.tensor(v) for k, v in values.items()}, None, 0)
    (metrics,) = logged
    assert (metrics["loss"], metrics["policy"]) == (3.0, 15.0)
    feed.env_steps = feed.clock = feed.updates = 8
    monitor.on_train_batch_end(owner, None, {"loss": torch.tensor(7.0)}, None, 0)
    assert logged[1]["loss"] == 7.0 and "policy" not in logged[1]
