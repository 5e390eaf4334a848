"""The simulator model: a user's functions behind the waist, and what it says of functions that do not fit."""

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from dreammpc.agent import Agent
from dreammpc.interfaces import UsageError, WorldModel
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
    with pytest.raises(
        ValueError, match=r"^observation: expected a tensor of shape \[5, 3\], got float32 \[5, 4\]$"
    ):
        model.observe(wide, None, belief)
    with pytest.raises(UsageError, match=r"^observation: expected an entry of that name, got state, pixels$"):
        model.observe(TensorDict({"state": x, "pixels": x}, [M]), None, belief)
    with pytest.raises(
        ValueError, match=r"^encode: expected a tensor of shape \[5, 3\], got float32 \[5, 2\]$"
    ):
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
            r"^dynamics: expected a tensor of shape \[5, 3\], got float32 \[5, 2\]",
        ),
        ({"dynamics": lambda x, a: None}, r"^dynamics: expected a tensor of shape \[5, 3\], got NoneType"),
        (
            {"dynamics": lambda x, a: x + a},
            r"^dynamics: failed on x float32 \[5, 3\], a float32 \[5, 2\]: Run",
        ),
        ({"dynamics": lambda x: x}, r"^dynamics: failed on x float32 .*: TypeError"),
        (
            {"reward": lambda x, a, y: x[:, :1]},
            r"^reward: expected a tensor of shape \[5\], got float32 \[5, 1\]",
        ),
        ({"reward": lambda x, a, y: x.sum()}, r"^reward: expected a tensor of shape \[5\], got float32 \[\]"),
        ({"reward": None}, r"^expected either reward or cost, got neither$"),
        ({"cost": reward}, r"^expected either reward or cost, got both$"),
        (
            {"reward": None, "cost": lambda x, a, y: x},
            r"^cost: expected a tensor of shape \[5\], got",
        ),
        ({"value": lambda x: x.sum()}, r"^value: expected a tensor of shape \[5\], got float32 \[\]"),
        ({"policy": lambda x: x}, r"^policy: expected a tensor of shape \[5, 2\], got float32 \[5, 3\]"),
        (
            {"termination": lambda x: x > 0},
            r"^termination: expected a tensor of shape \[5\], got bool \[5, 3\]",
        ),
        ({"discount": 1.1}, r"^discount must be in \[0, 1\], got 1.1$"),
        ({"policy_std": -0.1}, r"^policy_std must be at least 0 and finite, got -0.1$"),
        ({"policy_std": float("inf")}, r"^policy_std must be at least 0 and finite, got inf$"),
        ({"policy_std": torch.ones(A)}, r"^policy_std must be a number, got float32 \[2\]$"),
        ({"discount": "0.9"}, r"^discount must be a number, got str$"),
        ({"device": "nowhere"}, r"^device 'nowhere': RuntimeError: "),
        ({"device": "cuda:99"}, r"^device 'cuda:99': "),
        (
            {"dynamics": lambda x, a: x.to_sparse()},
            r"^dynamics: expected .*, got sparse_coo float32 \[5, 3\]$",
        ),
        (
            {"dynamics": lambda x, a: x.to("meta")},
            r"^dynamics: expected a tensor on cpu, as its inputs, got meta$",
        ),
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


@pytest.mark.parametrize("size", [3.0, "3", None])
def test_dimensions_are_integers(size):
    with pytest.raises(UsageError, match=rf"^state_dim must be an integer, got {size!r}$"):
        SimulatorModel(size, A, dynamics, reward)
    assert SimulatorModel(np.int64(D), A, dynamics, reward).initial_belief(1)["x"].shape == (1, D)


def test_a_model_that_cannot_observe_is_no_agent():
    class Blind:
        action_dim = A

    with pytest.raises(ValueError, match="model Blind: expected the methods initial_belief and observe"):
        Agent(Blind(), make_planner("policy", A))


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (torch.zeros(3), r"float32 \[3\]"),
        (torch.zeros(1, 4), r"float32 \[1, 4\]"),
        (torch.zeros(2, 1, 3), r"float32 \[2, 1, 3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), r"int64 \[2, 3\]"),
        ([[0.0, 0.0, 0.0]], "list"),
        (np.zeros((2, 3)), "ndarray"),
        (torch.zeros(2, 3).to_sparse(), r"sparse_coo float32 \[2, 3\]"),
    ],
)
def test_what_is_no_batch_of_states_is_refused(x, got):
    with pytest.raises(UsageError, match=rf"^latent: expected float32 states of shape \[M, 3\], got {got}$"):
        make().latent(x)


