"""The contract: everything built in keeps it, and each way of breaking it is caught by name."""

from dataclasses import dataclass

import pytest
import torch
from plans import A, Good, Linear, small
from tensordict import TensorDict
from torch import nn
from toy_models import random_tdmpc2

from dreammpc.interfaces import Outcome
from dreammpc.models import SimulatorModel
from dreammpc.planning import PLANNERS
from dreammpc.planning.contract import ContractError, check_model, check_planner


def simulator() -> SimulatorModel:
    def dynamics(x, a):
        return 0.9 * x + 0.1 * torch.cat([a, x[:, :1].sin()], -1)

    def cost(x, a, next_x):
        return next_x.square().sum(-1) + 0.1 * a.square().sum(-1)

    return SimulatorModel(3, A, dynamics, cost=cost, value=lambda x: -x.square().sum(-1), discount=0.97)


COMPILED = {"dream_mpc", "icem", "mppi", "policy"}
"""Of every kind of stages one."""
MODELS = {
    "tdmpc2": lambda: random_tdmpc2(A),
    "tdmpc2-episodic": lambda: random_tdmpc2(A, seed=4, episodic=True),
    "simulator": simulator,
}


@pytest.mark.parametrize("model", ["toy", *MODELS])
@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_every_planner_in_every_model(name, model):
    compiled = model == "simulator" and name in COMPILED
    made = None if model == "toy" else MODELS[model]()
    device = None if model == "tdmpc2-episodic" else "meta"
    check_planner(small(name), made, compile="eager" if compiled else None, device=device)


@pytest.mark.parametrize("model", MODELS)
def test_every_model(model):
    model = MODELS[model]()
    width = model.obs_dim if hasattr(model, "obs_dim") else model.state_dim
    check_model(model, obs=TensorDict({"observation": torch.randn(3, width)}, [3]))


@pytest.mark.slow
def test_what_is_compiled_for_real():
    check_model(simulator(), compile="inductor")
    check_planner(small("dream_mpc"), simulator(), compile="inductor")


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    check_planner(Good(A), compile=None)
    check_model(simulator(), compile=None)
    assert torch.equal(torch.get_rng_state(), before)


# --- planners that break it -----------------------------------------------------------------------------


def broken(change):
    """A planner whose plan is `change(plan, imagination, latent, state)` of the good one's."""

    @dataclass(frozen=True)
    class Bad(Good):
        def plan(self, imagination, latent, state):
            plan = super().plan(imagination, latent, state)
            return change(plan, imagination, latent, state)

    return Bad(A)


def with_action(change):
    return broken(lambda plan, *_: plan._replace(action=change(plan.action), mean=change(plan.mean)))


def mutates_state(plan, imagination, latent, state):
    state["last"].add_(1.0)
    return plan


def grows_state(plan, imagination, latent, state):
    state["more"] = torch.zeros(state.shape[0])
    return plan


def mutates_latent(plan, imagination, latent, state):
    latent["x"].mul_(2.0)
    return plan


def keeps_state_outside():
    memory = [0.0]

    def change(plan, *_):
        memory[0] += 0.1
        return plan._replace(value=plan.value + memory[0])

    return broken(change)


def mixes_rows(plan, *_):
    return plan._replace(value=plan.value - plan.value.mean())


def forks_on_state(plan, imagination, latent, state):
    shift = 0.5 if (state["last"] == 0).all() else 0.0
    return plan._replace(value=plan.value + shift)


def wants_gradients(plan, imagination, latent, *_):
    actions = plan.action.clone().requires_grad_()
    torch.autograd.grad(imagination.model.step(latent, actions)["x"].sum(), actions)
    return plan


def leaks_nan(plan, imagination, latent, *_):
    return plan._replace(action=plan.action + 0 * imagination.model.value(latent, plan.action)[:, :1])


def carries_nan(plan, imagination, latent, *_):
    mode = imagination.mode(latent).float()
    return plan._replace(state=TensorDict({"last": mode}, [len(mode)]))


def half_action(plan, imagination, latent, *_):
    return plan._replace(
        action=imagination.mode(latent).nan_to_num(0.0), mean=imagination.mode(latent)[:, None]
    )


def breaks_the_graph(plan, *_):
    return plan._replace(value=plan.value + 1) if plan.action.sum() > 1e9 else plan


@dataclass(frozen=True)
class Unchecked(Good):
    def __post_init__(self):
        pass


@dataclass
class NotFrozen:
    action_dim: int


