"""The simulator model: a user's functions behind the waist, and what it says of functions that do not fit."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from dreammpc.agent import Agent
from dreammpc.interfaces import WorldModel
from dreammpc.models import SimulatorModel
from dreammpc.planning import Imagination, Objective, make_planner
from dreammpc.planning.contract import check_model

M, D, A = 5, 3, 2


def dynamics(x, a):
    return 0.9 * x + 0.1 * torch.cat([a, x[:, :1].sin()], -1)


def reward(x, a, next_x):
    return x[:, 0] - 2 * a[:, 1] + 3 * next_x[:, 2]


def make(**settings) -> SimulatorModel:
    return SimulatorModel(D, A, **({"dynamics": dynamics, "reward": reward} | settings))


def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(M, D, generator=generator)
    return x, torch.rand(M, A, generator=generator) * 2 - 1


def test_it_is_the_users_functions():
    (x, a), model = inputs(), make(discount=0.9)
    latent = model.latent(x)
    following = model.step(latent, a)
    assert isinstance(model, WorldModel)
    assert torch.equal(following["x"], dynamics(x, a))
    outcome = model.outcome(latent, a, following)
    assert torch.equal(outcome.reward, reward(x, a, following["x"]))
    assert torch.equal(outcome.discount, torch.full((M,), 0.9))
    assert torch.equal(model.value(latent, a), torch.zeros(M, 1))


def test_a_cost_is_minus_a_reward():
    (x, a), model = inputs(), make(reward=None, cost=reward)
    latent = model.latent(x)
    outcome = model.outcome(latent, a, model.step(latent, a))
    assert torch.equal(outcome.reward, -reward(x, a, dynamics(x, a)))


def test_policy_is_mean_plus_noise_clamped():
    (x, noise), model = inputs(), make(policy_std=0.5)
    latent = model.latent(x)
    assert torch.equal(model.policy(latent, torch.zeros(M, A)), torch.zeros(M, A))
    assert torch.equal(model.policy(latent, noise), 0.5 * noise)
    own = make(policy=lambda x: -x[:, :A], policy_std=0.5)
    assert torch.equal(own.policy(latent, noise), (0.5 * noise - x[:, :A]).clamp(-1, 1))
    assert own.policy(latent, 100 * noise).abs().max() == 1


@pytest.mark.parametrize("heads", [None, 1, 3])
def test_values_of_one_or_more_heads(heads):
    def value(x):
        return x.sum(-1) if heads is None else x.sum(-1, keepdim=True).expand(-1, heads)

    (x, a), model = inputs(), make(value=value)
    assert torch.equal(model.value(model.latent(x), a), x.sum(-1, keepdim=True).expand(-1, heads or 1))
    check_model(model, compile=None)


@pytest.mark.parametrize("soft", [True, False])
def test_termination_ends_the_discount(soft):
    def termination(x):
        return torch.sigmoid(x[:, 0]) if soft else x[:, 0] > 0

    (x, a), model = inputs(), make(termination=termination, discount=0.9)
    latent = model.latent(x)
    following = model.step(latent, a)
    expected = 0.9 * (1 - termination(following["x"]).float())
    assert 0 < (expected < 0.5).sum() < M
    assert torch.equal(model.outcome(latent, a, following).discount, expected)
    check_model(model, compile=None)


def test_the_objective_by_hand():
    (x, _), model = inputs(), make(value=lambda x: x.square().sum(-1), discount=0.9)
    actions = torch.rand(M, 4, 2, A) * 2 - 1
    scores = Imagination(model).score(model.latent(x), actions, Objective()).objective
    for n in range(4):
        first, second = actions[:, n, 0], actions[:, n, 1]
        y = dynamics(x, first)
        z = dynamics(y, second)
        expected = reward(x, first, y) + 0.9 * reward(y, second, z) + 0.81 * z.square().sum(-1)
        torch.testing.assert_close(scores[:, n], expected)


def test_modules_among_the_functions_are_submodules():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(D + A, D)

        def forward(self, x, a):
            return x + self.layer(torch.cat([x, a], -1))

    network = Network()
    model = make(dynamics=network)
    assert {id(p) for p in model.parameters()} == {id(p) for p in network.parameters()}
    assert not model.eval().dynamics.training
    check_model(model, compile=None)


def test_observations_are_states_or_are_encoded():
    x, _ = inputs()
    model, encoding = make(), make(encode=lambda obs: obs[:, 1:])
    belief = model.initial_belief(M)
    assert belief["x"].shape == (M, D)
    obs = TensorDict({"observation": x.double()}, [M])
    assert torch.equal(model.observe(obs, None, belief)["x"], x)
    wide = TensorDict({"observation": torch.cat([x[:, :1], x], -1)}, [M])
    assert torch.equal(encoding.observe(wide, None, belief)["x"], x)
    with pytest.raises(ValueError, match=r"^observation: expected a tensor of shape \[5, 3\], got \[5, 4\]$"):
        model.observe(wide, None, belief)
    with pytest.raises(ValueError, match=r"^encode: expected a tensor of shape \[5, 3\], got \[5, 2\]$"):
        encoding.observe(obs, None, belief)


def test_an_agent_acts_in_it():
    agent = Agent(make(), make_planner("dream_mpc", A))
    obs = TensorDict({"observation": inputs()[0]}, [M])
    plan, carry = agent.step(obs, agent.initial_carry(M), torch.ones(M, 1, dtype=torch.bool))
    assert plan.action.shape == (M, A)
    assert torch.equal(carry["belief", "x"], obs["observation"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"dynamics": lambda x, a: x[:, :2]},
            r"^dynamics: expected a tensor of shape \[5, 3\], got \[5, 2\]",
        ),
        ({"dynamics": lambda x, a: None}, r"^dynamics: expected a tensor of shape \[5, 3\], got NoneType"),
        (
            {"dynamics": lambda x, a: x + a},
            r"^dynamics: failed on inputs of shapes \[5, 3\], \[5, 2\]: Run",
        ),
        ({"dynamics": lambda x: x}, r"^dynamics: failed on inputs .*: TypeError"),
        ({"reward": lambda x, a, y: x[:, :1]}, r"^reward: expected a tensor of shape \[5\], got \[5, 1\]"),
        ({"reward": lambda x, a, y: x.sum()}, r"^reward: expected a tensor of shape \[5\], got \[\]"),
        ({"reward": None}, r"^expected either reward or cost, got neither$"),
        ({"cost": reward}, r"^expected either reward or cost, got both$"),
        (
            {"reward": None, "cost": lambda x, a, y: x},
            r"^cost: expected a tensor of shape \[5\], got",
        ),
        ({"value": lambda x: x.sum()}, r"^value: expected a tensor of shape \[5\], got \[\]"),
        ({"policy": lambda x: x}, r"^policy: expected a tensor of shape \[5, 2\], got \[5, 3\]"),
        ({"termination": lambda x: x > 0}, r"^termination: expected a tensor of shape \[5\], got \[5, 3\]"),
        ({"discount": 1.1}, r"^discount must be in \[0, 1\], got 1.1$"),
        ({"policy_std": -0.1}, r"^policy_std must be at least 0, got -0.1$"),
    ],
)
def test_a_mistake_is_one_line(settings, words):
    with pytest.raises(ValueError, match=words) as error:
        make(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("dims", "name"), [((0, 2), "state_dim"), ((3, 0), "action_dim")])
def test_dimensions_start_at_one(dims, name):
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got 0$"):
        SimulatorModel(*dims, dynamics, reward)


def test_a_model_that_cannot_observe_is_no_agent():
    class Blind:
        action_dim = A

    with pytest.raises(ValueError, match="model Blind: expected the methods initial_belief and observe"):
        Agent(Blind(), make_planner("policy", A))


@pytest.mark.parametrize("shape", [(3,), (1, 4), (2, 1, 3)])
def test_states_of_another_shape_are_refused(shape):
    model = SimulatorModel(3, 1, lambda x, a: x + a, cost=lambda x, a, x2: x2.square().sum(-1))
    with pytest.raises(ValueError, match=r"expected states of shape \[M, 3\], got \["):
        model.latent(torch.zeros(shape))
