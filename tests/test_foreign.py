"""A model on another device than its environments: every path from an observation to an action and a row.

`meta` with numbers stands for a GPU (see foreign.py); what differs there shows in test_gpu.py alone.
"""

import importlib.util
import sys
from dataclasses import replace

import pytest
import torch
from commands import PENDULUM, ROOT, recipe, train
from drift import make_drift
from faults.tiny import MODEL, PLANNER, Training
from foreign import foreign, trained_on_foreign
from frames import CLASSES, make_algorithm, make_replay
from tensordict import TensorDict
from toy_models import random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.cli import commands
from dreammpc.configuration import assembly
from dreammpc.data import WorkerCollector, make_collector, workers
from dreammpc.evaluation.episodes import run_episodes
from dreammpc.evaluation.rows import read_rows
from dreammpc.models import BMPCModel
from dreammpc.planning import PLANNERS, make_planner
from dreammpc.runtime.devices import CPU, module_device
from dreammpc.trained import compare, loading
from dreammpc.training.checkpoint_format import DESCRIPTION, FORMAT
from dreammpc.training.files import save_atomically
from dreammpc.training.random_state import random_state, set_random_state

SHORT = [*PENDULUM, "steps=60", "algorithm.seed_steps=50", "algorithm.batch_size=4", "evaluation.every=100"]
SMALL = {
    "num_samples": 16,
    "num_elites": 4,
    "num_policy": 2,
    "num_candidates": 4,
    "iterations": 2,
    "horizon": 2,
}


@pytest.fixture
def device():
    with foreign() as device:
        yield device


def small(name):
    planner = make_planner(name, 2)
    return replace(planner, **{key: value for key, value in SMALL.items() if hasattr(planner, key)})


def observations(size):
    return TensorDict({"observation": torch.randn(size, random_tdmpc2().obs_dim)}, [size])


@pytest.mark.parametrize("name", list(PLANNERS))
def test_actions_and_carry_go_where_they_came_from(device, name):
    model, obs, start = random_tdmpc2(), observations(3), torch.ones(3, 1, dtype=torch.bool)
    agent = Agent(model, small(name), noise_scale=0.5, noise_correlation=0.3)
    torch.manual_seed(1)
    expected, _ = agent.step(obs, agent.initial_carry(3), start)
    model.to(device)
    for held in (CPU, device):
        torch.manual_seed(1)
        plan, carry = agent.step(obs, agent.initial_carry(3, held), start)
        assert plan.action.device == CPU
        assert {value.device for value in carry.values(True, True)} == {held}
        torch.testing.assert_close(plan.action, expected.action)
        plan, _ = agent.step(obs, carry, ~start)
        assert plan.action.device == CPU


def test_a_recorded_plan_is_noted_anew_where_the_model_goes(device):
    model, obs, start = random_tdmpc2(), observations(3), torch.ones(3, 1, dtype=torch.bool)
    agent, actions = Agent(model, small("dream_mpc"), compile="recorded"), []
    for where in (CPU, CPU, device):  # the first call is never recorded
        model.to(where)
        torch.manual_seed(1)
        actions.append(agent.step(obs, agent.initial_carry(3), start)[0].action)
    torch.testing.assert_close(actions[2], actions[1])


def test_a_carry_starts_on_the_host_where_plans_are_graphs(device):
    model = random_tdmpc2().to(device)
    for mode, where in (("off", device), ("graphs", CPU)):
        agent = Agent(model, small("dream_mpc"), compile=mode)
        assert {value.device for value in agent.initial_carry(2).values(True, True)} == {where}


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("random", [False, True])
def test_a_policy_for_environments_elsewhere(device, record, random):
    model = random_tdmpc2().to(device)
    agent = Agent(model, small("dream_mpc"), noise_scale=0.5, record=record)
    agent.random = random
    env = make_drift(0)
    rows = agent(
        env.reset()
        .set("is_init", torch.ones(2, 1, dtype=torch.bool))
        .set("_carry", agent.initial_carry(2, CPU))
    )
    assert {value.device for value in rows.values(True, True)} == {CPU}


