"""What is captured on a GPU gives what its function gives; a CPU uses the same buffers, without a graph."""

import copy

import pytest
import torch
from frames import make_algorithm, make_replay
from tape import Taped
from tensordict import TensorDict
from toy_models import random_tdmpc2
from updates import make_batch, make_bmpc, make_bmpc_batch, make_tdmpc2

from dreammpc import agent as agents
from dreammpc.agent import Agent
from dreammpc.algorithms import bmpc, latent_algorithm, updates
from dreammpc.configuration.planners import check_graphable
from dreammpc.data import Replay
from dreammpc.interfaces import UsageError
from dreammpc.models import BMPCModel, TDMPC2Model
from dreammpc.planning import PLANNERS, make_planner
from dreammpc.runtime import recording
from dreammpc.runtime.cuda_graphs import Graphed, copies, put_back

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
A, O = 2, 5


@pytest.fixture(params=["cpu", "tape", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch) -> str:
    """With `tape` what is captured is the operations of one call, on the CPU; see `tests/helpers/tape.py`."""
    for module in (latent_algorithm, bmpc, recording):
        monkeypatch.setattr(module, "compiled", lambda f, mode: f)
    for module in (agents, updates):
        if request.param == "tape":
            monkeypatch.setattr(module, "Graphed", Taped)
    return "cuda" if request.param == "cuda" else "cpu"


def example():
    flags = TensorDict({"flag": torch.randn(3) > 0}, [3])
    return TensorDict({"b": torch.randn(3, 2), "a": torch.arange(3), "in": flags}, [3])


def function(td, x):
    chosen = td["b"] * td["a"].unsqueeze(-1) + x
    return chosen, TensorDict({"flag": ~td["in", "flag"], "count": td["a"] + 1}, [3])


@DEVICES
@pytest.mark.parametrize("to_host", [True, False])
def test_a_call_gives_what_the_function_gives(device, to_host):
    graphed = Graphed(function, torch.device(device), to_host=to_host)
    kept = []
    for i in range(4):
        td, x = example(), torch.randn(3, 2)
        if i == 2:  # the same entries, in another order
            td = TensorDict(dict(reversed(list(td.items()))), [3])
        result, more = graphed(td, x)
        expected, others = function(td, x)
        assert result.device.type == ("cpu" if to_host else device)
        assert torch.allclose(result.cpu(), expected)
        assert (more["count"].cpu() == others["count"]).all() and (more["flag"].cpu() == others["flag"]).all()
        kept.append((result, expected))
    if to_host:  # later calls leave earlier results alone
        assert all(torch.allclose(result, expected) for result, expected in kept)


@DEVICES
def test_other_shapes_are_refused(device):
    graphed = Graphed(lambda x: x + 1, torch.device(device))
    graphed(torch.zeros(2))
    for other in (torch.zeros(3), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="captured for fixed shapes"):
            graphed(other)


@DEVICES
def test_calls_before_the_capture_leave_no_trace(device):
    """Neither in what the function changes, nor in what its first call makes, nor in random streams."""
    place, made = torch.zeros(2, device=device), {}

    def step():
        held = made.setdefault("sum", torch.zeros((), device=device))
        place.add_(torch.rand(2, device=device))
        held.add_(1)
        return place.sum()

    torch.manual_seed(3)
    graphed = Graphed(step, torch.device(device), lambda: [place, *made.values()])
    for _ in range(3):
        graphed()
    torch.manual_seed(3)
    expected = sum(torch.rand(2, device=device) for _ in range(3))
    assert made["sum"] == 3 and torch.allclose(place, expected)


def test_copies_keep_no_node_of_autograd():
    """A node that adds up gradients would be of another stream than the capture's, which CUDA refuses."""
    weight = torch.nn.Parameter(torch.ones(2))
    ((same, copy),) = copies([weight])
    assert same is weight and copy.grad_fn is None and not copy.requires_grad
    assert copy.data_ptr() != weight.data_ptr()


@DEVICES
def test_weights_that_move_are_captured_anew(device, monkeypatch):
    for module in (recording, latent_algorithm):
        monkeypatch.setattr(module, "compiled", lambda f, mode: f)
    algorithm = make_tdmpc2(compile="graphs").to(device)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.training_step([make_batch()], 0)
    agent = Agent(random_tdmpc2(A).to(device), make_planner("policy", A), compile="graphs")
    obs, start = TensorDict({"observation": torch.zeros(1, O)}, [1]), torch.ones(1, 1, dtype=torch.bool)
    for _ in range(2):
        agent.step(obs, agent.initial_carry(1), start)
    assert algorithm._graphs and agent._graphs
    algorithm.to("cpu"), agent.to("cpu")
    assert algorithm._graphs == {} and agent._graphs == {}


@DEVICES
def test_learning_rates_that_fall_are_read_by_graphs(device, monkeypatch):
    """They lie in tensors that stay where they are, and are numbers in a checkpoint."""
    monkeypatch.setattr(latent_algorithm, "compiled", lambda f, mode: f)
    done = iter((0.0, 0.5, 1.0))
    algorithm = make_tdmpc2(
        lr=1e-3, encoder_lr_scale=0.5, lr_end=0.2, progress=lambda: next(done), compile="graphs"
    ).to(device)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.training_step([make_batch()], 0)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    assert all(isinstance(rate, torch.Tensor) and rate.device.type == device for rate in rates)
    for height in (0.6, 0.2):
        algorithm.training_step([make_batch()], 0)
        assert [float(rate) for rate in rates] == pytest.approx([5e-4 * height, 1e-3 * height, 1e-3 * height])
    saved = {"optimizer_states": [optimizer.state_dict() for optimizer in optimizers]}
    algorithm.on_save_checkpoint(saved)
    assert isinstance(saved["optimizer_states"][0]["param_groups"][0]["lr"], float)
    assert isinstance(optimizers[0].param_groups[0]["lr"], torch.Tensor)


def test_what_is_new_begins_as_zeros():
    old, new = torch.ones(2), torch.full((2,), 7.0)
    put_back([(old, torch.full((2,), 5.0))], [old, new])
    assert old.tolist() == [5, 5] and new.tolist() == [0, 0]


def updated(make, batches, mode, device, complete=lambda batch: batch):
    """Weights, metrics, plans written back and optimizers' steps after an update on each batch."""
    torch.manual_seed(0)
    algorithm, written = make(compile=mode).to(device), []
    algorithm.complete = complete
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.write_back = lambda *a: written.append(copy.deepcopy(a[2]["expert"]["mean"].cpu()))
    torch.manual_seed(1)
    metrics = algorithm.training_step(batches, 0)["updates"]
    weights = {name: value.cpu() for name, value in algorithm.state_dict().items()}
    steps = {float(held["step"]) for optimizer in optimizers for held in optimizer.state.values()}
    return weights, [{k: float(v) for k, v in m.items()} for m in metrics], written, steps


@pytest.mark.parametrize("name", ["tdmpc2", "bmpc"])
def test_updates_as_graphs_are_those_without(name, device):
    """One batch is not finite; BMPC plans anew in every second update."""
    make = make_tdmpc2 if name == "tdmpc2" else lambda **more: make_bmpc(reanalyze_interval=2, **more)
    torch.manual_seed(5)
    batches = [make_batch() if name == "tdmpc2" else make_bmpc_batch() for _ in range(6)]
    batches[3]["next", "reward"][0, 0] = torch.nan
    eager, said, wrote, _ = updated(make, batches, "off", device)
    graphs, also, too, steps = updated(make, batches, "graphs", device)
    close = {"rtol": 0.0, "atol": 0.0} if device == "cpu" else {"rtol": 1e-3, "atol": 1e-5}
    check_same((eager, said), (graphs, also), device)
    assert [m["count/skipped_updates"] for m in also] == [0, 0, 0, 1, 0, 0]
    assert len(wrote) == len(too) == (3 if name == "bmpc" else 0)
    for one, other in zip(wrote, too, strict=True):
        torch.testing.assert_close(one, other, **close)
    assert steps == {5}


def rows(start: int, steps: int) -> TensorDict:
    """[1, steps] transitions of one episode."""
    torch.manual_seed(start)
    seen = torch.randn(1, steps + 1, O)
    ends = torch.zeros(1, steps, 1, dtype=torch.bool)
    after = {"observation": seen[:, 1:], "reward": torch.rand(1, steps, 1), "terminated": ends}
    content = {"observation": seen[:, :-1], "action": torch.rand(1, steps, A) * 2 - 1, "next": after}
    return TensorDict({**content, "is_init": torch.zeros_like(ends)}, [1, steps])


def test_a_replay_on_the_device_is_read_within_the_graph(device):
    """Rows that come after the capture are seen, and those that are written over."""

    def batches(replay):
        replay.extend(rows(0, 10))
        for i in range(5):
            yield replay.draw()
            replay.extend(rows(100 + i, 10))

    found = []
    for mode in ("off", "graphs"):
        replay = Replay(40, 1, 3, 4, seed=2, folder=torch.device(device))
        found.append(updated(make_tdmpc2, batches(replay), mode, device, replay.complete))
    check_same(*found, device)


@pytest.mark.parametrize("cls", [TDMPC2Model, BMPCModel])
def test_frames_are_stacked_within_the_graph(cls, device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    def make(compile):
        algorithm = make_algorithm(cls, compile=compile)
        algorithm._began = True  # the mean image, for which a trainer would be asked
        return algorithm

    replay = make_replay(plans=cls is BMPCModel)
    drawn = [replay.draw() for _ in range(3)]
    found = [updated(make, drawn, mode, device, replay.complete) for mode in ("off", "graphs")]
    check_same(*found, device)


def check_same(eager, graphs, device) -> None:
    close = {"rtol": 0.0, "atol": 0.0} if device == "cpu" else {"rtol": 1e-3, "atol": 1e-5}
    for key, weight in eager[0].items():
        torch.testing.assert_close(graphs[0][key], weight, msg=key, **close)
    assert [sorted(m) for m in eager[1]] == [sorted(m) for m in graphs[1]] and len(eager[1]) > 2


@pytest.mark.parametrize(
    ("planner", "more"),
    [
        *((name, {}) for name in sorted(PLANNERS)),
        ("dream_mpc", {"replan_every": 3}),
        ("mppi", {"replan_every": 2}),
    ],
)
def test_plans_as_graphs_are_those_without(planner, more, device):
    """Over several steps, with an episode that begins in one of the environments."""
    plans = []
    for mode in ("off", "graphs"):
        made = make_planner(planner, A, **more)
        agent = Agent(random_tdmpc2(A).to(device), made, noise_scale=0.5, compile=mode)
        carry, found = agent.initial_carry(3, torch.device("cpu")), []
        torch.manual_seed(2)
        for step in range(5):
            obs = TensorDict({"observation": torch.full((3, O), 0.1 * step)}, [3])
            is_init = torch.tensor([[step == 0], [step in (0, 2)], [step == 0]])
            plan, carry = agent.step(obs, carry, is_init)
            found += [plan.action, carry["noise"].cpu(), plan.value.cpu()]
        assert plan.action.device.type == "cpu" and (agent._graphs != {}) == (mode == "graphs")
        plans.append(found)
    for one, other in zip(*plans, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_planner_that_cannot_be_a_graph_is_named():
    model = random_tdmpc2(A)
    check_graphable(make_planner("dream_mpc", A), model, "graphs")
    late = make_planner("dream_mpc", A, max_ms=5.0)
    check_graphable(late, model, "default")
    with pytest.raises(
        UsageError, match=r"trainer.compile=graphs: .*max_ms=5.0.*; choose trainer.compile=default"
    ):
        check_graphable(late, model, "graphs")
