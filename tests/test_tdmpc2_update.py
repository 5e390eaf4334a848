"""The losses of TD-MPC2 against explicit loops and hand-computed numbers, and where their gradients go."""

import math

import pytest
import torch
from toy_models import actor_says, random_tdmpc2
from updates import (
    LOSSES,
    A,
    B,
    H,
    K,
    assert_losses,
    cross_entropy,
    has_gradient,
    heads_say,
    make_batch,
    make_draws,
)

from dreammpc.algorithms.losses import HeadReduction, heuristic_discount, percentile_range
from dreammpc.algorithms.tdmpc2 import model_loss, policy_loss, td_target
from dreammpc.algorithms.update_settings import UpdateSettings

COEF = UpdateSettings().coefficients


@pytest.mark.parametrize("episodic", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
def test_model_loss_equals_explicit_loops(episodic, dropout):
    model = random_tdmpc2(episodic=episodic, discount=0.9)
    batch, draws = make_batch(terminated=[(0, 1), (2, 2)]), make_draws(dropout)
    loss, zs, metrics = model_loss(model, batch, draws, COEF)

    sums, rollouts, targets = dict.fromkeys(LOSSES, 0.0), torch.zeros(H + 1, B, 16), []
    with torch.no_grad():
        for b in range(B):
            z = model.encoder(batch["observation"][b, 0][None])
            rollouts[0, b] = z
            for t in range(H):
                weight, row = 0.5**t / (B * H), t * B + b
                action = batch["action"][b, t][None]
                reward = batch["next", "reward"][b, t, 0]
                ends = float(batch["next", "terminated"][b, t, 0]) if episodic else 0.0
                real = model.encoder(batch["next", "observation"][b, t][None])
                mean, log_std = model.policy_stats(real)
                chosen = torch.tanh(mean + log_std.exp() * draws.target_noise[row])
                slow = model.two_hot.decode(model.target_heads(torch.cat([real, chosen], -1)))[:, 0]
                target = reward + 0.9 * (1 - ends) * torch.minimum(slow[0], slow[2])
                targets.append(target)

                pair = torch.cat([z, action], -1)
                sums["reward"] += weight * cross_entropy(model, model.reward(pair)[0], reward)
                mask = draws.dropout[:, row : row + 1] if dropout else None
                for logits in model.value_heads(pair, dropout=mask)[:, 0]:
                    sums["value"] += weight / K * cross_entropy(model, logits, target)
                z = model.dynamics(pair)
                rollouts[t + 1, b] = z
                sums["consistency"] += weight * (z - real).square().mean()
                if episodic:
                    p = torch.sigmoid(model.termination(z))[0, 0]
                    sums["termination"] -= weight * (ends * p.log() + (1 - ends) * (1 - p).log())

    assert_losses((loss, zs, metrics), sums, rollouts, targets, episodic)


def test_untrained_losses_by_hand():
    model = random_tdmpc2(episodic=True)
    for last in (model.reward.linears[-1], model.termination.linears[-1]):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
    heads_say(model.value_heads, [])
    metrics = model_loss(model, make_batch(), make_draws(), COEF)[2]
    weights = (1 + 0.5 + 0.25) / 3
    assert metrics["loss/reward"].item() == pytest.approx(weights * math.log(101), rel=1e-4)
    assert metrics["loss/value"].item() == pytest.approx(weights * math.log(101), rel=1e-4)
    assert metrics["loss/termination"].item() == pytest.approx(weights * math.log(2), rel=1e-4)


@pytest.mark.parametrize(
    ("heads", "bootstrap"),
    [((0, 1), math.e - 1), ((1, 0), math.e - 1), ((1, 2), 1 - math.e), ((1,), math.e**2 - 1)],
)
def test_td_target_by_hand(heads, bootstrap):
    """The end of an episode that terminates has no value; a model without that takes it for a time limit."""
    draws = make_draws(target_heads=heads)._replace(target_noise=torch.zeros(3, A))
    reward, terminated = torch.tensor([0.5, -2.0, 3.0]), torch.tensor([0.0, 0.0, 1.0])
    for episodic, last in ((True, 3.0), (False, 3 + 0.9 * bootstrap)):
        model = random_tdmpc2(discount=0.9, episodic=episodic)
        heads_say(model.target_heads, [55, 60, 45])  # symlog 1, 2, -1
        target = td_target(model, torch.rand(3, 16), reward, terminated, draws)
        expected = [0.5 + 0.9 * bootstrap, -2 + 0.9 * bootstrap, last]
        assert target.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", 0.0), ("min", -9.0), ("min2", (-9 - 9 + 3) / 3), ("mean-std", -math.sqrt(126 / 2))],
)
def test_reductions_of_heads_by_hand(reduction, expected):
    values = torch.tensor([[6.0], [3.0], [-9.0]])
    assert HeadReduction(reduction)(values).item() == pytest.approx(expected, rel=1e-5)
    assert HeadReduction(reduction)(values[:1]).item() == pytest.approx(6, abs=1e-5)  # of a single head


