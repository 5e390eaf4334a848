"""Which device a run uses, and what is refused."""

import pytest
import torch
from foreign import foreign
from toy_models import random_tdmpc2

from dreammpc.interfaces import UsageError
from dreammpc.planning import make_planner
from dreammpc.planning.contract import graphable
from dreammpc.runtime.devices import CPU, choose_device, forked_rng, module_device, seeded_rng


@pytest.fixture
def machine(monkeypatch):
    """A function that pretends GPUs."""
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def pretend(cuda: int = 0, mps: bool = False, **variables: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return pretend


@pytest.mark.parametrize(
    ("name", "cuda", "mps", "expected"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 0, True, "cpu"),
        ("auto", 2, True, "cuda:0"),
        ("cpu", 2, False, "cpu"),
        ("cuda", 2, False, "cuda:0"),
        ("gpu", 2, False, "cuda:0"),
        ("cuda:1", 2, False, "cuda:1"),
        ("mps", 0, True, "mps:0"),
        (torch.device("cuda", 1), 2, False, "cuda:1"),
        (torch.device("cpu", 0), 0, False, "cpu"),
    ],
)
def test_a_name_means_a_device(machine, name, cuda, mps, expected):
    machine(cuda, mps)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["auto", "cuda", "gpu"])
def test_every_process_of_a_machine_has_a_gpu_of_its_own(machine, name):
    machine(4, LOCAL_RANK="3", LOCAL_WORLD_SIZE="4")
    assert choose_device(name, training=True) == torch.device("cuda:3")


@pytest.mark.parametrize(
    ("name", "cuda", "variables", "words"),
    [
        ("cuda", 0, {}, "device cuda: this machine has no CUDA device"),
        ("gpu", 0, {}, "device gpu: this machine has no CUDA device"),
        ("cuda:7", 2, {}, "device cuda:7: there are 2 CUDA devices here, cuda:0 to cuda:1"),
        ("cuda", 2, {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "3"}, "device cuda:2: there are 2 CUDA devices"),
        (
            "cuda:1",
            2,
            {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
            "device cuda:1: 2 processes cannot",
        ),
        ("mps", 0, {}, "device mps: this machine has none"),
        ("tpu", 2, {}, "unknown device 'tpu'; there are: auto, cpu, cuda (or gpu), cuda:N, mps"),
        ("cuda:", 2, {}, "unknown device 'cuda:'"),
        ("cuda:x", 2, {}, "unknown device 'cuda:x'"),
        ("cuda:-1", 2, {}, "unknown device 'cuda:-1'"),
        ("cpu:1", 2, {}, "unknown device 'cpu:1'"),
        ("auto:1", 2, {}, "unknown device 'auto:1'"),
        ("", 2, {}, "unknown device ''"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(machine, name, cuda, variables, words):
    machine(cuda, **variables)
    with pytest.raises(UsageError) as error:
        choose_device(name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_mps_plays_and_does_not_train(machine):
    machine(mps=True)
    assert choose_device("mps").type == "mps"
    with pytest.raises(UsageError, match="mps can play agents, but not train them"):
        choose_device("mps", training=True)


def test_where_a_module_is():
    assert module_device(torch.nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert module_device(torch.nn.Identity()) is None
    assert module_device(object()) is None


@pytest.mark.parametrize("device", [None, torch.device("cpu"), torch.device("meta")])
def test_random_streams_go_on_as_if_nothing_had_been_drawn(device):
    before = torch.get_rng_state()
    with forked_rng(device):
        torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())


def test_a_seed_for_a_while_is_of_no_other_device(monkeypatch):
    """`torch.manual_seed` seeds all GPUs: a run's seed would be lost by what is checked before it begins."""
    model = random_tdmpc2()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("all GPUs were seeded"))
    before = torch.get_rng_state()
    with seeded_rng(3, CPU):
        drawn = torch.rand(4)
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert graphable(make_planner("dream_mpc", 2), model) is None
    assert torch.equal(before, torch.get_rng_state())


def test_the_foreign_device_of_these_tests_is_strict_and_keeps_numbers():
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    with torch.no_grad():
        expected = layer(x)
    with foreign() as device:
        layer.to(device)
        with pytest.raises(RuntimeError, match="expected all tensors on the same device"):
            layer(x)
        result = layer(x.to(device))
        assert (result.device, result.cpu().device) == (device, torch.device("cpu"))
        assert torch.equal(result.cpu(), expected)
        result.sum().backward()
        before = {key: value.cpu() for key, value in layer.state_dict().items()}
        torch.optim.Adam(layer.parameters(), fused=True).step()
        assert layer.weight.device == layer.weight.grad.device == device
        layer.cpu()
        assert not torch.equal(layer(x), expected)
        layer.to(device).load_state_dict(before)
        assert torch.equal(layer(x.to(device)).cpu(), expected)