# --- functions that do what planners cannot live with ---------------------------------------------------


def writes(name: str, which: int, how):
    """The model's function `name`, which does `how` to its input number `which`, then what it should."""

    def function(*inputs):
        how(inputs[which])
        if name == "policy":
            return inputs[0][:, :A] * 0.5
        return dynamics(*inputs) if name == "dynamics" else inputs[0].sum(-1).sigmoid()

    return function


def through_numpy(x):
    x.numpy()[...] *= 0.5


WAYS = {
    "clamp": lambda x: x.clamp_(-0.5, 0.5),
    "scale": lambda x: x.mul_(0.5),
    "row": lambda x: x[:, 0].zero_(),
    "numpy": through_numpy,
    "nothing that shows": lambda x: x.clamp_(-5, 5),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("dynamics", ["x", "a"]),
        ("reward", ["x", "a", "x'"]),
        ("policy", ["x"]),
        ("value", ["x"]),
        ("termination", ["x'"]),
    ],
)
def test_a_function_that_writes_into_its_inputs_is_refused(name, inputs, way):
    for i, key in enumerate(inputs):
        with pytest.raises(UsageError, match=rf"^{name}: wrote into its input {key} in place; ") as error:
            make(**{name: writes(name, i, WAYS[way])})
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("planner", ["mppi", "dream_mpc"])
def test_one_that_writes_only_later_is_refused_in_the_plan(planner):
    calls = []

    def late(x, a):
        calls.append(1)
        return dynamics(x, a.clamp_(-0.5, 0.5) if len(calls) > 3 else a)

    model, planner = make(dynamics=late), make_planner(planner, A)
    with pytest.raises(
        UsageError, match=r"^dynamics: (wrote into its input a in place; |failed on x float32 )"
    ):
        planner.plan(Imagination(model), model.latent(inputs()[0]), planner.initial_state(M))


def test_what_an_encoder_writes_into_is_not_the_environments():
    model = make(encode=lambda obs: obs.mul_(2.0))
    x, _ = inputs()
    obs = TensorDict({"observation": x.clone()}, [M])
    with pytest.raises(UsageError, match=r"^encode: wrote into its input observation in place; "):
        model.observe(obs, None, None)
    assert torch.equal(obs["observation"], x)


def test_memory_that_is_returned_twice_is_refused():
    memory = torch.zeros(100, D)

    def reuses(x, a):
        return torch.mul(x, 0.9, out=memory[: len(x)])

    with pytest.raises(
        UsageError, match=r"^dynamics: wrote into what it returned before; return a new tensor"
    ):
        make(dynamics=reuses)
    make(dynamics=lambda x, a: x)  # its input is no memory of its own


def test_a_network_in_another_precision_is_told_what_goes_in():
    network = nn.Linear(D, D).double()
    words = r"^dynamics: failed on x float32 \[5, 3\], a float32 \[5, 2\]: RuntimeError: .*dtype.*Double$"
    with pytest.raises(UsageError, match=words):
        make(dynamics=lambda x, a: network(x))
    model = make(policy=nn.Linear(D, A)).double()
    with pytest.raises(UsageError, match=r"^policy: failed on x float32 \[5, 3\]: RuntimeError: .*Double"):
        model.policy(model.latent(inputs()[0]), inputs()[1])


def test_results_in_other_types_are_read_as_float32():
    settings = {
        "dynamics": lambda x, a: dynamics(x, a).double(),
        "reward": lambda x, a, y: y[:, 0] > 0,
        "value": lambda x: x[:, 0].double(),
        "policy": lambda x: x[:, :A].double(),
        "termination": lambda x: (x[:, 0] > 0).long(),
        "discount": 0.5,
    }
    (x, a), model = inputs(), make(**settings)
    latent = model.latent(x.double())
    following = model.step(latent, a)
    reward, discount = model.outcome(latent, a, following)
    results = [latent["x"], following["x"], reward, discount, model.value(latent, a), model.policy(latent, a)]
    assert all(result.dtype == torch.float32 for result in results)
    torch.testing.assert_close(reward, (following["x"][:, 0] > 0).float())
    torch.testing.assert_close(discount, 0.5 * (following["x"][:, 0] <= 0).float())
    planner = make_planner("icem", A, num_samples=32)
    assert planner.plan(Imagination(model), latent, planner.initial_state(M)).value.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reward": lambda x, a, y: x[:, :1].squeeze()}, r"^reward: expected .* \[1\], got float32 \[\]$"),
        (
            {"dynamics": lambda x, a: x.view(-1).view(-1, D)},
            r"^dynamics: failed on .*: RuntimeError: view size",
        ),
        ({"value": lambda x: x[:, :0]}, r"^value: expected a tensor of shape \[5\], got float32 \[5, 0\]$"),
        ({"policy": lambda x: x[:, :A].numpy()}, r"^policy: expected .* \[5, 2\], got ndarray$"),
        (
            {"termination": lambda x: 100 * x[:, 0]},
            r"^termination: expected whether, or a probability in \[0, 1\]",
        ),
        ({"reward": lambda x, a, y: x[:, 0] + 1j}, r"^reward: expected .*, got complex64 \[5\]$"),
    ],
)
def test_what_would_fail_in_some_plans_is_refused_at_once(settings, words):
    with pytest.raises(UsageError, match=words):
        make(**settings)


