"""MPPI: weights, refit, bounds, choice of the executed elite, warm start, and odd settings."""

import math

import pytest
import torch
from plans import plan
from toy_models import Broken, LinearQuadratic, random_latent, random_tdmpc2

from dreammpc.interfaces import Outcome
from dreammpc.planning import PLANNERS, Imagination, Objective, make_planner
from dreammpc.planning.sampling import elite_weights, fit_gaussian

A = 2
inf = math.inf


@pytest.mark.parametrize(
    ("objective", "temperature", "expected"),
    [
        ([0.0, -2.0, -4.0], 0.5, [1, math.exp(-1), math.exp(-2)]),
        ([0.0, -2.0, -inf], 0.5, [1, math.exp(-1), 0]),
        ([1e6, 1e6 - 2, -1e6], 0.5, [1, math.exp(-1), 0]),
        ([-1e6, -1e6 - 2, -inf], 1.0, [1, math.exp(-2), 0]),
        ([3.0, 1.0, 2.0], 0.0, [1, 1, 1]),
        ([-inf, -inf, -inf], 0.5, [1, 1, 1]),
    ],
)
def test_elite_weights_by_hand(objective, temperature, expected):
    weights = elite_weights(torch.tensor([objective]), temperature)[0]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32) / sum(expected))


def test_refit_by_hand():
    """Mean 0.25·1 + 0.75·3 = 2.5; variance 0.25·1.5² + 0.75·0.5² = 0.75."""
    elites = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    mean, std = fit_gaussian(elites, torch.tensor([[0.25, 0.75]]))
    assert mean.item() == pytest.approx(2.5)
    assert std.item() == pytest.approx(math.sqrt(0.75))


class Rich(LinearQuadratic):
    """Returns around a million."""

    def outcome(self, latent, action, next_latent):
        reward, discount = super().outcome(latent, action, next_latent)
        return Outcome(reward + 1e6, discount)


def test_huge_returns_do_not_overflow():
    model = Rich(A)
    result = plan(make_planner("mppi", A), model, random_latent(model, 2))
    assert result.action.isfinite().all()
    assert result.state["mean"].isfinite().all()
    assert result.std.isfinite().all()


@pytest.mark.parametrize(("low", "high"), [(0.05, 2.0), (0.3, 0.4)])
def test_the_std_stays_within_its_bounds(low, high):
    model = LinearQuadratic(A)
    result = plan(make_planner("mppi", A, min_std=low, max_std=high), model, random_latent(model, 4))
    assert low - 1e-6 <= result.std.min()
    assert result.std.max() <= high + 1e-6
    assert result.std.min() == pytest.approx(low)  # six refits on a smooth peak reach the floor


def test_the_mean_starts_at_the_shifted_previous_mean():
    model = LinearQuadratic(A)
    planner = make_planner("mppi", A, num_policy=0, min_std=1e-6, max_std=1e-6)
    state = planner.initial_state(2)
    state["mean"], state["started"] = torch.rand(2, 3, A) * 2 - 1, torch.ones(2, 1)
    result = plan(planner, model, random_latent(model, 2), state)
    expected = state["mean"][:, [1, 2, 2]]
    torch.testing.assert_close(result.mean, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.state["mean"], expected, atol=1e-4, rtol=0)


def test_one_refit_by_explicit_loops():
    """One iteration from scratch: samples N(0, 2²) clamped, the best eight of them reweighted."""
    model = LinearQuadratic(A)
    latent = random_latent(model, 2)
    planner = make_planner(
        "mppi", A, num_samples=40, num_policy=4, num_elites=8, iterations=1, temperature=2.0
    )
    result = plan(planner, model, latent)
    torch.manual_seed(0)
    imagination = Imagination(model)
    proposals = imagination.propose(latent, torch.randn(2, 4, 3, A))
    actions = torch.cat([proposals, (2 * torch.randn(2, 36, 3, A)).clamp(-1, 1)], 1)
    scores = imagination.score(latent, actions, Objective()).objective
    for b in range(2):
        best = sorted(range(40), key=lambda n: -scores[b, n].item())[:8]
        weights = [math.exp(2.0 * (scores[b, n] - scores[b].max()).item()) for n in best]
        elites = [(w / sum(weights), actions[b, n]) for w, n in zip(weights, best, strict=True)]
        mean = sum(w * each for w, each in elites)
        variance = sum(w * (each - mean) ** 2 for w, each in elites)
        torch.testing.assert_close(result.state["mean"][b], mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result.std[b], variance.sqrt().clamp(0.05, 2), rtol=1e-3, atol=1e-4)
        index = [n for n in best if torch.equal(actions[b, n], result.mean[b])]
        assert len(index) == 1  # what executes is one of the elites
        assert result.value[b].item() == pytest.approx(scores[b, index[0]].item(), rel=1e-5)


