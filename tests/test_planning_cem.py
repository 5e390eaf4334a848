"""CEM, iCEM, CEM with gradients, random shooting: refits, noise, memory, decay and choice."""

import math

import pytest
import torch
from plans import plan
from toy_models import Ensemble, LinearQuadratic, random_latent, random_tdmpc2

from dreammpc.planning import (
    CEM,
    ICEM,
    GaussianProposal,
    GaussianRefit,
    Imagination,
    Objective,
    PlanningContext,
    make_planner,
)
from dreammpc.planning.sampling import colored_noise, elite_weights

A, B, H = 2, 3, 3


def score(model, latent, actions):
    return Imagination(model).score(latent, actions, Objective()).objective


def search(model, latent, refit: GaussianRefit, state=None, **gaussian):
    """What `refit` makes of a Gaussian, seed 0, from the warm start `state`."""
    propose = GaussianProposal(**gaussian)
    if state is None:
        shapes = propose.carry_shapes(0, H, A) | refit.carry_shapes(0, H, A)
        state = {name: torch.zeros(latent.shape[0], *shape) for name, shape in shapes.items()}
        state["started"] = torch.zeros(latent.shape[0], 1)
    context = PlanningContext(Imagination(model), latent, state, H, Objective())
    torch.manual_seed(0)
    return refit(context, propose(context))


# --- pieces ---------------------------------------------------------------------------------------------


def test_uniform_weights_are_those_of_temperature_zero():
    objective = torch.tensor([[3.0, 1.0, -torch.inf], [-torch.inf] * 3])
    assert elite_weights(objective, 0.0).tolist() == [[0.5, 0.5, 0.0], [pytest.approx(1 / 3)] * 3]


def test_white_noise_stays_as_it_is():
    noise = torch.randn(2, 4, 5, A)
    assert torch.equal(colored_noise(noise, 0.0), noise)
    assert torch.equal(colored_noise(noise[:, :, :1], 2.5), noise[:, :, :1])