def test_what_fails_later_is_one_line_too():
    moods = []

    def moody(x, a, y):
        if moods:
            raise KeyError("mood")
        return y[:, 0]

    model = make(reward=moody)
    moods.append("bad")
    planner = make_planner("dream_mpc", A)
    with pytest.raises(UsageError, match=r"^reward: failed on x float32 \[75, 3\], .*: KeyError: 'mood'$"):
        planner.plan(Imagination(model), model.latent(inputs()[0]), planner.initial_state(M))


# --- functions that look wrong, and functions that only look so ------------------------------------------


class Network(nn.Sequential):
    def __init__(self, *layers):
        super().__init__(nn.Linear(D + A, 16), *layers, nn.SiLU(), nn.Linear(16, D))

    def forward(self, x, a):
        return x + super().forward(torch.cat([x, a], -1))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("dynamics", Network(nn.Dropout(0.5))),
        ("dynamics", lambda x, a: x + 0.1 * torch.randn_like(x)),
        ("dynamics", lambda x, a: x - x.mean(0)),
        ("reward", lambda x, a, y: y[:, 0] - y[:, 0].mean()),
        ("policy", lambda x: torch.rand(len(x), A)),
        ("value", lambda x: x.std(0, correction=0).sum().expand(len(x))),
    ],
)
def test_chance_and_rows_that_influence_each_other_are_warned_of(name, function, caplog):
    make(**{name: function})
    (said,) = caplog.messages
    assert said.startswith(f"{name}: a row alone has another result than among others; ")


results: dict = {}


def remembered(x, a):
    key = x.numpy().tobytes() + a.numpy().tobytes()
    return results.setdefault(key, dynamics(x, a))


def simulated(x, a):
    after = 0.9 * x.double().numpy()
    after[:, :A] += a.double().numpy()
    return torch.from_numpy(after)


@pytest.mark.parametrize(
    "function",
    [
        Network(nn.Dropout(0.5), nn.BatchNorm1d(16), nn.LayerNorm(16)).eval(),
        lambda x, a: dynamics(x.half(), a.half()),
        lambda x, a: x.log(),  # of what has no logarithm: NaN
        lambda x, a: dynamics(x.data, a.data),
        lambda x, a: dynamics(x.clone().clamp_(-1, 1), a),
        torch.compile(dynamics, backend="eager"),
        remembered,
        simulated,
    ],
)
@torch.no_grad()
def test_what_planners_can_live_with_is_not_warned_of(function, caplog):
    model = make(dynamics=function)
    planner = make_planner("mppi", A)
    plan = planner.plan(Imagination(model), model.latent(inputs()[0]), planner.initial_state(M))
    assert plan.action.isfinite().all()
    assert not [record for record in caplog.records if record.name.startswith("dreammpc")]


@pytest.mark.parametrize("planner", ["dream_mpc", "mppi"])
def test_only_gradient_planners_need_functions_that_can_be_differentiated(planner):
    model, planner = make(dynamics=simulated), make_planner(planner, A)

    def plan():
        return planner.plan(Imagination(model), model.latent(inputs()[0]), planner.initial_state(M))

    if hasattr(planner, "num_samples"):
        assert plan().action.shape == (M, A)
        return
    words = r"^gradient planning differentiates the model by torch.func.vjp, and there it fails .*dynamics: "
    with pytest.raises(UsageError, match=words) as error:
        plan()
    assert "\n" not in str(error.value)
