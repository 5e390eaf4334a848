"""BMPC's world model: the waist's contract, values of states, the clamped Gaussian policy."""

import math

import pytest
import torch
from tensordict import TensorDict
from toy_models import actor_says, random_bmpc, random_latent, random_tdmpc2

from dreammpc.interfaces import WorldModel
from dreammpc.planning.contract import check_model


@pytest.mark.parametrize("episodic", [False, True])
def test_it_keeps_the_contract_of_models(episodic):
    model = random_bmpc(episodic=episodic)
    assert isinstance(model, WorldModel)
    check_model(model, random_latent(model, 4), TensorDict({"observation": torch.randn(4, 5)}, [4]))


def test_values_are_of_states():
    model = random_bmpc()
    latent = random_latent(model, 4)
    values = model.value(latent, torch.rand(4, 2))
    assert values.shape == (4, 3)
    assert torch.equal(values, model.value(latent, -torch.rand(4, 2)))
    assert (values.std(0) > 1e-3).all() and (values.std(1) > 1e-3).all()
    assert model.value_heads.sizes == model.target_heads.sizes == (16, 32, 32, 101)


def test_all_but_the_value_heads_is_as_in_tdmpc2():
    ours, theirs = (
        {name: p.shape for name, p in make().named_parameters() if "_heads." not in name}
        for make in (random_bmpc, random_tdmpc2)
    )
    assert ours == theirs and len(ours) > 20


@pytest.mark.parametrize(
    ("limits", "raw", "expected"),
    [(None, -100.0, -3.0), (None, 100.0, 1.0), (None, 0.0, -1.0), ((-2.0, 1.0), -100.0, -2.0)],
)
def test_log_std_lies_between_its_limits(limits, raw, expected):
    model = random_bmpc()
    actor_says(model, 0.0, raw)
    log_std = model.policy_gaussian(random_latent(model, 3)["z"], limits)[1]
    torch.testing.assert_close(log_std, torch.full((3, 2), expected))


def test_policy_is_a_clamped_gaussian_around_tanh():
    model = random_bmpc()
    actor_says(model, 0.5, 0.0)  # log-std -1
    latent, noise = random_latent(model, 1), torch.tensor([[0.5, 9.0]])
    expected = [math.tanh(0.5) + 0.5 * math.exp(-1), 1.0]
    assert model.policy(latent, noise)[0].tolist() == pytest.approx(expected, rel=1e-5)
    mode = model.policy(latent, torch.zeros(1, 2))[0].tolist()
    assert mode == pytest.approx([math.tanh(0.5)] * 2, rel=1e-5)
    wide = model.policy(latent, noise, (-2.0, 1.0))[0, 0].item()  # log-std -0.5
    assert wide == pytest.approx(math.tanh(0.5) + 0.5 * math.exp(-0.5), rel=1e-5)