@pytest.mark.parametrize("beta", [1.0, 2.5])
@pytest.mark.parametrize("horizon", [3, 10])
def test_colored_noise_has_its_spectrum_and_variance_one(beta, horizon):
    noise = colored_noise(
        torch.randn(1, 200_000, horizon, 1, generator=torch.Generator().manual_seed(0)), beta
    )
    torch.testing.assert_close(noise.var(1), torch.ones(1, horizon, 1), rtol=0.02, atol=0)
    power = torch.fft.rfft(noise[0, :, :, 0]).abs().square().mean(0)
    expected = torch.arange(horizon // 2 + 1).clamp(min=1).float() ** -beta
    torch.testing.assert_close(power / power[1], expected, rtol=0.03, atol=0)


# --- refits ---------------------------------------------------------------------------------------------


def test_one_cem_iteration_by_explicit_loops():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    planner = make_planner("cem", A, num_samples=40, num_elites=8, iterations=1, init_std=0.7)
    result = plan(planner, model, latent)
    torch.manual_seed(0)
    actions = (0.7 * torch.randn(B, 40, H, A)).clamp(-1, 1)
    scores = score(model, latent, actions)
    for b in range(B):
        best = sorted(range(40), key=lambda n: -scores[b, n].item())[:8]
        elites = actions[b, best]
        torch.testing.assert_close(result.mean[b], elites.mean(0), rtol=1e-4, atol=1e-5)
        std = elites.std(0, unbiased=False).clamp(0.05, 0.7)
        torch.testing.assert_close(result.std[b], std, rtol=1e-4, atol=1e-5)
    assert torch.equal(result.state["mean"], result.mean)
    torch.testing.assert_close(result.value, score(model, latent, result.mean[:, None])[:, 0])


def test_momentum_keeps_its_share_of_the_old_gaussian():
    model = Ensemble(A)
    latent = random_latent(model, B)
    settings = {"num_samples": 40, "num_elites": 8, "iterations": 1, "min_std": 0.0}
    without = search(model, latent, GaussianRefit(**settings), std=0.7)
    found = search(model, latent, GaussianRefit(**settings, momentum=0.25), std=0.7)
    torch.testing.assert_close(found.mean, 0.75 * without.mean)  # the old mean is zero
    torch.testing.assert_close(found.std, 0.25 * 0.7 + 0.75 * without.std)


def test_candidates_without_a_gaussian_are_refitted_to():
    model = Ensemble(A)
    latent = random_latent(model, B)
    refit = GaussianRefit(num_samples=8, num_elites=8, iterations=1)
    found = search(model, latent, refit, num_samples=8)  # all that takes part came in
    torch.manual_seed(0)
    drawn = torch.randn(B, 8, H, A).clamp(-1, 1)
    torch.testing.assert_close(found.mean, drawn.mean(1))
    torch.testing.assert_close(found.std, drawn.std(1, unbiased=False))


def test_kept_elites_are_never_lost_within_a_call():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    best = None
    for iterations in (1, 2, 3, 4):
        found = search(model, latent, GaussianRefit(16, iterations, 4, keep_elites=0.5), std=2.0)
        assert best is None or (found.scores[:, 0] >= best - 1e-6).all()
        best = found.scores[:, 0]


def test_kept_elites_start_the_next_call_shifted():
    model = LinearQuadratic(A)
    latent = random_latent(model, B)
    optimum = (-model.k * latent["x"]).unsqueeze(1)  # no random sequence comes near it
    elites = optimum.unsqueeze(1).expand(B, 2, H, A) * torch.tensor([9.0, 1.0, 0.3]).view(H, 1)
    refit = GaussianRefit(16, 1, 4, keep_elites=0.5)
    state = {"mean": torch.zeros(B, H, A), "elites": elites, "started": torch.tensor([[1.0], [1.0], [0.0]])}
    found = search(model, latent, refit, state, std=2.0)
    shifted = elites[:, 0, [1, 2, 2]]
    torch.testing.assert_close(found.candidates[:2, 0], shifted[:2])
    fresh = search(model, latent, refit, std=2.0)
    torch.testing.assert_close(found.candidates[2], fresh.candidates[2])
    assert found.carry["elites"].shape == (B, 2, H, A)
    torch.testing.assert_close(found.carry["elites"], found.candidates[:, :2])


def test_decay_draws_fewer_and_fewer_but_twice_the_elites():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    result = plan(make_planner("icem", A, iterations=5, num_samples=40, num_elites=10), model, latent)
    sizes = [40, 32, 26, 20, 20]  # 40 / 1.25ⁱ: 25.6 and 20.5 rounded, 16.4 raised to 20
    # The policy's mode is rolled out and scored as well, to fall back on and to compare with.
    assert result.diagnostics["evaluations"].tolist() == [(H - 1) + H * (sum(sizes) + 1)] * B


def test_the_mean_takes_part_in_the_last_iteration():
    """On a smooth peak the mean of two refits beats all of 64 samples of a wide Gaussian."""
    model = LinearQuadratic(A)
    latent = random_latent(model, B)
    settings = {"num_samples": 64, "iterations": 3, "num_elites": 16, "min_std": 1.0, "max_std": 1.0}
    mean = search(model, latent, GaussianRefit(**settings | {"iterations": 2}), std=1.0).mean
    found = search(model, latent, GaussianRefit(**settings, add_mean=True), std=1.0)
    torch.testing.assert_close(found.candidates[:, 0], mean)


def test_the_best_sequence_of_icem_executes():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    result = plan(make_planner("icem", A), model, latent)
    kept = result.state["elites"]
    assert kept.shape == (B, math.ceil(0.3 * 10), H, A)
    torch.testing.assert_close(result.mean, kept[:, 0])
    torch.testing.assert_close(result.value, score(model, latent, kept)[:, 0], rtol=1e-4, atol=1e-5)


def test_icem_is_cem_with_settings():
    assert issubclass(ICEM, CEM)
    planner = ICEM(A)
    assert (planner.noise_beta, planner.keep_elites, planner.decay) == (2.5, 0.3, 1.25)


# --- gradients on the elites ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [random_tdmpc2, Ensemble, LinearQuadratic])
def test_gradient_steps_never_leave_cem_worse(model):
    model = model(A)
    latent = random_latent(model, B)
    without = plan(make_planner("cem_grad", A, grad_iterations=0), model, latent)
    result = plan(make_planner("cem_grad", A), model, latent)
    assert (result.value >= without.value).all()
    assert (result.value > without.value + 1e-4).any()
    torch.testing.assert_close(result.state["mean"], result.mean)  # the next call starts from what executes
    assert (without.diagnostics["gradient_norm"] == 0).all()
    assert (result.diagnostics["gradient_norm"] > 0).all()


# --- random shooting ------------------------------------------------------------------------------------


def test_random_shooting_takes_the_best_of_uniform_sequences():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    result = plan(make_planner("random_shooting", A, num_samples=50), model, latent)
    torch.manual_seed(0)
    actions = torch.rand(B, 50, H, A) * 2 - 1
    scores = score(model, latent, actions)
    torch.testing.assert_close(result.mean, actions[torch.arange(B), scores.argmax(1)])
    torch.testing.assert_close(result.value, scores.amax(1), rtol=1e-4, atol=1e-5)
    assert set(result.state.keys()) == {"started"}


def test_predictive_sampling_keeps_the_last_plan_in_the_running():
    model = LinearQuadratic(A)
    latent = random_latent(model, B)
    planner = make_planner("random_shooting", A, num_samples=50, predictive=True, std=0.2)
    state = planner.initial_state(B)
    state["mean"], state["started"] = torch.rand(B, H, A) - 0.5, torch.ones(B, 1)
    last = state["mean"][:, [1, 2, 2]]
    result = plan(planner, model, latent, state)
    assert (result.value >= score(model, latent, last[:, None])[:, 0]).all()
    torch.manual_seed(0)
    drawn = (last[:, None] + 0.2 * torch.randn(B, 50, H, A)).clamp(-1, 1)
    drawn[:, 0] = last
    scores = score(model, latent, drawn)
    torch.testing.assert_close(result.mean, drawn[torch.arange(B), scores.argmax(1)])
    torch.testing.assert_close(result.state["mean"], result.mean)
    still = plan(make_planner("random_shooting", A, num_samples=1, predictive=True), model, latent, state)
    torch.testing.assert_close(still.mean, last)
