"""TD-MPC2's world model: sizes, shapes, limits, discount, and that nothing is changed in place."""

import math
from dataclasses import asdict
from itertools import pairwise

import pytest
import torch
from tensordict import TensorDict
from toy_models import actor_says, random_latent, random_tdmpc2

from dreammpc.interfaces import WorldModel
from dreammpc.models import SIZES, TDMPC2Model

OBS, ACT = 24, 6


def on_meta(name: str, **settings) -> TDMPC2Model:
    with torch.device("meta"):
        return TDMPC2Model(OBS, ACT, **asdict(SIZES[name]), **settings)


def count_by_hand(size) -> int:
    """Parameters without target heads: every hidden linear layer is followed by a LayerNorm."""

    def mlp(*widths, normed):
        linear = sum(i * o + o for i, o in pairwise(widths))
        return linear + 2 * sum(normed)

    e, m, d = size.enc_dim, size.mlp_dim, size.latent_dim
    hidden = [e] * max(size.num_enc_layers - 1, 1)
    encoder = mlp(OBS, *hidden, d, normed=[*hidden, d])
    dynamics = mlp(d + ACT, m, m, d, normed=[m, m, d])
    reward = mlp(d + ACT, m, m, 101, normed=[m, m])
    actor = mlp(d, m, m, 2 * ACT, normed=[m, m])
    return encoder + dynamics + reward + size.num_heads * reward + actor


@pytest.mark.parametrize("name", sorted(SIZES))
def test_parameter_count_by_formula(name):
    model = on_meta(name)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learned == count_by_hand(SIZES[name])
    target = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert target == sum(p.numel() for p in model.value_heads.parameters())


# The paper's smallest model is nominally 1M; with these widths it has 1.2M parameters there too.
@pytest.mark.parametrize(
    ("name", "within"), [("1M", 0.25), ("5M", 0.1), ("19M", 0.1), ("48M", 0.1), ("317M", 0.1)]
)
def test_parameter_count_fits_the_name(name, within):
    learned = sum(p.numel() for p in on_meta(name).parameters() if p.requires_grad)
    assert learned == pytest.approx(1e6 * float(name[:-1]), rel=within)


@pytest.mark.parametrize(("layers", "linears"), [(1, 2), (2, 2), (3, 3), (5, 5)])
def test_encoder_layers(layers, linears):
    model = random_tdmpc2(num_enc_layers=layers)
    widths = [(linear.in_features, linear.out_features) for linear in model.encoder.linears]
    assert widths == [(5, 16), *[(16, 16)] * (linears - 1)]


def test_it_is_a_world_model():
    assert isinstance(random_tdmpc2(), WorldModel)


@pytest.mark.parametrize("episodic", [False, True])
def test_shapes_and_simnorm_latents(episodic):
    model = random_tdmpc2(episodic=episodic)
    latent, action = random_latent(model, 7), torch.rand(7, 2) * 2 - 1
    after = model.step(latent, action)
    reward, discount = model.outcome(latent, action, after)
    assert model.initial_belief(7)["z"].shape == latent["z"].shape == after["z"].shape == (7, 16)
    assert reward.shape == discount.shape == (7,)
    assert model.value(latent, action).shape == (7, 3)
    assert model.policy(latent, torch.randn(7, 2)).shape == (7, 2)
    for z in (latent["z"], after["z"]):
        torch.testing.assert_close(z.unflatten(-1, (2, 8)).sum(-1), torch.ones(7, 2))


def test_step_reads_the_action_and_value_is_per_head():
    model = random_tdmpc2()
    latent, action = random_latent(model, 4), torch.rand(4, 2)
    assert (model.step(latent, action)["z"] - model.step(latent, -action)["z"]).abs().amax() > 1e-3
    values = model.value(latent, action)
    pair = torch.cat([latent["z"], action], -1)
    for k in range(3):
        logits = model.value_heads(pair, heads=torch.tensor([k]))[0]
        torch.testing.assert_close(values[:, k], model.two_hot.decode(logits))
    assert (values.std(-1) > 1e-3).all()