def test_policy_loss_by_hand():
    model = random_tdmpc2()
    actor_says(model, 0.0, 0.0)  # log-std -4
    heads_say(model.value_heads, [55, 60, 45])
    draws = make_draws(policy_heads=(0, 1))
    draws = draws._replace(policy_noise=torch.ones_like(draws.policy_noise))
    coef = COEF._replace(entropy=0.01)
    loss, scale, metrics = policy_loss(model, torch.rand(H + 1, B, 16), draws, torch.tensor(5.0), coef, 0.1)

    assert scale.item() == pytest.approx(5 + 0.1 * (1 - 5))  # equal values spread by 0, at least 1 counts
    log_prob = A * (-0.5 + 4 - 0.5 * math.log(2 * math.pi) - math.log(1 - math.tanh(math.exp(-4)) ** 2))
    q = ((math.e - 1) + (math.e**2 - 1)) / 2
    expected = -(q / 4.6 - 0.01 * A * log_prob) * (1 + 0.5 + 0.25 + 0.125) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert metrics["policy/entropy"].item() == pytest.approx(-log_prob, rel=1e-4)
    assert metrics["value/policy"].item() == pytest.approx(q, rel=1e-4)


def test_policy_loss_equals_explicit_loops():
    model, draws = random_tdmpc2(seed=2), make_draws()
    with torch.no_grad():
        for weight in model.value_heads.parameters():
            weight.mul_(3)  # so that the values spread by more than 1
    torch.manual_seed(8)
    zs = torch.randn(H + 1, B, 16).unflatten(-1, (2, 8)).softmax(-1).flatten(-2)
    coef = COEF._replace(entropy=0.1)
    loss, scale, _ = policy_loss(model, zs, draws, torch.tensor(2.0), coef, 0.01)
    q, entropy = torch.zeros(H + 1, B), torch.zeros(H + 1, B)
    with torch.no_grad():
        for t in range(H + 1):
            for b in range(B):
                mean, log_std = model.policy_stats(zs[t, b][None])
                noise = draws.policy_noise[t * B + b]
                action = torch.tanh(mean + log_std.exp() * noise)
                values = model.two_hot.decode(model.value_heads(torch.cat([zs[t, b][None], action], -1)))[
                    :, 0
                ]
                q[t, b] = (values[1] + values[2]) / 2
                normal = torch.distributions.Normal(mean[0], log_std[0].exp())
                squashed = torch.distributions.TransformedDistribution(
                    normal, torch.distributions.transforms.TanhTransform(cache_size=1)
                )
                entropy[t, b] = -A * squashed.log_prob(action[0]).sum()
    spread = torch.quantile(q[0], 0.95) - torch.quantile(q[0], 0.05)
    assert spread > 1
    new_scale = 0.99 * 2 + 0.01 * spread
    expected = -sum(0.5**t * (q[t] / new_scale + 0.1 * entropy[t]).mean() for t in range(H + 1)) / (H + 1)
    torch.testing.assert_close(scale, new_scale)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)