def test_elites_are_drawn_in_proportion_to_their_weight():
    """4000 rows with two samples each: the better one executes with probability 1 / (1 + exp(-T·ΔJ))."""
    rows = 4000
    model = LinearQuadratic(1)
    latent = model.latent(torch.zeros(rows, 1))
    settings = {"num_samples": 2, "num_policy": 0, "num_elites": 2, "iterations": 1, "temperature": 1.0}
    result = plan(make_planner("mppi", 1, **settings), model, latent)
    torch.manual_seed(0)
    actions = (2 * torch.randn(rows, 2, 3, 1)).clamp(-1, 1)
    scores = Imagination(model).score(latent, actions, Objective()).objective
    probability = torch.sigmoid((scores[:, 0] - scores[:, 1]).abs())
    better = (result.value - scores.amax(1)).abs() < 1e-5
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        inside = (probability >= low) & (probability < high)
        assert inside.sum() > 200
        expected = probability[inside].sum()
        spread = (probability[inside] * (1 - probability[inside])).sum().sqrt()
        assert (better[inside].sum() - expected).abs() < 4 * spread


@pytest.mark.parametrize(("action_dim", "iterations"), [(19, 6), (20, 8)])
def test_two_more_iterations_from_twenty_actions_on(action_dim, iterations):
    planner = make_planner("mppi", action_dim, num_samples=16, num_elites=4, num_policy=2)
    assert planner.num_iterations == iterations


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_evaluations_count_every_model_step(name):
    """The table that compares planners shows them side by side, so all must count the same thing."""
    model = random_tdmpc2(A)
    step, rows = model.step, []
    model.step = lambda latent, action: rows.append(action.shape[0]) or step(latent, action)
    result = plan(make_planner(name, A), model, random_latent(model, 3))
    assert result.diagnostics["evaluations"].tolist() == [sum(rows) / 3] * 3


def test_only_policy_rollouts():
    model = random_tdmpc2(A)
    latent = random_latent(model, 2)
    result = plan(make_planner("mppi", A, num_samples=8, num_policy=8, num_elites=8), model, latent)
    torch.manual_seed(0)
    with torch.no_grad():
        proposals = Imagination(model).propose(latent, torch.randn(2, 8, 3, A))
    assert all((proposals[b] - result.mean[b]).flatten(1).abs().amax(1).min() < 1e-6 for b in range(2))


def test_zero_weight_elites_that_are_nan_spoil_nothing():
    """Fewer finite candidates than elites: NaN policy rollouts are among the elites, with weight 0."""
    model = Broken("policy", everywhere=True)
    planner = make_planner("mppi", A, num_samples=16, num_policy=12, num_elites=8)
    result = plan(planner, model, random_latent(model, 2))
    assert result.action.isfinite().all()
    assert result.state["mean"].isfinite().all()


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_a_model_of_nothing_but_nan_still_gives_actions(name):
    """As after a diverged update: every weight is NaN, hence latent, policy, rewards and values."""
    model = random_tdmpc2(A)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    latent = random_latent(model, 3)
    planner = make_planner(name, A)
    result = plan(planner, model, latent)
    again = plan(planner, model, latent, result.state)
    for each in (result, again):
        assert each.action.isfinite().all()
        assert each.action.abs().max() <= 1
        assert (each.diagnostics["fallback"] == 1).all()
        assert all(value.isfinite().all() for value in each.state.values())
