"""On another device than the CPU, for which `meta` stands, and without help from the host, as graphs want."""

import re
from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from test_contract import small
from toy_models import random_bmpc, random_tdmpc2

from dreammpc.interfaces import Plan
from dreammpc.models import SimulatorModel
from dreammpc.planning import PLANNERS, Imagination
from dreammpc.planning.contract import graphable

A, B = 2, 3
META = torch.device("meta")
MODELS = {
    "tdmpc2": lambda: random_tdmpc2(A),
    "episodic": lambda: random_tdmpc2(A, episodic=True),
    "bmpc": lambda: random_bmpc(A),
    "pixels": lambda: random_tdmpc2(A, obs="pixels"),
    "both": lambda: random_tdmpc2(A, obs="both"),
    "simulator": lambda: SimulatorModel(5, A, lambda x, a: 0.9 * x, lambda x, a, y: y[:, 0] + a.sum(-1)),
}
PAIRS = [*[(name, "tdmpc2") for name in sorted(PLANNERS)], *[("dream_mpc", model) for model in MODELS]]
"""Every planner and every model."""


def observed() -> TensorDict:
    """[B] of all that the models look at."""
    frames = torch.zeros(B, 3, 64, 64, dtype=torch.uint8)
    return TensorDict({"observation": torch.randn(B, 5), "pixels": frames}, [B])


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_every_plan_is_made_where_the_model_is(name, model):
    model, planner = MODELS[model]().to(META), small(name)
    belief = model.initial_belief(B, META)
    latent = model.observe(observed().to(META), torch.zeros(B, A, device=META), belief).exclude("memory")
    state = planner.initial_state(B, META)
    for _ in range(2):
        assert latent.device == META
        plan = planner.plan(Imagination(model), latent, state)
        tensors = [*plan[:4], *plan.state.values(), *plan.diagnostics.values()]
        assert all(tensor.device == META for tensor in tensors)
        state = plan.state


@pytest.mark.parametrize("model", MODELS)
def test_latents_and_beliefs_say_where_they_are(model):
    """A planner makes its tensors on `latent.device`."""
    for device in (META, torch.device("cpu")):
        there = MODELS[model]().to(device)
        belief = there.initial_belief(B, device)
        after = there.observe(observed().to(device), torch.zeros(B, A, device=device), belief)
        following = there.step(after.exclude("memory"), torch.zeros(B, A, device=device))
        assert belief.device == after.device == following.device == device
        if "memory" in after:
            assert after["memory"].device == device


# --- graphs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_every_plan_can_be_a_graph(name, model):
    assert graphable(small(name), MODELS[model](), observed()) is None


@dataclass(frozen=True)
class Mode:
    """Acts with the mode, and does something else on the way."""

    action_dim: int
    something: str = "nothing"

    def initial_state(self, batch_size, device=None):
        return TensorDict({}, [batch_size], device=device)

    def plan(self, imagination, latent, state):
        action = imagination.mode(latent)
        SOMETHING[self.something](action)
        ones = torch.ones_like(action).unsqueeze(1)
        return Plan(action, action.unsqueeze(1), ones, action.sum(-1), state, state)


SOMETHING = {
    "nothing": lambda x: x * 2 + torch.where(x > 0, x, 0.0) + torch.arange(A, device=x.device),
    "item": lambda x: x.sum().item(),
    "branch": lambda x: 1 if (x > 0).all() else 2,
    "number": lambda x: float(x[0, 0]),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "repeat": lambda x: x.repeat_interleave(torch.ones_like(x[:, 0], dtype=torch.long), 0),
    "list": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "to": lambda x: torch.ones(A).to(x.device),
    "elsewhere": lambda x: x + torch.ones(A),
    "index elsewhere": lambda x: x[torch.arange(2)],
    "index of numbers": lambda x: x[:, [1, 0]],
}
REASONS = {
    "item": r"reads a tensor's value \(aten\.item\)",
    "branch": r"reads a tensor's value \(aten\.item\)",
    "number": r"reads a tensor's value \(aten\.item\)",
    "nonzero": r"reads a tensor's value \(aten\.nonzero\)",
    "mask": r"reads a tensor's value \(aten\.index\)",
    "repeat": r"reads a tensor's value \(aten\.repeat_interleave\)",
    "list": r"copies from meta to cpu",
    "cpu": r"copies from meta to cpu",
    "numpy": r"fails: TypeError: can't convert meta device type tensor to numpy\. .*",
    "new_tensor": r"copies a constant from the host \(new_tensor\)",
    "tensor": r"copies a constant from the host \(tensor\)",
    "to": r"copies from cpu to meta",
    "elsewhere": r"mixes meta with a tensor on cpu \(aten\.add\)",
    "index elsewhere": r"mixes meta with a tensor on cpu \(aten\.index\)",
    "index of numbers": r"copies a constant from the host \(a list as an index\)",
}


@pytest.mark.parametrize("something", SOMETHING)
def test_what_keeps_a_plan_from_being_a_graph_is_named(something):
    model = random_tdmpc2(A)
    weights = [weight.clone() for weight in model.parameters()]
    state = torch.get_rng_state()
    reason = graphable(Mode(A, something), model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, model.parameters(), weights))
    if something == "nothing":
        assert reason is None
    else:
        place = r" at test_planning_devices\.py, line \d+$"
        assert re.match(r"^Mode\.plan " + REASONS[something] + place, str(reason)), reason


def test_a_clock_keeps_a_plan_from_being_a_graph():
    reason = graphable(small("dream_mpc", max_ms=5.0), random_tdmpc2(A))
    assert reason == "DreamMPC.plan looks at the clock (max_ms=5.0), which a graph cannot"


def test_what_keeps_an_observation_from_being_a_graph_is_named():
    def encode(obs):
        return obs if obs.sum() > 0 else -obs

    model = SimulatorModel(5, A, lambda x, a: x, lambda x, a, y: y[:, 0], encode=encode)
    reason = graphable(small("policy"), model, observed())
    assert re.match(r"^SimulatorModel\.observe reads a tensor's value \(aten\.item\) at test_", str(reason))
    assert graphable(small("policy"), model) is None
