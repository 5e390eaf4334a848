"""What is to be a CUDA graph needs the host for nothing: updates, whole steps of an agent, evaluations.

Watched on a device that is not the CPU, for what a capture would refuse.
"""

import dataclasses
import logging

import pytest
import torch
from faults.tiny import Snapshots, Training, everything, raw
from foreign import foreign
from frames import make_algorithm, make_replay
from tape import Tape, Taped
from tensordict import TensorDict
from toy_models import random_tdmpc2
from updates import make_batch, make_bmpc, make_bmpc_batch, make_tdmpc2

from dreammpc import agent as agents
from dreammpc.agent import Agent
from dreammpc.algorithms import bmpc, latent_algorithm, updates
from dreammpc.configuration.planners import evaluation_modes
from dreammpc.evaluation import Evaluator
from dreammpc.interfaces import RunError, UsageError
from dreammpc.models import BMPCModel, TDMPC2Model
from dreammpc.planning import PLANNERS, make_planner
from dreammpc.planning.contract import graphable
from dreammpc.planning.contract.watch import Watch, on_device
from dreammpc.runtime import recording
from dreammpc.trained.compare import compare

A, O = 2, 5


@pytest.fixture
def taped(monkeypatch) -> list[Tape]:
    """What is captured is a tape, and nothing is compiled; gives a tape for each time that it is repeated."""
    for module in (latent_algorithm, bmpc, recording):
        monkeypatch.setattr(module, "compiled", lambda f, mode: f)
    for module in (agents, updates):
        monkeypatch.setattr(module, "Graphed", Taped)
    repeated, replay = [], Tape.replay
    monkeypatch.setattr(Tape, "replay", lambda tape: (repeated.append(tape), replay(tape)))
    return repeated


def pixels(cls):
    replay = make_replay(plans=cls is BMPCModel)
    algorithm = make_algorithm(cls)
    algorithm.complete = replay.complete
    return algorithm, replay.draw()


UPDATES = {
    "tdmpc2": lambda: (make_tdmpc2(), make_batch()),
    "bmpc": lambda: (make_bmpc(make_planner("dream_mpc", A)), make_bmpc_batch()),
    "tdmpc2-pixels": lambda: pixels(TDMPC2Model),
    "bmpc-pixels": lambda: pixels(BMPCModel),
}


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_needs_the_host_for_nothing(name):
    algorithm, batch = UPDATES[name]()
    with foreign() as device:
        algorithm.to(device)
        optimizers, batch = algorithm.configure_optimizers(), batch.to(device)
        algorithm.optimizers = lambda: optimizers
        for variant in ((False, False), (True, False), (True, True)) if "bmpc" in name else ((),):
            algorithm.update(algorithm.complete(batch), *variant)  # what a first one makes is made
            with Watch(device) as watch:
                algorithm.update(algorithm.complete(batch), *variant)
            assert not watch.found


def test_it_would_be_seen():
    algorithm = make_tdmpc2()
    with foreign() as device:
        algorithm.to(device)
        optimizers, batch = algorithm.configure_optimizers(), make_batch().to(device)
        algorithm.optimizers = lambda: optimizers
        algorithm.sample_shift = lambda batch: print(float(batch["action"].sum()))
        with Watch(device) as watch:
            algorithm.update(batch)
    assert "reads a tensor's value" in watch.found


@pytest.mark.parametrize("planner", sorted(PLANNERS))
def test_a_step_of_an_agent_needs_the_host_for_nothing(planner):
    """With a fresh carry where an episode begins, and noise that is correlated in time."""
    meta = torch.device("meta")
    made = make_planner(planner, A)
    agent = Agent(on_device(random_tdmpc2(A), meta), made, noise_scale=1.0, noise_correlation=0.5)
    obs, start = TensorDict({"observation": torch.zeros(3, O)}, [3]), torch.ones(3, 1) > 0
    given = obs.to(meta), agent.initial_carry(3, meta), start.to(meta)
    with torch.no_grad(), Watch(meta) as watch:
        agent._plan(*given)
    assert not watch.found


def test_a_capture_that_is_refused_is_one_line():
    def reads(x):
        return x * float(x.sum())

    with pytest.raises(RunError) as error:
        Taped(reads, torch.device("cpu"), what="a plan of Mine")(torch.ones(2))
    reason = "a plan of Mine cannot be a CUDA graph (a capture reads no tensor's value)"
    assert str(error.value) == f"{reason}; choose trainer.compile=default"


