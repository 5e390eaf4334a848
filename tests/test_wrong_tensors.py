"""Tensors that a user hands to a planner or an agent, of a form that does not fit: one line each."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from toy_models import Ensemble, random_latent, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.interfaces import Outcome, UsageError
from dreammpc.planning import PLANNERS, Imagination, make_planner

A, B = 2, 3


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_a_warm_start_of_another_batch_size(name):
    model, planner = random_tdmpc2(A), make_planner(name, A)
    words = (
        r"^state: expected a warm start of batch size \[3\], as the latent's, got batch size \[2\];"
        r" the planner's initial_state\(3\) makes one$"
    )
    with pytest.raises(UsageError, match=words):
        planner.plan(Imagination(model), random_latent(model, B), planner.initial_state(2))


def other_planners():
    return make_planner("mppi", A).initial_state(B)


def of_integers():
    return make_planner("dream_mpc", A).initial_state(B).apply(torch.Tensor.long)


def longer():
    return make_planner("dream_mpc", A, horizon=5).initial_state(B)


def elsewhere():
    return make_planner("dream_mpc", A).initial_state(B, torch.device("meta"))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            other_planners,
            r"^state: expected a warm start with 'candidates' \[3, 5, 3, 2\], float32, got none; ",
        ),
        (of_integers, r"'candidates' \[3, 5, 3, 2\], float32, got int64 \[3, 5, 3, 2\]; "),
        (longer, r"'candidates' \[3, 5, 3, 2\], float32, got float32 \[3, 5, 5, 2\]; "),
        (elsewhere, r"^state: expected 'candidates' on cpu, as the latent, got meta$"),
        (lambda: None, r"^state: expected a warm start of batch size \[3\], as the latent's, got none; "),
        (lambda: {"started": 0}, r"got dict; "),
    ],
)
def test_a_warm_start_of_another_planner(state, words):
    model = random_tdmpc2(A)
    with pytest.raises(UsageError, match=words):
        make_planner("dream_mpc", A).plan(Imagination(model), random_latent(model, B), state())


@pytest.mark.parametrize("name", ["dream_mpc", "policy"])
@pytest.mark.parametrize(
    ("latent", "got"),
    [
        (torch.zeros(B, 16), r"float32 \[3, 16\]"),
        ([0.0], "list"),
        (TensorDict({"z": torch.zeros(16)}, []), r"batch size \[\]"),
        (TensorDict({"z": torch.zeros(B, 2, 16)}, [B, 2]), r"batch size \[3, 2\]"),
        (TensorDict({}, [B]), r"batch size \[3\] and no entries"),
        (TensorDict({"z": torch.zeros(0, 16)}, [0]), r"batch size \[0\]"),
    ],
)
def test_what_is_no_batch_of_latents(name, latent, got):
    planner = make_planner(name, A)
    words = rf"^latent: expected a TensorDict of batch size \[B\], as a model makes it, got {got}$"
    with pytest.raises(UsageError, match=words):
        planner.plan(Imagination(random_tdmpc2(A)), latent, planner.initial_state(B))


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(random_tdmpc2(A), make_planner("policy", A))


def arguments(agent: Agent, **others):
    obs = TensorDict({"observation": torch.randn(B, 5)}, [B])
    is_init = torch.ones(B, 1, dtype=torch.bool)
    return {"obs": obs, "carry": agent.initial_carry(B), "is_init": is_init} | others


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "obs",
            TensorDict({"observation": torch.zeros(5)}, []),
            r"^obs: expected a Tens.* size \[B\], got \[\]$",
        ),
        ("obs", torch.zeros(B, 5), r"^obs: expected a TensorDict of batch size \[B\], got Tensor$"),
        (
            "obs",
            TensorDict({"observation": torch.zeros(B, 4)}, [B]),
            r"^observation: .* \[B, 5\], got \[3, 4\]$",
        ),
        ("obs", TensorDict({"state": torch.zeros(B, 5)}, [B]), r"^observation: expected the .*, got none$"),
        (
            "carry",
            None,
            r"^carry: expected a TensorDict of batch size \[3\], .* got NoneType; the agent's init",
        ),
        ("is_init", torch.ones(B, 1), r"^is_init: expected bool \[3, 1\], got float32 \[3, 1\]$"),
        ("is_init", torch.ones(B, dtype=torch.bool), r"^is_init: expected bool \[3, 1\], got bool \[3\]$"),
        ("is_init", True, r"^is_init: expected bool \[3, 1\], got bool$"),
    ],
)
def test_what_an_agent_cannot_act_on(agent, name, value, words):
    with pytest.raises(UsageError, match=words):
        agent.step(**arguments(agent, **{name: value}))


def test_a_carry_of_another_batch_size(agent):
    with pytest.raises(
        UsageError, match=r"^carry: expected .* \[3\], as the observations', got \[2\]; the agent's"
    ):
        agent.step(**arguments(agent, carry=agent.initial_carry(2)))


@pytest.mark.parametrize("obs", ["state", "both"])
def test_observations_of_numpys_precision_are_read(obs):
    model = random_tdmpc2(A, obs=obs)
    frames = torch.zeros(B, 3, 64, 64, dtype=torch.uint8)
    given = TensorDict({"observation": torch.from_numpy(np.ones((B, 5))), "pixels": frames}, [B])
    belief = model.initial_belief(B)
    action = torch.zeros(B, A)
    single = given.clone().set("observation", given["observation"].float())
    assert torch.equal(model.observe(given, action, belief)["z"], model.observe(single, action, belief)["z"])


def changed(method, change):
    """A model whose `method` returns what `change` makes of it."""

    def call(self, *arguments):
        return change(getattr(Ensemble, method)(self, *arguments))

    return type("Odd", (Ensemble,), {method: call})(A)


MODELS = {
    "value-flat": ("value", lambda heads: heads[:, 0], r"\[\d+, K\], got \[\d+\]"),
    "value-deep": ("value", lambda heads: heads.unsqueeze(-1), r"\[\d+, K\], got \[\d+, 3, 1\]"),
    "value-turned": ("value", lambda heads: heads.T.repeat(1, 2), r"\[\d+, K\], got \[3, \d+\]"),
    "reward": (
        "outcome",
        lambda found: Outcome(found.reward.unsqueeze(-1), found.discount),
        r"a reward \[\d+\], got \[\d+, 1\]",
    ),
    "discount": ("outcome", lambda found: Outcome(found.reward, 0.9), r"a discount \[\d+\], got float"),
    "one-discount": (
        "outcome",
        lambda found: Outcome(found.reward, torch.tensor(0.9)),
        r"a discount \[\d+\], got \[\]",
    ),
    "outcome": ("outcome", lambda found: found.reward, r"an Outcome\(reward, discount\), got \[\d+\]"),
    "step": ("step", lambda latent: latent["x"], r"a TensorDict \[\d+\], got \[\d+, 2\]"),
    "rows": ("step", lambda latent: latent[:1], r"a TensorDict \[\d+\], got \[1\]"),
    "entry": (
        "step",
        lambda latent: TensorDict({"x": latent["x"][:, :1]}, latent.shape),
        r"a latent whose 'x' is \[\d+, 2\], got \[\d+, 1\]",
    ),
    "lost": ("step", lambda latent: latent.exclude("x"), r"a latent whose 'x' is \[\d+, 2\], got NoneType"),
    "policy": ("policy", lambda action: action[:, 0], r"\[\d+, 2\], got \[\d+\]"),
}


ASKED = [(name, case) for case in MODELS for name in ("dream_mpc", "mppi", "cem")]
ASKED += [("policy", case) for case, (method, *_) in MODELS.items() if method in ("value", "policy")]


@pytest.mark.parametrize(("name", "case"), ASKED)
def test_a_model_that_returns_another_shape(name, case):
    method, change, got = MODELS[case]
    model, planner = changed(method, change), make_planner(name, A)
    latent = model.latent(torch.randn(4, A))
    with pytest.raises(UsageError, match=rf"^model Odd: {method} must give {got}$"):
        planner.plan(Imagination(model), latent, planner.initial_state(4))
