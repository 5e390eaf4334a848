"""Rolling out and scoring candidates: against explicit loops, for every choice of the objective."""

import itertools
import math

import pytest
import torch
from toy_models import GAMMA, Ensemble, LinearQuadratic, random_latent, random_tdmpc2

from dreammpc.planning import Imagination, Objective, imagination
from dreammpc.planning.value_heads import sample_std

B, N, H, A = 2, 4, 3, 2
MODELS = {"ensemble": lambda: Ensemble(A), "tdmpc2": lambda: random_tdmpc2(A, episodic=True)}


def explicit_score(model, latent, actions, objective):
    """J and u of one candidate [H, A] from one latent [1], straight from the definition."""
    coef, discount, total, uncertainty = objective.uncertainty_coef, 1.0, 0.0, 0.0
    for t in range(H):
        action = actions[t][None]
        after = model.step(latent, action)
        reward, factor = model.outcome(latent, action, after)
        if objective.uncertainty == "std":
            uncertainty += discount * model.value(latent, action)[0].std()
        elif objective.uncertainty == "released":
            heads = model.value(after, action)[0]
            uncertainty += heads.mean() * heads.std()
        total += discount * reward[0]
        discount, latent = discount * factor[0], after
    heads = model.value(latent, model.policy(latent, torch.zeros(1, A)))[0]
    pairs = [torch.minimum(a, b) for a, b in itertools.combinations(heads, 2)]
    reduced = {"mean": heads.mean(), "min": heads.min(), "mean-std": heads.mean() - heads.std()}
    reduced["min2"] = sum(pairs) / len(pairs)
    released = objective.uncertainty == "released"
    uncertainty += heads.mean() * heads.std() if released else discount * heads.std()
    return total + discount * reduced[objective.value_reduction] - coef * uncertainty, uncertainty


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reduction", ["mean", "min", "min2", "mean-std"])
@pytest.mark.parametrize(
    ("uncertainty", "coef"), [("std", 0.0), ("std", 0.3), ("terminal", 0.3), ("released", 0.3)]
)
@pytest.mark.parametrize("cpu_rows", [512, 3])  # all at a time, or in parts of 3, 3 and 2
def test_score_equals_explicit_loops(name, reduction, uncertainty, coef, cpu_rows, monkeypatch):
    monkeypatch.setattr(imagination, "CPU_ROWS", cpu_rows)
    model = MODELS[name]()
    latent, objective = random_latent(model, B), Objective(coef, uncertainty, reduction)
    actions = torch.rand(B, N, H, A, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        scored = Imagination(model).score(latent, actions, objective)
        assert scored.objective.shape == scored.uncertainty.shape == (B, N)
        for b in range(B):
            for n in range(N):
                total, spread = explicit_score(model, latent[b : b + 1], actions[b, n], objective)
                torch.testing.assert_close(scored.objective[b, n], total, rtol=1e-4, atol=1e-4)
                if coef:
                    torch.testing.assert_close(scored.uncertainty[b, n], spread, rtol=1e-4, atol=1e-4)


def test_parts_have_the_gradients_of_the_whole(monkeypatch):
    model = random_tdmpc2(A)
    latent, objective = random_latent(model, B), Objective(0.3, "std", "min")
    drawn = torch.rand(B, N, H, A, generator=torch.Generator().manual_seed(0)) * 2 - 1
    gradients = []
    for cpu_rows in (512, 3):
        monkeypatch.setattr(imagination, "CPU_ROWS", cpu_rows)
        actions = drawn.clone().requires_grad_()
        Imagination(model).score(latent, actions, objective).objective.sum().backward()
        gradients.append(actions.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)


def test_score_by_hand():
    """x0 = 1, a = (1, -1): x1 = 1.4, x2 = 0.76; rewards -1.1 and -2.06; terminal value -P·0.5776."""
    model = LinearQuadratic(1)
    scored = Imagination(model).score(
        model.latent(torch.tensor([[1.0]])), torch.tensor([[[[1.0], [-1.0]]]]), Objective()
    )
    expected = -1.1 - GAMMA * 2.06 - GAMMA**2 * model.p * 0.5776
    assert scored.objective.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_propose_rolls_the_policy_out(name):
    model = MODELS[name]()
    latent = random_latent(model, B)
    noise = torch.randn(B, N, H, A, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        actions = Imagination(model).propose(latent, noise)
        for b in range(B):
            for n in range(N):
                here = latent[b : b + 1]
                for t in range(H):
                    action = model.policy(here, noise[b, n, t][None])
                    torch.testing.assert_close(actions[b, n, t], action[0], rtol=1e-4, atol=1e-5)
                    here = model.step(here, action)


def gradient_of(uncertainty: str, coef: float) -> torch.Tensor:
    model = random_tdmpc2(A)
    actions = torch.full((1, N, H, A), 0.1).requires_grad_()
    score = Imagination(model).score(random_latent(model, 1), actions, Objective(coef, uncertainty)).objective
    return torch.autograd.grad(score.sum(), actions)[0]


def test_released_uncertainty_is_not_differentiated_and_ours_is():
    torch.testing.assert_close(gradient_of("released", 1.0), gradient_of("released", 0.0))
    for ours in ("std", "terminal"):
        assert (gradient_of(ours, 1.0) - gradient_of(ours, 0.0)).abs().max() > 1e-3


def test_std_over_heads():
    heads = torch.tensor([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]], requires_grad=True)
    std = sample_std(heads)  # (4 + 1 + 9) / 2 = 7
    assert std.tolist() == pytest.approx([math.sqrt(7), 0], abs=2e-6)
    std.sum().backward()
    torch.testing.assert_close(heads.grad, torch.tensor([[-2.0, -1.0, 3.0], [0, 0, 0]]) / (2 * math.sqrt(7)))
    assert sample_std(torch.tensor([[5.0]])).item() == pytest.approx(0, abs=2e-6)


@pytest.mark.parametrize(("setting", "value"), [("uncertainty", "var"), ("value_reduction", "max")])
def test_objective_refuses_unknown_choices(setting, value):
    with pytest.raises(ValueError, match=f"^{setting} must be one of .*got '{value}'$"):
        Objective(**{setting: value})


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_weight_of_mean_minus_std(weight):
    heads = torch.tensor([[1.0, 2.0, 6.0]])  # mean 3, standard deviation √7
    reduced = Objective(value_reduction="mean-std", value_std_weight=weight).reduce(heads)
    assert reduced.item() == pytest.approx(3 - weight * math.sqrt(7), abs=1e-5)


def test_no_precision_is_lost_on_the_way_out_of_a_low_precision_model():
    model = random_tdmpc2(A)
    latent, noise = random_latent(model, B), torch.randn(B, N, H, A)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        actions = Imagination(model).propose(latent, noise)
        scored = Imagination(model).score(latent, actions, Objective(0.1))
    assert actions.dtype == scored.objective.dtype == torch.float32
