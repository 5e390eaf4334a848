"""The losses of BMPC against explicit loops and hand-computed numbers, and where their gradients go."""

import math

import pytest
import torch
from toy_models import actor_says, random_bmpc
from updates import (
    LOSSES,
    A,
    B,
    H,
    K,
    assert_losses,
    bmpc_draws,
    cross_entropy,
    has_gradient,
    heads_say,
    slices,
)

from dreammpc.algorithms.bmpc import MIN_EXPERT_STD, gaussian_kl, model_loss, policy_loss, td_target
from dreammpc.algorithms.update_settings import UpdateSettings

COEF = UpdateSettings().coefficients


@pytest.mark.parametrize("episodic", [False, True])
@pytest.mark.parametrize("dropout", [False, True])
def test_model_loss_equals_explicit_loops(episodic, dropout):
    model = random_bmpc(episodic=episodic, discount=0.9)
    batch, draws = slices(terminated=[(0, 2), (2, 2)]), bmpc_draws(dropout)
    loss, zs, metrics = model_loss(model, batch, draws, COEF)

    sums, rollouts, targets = dict.fromkeys(LOSSES, 0.0), torch.zeros(H + 1, B, 16), []
    with torch.no_grad():
        for b in range(B):
            z = model.encoder(batch["observation"][b, 0][None])
            rollouts[0, b] = z
            for t in range(H):
                weight, row = 0.5**t / (B * H), t * B + b
                action, reward = batch["action"][b, t][None], batch["next", "reward"][b, t, 0]
                ends = float(batch["next", "terminated"][b, t, 0])

                # The target: one step of the model, by the policy, from the real observation.
                real = model.encoder(batch["observation"][b, t][None])
                mean, log_std = model.policy_stats(real)
                chosen = (torch.tanh(mean) + log_std.exp() * draws.target_noise[row]).clamp(-1, 1)
                pair = torch.cat([real, chosen], -1)
                imagined = model.dynamics(pair)
                survives = 1 - torch.sigmoid(model.termination(imagined))[0, 0] if episodic else 1
                slow = model.two_hot.decode(model.target_heads(imagined))[:, 0]
                gain = model.two_hot.decode(model.reward(pair))[0]
                target = gain + 0.9 * survives * (slow[0] + slow[2]) / 2
                targets.append(target)

                pair = torch.cat([z, action], -1)
                sums["reward"] += weight * cross_entropy(model, model.reward(pair)[0], reward)
                mask = draws.dropout[:, row : row + 1] if dropout else None
                for logits in model.value_heads(z, dropout=mask)[:, 0]:
                    sums["value"] += weight / K * cross_entropy(model, logits, target)
                z = model.dynamics(pair)
                rollouts[t + 1, b] = z
                after = model.encoder(batch["next", "observation"][b, t][None])
                sums["consistency"] += weight * (z - after).square().mean()
                if episodic:
                    p = torch.sigmoid(model.termination(z))[0, 0]
                    sums["termination"] -= weight * (ends * p.log() + (1 - ends) * (1 - p).log())

    assert_losses((loss, zs, metrics), sums, rollouts, targets, episodic)


@pytest.mark.parametrize(
    ("heads", "bootstrap"), [((0, 1), (math.e + math.e**2) / 2 - 1), ((0, 2), 0.0), ((1,), math.e**2 - 1)]
)
def test_td_target_by_hand(heads, bootstrap):
    """It is the model's reward, whatever was stored, plus the mean of the heads."""
    model = random_bmpc(discount=0.9)
    heads_say(model.target_heads, [55, 60, 45])  # symlog 1, 2, -1
    last = model.reward.linears[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[55] = 100.0  # a reward of e - 1
    draws = bmpc_draws(target_heads=heads)._replace(target_noise=torch.zeros(3, A))
    target = td_target(model, torch.rand(3, 16), draws)
    assert target.tolist() == pytest.approx([math.e - 1 + 0.9 * bootstrap] * 3, rel=1e-4, abs=1e-4)


def test_gaussian_kl_is_torchs():
    torch.manual_seed(0)
    mean, other_mean = torch.randn(2, 50)
    std, other_std = torch.rand(2, 50) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(other_mean, other_std))
    torch.testing.assert_close(gaussian_kl(mean, std, other_mean, other_std), expected)


