"""Building blocks: two-hot returns, SimNorm, Mish, MLP, the stacked ensemble, dropout, initialization."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dreammpc.models import TDMPC2Model
from dreammpc.nn import MLP, StackedMLP, TwoHot, mish, simnorm, symexp, symlog
from dreammpc.nn.ensemble import dropout_mask

# --- symlog and two-hot ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "expected"),
    [(0.0, 0.0), (math.e - 1, 1.0), (1 - math.e, -1.0), (math.e**3 - 1, 3.0), (1.0, math.log(2))],
)
def test_symlog_and_its_inverse(x, expected):
    assert symlog(torch.tensor(x)).item() == pytest.approx(expected, abs=1e-6)
    assert symexp(torch.tensor(expected)).item() == pytest.approx(x, rel=1e-5, abs=1e-6)


def test_symlog_keeps_tiny_and_huge_values_apart():
    x = torch.tensor([1e-6, 2e-6, 1e6, 2e6])
    assert symexp(symlog(x)) == pytest.approx(x, rel=1e-4)


@pytest.mark.parametrize(
    ("symlog_value", "weights"),
    [
        (0.0, {50: 1.0}),
        (0.2, {51: 1.0}),
        (0.05, {50: 0.75, 51: 0.25}),  # a quarter of the way from bin 0.0 to bin 0.2
        (-0.15, {49: 0.75, 50: 0.25}),
        (9.9, {99: 0.5, 100: 0.5}),
        (10.0, {100: 1.0}),
        (-10.0, {0: 1.0}),
        (12.0, {100: 1.0}),
        (-12.0, {0: 1.0}),
    ],
)
def test_two_hot_encodes_on_101_bins_of_symlog(symlog_value, weights):
    expected = torch.zeros(101)
    for index, weight in weights.items():
        expected[index] = weight
    code = TwoHot().encode(symexp(torch.tensor(symlog_value, dtype=torch.float64)).float())
    torch.testing.assert_close(code, expected, atol=2e-4, rtol=0)


def test_two_hot_sums_to_one_and_touches_two_neighbors():
    x = torch.cat([torch.randn(500) * 10.0**k for k in range(-3, 6)])
    code = TwoHot().encode(x)
    torch.testing.assert_close(code.sum(-1), torch.ones_like(x), atol=2e-4, rtol=0)
    assert (code >= 0).all()
    assert ((code > 1e-3).sum(-1) <= 2).all()


@pytest.mark.parametrize("x", [0.0, 0.3, -0.7, 1.0, 12.5, -99.0, 1000.0, -20000.0])
def test_two_hot_decode_inverts_encode(x):
    two_hot = TwoHot()
    logits = torch.log(two_hot.encode(torch.tensor([x])) + 1e-30)
    assert two_hot.decode(logits).item() == pytest.approx(x, rel=2e-3, abs=1e-4)


def test_two_hot_decodes_the_mean_bin_not_the_mean_return():
    two_hot = TwoHot(num_bins=3, low=-1, high=1)
    logits = torch.log(torch.tensor([0.25, 0.25, 0.5]))  # mean bin 0.25 → e^0.25 - 1
    assert two_hot.decode(logits).item() == pytest.approx(math.exp(0.25) - 1, rel=1e-5)


def test_cross_entropy_is_the_explicit_formula():
    torch.manual_seed(0)
    two_hot = TwoHot()
    logits, target = 3 * torch.randn(4, 7, 101), 20 * torch.randn(7)
    explicit = -(two_hot.encode(target) * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(two_hot.cross_entropy(logits, target), explicit, atol=1e-4, rtol=1e-4)
    assert two_hot.cross_entropy(torch.zeros(101), torch.tensor(3.0)).item() == pytest.approx(
        math.log(101), rel=1e-4
    )


# --- SimNorm and Mish -----------------------------------------------------------------------------------


def test_simnorm_is_a_softmax_in_groups_of_eight():
    torch.manual_seed(0)
    x = 3 * torch.randn(5, 24)
    y = simnorm(x)
    for group in range(3):
        part = slice(8 * group, 8 * group + 8)
        torch.testing.assert_close(y[:, part], x[:, part].exp() / x[:, part].exp().sum(-1, keepdim=True))
    torch.testing.assert_close(y.sum(-1), torch.full((5,), 3.0))


def test_mish_by_hand():
    assert mish(torch.tensor(1.0)).item() == pytest.approx(math.tanh(math.log(1 + math.e)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_formula_of_mish_is_mish(dtype):
    x = torch.tensor(
        [-1e4, -100.0, -30.0, -5.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 5.0, 19.9, 20.1, 90.0, 1e4], dtype=dtype
    )
    formula = torch.compile(mish, backend="eager", fullgraph=True)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, reference = formula(mine), F.mish(theirs)
    torch.testing.assert_close(ours, reference, atol=1e-6, rtol=1e-5)
    ours.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_mish_of_large_tensors_without_gradient_is_mish():
    x = torch.linspace(-1e3, 1e3, 100_001)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(mish(x), F.mish(x), atol=1e-6, rtol=1e-5)
        assert mish(torch.full((10_000,), torch.nan)).isnan().all()
    assert torch.equal(x, before)


# --- MLP ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "reference"),
    [(mish, F.mish), (simnorm, lambda x: x.unflatten(-1, (-1, 8)).softmax(-1).flatten(-2))],
    ids=["mish", "simnorm"],
)
def test_large_tensors_have_the_value_and_the_gradient_of_torchs_own(ours, reference):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(64, 256) * 4, torch.full((1, 256), 90.0), torch.full((1, 256), -90.0)])
    mine, theirs, weights = x.clone().requires_grad_(), x.clone().requires_grad_(), torch.randn_like(x)
    y, expected = ours(mine), reference(theirs)
    assert "Large" in type(y.grad_fn).__name__ + type(y.grad_fn.next_functions[0][0]).__name__
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=2e-6, rtol=1e-5)


def test_large_tensors_can_be_differentiated_by_torch_func():
    x = torch.randn(64, 256)
    got = torch.func.grad(lambda x: simnorm(mish(x)).square().sum())(x)
    mine = x.clone().requires_grad_()
    simnorm(mish(mine)).square().sum().backward()
    torch.testing.assert_close(got, mine.grad, atol=2e-6, rtol=1e-5)


def test_large_tensors_can_be_differentiated_by_torch_func_in_a_compiled_graph():
    def gradient(x):
        score, pull = torch.func.vjp(lambda x: simnorm(mish(x)).square().sum(), x)
        return pull(torch.ones_like(score))[0]

    x = torch.randn(64, 256)
    torch.testing.assert_close(torch.compile(gradient, backend="eager", fullgraph=True)(x), gradient(x))


def test_mlp_is_linear_layernorm_mish_and_a_plain_linear():
    torch.manual_seed(0)
    mlp = MLP([3, 6, 5, 2])
    for norm in mlp.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(4, 3)
    first, second, third = mlp.linears
    h = F.mish(
        F.layer_norm(F.linear(x, first.weight, first.bias), (6,), mlp.norms[0].weight, mlp.norms[0].bias)
    )
    h = F.mish(
        F.layer_norm(F.linear(h, second.weight, second.bias), (5,), mlp.norms[1].weight, mlp.norms[1].bias)
    )
    torch.testing.assert_close(mlp(x), F.linear(h, third.weight, third.bias))
    assert len(mlp.norms) == 2


def test_mlp_with_an_output_normalizes_the_last_layer_too():
    torch.manual_seed(0)
    mlp = MLP([3, 6, 16], output=simnorm)
    x = torch.randn(4, 3)
    h = F.mish(mlp.norms[0](mlp.linears[0](x)))
    torch.testing.assert_close(mlp(x), simnorm(mlp.norms[1](mlp.linears[1](h))))


# --- the stacked ensemble -------------------------------------------------------------------------------


def stacked(heads=4, sizes=(3, 6, 5, 2)) -> StackedMLP:
    torch.manual_seed(0)
    module = StackedMLP(heads, sizes, zero_output=False)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def explicit_head(module: StackedMLP, head: int, x: torch.Tensor) -> torch.Tensor:
    """One head as an ordinary MLP."""
    mlp = MLP(module.sizes)
    with torch.no_grad():
        for i, linear in enumerate(mlp.linears):
            linear.weight.copy_(module.weights[i][head].t())
            linear.bias.copy_(module.biases[i][head, 0])
        for i, norm in enumerate(mlp.norms):
            norm.weight.copy_(module.scales[i][head, 0])
            norm.bias.copy_(module.shifts[i][head, 0])
    return mlp(x)


def test_stacked_mlp_equals_separate_mlps():
    module, x = stacked(), torch.randn(7, 3)
    expected = torch.stack([explicit_head(module, k, x) for k in range(4)])
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [[2], [3, 0], [1, 1, 2]])
def test_some_heads_equal_those_of_all(heads):
    module, x = stacked(), torch.randn(7, 3)
    torch.testing.assert_close(module(x, heads=torch.tensor(heads)), module(x)[heads])


def test_frozen_weights_pass_gradients_to_the_input_alone():
    module, x = stacked(), torch.randn(7, 3, requires_grad=True)
    module(x, frozen=True).square().sum().backward()
    assert all(parameter.grad is None for parameter in module.parameters())
    frozen, x.grad = x.grad, None
    module(x).square().sum().backward()
    torch.testing.assert_close(frozen, x.grad)
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_dropout_multiplies_after_the_first_linear_layer():
    module, x = stacked(heads=1), torch.randn(5, 3)
    mask = torch.randint(0, 2, (1, 5, 6)) / 0.5
    h = (x @ module.weights[0][0] + module.biases[0][0]) * mask[0]
    h = F.mish(F.layer_norm(h, (6,)) * module.scales[0][0] + module.shifts[0][0])
    h = F.mish(
        F.layer_norm(h @ module.weights[1][0] + module.biases[1][0], (5,)) * module.scales[1][0]
        + module.shifts[1][0]
    )
    torch.testing.assert_close(module(x, dropout=mask)[0], h @ module.weights[2][0] + module.biases[2][0])


@pytest.mark.parametrize("p", [0.01, 0.25, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dropout_mask_has_the_rate_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    shape = (3, 501, 333)
    mask = dropout_mask(shape, p, torch.zeros((), dtype=dtype))
    assert mask.shape == shape
    assert mask.dtype == dtype
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
    count = mask.numel()
    assert (mask == 0).double().mean().item() == pytest.approx(
        p, abs=5 * math.sqrt(p * (1 - p) / count) + 1e-5
    )
    neighbors = (mask[..., 1:] == 0) & (mask[..., :-1] == 0)  # four elements share one 64-bit draw
    assert neighbors.double().mean().item() == pytest.approx(
        p * p, abs=5 * p / math.sqrt(neighbors.numel()) + 1e-5
    )


# --- initialization -------------------------------------------------------------------------------------


def test_initialization_of_the_model():
    torch.manual_seed(0)
    model = TDMPC2Model(24, 6, num_heads=5)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 2 + 3 * 3
    for linear in linears:
        assert linear.bias.abs().max() == 0
        if linear is model.reward.linears[-1]:
            assert linear.weight.abs().max() == 0
        else:
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(linear.weight.mean().item()) < 1e-3
    for heads in (model.value_heads, model.target_heads):
        assert heads.weights[-1].abs().max() == 0
        assert all(bias.abs().max() == 0 for bias in heads.biases)
        for weight in list(heads.weights)[:-1]:
            for k in range(5):
                assert weight[k].std().item() == pytest.approx(0.02, rel=0.05)
                assert all((weight[k] - weight[other]).abs().mean() > 0.01 for other in range(k))
    for ours, slow in zip(model.value_heads.parameters(), model.target_heads.parameters(), strict=True):
        assert torch.equal(ours, slow)
        assert ours.data_ptr() != slow.data_ptr()


def test_zero_logits_mean_zero_reward_and_value():
    model = TDMPC2Model(4, 2, mlp_dim=16, latent_dim=16, enc_dim=16)
    latent = model.initial_belief(3)
    action = torch.rand(3, 2)
    torch.testing.assert_close(
        model.outcome(latent, action, latent).reward, torch.zeros(3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(model.value(latent, action), torch.zeros(3, 5), atol=1e-5, rtol=0)
