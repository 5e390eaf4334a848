"""How far gradient steps may go: within the policy's range, and as far as the model was right lately."""

import pytest
import torch
from plans import A, B, H, N, make, plan, proposals_of
from tensordict import TensorDict
from toy_models import LinearQuadratic, random_latent, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.planning import Composed, GradientAscent, Imagination, PolicyRollouts, make_planner, trust
from dreammpc.planning.contract import check_planner
from dreammpc.planning.gradient_ascent import STEP_RULES
from dreammpc.planning.trust import DECAY, length


class Moved(LinearQuadratic):
    """A world that moves `share` of the way that the model says, from x = 1 on, as its own observation."""

    obs_keys = ("observation",)

    def __init__(self, share: float):
        super().__init__(A)
        self.share = share

    def initial_belief(self, batch_size, device=None):
        return self.latent(torch.zeros(batch_size, A, device=device))

    def observe(self, obs, prev_action, belief):
        return self.latent(obs["observation"])

    def real(self, x, action):
        return x + self.share * (self.step(self.latent(x), action)["x"] - x)


# --- within the policy's range --------------------------------------------------------------------------


@pytest.mark.parametrize("step_rule", STEP_RULES)
def test_candidates_stay_within_the_range_of_the_policy_rollouts(step_rule):
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    policy = proposals_of(model, latent, include_mode=True)
    low, high = policy.amin(1, keepdim=True), policy.amax(1, keepdim=True)
    results = {}
    for within in (False, True):
        planner = make(step_rule=step_rule, step_size=50.0, iterations=2, within_policy=within)
        results[within] = plan(planner, model, latent).state["candidates"]
    outside = {key: ((value < low) | (value > high)).any() for key, value in results.items()}
    assert outside[False] and not outside[True]
    at_edge, before = (((x == low) | (x == high)).float().mean() for x in (results[True], policy))
    assert before == pytest.approx(2 / N) and at_edge > before + 0.2  # they climb until there


def test_a_policy_without_noise_leaves_nothing_to_climb():
    model = LinearQuadratic(A, mode=0.25, spread=0.0)
    result = plan(make(step_size=1.0, within_policy=True), model, random_latent(model, B))
    torch.testing.assert_close(result.mean, torch.full((B, H, A), 0.25))


# --- as far as the model was right ----------------------------------------------------------------------


def drive(model, steps, **settings):
    """Plans of an agent in `Moved`, which starts at x = 1, and the last carry."""
    agent = Agent(model, make("dream_mpc", measured_trust=True, **settings))
    x, carry, plans = torch.ones(B, A), agent.initial_carry(B), []
    for t in range(steps):
        obs = TensorDict({"observation": x}, [B])
        found, carry = agent.step(obs, carry, torch.full((B, 1), t == 0))
        plans.append(found)
        x = model.real(x, found.action)
    return plans, carry


def test_trust_is_one_less_the_share_that_was_wrong():
    """A world that moves s of what the model says is (1 - s) / s of its own way from the prediction."""
    for share, expected in ((1.0, 1.0), (0.8, 0.75), (0.5, 0.0), (0.25, 0.0)):
        plans, carry = drive(Moved(share), 4)
        told = torch.stack([each.diagnostics["trust"] for each in plans])
        torch.testing.assert_close(told[0], torch.ones(B))
        torch.testing.assert_close(told[1:], torch.full((3, B), expected), rtol=1e-4, atol=1e-4)
        assert carry["plan"]["moved"].shape == (B, 1)


def test_what_should_have_moved_and_did_not_is_not_trusted():
    sums = {"predicted_wrong": torch.tensor([[0.0], [0.3]]), "moved": torch.zeros(2, 1)}
    assert trust.trust(sums).tolist() == [1.0, 0.0]