NO_DIAGNOSTICS = TensorDict({"v": torch.zeros(4, 1)}, [4])
BAD_PLANNERS = {
    "not frozen": (NotFrozen(A), r"^NotFrozen: expected a frozen dataclass"),
    "settings": (
        Unchecked(A),
        r"Unchecked\(action_dim=0\): expected a ValueError .* names action_dim, got no",
    ),
    "tuple": (broken(lambda plan, *_: tuple(plan)), r"plan: expected a Plan, got tuple"),
    "shape": (
        broken(lambda p, *_: p._replace(action=p.mean)),
        r"action: expected shape \[4, 2\], got \[4, 1, 2\]",
    ),
    "value": (broken(lambda p, *_: p._replace(value=p.value[:, None])), r"value: expected shape \[4\], got"),
    "double": (with_action(torch.Tensor.double), r"action: expected float32, got torch.float64"),
    "range": (with_action(lambda a: 5 * a), r"action: expected within \[-1, 1\], got"),
    "std": (broken(lambda p, *_: p._replace(std=-p.std)), r"std: expected at least 0, got -1"),
    "greedy": (broken(lambda p, *_: p._replace(mean=0.5 * p.mean)), r"the first action of `mean`"),
    "state keys": (
        broken(lambda p, *_: p._replace(state=p.diagnostics)),
        r"state: expected keys \['last'\], got \['v",
    ),
    "diagnostics": (
        broken(lambda p, *_: p._replace(diagnostics=p.state)),
        r"diagnostics\[last\]: expected one number",
    ),
    "mutated state": (broken(mutates_state), r"state\[last\]: expected to be left unchanged"),
    "grown state": (
        broken(grows_state),
        r"state: expected the given one left as it was, with \['last'\], got \['last', 'more'\]",
    ),
    "mutated latent": (broken(mutates_latent), r"latent\[x\]: expected to be left unchanged"),
    "hidden state": (
        keeps_state_outside(),
        r"value: expected the same plan for the same latent, state and seed",
    ),
    "rows": (broken(mixes_rows), r"value: expected rows that do not depend on each other"),
    "reset": (
        broken(forks_on_state),
        r"state of row 0 reset by mask: value: expected row 0 planned as from the init",
    ),
    "no_grad": (broken(wants_gradients), r"expected no error, got RuntimeError"),
    "nan": (broken(leaks_nan), r"NaN in the model's value everywhere: action: expected finite numbers"),
    "nan state": (broken(carries_nan), r"NaN in the model's policy everywhere.*expected finite numbers"),
    "bf16": (broken(half_action), r"under bfloat16 autocast: action: expected float32, got torch.bfloat16"),
    "graph": (broken(breaks_the_graph), r"under torch.compile\(fullgraph=True\): expected no error, got"),
}


def test_the_good_planner_passes():
    check_planner(Good(A))


@pytest.mark.parametrize("case", BAD_PLANNERS)
def test_a_bad_planner_is_caught(case):
    planner, words = BAD_PLANNERS[case]
    with pytest.raises(ContractError, match=words) as error:
        check_planner(planner, compile="eager" if case == "graph" else None, device=None)
    assert "\n" not in str(error.value)
    assert error.value.expected in str(error.value) and error.value.got in str(error.value)


def test_a_class_is_no_planner():
    with pytest.raises(
        ContractError, match=r"Good: expected a planner, Good\(action_dim, …\), got the class"
    ):
        check_planner(Good)


def test_other_action_dimensions_are_told():
    with pytest.raises(ContractError, match=r"Good\.action_dim: expected the model's, 2, got 3"):
        check_planner(Good(3), simulator())


# --- models that break it -------------------------------------------------------------------------------


def bad(method: str, change) -> Linear:
    """A linear model whose `method` returns `change(result, *inputs)`."""
    model = Linear()
    original = getattr(model, method)
    setattr(model, method, lambda *inputs: change(original(*inputs), *inputs))
    return model


def in_place(result, latent, action):
    latent["x"].add_(0.1)
    return result


def counts() -> Linear:
    model = Linear()
    value = model.value

    def counted(latent, action):
        model.calls.add_(1)
        return value(latent, action)

    model.value = counted
    return model


