"""The same on a GPU as on the CPU. `pytest -m gpu` runs what needs a card, and there is skipped without one.

Every test runs on the CPU too, so that what is wrong with the test itself is found without a card.
"""

import dataclasses
import json
import logging

import pytest
import torch
from drift import make_drift
from faults.tiny import PLANNER, Training
from tensordict import TensorDict
from toy_models import random_bmpc, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.data import WorkerCollector
from dreammpc.evaluation.episodes import run_episodes
from dreammpc.planning import PLANNERS, PlanningContext, make_planner
from dreammpc.planning.contract import graphable
from dreammpc.runtime.devices import CPU, choose_device, forked_rng, module_device, seeded_rng
from dreammpc.training import seed_everything
from dreammpc.training.checkpoint_format import load_checkpoint
from dreammpc.training.random_state import random_state, set_random_state

SAMPLED = ("mppi", "icem", "random_shooting")
"""Planners that draw from a distribution what they execute, or draw more than Gaussian noise."""
SHORT = {"steps": 200, "save_every": 80, "log_every": 40, "seed_steps": 60, "batch_size": 8, "utd": 0.2}
SMALLEST = {**PLANNER, "num_samples": 4, "num_elites": 2}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    return choose_device(request.param)


def small(name: str):
    planner, sizes = (
        make_planner(name, 2),
        {"num_samples": 32, "num_elites": 8, "num_policy": 4, "horizon": 3},
    )
    return dataclasses.replace(planner, **{key: n for key, n in sizes.items() if hasattr(planner, key)})


@pytest.fixture
def equal_noise(monkeypatch):
    """Noise of plans is drawn on the CPU: another device's stream has other numbers."""

    def noise(context, num):
        return torch.randn(context.zeros(num).shape).to(context.device)

    monkeypatch.setattr(PlanningContext, "noise", noise)


@pytest.mark.parametrize("make", [random_tdmpc2, random_bmpc])
@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_a_plan_is_that_of_the_cpu(device, equal_noise, name, make):
    obs, start = TensorDict({"observation": torch.randn(4, 5)}, [4]), torch.ones(4, 1, dtype=torch.bool)
    plans = []
    for where in (CPU, device):
        agent = Agent(make().to(where), small(name))
        torch.manual_seed(5)
        plan, carry = agent.step(obs, agent.initial_carry(4), start)
        again, carry = agent.step(obs, carry, ~start)
        assert (agent.device, tuple(plan.action.shape), plan.action.device) == (where, (4, 2), CPU)
        assert {value.device for value in carry.values(True, True)} == {where}
        assert again.action.isfinite().all() and again.action.abs().max() <= 1
        plans.append(plan)
    if name not in SAMPLED:
        for key in ("action", "mean", "value"):
            here, there = (getattr(plan, key).cpu() for plan in plans)
            torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [random_tdmpc2, random_bmpc])
def test_a_model_is_that_of_the_cpu(device, make):
    obs, action = TensorDict({"observation": torch.randn(64, 5)}, [64]), torch.rand(64, 2) * 2 - 1
    results = []
    with torch.no_grad():
        for where in (CPU, device):
            model, a = make().to(where), action.to(where)
            latent = model.encode(obs.to(where))
            after = model.step(latent, a)
            outcome = model.outcome(latent, a, after)
            results.append([after["z"], outcome.reward, model.value(latent, a), model.policy(latent, 0 * a)])
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)


def losses(folder) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss/consistency"] for row in rows if "loss/consistency" in row]


@pytest.mark.parametrize(
    ("algorithm", "precision"), [("tdmpc2", "32-true"), ("tdmpc2", "bf16-mixed"), ("bmpc", "32-true")]
)
def test_a_short_training(device, tmp_path, algorithm, precision):
    run = Training(
        tmp_path, algorithm, planner=SMALLEST, accelerator=str(device), precision=precision, **SHORT
    )
    before = [parameter.detach().clone() for parameter in run.agent.model.parameters()]
    run.run()
    found = losses(tmp_path)
    assert len(found) >= 2 and all(0 < loss < 1e3 for loss in found)
    assert run.trainer.strategy.root_device == device
    now = list(run.agent.model.parameters())
    assert all(parameter.isfinite().all() for parameter in now)
    assert any(not torch.equal(old, parameter.cpu()) for old, parameter in zip(before, now, strict=True))
    assert run.feed.replay.rows(0, 10).device in (None, CPU)


def test_a_run_goes_on_on_another_device(device, tmp_path, caplog):
    """From the device to the CPU and back: weights, optimizers, clock and replay go on; one line says it."""

    def go(accelerator, steps, resume):
        settings = {**SHORT, "steps": steps, "planner": SMALLEST, "accelerator": accelerator}
        return Training(tmp_path / f"to-{steps}", resume=resume, **settings).run()

    with caplog.at_level(logging.WARNING):
        first = go(str(device), 200, None)
        saved = load_checkpoint(first.checkpoints.last)
        assert {weight.device for weight in saved["state_dict"].values()} == {CPU}
        second = go("cpu", 260, first.checkpoints.last)
        third = go(str(device), 320, second.checkpoints.last)
    assert first.feed.updates < second.feed.updates < third.feed.updates
    state = third.trainer.optimizers[0].state_dict()["state"][0]
    assert int(state["step"]) == third.feed.updates
    said = caplog.text.count("another kind of device")
    assert said == (0 if device == CPU else 2)


def test_workers_act_on_the_cpu_with_the_weights_of_the_device(device):
    agent = Agent(random_tdmpc2().to(device), make_planner("policy", 2))
    collector = WorkerCollector(make_drift, agent, workers=1, num_envs=2, steps=4, seed=5)
    try:
        rows = next(collector).flatten()
        latent = agent.model.encode(rows.select("observation").to(device))
        mode = agent.model.policy(latent, torch.zeros(8, 2).to(device))
        torch.testing.assert_close(rows["action"], mode.detach().cpu(), rtol=1e-3, atol=1e-3)
        assert module_device(agent) == device
    finally:
        collector.shutdown()


def test_episodes_say_what_planned_them(device):
    agent = Agent(random_tdmpc2().to(device), small("dream_mpc"))
    played = run_episodes(make_drift(0), agent, 0)
    assert played.lengths == [20, 20] and played.ms_per_action > 0
    name = "cpu" if device == CPU else torch.cuda.get_device_name(device)
    assert played.device == name


def test_random_streams_go_on(device):
    draw = lambda: (torch.rand(2).tolist(), torch.rand(2, device=device).tolist())  # noqa: E731
    state = random_state(device)
    drawn = draw()
    with forked_rng(device):
        torch.manual_seed(9)
        draw()
    following = draw()
    assert set_random_state(state, device)
    assert (draw(), draw()) == (drawn, following)
    assert set_random_state(random_state(CPU), device) == (device == CPU)


def test_checks_before_a_training_leave_the_seed_alone(device):
    """On a card the stream of a run's seed goes on; for a model on the CPU, too."""
    models = [random_tdmpc2().to(place) for place in (CPU, device)]
    seed_everything(7)
    expected = torch.rand(3, device=device)
    seed_everything(7)
    for model in models:
        assert graphable(make_planner("dream_mpc", 2), model) is None
    with seeded_rng(1, device):
        inside = torch.rand(3, device=device)
    assert torch.equal(torch.rand(3, device=device), expected) and not torch.equal(inside, expected)
    with seeded_rng(1, device):
        assert torch.equal(torch.rand(3, device=device), inside)