@dataclasses.dataclass(frozen=True)
class FromTheHost:
    """`policy`, but for the state that an episode begins with."""

    action_dim: int = A

    def initial_state(self, batch_size, device=None):
        return TensorDict({"mean": torch.tensor([[0.0] * A] * batch_size, device=device)}, [batch_size])

    def plan(self, imagination, latent, state):
        plan = make_planner("policy", A).plan(imagination, latent, state)
        return plan._replace(state=state)


def test_a_state_that_comes_from_the_host_is_told():
    reason = graphable(FromTheHost(), random_tdmpc2(A))
    assert reason is not None
    assert reason.startswith("FromTheHost.initial_state copies a constant from the host (tensor) at test_cap")


@pytest.mark.parametrize("planner", ["dream_mpc", "policy"])
def test_evaluations_are_captured_once_and_see_new_weights(planner, taped):
    """They are those without graphs; weights that lie elsewhere are captured anew."""
    model = random_tdmpc2(1)
    planners, evaluator = {planner: make_planner(planner, 1)}, Evaluator("cartpole-swingup", 2, 0, 50)
    captured = []
    for step in range(3):
        with torch.no_grad():
            model.actor.linears[-1].bias.add_(0.1)
        if step == 2:
            model.actor.linears[0].weight.data = model.actor.linears[0].weight.data.clone()
        plain, graphs = (
            evaluator.compare(model, planners, modes)[planner] for modes in ({}, {planner: "graphs"})
        )
        assert graphs.returns == pytest.approx(plain.returns, rel=1e-4)
        captured.append(list(evaluator._kept[planner]._graphs.values()))
    assert len(captured[0]) == 1 and captured[0] == captured[1]


def test_a_planner_that_cannot_be_a_graph_is_evaluated_as_written(caplog):
    found = {"one": make_planner("policy", A), "two": make_planner("dream_mpc", A, max_ms=5.0)}
    with caplog.at_level(logging.WARNING):
        assert evaluation_modes(found, random_tdmpc2(A), "graphs", torch.device("cuda", 0)) == {
            "one": "graphs"
        }
    assert caplog.text.count("evaluations with two are no graphs: DreamMPC.plan looks at the clock") == 1
    assert evaluation_modes(found, random_tdmpc2(A), "graphs", torch.device("cpu")) == {}
    assert evaluation_modes(found, random_tdmpc2(A), "default", torch.device("cuda", 0)) == {}


@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
def test_a_training_as_graphs_is_the_one_without_and_goes_on(algorithm, tmp_path, taped):
    """To the bit, with a replay that graphs read where it lies."""
    settings = {"algorithm": algorithm, "steps": 480, "save_every": 10**9, "seed_steps": 160, "utd": 0.4}
    settings |= {"place": torch.device("cpu"), "env": {"num_envs": 2, "action_repeat": 8}}
    if algorithm == "bmpc":
        settings |= {"reanalyze_interval": 3, "reanalyze_slices": 2}
    else:
        settings |= {"reset_every": 7}
    plain = everything(Training(tmp_path / "plain", **settings).run())
    snapshots = Snapshots(tmp_path / "whole", (11,))
    whole = snapshots.run = Training(tmp_path / "whole", compile="graphs", more=(snapshots,), **settings)
    found = everything(whole.run())
    plans = (whole.feed.agent_steps - 20) // 2 - 1  # the first is as written
    assert whole.feed.updates > 20 and len(taped) >= whole.feed.updates + plans
    resume = tmp_path / "at11/checkpoints/last.ckpt"
    resumed = Training(tmp_path / "at11", compile="graphs", resume=resume, **settings)
    again = everything(resumed.run())
    for other in (found, again):
        assert [place for place, value in plain.items() if raw(value) != raw(other[place])] == []


def test_an_evaluation_as_graphs_names_a_planner_that_cannot():
    agent, late = "cartpole-swingup/tdmpc2-seed1", {"max_ms": 5.0}
    with pytest.raises(
        UsageError, match=r"^compile=graphs: DreamMPC.plan looks at .*; choose compile=default$"
    ):
        next(compare(agent, "dream_mpc", late, seeds=[1], compile="graphs", device="cpu"))