def test_policy_loss_by_hand():
    model = random_bmpc()
    actor_says(model, 0.0, 0.0)  # log-std -1
    coef = COEF._replace(entropy=0.01)
    mean = torch.tensor([0.5, -1.0]).expand(H, B, A)
    std = torch.tensor([1.0, 0.5]).expand(H, B, A)
    loss, scale, metrics = policy_loss(model, torch.rand(H, B, 16), mean, std, torch.tensor(5.0), coef, 0.1)
    one = math.log(1.0) + 1 + (math.exp(-2) + 0.25) / 2 - 0.5
    two = math.log(0.5) + 1 + (math.exp(-2) + 1.0) / (2 * 0.25) - 0.5
    divergence = (one + two) / 2
    assert metrics["policy/divergence"].item() == pytest.approx(divergence, rel=1e-5)
    assert scale.item() == pytest.approx(
        5 + 0.1 * (1 - 5)
    )  # equal divergences spread by 0, at least 1 counts
    entropy = A * (-1 + 0.5 * math.log(2 * math.pi * math.e))
    assert metrics["policy/entropy"].item() == pytest.approx(entropy, rel=1e-5)
    expected = (divergence / 4.6 - 0.01 * A * entropy) * (1 + 0.5 + 0.25) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_scale_follows_the_first_steps_divergence():
    model = random_bmpc()
    actor_says(model, 0.0, 0.0)  # log-std -1
    mean, std = torch.zeros(H, 21, 1).repeat(1, 1, A), torch.ones(H, 21, A)
    mean[0] = torch.arange(21.0).sqrt().unsqueeze(-1)  # divergences rise by 1/2 from slice to slice
    mean[1:] = 100.0
    scale = policy_loss(model, torch.rand(H, 21, 16), mean, std, torch.tensor(2.0), COEF, 0.5)[1]
    assert scale.item() == pytest.approx(2 + 0.5 * (9 - 2), rel=1e-4)


def test_a_certain_expert_is_still_a_gaussian():
    model = random_bmpc()
    zeros = torch.zeros(H, B, A)
    loss, _, metrics = policy_loss(model, torch.rand(H, B, 16), zeros, zeros, torch.ones(()), COEF, 0.01)
    least = torch.full_like(zeros, MIN_EXPERT_STD)
    same = policy_loss(model, torch.rand(H, B, 16), zeros, least, torch.ones(()), COEF, 0.01)[0]
    assert loss.isfinite() and same.isfinite() and metrics["policy/divergence"] > 1


def test_model_loss_moves_everything_but_the_actor_and_the_targets():
    model = random_bmpc(episodic=True)
    model_loss(model, slices(), bmpc_draws(), COEF)[0].backward()
    for part in (model.encoder, model.dynamics, model.reward, model.value_heads, model.termination):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())
    assert not has_gradient(model.actor)
    assert not has_gradient(model.target_heads)


def test_policy_loss_moves_the_actor_alone_and_towards_the_expert():
    model = random_bmpc()
    zs, mean, std = torch.rand(H, B, 16), torch.full((H, B, A), 0.3), torch.full((H, B, A), 0.4)
    optimizer = torch.optim.Adam(model.actor.parameters(), 1e-2)
    divergences = []
    for _ in range(200):
        loss, _, metrics = policy_loss(model, zs, mean, std, torch.ones(()), COEF, 0.01)
        divergences.append(metrics["policy/divergence"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    others = [p for name, p in model.named_parameters() if not name.startswith("actor.")]
    assert all(p.grad is None for p in others)
    assert divergences[-1] < 0.02 < divergences[0]
    learned = model.policy_gaussian(zs.flatten(0, 1))
    assert (learned[0] - 0.3).abs().max() < 0.1
    assert (learned[1].exp() - 0.4).abs().max() < 0.1


def test_compiled_losses_equal_eager():
    """Losses, latents and all gradients, in one graph each."""
    results = []
    expert = torch.full((H, B, A), 0.3), torch.full((H, B, A), 0.4)
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="aot_eager", fullgraph=True)):
        model, batch, draws = random_bmpc(episodic=True), slices(), bmpc_draws()
        loss, zs, _ = wrap(model_loss)(model, batch, draws, COEF)
        loss.backward()
        more, scale, _ = wrap(policy_loss)(model, zs[:-1], *expert, torch.ones(()), COEF, 0.01)
        more.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([loss.detach(), more.detach(), scale, zs, *gradients])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
