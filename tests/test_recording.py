"""Plans that repeat the operations of the first are those of an eager agent, bit for bit."""

import pytest
import torch
from tensordict import TensorDict
from toy_models import random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.planning import make_planner
from dreammpc.runtime.cuda_graphs import tree_leaves
from dreammpc.runtime.recording import Recorded

A = 2


def plans(compile: str, name: str, **settings) -> list[torch.Tensor]:
    """Of two environments, with noise; weights change in between, and an episode begins."""
    model = random_tdmpc2(A)
    agent = Agent(model, make_planner(name, A, **settings), 0.5, compile=compile, noise_correlation=0.3)
    torch.manual_seed(3)
    carry, found = agent.initial_carry(2), []
    for step in range(6):
        obs = TensorDict({"observation": torch.randn(2, model.obs_dim)}, [2])
        plan, carry = agent.step(obs, carry, torch.tensor([[step == 0], [step in (0, 4)]]))
        found += tree_leaves((plan.action, plan.value, plan.std, plan.diagnostics, carry))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(0.98)
    return found


@pytest.mark.parametrize(
    ("name", "settings"),
    [("dream_mpc", {}), ("dream_mpc_paper", {}), ("policy", {}), ("dream_mpc", {"max_ms": 1000.0})],
)
def test_recorded_plans_are_those_of_eager_ones(name, settings):
    eager, recorded = plans("off", name, **settings), plans("recorded", name, **settings)
    torch.testing.assert_close(recorded, eager, rtol=0, atol=0, equal_nan=True)


def test_a_function_is_called_once_for_each_of_its_shapes_and_fixed_arguments():
    calls = []

    def function(scale, td):
        calls.append(scale)
        return [td["x"] * scale + torch.rand(())]

    recorded = Recorded(function)
    for scale, size in ((2.0, 3), (2.0, 3), (3.0, 3), (2.0, 4), (2.0, 3)):
        td = TensorDict({"x": torch.randn(size)}, [size])
        torch.manual_seed(size)
        (got,) = recorded(scale, td)
        torch.manual_seed(size)
        assert torch.equal(got, td["x"] * scale + torch.rand(()))
    assert calls == [2.0, 3.0, 2.0]


def test_what_depends_on_a_value_is_refused_and_not_repeated_wrongly():
    recorded = Recorded(lambda x: [x + 1 if x.sum() > 0 else x - 1])
    with pytest.raises(RuntimeError, match="value"):
        recorded(torch.ones(2))