def test_a_collector_acts_with_a_model_elsewhere(device):
    agent = Agent(random_tdmpc2().to(device), small("mppi"))
    collector = make_collector(make_drift(0), agent)
    batches = iter(collector)
    for random in (True, False, False):
        agent.random = random
        batch = next(batches)
        assert {value.device for value in batch.values(True, True)} == {CPU}
        assert batch["action"].isfinite().all() and batch["action"].std() > 0
    assert module_device(agent) == device  # it is not moved
    collector.shutdown()


@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
def test_a_training_elsewhere(tmp_path, algorithm):
    """Acting, replay, updates, reanalyze, checkpoints, logs; the run goes on here, and there again."""
    settings = {"save_every": 40, "log_every": 20, "seed_steps": 40, "batch_size": 4, "reanalyze_interval": 2}
    settings |= {"planner": {**PLANNER, "num_samples": 4, "num_elites": 2}, "utd": 0.5}
    if algorithm == "tdmpc2":
        del settings["reanalyze_interval"]

    def last(name, steps, resume):
        run = Training(tmp_path / name, algorithm, steps, resume=resume, **settings).run()
        assert run.checkpoints.last.exists() and run.feed.updates > 0
        return run.checkpoints.last

    with trained_on_foreign():
        there = last("there", 60, None)
    here = last("here", 80, there)
    with trained_on_foreign():
        last("again", 100, here)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_update_from_frames_elsewhere(device, cls):
    algorithm = make_algorithm(cls, "both")
    algorithm.to(device)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    batch = make_replay("both", plans=cls is BMPCModel).sample()
    metrics = algorithm.training_step(batch.to(device), 0)
    assert {value.device for value in metrics.values()} == {device}
    assert all(value.isfinite() for value in metrics.values())
    agent = algorithm.agent
    obs = TensorDict({"pixels": batch["pixels"][:, 0, -3:], "observation": batch["observation"][:, 0]}, [8])
    plan, carry = agent.step(obs, agent.initial_carry(8, CPU), torch.ones(8, 1, dtype=torch.bool))
    assert plan.action.device == CPU and {value.device for value in carry.values(True, True)} == {CPU}


def test_weights_go_back_to_where_they_were(tmp_path):
    """After updates that are not finite weights and optimizers come from the file, read on the CPU."""
    settings = {
        "steps": 140,
        "save_every": 60,
        "seed_steps": 40,
        "batch_size": 4,
        "utd": 0.5,
        "max_skipped": 3,
    }
    with trained_on_foreign() as device:
        run, places = Training(tmp_path, planner={"name": "policy"}, **settings), []
        whole, updates = run.algorithm._model_loss, 0

        def failing(*args):
            nonlocal updates
            updates += 1
            loss, zs, metrics = whole(*args)
            places.append(
                next(iter(run.trainer.optimizers[0].state.values()), {}).get("exp_avg", loss).device
            )
            return loss * (torch.nan if 25 <= updates < 28 else 1), zs, metrics

        run.algorithm._model_loss = failing
        run.run()
    assert set(places) == {device}
    assert run.checkpoints.state_dict() == {"rolled_back": True}


@pytest.mark.parametrize(("mode", "there"), [("default", "recorded"), ("graphs", "recorded"), ("off", "off")])
def test_workers_get_an_agent_on_the_cpu(device, monkeypatch, mode, there):
    """It is pickled into them, which a model on a device of this process does not survive."""
    agent, sent = Agent(random_tdmpc2().to(device), small("dream_mpc"), compile=mode), []
    monkeypatch.setattr(
        workers, "MultiSyncCollector", lambda envs, policy_factory, **_: sent.append(policy_factory)
    )
    collector = WorkerCollector(make_drift, agent, workers=1, num_envs=2, steps=1, seed=0)
    collector._make_workers()
    mailbox = collector._mailbox
    (factory,) = sent
    assert module_device(factory.agent) == CPU
    assert module_device(agent) == device
    assert (agent._compiled, factory.agent._compiled) == (mode, there)
    with torch.no_grad():
        agent.model.actor.linears[0].weight.add_(1)
    agent.random = True
    mailbox.post(agent)
    copy = factory()
    td = make_drift(0).reset().set("is_init", torch.ones(2, 1, dtype=torch.bool))
    copy(td.set("_carry", copy.agent.initial_carry(2)))
    assert copy.agent.random
    for theirs, ours in zip(copy.agent.parameters(), agent.parameters(), strict=True):
        assert torch.equal(theirs, ours.cpu())
    mailbox.close()