def test_entropy_alone_leads_to_uniform_actions_not_to_the_bounds():
    model = random_tdmpc2()
    last = model.actor.linears[-1]
    for parameter in (last.weight, last.bias, *model.value_heads.parameters()):
        torch.nn.init.zeros_(parameter)  # begins narrow; all actions are worth the same
    zs, optimizer = torch.rand(H + 1, 64, 16), torch.optim.Adam(model.actor.parameters(), lr=3e-3)
    draws, generator = make_draws(), torch.Generator().manual_seed(0)
    for _ in range(400):
        draws = draws._replace(policy_noise=torch.randn((H + 1) * 64, A, generator=generator))
        loss, *_ = policy_loss(model, zs, draws, torch.ones(()), COEF._replace(entropy=1.0), 0.01)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        action = model.policy(model.latent(zs.flatten(0, 1)), torch.randn((H + 1) * 64, A))
    assert action.abs().mean().item() == pytest.approx(0.5, abs=0.05)  # of uniform actions; at the bounds 1
    assert (action.abs() > 0.99).float().mean() < 0.1


@pytest.mark.parametrize("size", [1, 2, 5, 20, 21, 256])
def test_percentile_range_is_that_of_quantile(size):
    torch.manual_seed(size)
    x = 10 * torch.randn(size)
    torch.testing.assert_close(percentile_range(x), torch.quantile(x, 0.95) - torch.quantile(x, 0.05))


def test_percentile_range_by_hand():
    assert percentile_range(torch.arange(21.0).flip(0)).item() == pytest.approx(19 - 1)


def test_model_loss_moves_everything_but_the_actor_and_the_targets():
    model = random_tdmpc2(episodic=True)
    model_loss(model, make_batch(), make_draws(), COEF)[0].backward()
    for part in (model.encoder, model.dynamics, model.reward, model.value_heads, model.termination):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert not has_gradient(model.actor)
    assert not has_gradient(model.target_heads)


def test_td_target_passes_no_gradient_to_the_encoder():
    """The consistency target too: with every coefficient but one at 0, only that term's own path remains."""
    model, batch = random_tdmpc2(), make_batch()
    batch["observation"] = torch.zeros_like(batch["observation"])
    grads = []
    for shift in (0.0, 1.0):  # moving only the *next* observations must not open a path to the first layer
        batch["next", "observation"] = batch["next", "observation"] + shift
        model_loss(model, batch, make_draws(), COEF)[0].backward()
        grads.append(model.encoder.linears[0].weight.grad.clone())
        model.zero_grad()
    assert all(gradient.abs().max() == 0 for gradient in grads)  # the first layer's input is all zeros


def test_policy_loss_moves_the_actor_alone():
    model = random_tdmpc2()
    policy_loss(model, torch.rand(H + 1, B, 16), make_draws(), torch.ones(()), COEF, 0.01)[0].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.actor.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("actor.")]
    assert all(p.grad is None for p in others)


@pytest.mark.parametrize(
    ("length", "discount"),
    [(500, 0.99), (1000, 0.995), (5000, 0.995), (250, 0.98), (100, 0.95), (50, 0.95), (5, 0.95)],
)
def test_heuristic_discount(length, discount):
    assert heuristic_discount(length) == pytest.approx(discount)


def test_compiled_losses_equal_eager():
    check_compiled(backend="aot_eager")


@pytest.mark.slow
def test_losses_compiled_by_inductor_equal_eager():
    check_compiled(backend="inductor")


def check_compiled(backend: str) -> None:
    """Losses, latents and all gradients, in one graph each."""
    results = []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend=backend, fullgraph=True)):
        model, batch, draws = random_tdmpc2(episodic=True), make_batch(), make_draws()
        loss, zs, _ = wrap(model_loss)(model, batch, draws, COEF)
        loss.backward()
        more, scale, _ = wrap(policy_loss)(model, zs, draws, torch.ones(()), COEF, 0.01)
        more.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([loss.detach(), more.detach(), scale, zs, *gradients])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
