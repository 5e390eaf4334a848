"""Dream-MPC's warm start: what is mixed with what, what is carried on, and Adam's moments."""

import pytest
import torch
from plans import A, B, H, N, Steep, gradient, make, plan, proposals_of, score
from toy_models import random_latent, random_tdmpc2


@pytest.mark.parametrize("reuse", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("include_mode", [True, False])
def test_warm_start_mixes_index_by_index(reuse, include_mode):
    model = random_tdmpc2(A)
    latent, planner = random_latent(model, B), make(iterations=0, reuse=reuse, include_mode=include_mode)
    previous = torch.rand(B, N, H, A) * 2 - 1
    state = planner.initial_state(B)
    state["candidates"], state["started"] = previous, torch.tensor([[1.0], [0.0], [1.0]])
    policy = proposals_of(model, latent, include_mode)
    expected = policy.clone()
    for b in (0, 2):
        for n in range(N):
            for t in range(H):
                expected[b, n, t] = reuse * previous[b, n, min(t + 1, H - 1)] + (1 - reuse) * policy[b, n, t]
    torch.testing.assert_close(
        plan(planner, model, latent, state).state["candidates"], expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("preset", ["dream_mpc", "dream_mpc_paper"])
def test_the_carry_holds_the_candidates_after_optimization(preset):
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    paper = preset == "dream_mpc_paper"
    policy = proposals_of(model, latent, include_mode=not paper)
    step = gradient(model, latent, policy, uncertainty="released" if paper else "std")
    expected = (policy + 0.1 * step).clamp(-1, 1)
    torch.testing.assert_close(
        plan(make(preset, clip=1e9), model, latent).state["candidates"], expected, rtol=1e-4, atol=1e-5
    )


def started(planner, **values):
    state = planner.initial_state(B)
    state["started"] = torch.ones(B, 1)
    for name, value in values.items():
        assert state[name].shape == value.shape
        state[name] = value
    return state


def test_warm_start_from_the_executed_sequence():
    model = random_tdmpc2(A)
    latent, planner = random_latent(model, B), make(reuse=0.4, reuse_strategy="best")
    first = plan(planner, model, latent)
    torch.testing.assert_close(first.state["candidates"], first.mean.unsqueeze(1))
    result = plan(planner, model, latent, first.state)
    policy = proposals_of(model, latent, include_mode=True)
    mixed = 0.4 * first.mean[:, None, [1, 2, 2]] + 0.6 * policy
    before = score(model, latent, mixed).amax(1)
    torch.testing.assert_close(result.diagnostics["objective_before"], before)


def test_warm_start_from_the_nearest():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    planner = make(iterations=0, reuse=0.4, reuse_strategy="matched")
    policy = proposals_of(model, latent, include_mode=True)
    order = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(b)) for b in range(B)])
    previous = policy[torch.arange(B)[:, None], order].roll(1, 2)  # shifted, all but the last action agree
    result = plan(planner, model, latent, started(planner, candidates=previous))
    shifted = previous[:, :, [1, 2, 2]]
    for b in range(B):
        for n in range(N):
            nearest = min(range(N), key=lambda m: (shifted[b, m] - policy[b, n]).square().sum().item())
            expected = 0.4 * shifted[b, nearest] + 0.6 * policy[b, n]
            torch.testing.assert_close(result.state["candidates"][b, n], expected, rtol=1e-4, atol=1e-5)


def test_no_warm_start():
    """Nothing is carried; candidates are policy rollouts, so the gradient's J is the policy's as well."""
    model = random_tdmpc2(A)
    latent, planner = random_latent(model, B), make(reuse_strategy="none")
    result = plan(planner, model, latent)
    assert set(result.state.keys()) == {"started"}
    expected = plan(make(), model, latent)
    torch.testing.assert_close(result.mean, expected.mean)
    torch.testing.assert_close(
        result.diagnostics["objective_policy"], expected.diagnostics["objective_policy"]
    )
    assert result.diagnostics["evaluations"].tolist() == [N * (H - 1) + 2 * N * H] * B


# --- Adam -----------------------------------------------------------------------------------------------


def adam(gradients, first, second, steps, alpha):
    """Where Adam's ascent goes from 0, and its moments; Kingma & Ba 2015, Algorithm 1."""
    moved = torch.zeros_like(first)
    for each in gradients:
        steps = steps + 1
        first, second = 0.9 * first + 0.1 * each, 0.999 * second + 0.001 * each**2
        power = steps[..., None, None]
        moved = moved + alpha * (first / (1 - 0.9**power)) / ((second / (1 - 0.999**power)).sqrt() + 1e-8)
    return moved, first, second, steps


def test_adam_by_hand_with_moments_from_the_last_call():
    """Constant gradients: `slopes[n]` in every coordinate."""
    model = Steep(A)
    latent, alpha = random_latent(model, B), 1e-3
    planner = make(optimizer="adam", iterations=2, step_size=alpha, clip=1e9, reuse=0.0)
    slopes = model.slopes[None, :, None, None].expand(B, N, H, A)
    zeros = torch.zeros_like(slopes)
    expected = adam([slopes, slopes], zeros, zeros, torch.zeros(B, N), alpha)
    first = plan(planner, model, latent)
    torch.testing.assert_close(first.state["candidates"], expected[0])
    torch.testing.assert_close(
        first.state["candidates"], torch.full_like(zeros, 2 * alpha)
    )  # whatever the slope
    for name, value in zip(("moment_1", "moment_2", "adam_steps"), expected[1:], strict=True):
        torch.testing.assert_close(first.state[name], value)

    state = first.state.clone()
    state["moment_1"] = torch.randn(B, N, H, A, generator=torch.Generator().manual_seed(3))
    shifted = [state[name][:, :, [1, 2, 2]] for name in ("moment_1", "moment_2")]
    expected = adam([slopes, slopes], *shifted, state["adam_steps"], alpha)
    second = plan(planner, model, latent, state)
    torch.testing.assert_close(second.state["candidates"], expected[0])
    assert second.state["adam_steps"].tolist() == [[4.0] * N] * B


def test_adams_moments_are_reset_by_mask_and_follow_the_match():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    planner = make(optimizer="adam", step_size=0.01)
    first, fresh = plan(planner, model, latent), planner.initial_state(B)
    mask = torch.tensor([True, False, False])
    masked = plan(planner, model, latent, torch.where(mask, fresh, first.state))
    assert masked.state["adam_steps"][:, 0].tolist() == [1, 2, 2]
    torch.testing.assert_close(masked.state["moment_1"][0], first.state["moment_1"][0])

    planner = make(optimizer="adam", step_size=0.0, reuse_strategy="matched")
    policy = proposals_of(model, latent, include_mode=True)
    previous = policy[:, [3, 1, 4, 0, 2]].roll(1, 2)
    steps = torch.arange(float(N)).expand(B, N)
    state = started(planner, candidates=previous, adam_steps=steps)
    followed = plan(planner, model, latent, state).state["adam_steps"]
    nearest = torch.cdist(policy.flatten(2), previous[:, :, [1, 2, 2]].flatten(2)).argmin(2)
    assert len(nearest.unique()) >= 3
    assert torch.equal(followed, nearest + 1.0)
