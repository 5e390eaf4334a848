"""On another device than the CPU, for which `meta` stands, and without help from the host, as graphs want."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from plans import Good, Linear, small
from tensordict import TensorDict
from toy_models import random_bmpc, random_tdmpc2

from dreammpc.interfaces import Outcome
from dreammpc.models import SimulatorModel
from dreammpc.planning import Imagination
from dreammpc.planning.contract import ContractError, check_model, check_planner, graphable

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


def observed() -> TensorDict:
    """[B] of all that the models look at."""
    frames = torch.zeros(B, 3, 64, 64, dtype=torch.uint8)
    return TensorDict({"observation": torch.randn(B, 5), "pixels": frames}, [B])


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


# --- what needs the host, or another device -------------------------------------------------------------


@dataclass(frozen=True)
class Mode(Good):
    """A good planner that does something on the way."""

    something: str = "nothing"

    def plan(self, imagination, latent, state):
        plan = super().plan(imagination, latent, state)
        SOMETHING[self.something](plan.action)
        return plan


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
    "index elsewhere": lambda x: x[torch.arange(1)],
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
PLACE = r" at test_planning_devices\.py, line \d+$"


@pytest.mark.parametrize("something", SOMETHING)
def test_what_keeps_a_plan_from_being_a_graph_is_named(something):
    model = random_tdmpc2(A)
    weights = [weight.clone() for weight in model.parameters()]
    state = torch.get_rng_state()
    reason = graphable(Mode(A, something=something), model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, model.parameters(), weights))
    if something == "nothing":
        assert reason is None
    else:
        assert re.match(r"^Mode\.plan " + REASONS[something] + PLACE, str(reason)), reason


@pytest.mark.parametrize("something", SOMETHING)
def test_the_contract_names_it_too(something):
    if something == "nothing":
        check_planner(Mode(A), compile=None)
        return
    words = r"^Mode\.plan on meta: expected one that needs neither the host nor another device, got one that "
    with pytest.raises(ContractError, match=words + REASONS[something] + PLACE):
        check_planner(Mode(A, something=something), compile=None)
    check_planner(Mode(A, something=something), compile=None, device=None)


@dataclass(frozen=True)
class Forgetful(Good):
    """Makes its first warm start where it likes."""

    def initial_state(self, batch_size, device=None):
        return super().initial_state(batch_size)


@dataclass(frozen=True)
class Counting(Good):
    """Reports on the CPU."""

    def plan(self, imagination, latent, state):
        report = TensorDict({"v": torch.zeros(len(latent))}, [len(latent)])
        return super().plan(imagination, latent, state)._replace(diagnostics=report)


@pytest.mark.parametrize(
    ("planner", "words"),
    [
        (
            Forgetful(A),
            r"^Forgetful\.plan on meta: .* got one that mixes meta with a tensor on cpu .aten\.add.",
        ),
        (Counting(A), r"^Counting\.plan on meta: diagnostics\[v\]: expected a tensor on meta, got cpu$"),
    ],
)
def test_results_are_where_the_model_is(planner, words):
    with pytest.raises(ContractError, match=words):
        check_planner(planner, compile=None)


class Goal(Linear):
    """Knows a tensor that is no buffer."""

    def __init__(self, buffer: bool):
        super().__init__()
        if buffer:
            self.register_buffer("goal", torch.ones(A))
        else:
            self.goal = torch.ones(A)

    def outcome(self, latent, action, next_latent):
        reward = -(next_latent["x"] - self.goal).square().sum(-1)
        return Outcome(reward, torch.full_like(reward, 0.9))


class Nowhere(Linear):
    """Latents that do not say where they are."""

    def step(self, latent, action):
        return TensorDict({"x": 0.9 * latent["x"] + 0.5 * action}, [len(action)])


def test_a_model_that_stays_behind_is_caught():
    check_model(Goal(buffer=True), compile=None)
    words = (
        r"^Goal\.outcome on meta: expected one .* got one that mixes meta with a tensor on cpu \(aten\.sub\)"
    )
    with pytest.raises(ContractError, match=words + PLACE):
        check_model(Goal(buffer=False), compile=None)
    check_model(Goal(buffer=False), compile=None, device=None)
    words = r"^Nowhere\.step on meta: device: expected a latent that says where it is, .*, got None$"
    with pytest.raises(ContractError, match=words):
        check_model(Nowhere(), compile=None)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_observed_and_planned_can_be_a_graph(model):
    assert graphable(small("policy"), MODELS[model](), observed()) is None


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


def test_the_readmes_planner_works_on_another_device():
    """It is to be read in a minute, and checks no settings: the contract's device check is what it passes."""
    page = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = (
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "class BestOf" in block
    )
    names: dict = {"__name__": "readme"}
    exec(code.replace('@register_planner("best_of")\n', ""), names)
    for make in MODELS.values():
        model = make()
        assert graphable(names["BestOf"](A), model) is None
        model, state = model.to(META), names["BestOf"](A).initial_state(B, META)
        plan = names["BestOf"](A).plan(
            Imagination(model), model.initial_belief(B, META).exclude("memory"), state
        )
        assert all(tensor.device == META for tensor in (*plan[:4], *plan.state.values()))