def test_a_model_says_how_far_apart_its_latents_are():
    """With a `goal_distance` what a latent has besides, such as a counter of steps, is left out."""
    model, bare = Moved(1.0), {"x": torch.zeros(B, A)}
    counted = {"step": model.step}

    def step(latent, action):
        moved = counted["step"](latent.select("x"), action)
        return moved.set("count", latent["count"] + 1)

    model.step, now = step, TensorDict({**bare, "count": torch.zeros(B, 1)}, [B])
    action = torch.full((B, A), 0.5)
    seen = step(now, action).set("count", torch.zeros(B, 1))
    state = TensorDict(
        {name: torch.zeros(B, 1) for name in trust.SHAPES} | {"started": torch.ones(B, 1)}, [B]
    )
    assert (trust.trust(trust.measured(Imagination(model, action, now), seen, state)) < 1).all()
    model.goal_distance = lambda one, other: (one["x"] - other["x"]).square().sum(-1)
    assert (trust.trust(trust.measured(Imagination(model, action, now), seen, state)) == 1).all()


def test_what_lies_back_counts_less():
    model = Moved(1.0)
    planner = make(measured_trust=True)
    state = planner.initial_state(1).update(
        {"started": torch.ones(1, 1), "predicted_wrong": torch.ones(1, 1)}
    )
    state["moved"] = torch.full((1, 1), 2.0)
    last, action = model.latent(torch.ones(1, A)), torch.zeros(1, A)
    now = model.step(last, action)
    after = planner.plan(Imagination(model, action, last), now, state).state
    moved = (now["x"] - last["x"]).norm(dim=1, keepdim=True)
    torch.testing.assert_close(after["predicted_wrong"], torch.full((1, 1), DECAY))
    torch.testing.assert_close(after["moved"], 2 * DECAY + moved)


def test_a_step_is_as_long_as_trust_says():
    model = Moved(1.0)
    latent, settings = random_latent(model, B), {"step_rule": "fixed", "step_size": 0.1}
    state = make(measured_trust=True).initial_state(B)
    state.update({"started": torch.ones(B, 1), "moved": torch.ones(B, 1)})
    state["predicted_wrong"] = torch.tensor([[0.0], [0.6], [2.0]])
    found = plan(make(measured_trust=True, reuse=0.0, **settings), model, latent, state)
    assert found.diagnostics["trust"].tolist() == pytest.approx([1.0, 0.4, 0.0])
    for row, size in enumerate((0.1, 0.04, 0.0)):
        plain = plan(make(reuse=0.0, **{**settings, "step_size": size}), model, latent)
        moved = found.state["candidates"][row]
        torch.testing.assert_close(moved, plain.state["candidates"][row], rtol=1e-5, atol=1e-6)


def test_without_the_last_latent_nothing_is_measured():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    planner, plain = make(measured_trust=True), make()
    state, other = planner.initial_state(B), plain.initial_state(B)
    for _ in range(3):
        found, expected = plan(planner, model, latent, state), plan(plain, model, latent, other)
        torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=0)
        state, other = found.state, expected.state
    assert (found.diagnostics["trust"] == 1).all()


def test_it_costs_one_model_step_and_a_followed_plan_measures_too():
    plain = plan(make(), Moved(1.0), random_latent(Moved(1.0), B)).diagnostics["evaluations"][0].item()
    unmeasured = plan(make(measured_trust=True), Moved(1.0), random_latent(Moved(1.0), B))
    assert unmeasured.diagnostics["evaluations"][0] == plain
    plans, _ = drive(Moved(0.8), 4, replan_every=2)
    assert [each.diagnostics["evaluations"][0].item() for each in plans] == [plain + 1, H + 1] * 2
    told = [each.diagnostics["trust"].mean().item() for each in plans]
    assert told == pytest.approx([1.0, 0.75, 0.75, 0.75], rel=1e-4)


def test_stages_of_ones_own_take_both():
    planner = Composed(
        A, PolicyRollouts(4), [GradientAscent(step_size=5.0, within_policy=True)], measured_trust=True
    )
    found = plan(planner, Moved(1.0), random_latent(Moved(1.0), B))
    assert found.state.keys() >= {"moved", "predicted_wrong"} and found.action.shape == (B, A)
    with pytest.raises(ValueError, match="measured_trust"):
        make_planner("dream_mpc", A, measured_trust=3)


def test_check_planner_lets_it_measure(monkeypatch):
    measured = []
    monkeypatch.setattr(trust, "length", lambda *latents: measured.append(1) or length(*latents))
    check_planner(make(measured_trust=True), LinearQuadratic(A), random_latent(LinearQuadratic(A), B))
    assert measured