def test_episodes_are_played_where_the_model_is(device):
    agent = Agent(random_tdmpc2(), small("policy"))
    here = run_episodes(make_drift(0), agent, 0)
    agent.model.to(device)
    there = run_episodes(make_drift(0), agent, 0)
    assert (here.device, there.device) == ("cpu", device.type)
    assert there.returns == pytest.approx(here.returns)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a task whose episodes are short."""
    task, algorithm = "gym-InvertedPendulum-v5", {"name": "tdmpc2"}
    env = assembly.build_env(task, 0)
    settings = {"seed": 0, "model": MODEL, "algorithm": algorithm, "env": {}}
    model = assembly.build_model(env, MODEL)
    facts = assembly.describe(task, model, settings, [], format=FORMAT, env_steps=0)
    weights = {f"agent.model.{key}": weight for key, weight in model.state_dict().items()}
    path = tmp_path_factory.mktemp("agent") / "last.ckpt"
    save_atomically({"state_dict": weights, DESCRIPTION: facts}, path)
    return path


@pytest.fixture
def chosen(device, monkeypatch):
    """Whatever is asked for, the foreign device is chosen; a list of what was asked for."""
    asked = []

    def choose(name="auto", training=False):
        asked.append(str(name))
        return device

    for module in (loading, compare, commands):
        monkeypatch.setattr(module, "choose_device", choose)
    return asked


def test_agents_are_loaded_demonstrated_and_compared_elsewhere(device, chosen, checkpoint, capsys):
    assert loading.load_agent(checkpoint, "policy", device="cuda:3").device == device
    assert loading.load_agent(checkpoint, "policy").device == device
    assert chosen == ["cuda:3", "cpu"]
    (played,) = compare.compare(str(checkpoint), "policy", seeds=[0], device="cuda:1")
    assert chosen[2] == "cuda:1" and played.rows[0]["device"] == device.type
    commands.demo(str(checkpoint), ["planner=policy"], 0, None, False, "cuda:2")
    assert chosen[-1] == "cuda:2" and f"ms each on {device}" in capsys.readouterr().out


def test_the_recipe_evaluate_hands_its_device_on(device, chosen, checkpoint, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"checkpoint={checkpoint}", "planner=policy", "episodes=1", "device=cuda:1", "output=scores.csv"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words])
    with pytest.raises(SystemExit) as stop:
        recipe("evaluate")()
    assert not stop.value.code and "cuda:1" in chosen
    assert f"ms/action ({device})" in capsys.readouterr().out
    assert read_rows("scores.csv")[0]["device"] == device.type


def test_a_pendulum_elsewhere(device):
    path = ROOT / "recipes" / "pendulum.py"
    spec = importlib.util.spec_from_file_location("pendulum_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    planner = make_planner("dream_mpc", 1, num_candidates=4, horizon=2)
    here, there = (module.swing_up(planner, 2, 20, 0, each) for each in (CPU, device))
    torch.testing.assert_close(here.angles, there.angles)
    torch.testing.assert_close(here.returns, there.returns)


def test_the_comparison_after_a_training_is_played_on_the_device_that_trained(tmp_path, capsys):
    with trained_on_foreign() as device:
        assert train(tmp_path, *SHORT, "evaluation.planners=[policy]", "planner=policy") == 0
    assert f"ms/action ({device})" in capsys.readouterr().out


def test_random_streams_of_another_kind_of_device():
    assert set_random_state(random_state(CPU), CPU)
    assert not set_random_state({**random_state(CPU), "device": torch.zeros(1)}, CPU)