def test_discount_without_a_termination_head_is_gamma():
    model = random_tdmpc2(discount=0.97)
    latent = random_latent(model, 4)
    assert model.outcome(latent, torch.zeros(4, 2), latent).discount.tolist() == pytest.approx([0.97] * 4)


def test_discount_is_gamma_times_survival_at_the_next_latent():
    model = random_tdmpc2(discount=0.9, episodic=True)
    latent, action = random_latent(model, 4), torch.zeros(4, 2)
    after = random_latent(model, 4, seed=5)
    with torch.no_grad():
        logits = model.termination(after["z"])[:, 0]
        expected = [0.9 * (1 - 1 / (1 + math.exp(-logit))) for logit in logits.tolist()]
        assert model.outcome(latent, action, after).discount.tolist() == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == 4


@pytest.mark.parametrize(
    ("raw", "expected"), [(-100.0, -10.0), (100.0, 2.0), (0.0, -4.0), (1.0, -10 + 6 * (math.tanh(1) + 1))]
)
def test_log_std_lies_between_its_limits(raw, expected):
    model = random_tdmpc2()
    actor_says(model, 0.0, raw)
    log_std = model.policy_stats(random_latent(model, 3)["z"])[1]
    torch.testing.assert_close(log_std, torch.full((3, 2), expected))


def test_policy_is_tanh_of_a_gaussian():
    model = random_tdmpc2()
    actor_says(model, 0.3, 0.7)
    latent, noise = random_latent(model, 1), torch.tensor([[1.5, -0.5]])
    std = math.exp(-10 + 6 * (math.tanh(0.7) + 1))
    expected = [math.tanh(0.3 + 1.5 * std), math.tanh(0.3 - 0.5 * std)]
    assert model.policy(latent, noise)[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert model.policy(latent, torch.zeros(1, 2))[0].tolist() == pytest.approx(
        [math.tanh(0.3)] * 2, rel=1e-6
    )


def test_nothing_is_mutated_or_detached():
    model = random_tdmpc2(episodic=True)
    latent, action = random_latent(model, 4), torch.rand(4, 2)
    latent["z"].requires_grad_()
    action.requires_grad_()
    before = latent["z"].detach().clone(), action.detach().clone()
    weights = [p.detach().clone() for p in model.parameters()]
    after = model.step(latent, action)
    reward, discount = model.outcome(latent, action, after)
    for result in (after["z"].square(), reward, discount, model.value(latent, action)):
        for gradient in torch.autograd.grad(result.sum(), [latent["z"], action], retain_graph=True):
            assert gradient.abs().sum() > 0
    policy = model.policy(latent, torch.randn(4, 2))
    assert torch.autograd.grad(policy.sum(), latent["z"])[0].abs().sum() > 0
    assert torch.equal(latent["z"], before[0])
    assert torch.equal(action, before[1])
    assert list(latent.keys()) == ["z"]
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_observe_encodes_and_ignores_the_past():
    model = random_tdmpc2()
    obs = TensorDict({"observation": torch.randn(3, 5)}, [3])
    one = model.observe(obs, torch.zeros(3, 2), model.initial_belief(3))
    other = model.observe(obs, torch.ones(3, 2), random_latent(model, 3))
    assert torch.equal(one["z"], other["z"])
    assert torch.equal(one["z"], model.encoder(obs["observation"]))


@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_target_heads_follow_slowly(rate):
    model = random_tdmpc2()
    fast = [p.detach().clone() for p in model.value_heads.parameters()]
    slow = [p.detach().clone() for p in model.target_heads.parameters()]
    model.update_targets(rate)
    for new, f, s in zip(model.target_heads.parameters(), fast, slow, strict=True):
        torch.testing.assert_close(new, (1 - rate) * s + rate * f)
    assert all(torch.equal(p, f) for p, f in zip(model.value_heads.parameters(), fast, strict=True))


@pytest.mark.parametrize(("setting", "value"), [("latent_dim", 20), ("num_heads", 0)])
def test_bad_sizes_name_the_setting(setting, value):
    with pytest.raises(ValueError, match=f"^{setting} must be .*got {value}$"):
        TDMPC2Model(5, 2, **{setting: value})