BAD_MODELS = {
    "step shape": (
        bad("step", lambda y, *_: TensorDict({"x": y["x"][:, :1]}, [len(y)])),
        r"step\[x\]: expected \[4, 2",
    ),
    "step keys": (
        bad("step", lambda y, *_: y.rename_key_("x", "z")),
        r"step: expected keys \['x'\], got \['z'\]",
    ),
    "outcome": (
        bad("outcome", lambda y, *_: tuple(y)),
        r"outcome: expected an Outcome\(reward, discount\), got tuple",
    ),
    "reward": (
        bad("outcome", lambda y, *_: Outcome(y[0][:, None], y[1])),
        r"reward: expected shape \[4\], got \[4, 1\]",
    ),
    "discount": (
        bad("outcome", lambda y, *_: Outcome(y[0], 2 * y[1])),
        r"discount: expected within \[0, 1\]",
    ),
    "value": (bad("value", lambda y, *_: y[:, 0]), r"value: expected shape \[4, K\], got \[4\]"),
    "nan": (bad("value", lambda y, *_: y / 0 * 0), r"value: expected finite numbers, got 4 that are not"),
    "policy range": (bad("policy", lambda y, *_: 3 * y), r"policy: expected actions within \[-1, 1\]"),
    "random mode": (
        bad("policy", lambda y, *_: (y + 0.3 * torch.rand_like(y)).clamp(-1, 1)),
        r"policy: expected the same action whenever the noise is zero",
    ),
    "in place": (bad("step", in_place), r"step: latent\[x\]: expected to be left unchanged"),
    "weights": (counts(), r"value: weight calls: expected to be left unchanged"),
    "rows": (bad("value", lambda y, *_: y - y.mean()), r"value: expected rows that do not depend"),
    "detached step": (
        bad("step", lambda y, *_: y.detach()),
        r"step latent\[x\]: gradient with respect to latent\[x\]",
    ),
    "detached action": (
        bad("outcome", lambda y, _, a, __: Outcome(y[0] + a.detach().sum(-1), y[1])),
        r"outcome reward: gradient with respect to action: expected one, .* got none: it was detached",
    ),
    "detached value": (
        bad("value", lambda y, *_: y.detach()),
        r"value: gradient with respect to latent\[x\]",
    ),
    "graph": (
        bad("value", lambda y, *_: y + 1 if y.sum() > 1e9 else y),
        r"value under torch.compile.* at test_contract.py, line \d+$",
    ),
    "autocast": (
        bad("value", lambda y, *_: y / (not torch.is_autocast_enabled("cpu"))),
        r"value under bfloat16 autocast: expected finite numbers",
    ),
    "a fault": (
        bad("value", lambda y, *_: y[:, 7]),
        r"value: expected no error, got IndexError: .* at test_contract.py, line \d+$",
    ),
    "no methods": (nn.Linear(1, 1), r"^Linear: expected `action_dim`, got none"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_bad_model_is_caught(case):
    model, words = BAD_MODELS[case]
    with pytest.raises(ContractError, match=words) as error:
        check_model(model, compile="eager" if case == "graph" else None, device=None)
    assert "\n" not in str(error.value)


def test_a_model_without_actions_is_told():
    model = Linear()
    model.action_dim = None
    with pytest.raises(ContractError, match=r"action_dim: expected a whole number of at least 1, got None$"):
        check_model(model, compile=None)


def test_the_linear_model_passes_and_gradients_may_be_left_out():
    check_model(Linear(), compile=None)
    check_model(bad("step", lambda y, *_: y.detach()), gradients=False, compile=None)


def test_observing_is_checked():
    model, obs = random_tdmpc2(A), TensorDict({"observation": torch.randn(3, 5)}, [3])
    model.observe = lambda obs, action, belief: TensorDict({"y": obs["observation"]}, [3])
    with pytest.raises(ContractError, match=r"observe: expected keys \['z'\], got \['y'\]"):
        check_model(model, obs=obs, compile=None)


def test_example_latents_must_be_usable():
    class Bare(Linear):
        initial_belief = property()

    with pytest.raises(
        ValueError, match=r"latent: expected a TensorDict \[B\] .* Bare has no initial_belief"
    ):
        check_model(Bare())
    for latent, words in (
        (TensorDict({"x": torch.randn(1, A)}, [1]), r"B at least 2, got \[1\]"),
        (TensorDict({"x": torch.ones(3, A)}, [3]), r"expected rows that differ"),
    ):
        with pytest.raises(ValueError, match=words):
            check_planner(Good(A), Bare(), latent)
    check_planner(Good(A), Bare(), TensorDict({"x": torch.randn(3, A)}, [3]), compile=None)
