"""Dream-MPC: step rules, clipping, choice and fallback; our preset and the released behavior."""

import math

import pytest
import torch
from plans import A, B, H, N, Steep, gradient, make, plan, proposals_of, score
from toy_models import Broken, Ensemble, LinearQuadratic, random_latent, random_tdmpc2

from dreammpc.interfaces import Outcome
from dreammpc.planning import SearchState, SelectBest, make_planner
from dreammpc.planning.gradient_ascent import STEP_RULES

MODELS = {
    "tdmpc2": lambda: random_tdmpc2(A),
    "ensemble": lambda: Ensemble(A),
    "lq": lambda: LinearQuadratic(A),
}


# --- the choice -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step_rule", STEP_RULES)
@pytest.mark.parametrize("step_size", [0.1, 50.0])
def test_the_plan_is_never_worse_than_the_policy_by_the_models_own_j(name, step_rule, step_size):
    model = MODELS[name]()
    latent, planner = random_latent(model, B), make(step_rule=step_rule, step_size=step_size, iterations=2)
    result = plan(planner, model, latent)
    with torch.no_grad():
        chosen = score(model, latent, result.mean.unsqueeze(1))[:, 0]
        policy = score(model, latent, proposals_of(model, latent, include_mode=True)).amax(1)
        after = score(model, latent, result.state["candidates"]).amax(1)
    torch.testing.assert_close(result.value, chosen, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chosen, torch.maximum(policy, after), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.diagnostics["objective_policy"], policy, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("iterations", [1, 2])
def test_the_paper_preset_chooses_by_j_from_before_the_last_step(iterations):
    model = Ensemble(A)
    latent = random_latent(model, B)
    options = {"step_size": 1.0, "uncertainty_coef": 0.3, "clip": 1e9}
    result = plan(make("dream_mpc_paper", iterations=iterations, **options), model, latent)
    actions = proposals_of(model, latent, include_mode=False)
    for _ in range(iterations):  # projected only at the end
        before = score(model, latent, actions, coef=0.3, uncertainty="released").detach()
        actions = actions + gradient(model, latent, actions, coef=0.3, uncertainty="released")
    index = before.argmax(1)
    torch.testing.assert_close(
        result.mean, actions.clamp(-1, 1)[torch.arange(B), index], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(result.value, before.amax(1), rtol=1e-4, atol=1e-4)
    assert (
        result.value - score(model, latent, result.mean[:, None], 0.3, "released")[:, 0]
    ).abs().max() > 1e-2


def test_uncertainty_only_reranks_in_the_paper_preset():
    model = Ensemble(A)
    latent = random_latent(model, B)

    def candidates(preset, coef):
        return plan(make(preset, uncertainty_coef=coef), model, latent).state["candidates"]

    torch.testing.assert_close(candidates("dream_mpc_paper", 0.0), candidates("dream_mpc_paper", 3.0))
    assert (candidates("dream_mpc", 0.0) - candidates("dream_mpc", 3.0)).abs().max() > 1e-2


class NaNWhereHigh(LinearQuadratic):
    """Rewards far below zero, NaN where the action is above 0.5: candidates 0 to 4 act with 0, .2, ... .8."""

    def outcome(self, latent, action, next_latent):
        reward, discount = super().outcome(latent, action, next_latent)
        return Outcome(torch.where(action[:, 0] > 0.5, torch.nan, reward - 50), discount)

    def policy(self, latent, noise):
        rank = torch.linspace(0, 0.8, N).repeat(latent.shape[0] // N if latent.shape[0] >= N else 1)
        if latent.shape[0] % N:
            return torch.zeros_like(noise)
        return rank[:, None].expand(-1, A) + 0 * noise


@pytest.mark.parametrize(("preset", "wins"), [("dream_mpc", False), ("dream_mpc_paper", True)])
def test_what_is_not_finite_wins_in_the_paper_preset_and_loses_in_ours(preset, wins):
    model = NaNWhereHigh(A)
    result = plan(make(preset, step_size=0.0), model, random_latent(model, B))
    assert ((result.mean[:, 0, 0] > 0.5) == wins).all()
    assert ((result.value == 0) if wins else (result.value < -100)).all()
    assert (result.diagnostics["fallback"] == 0).all()


@pytest.mark.parametrize("part", ["reward", "latent", "value"])
def test_if_nothing_is_finite_the_policy_acts_and_is_counted(part):
    model = Broken(part, everywhere=True)
    model.center = 0.4
    result = plan(make(), model, random_latent(model, B))
    torch.testing.assert_close(result.action, torch.full((B, A), 0.4))
    assert (result.diagnostics["fallback"] == 1).all()


def test_best_by_hand():
    candidates, policy = torch.arange(6.0).view(1, 3, 1, 2), -torch.ones(1, 1, 1, 2)
    scores = torch.tensor([[1.0, 3.0, -torch.inf]])
    state = SearchState(candidates, policy, scores=scores, policy_scores=torch.tensor([[4.0]]))
    chosen = SelectBest(keep_policy=False)(None, state)  # nothing is left to score, so no context is needed
    assert (chosen.sequence.tolist(), chosen.value.tolist()) == ([[[2.0, 3.0]]], [3.0])
    chosen = SelectBest()(None, state)
    assert (chosen.sequence.tolist(), chosen.value.tolist()) == ([[[-1.0, -1.0]]], [4.0])


def test_the_paper_preset_without_iterations_ranks_by_j():
    model = Ensemble(A)
    latent = random_latent(model, B)
    result = plan(make("dream_mpc_paper", iterations=0), model, latent)
    candidates = result.state["candidates"]
    scores = score(model, latent, candidates, uncertainty="released")
    torch.testing.assert_close(result.mean, candidates[torch.arange(B), scores.argmax(1)])
    torch.testing.assert_close(result.value, scores.amax(1))


@pytest.mark.parametrize("name", ["dream_mpc", "grad_mpc"])
def test_many_action_dimensions_have_two_more_iterations_and_none_if_none_are_asked_for(name):
    assert [make_planner(name, 21, iterations=n).num_iterations for n in (0, 1)] == [0, 3]


def test_without_keep_policy_the_policy_is_out_of_the_running():
    model = LinearQuadratic(A)
    latent = random_latent(model, B)
    result = plan(make(step_size=50.0, keep_policy=False), model, latent)
    candidates = result.state["candidates"]
    policy = score(model, latent, proposals_of(model, latent, include_mode=True)).amax(1)
    torch.testing.assert_close(result.value, score(model, latent, candidates).amax(1))
    torch.testing.assert_close(result.diagnostics["objective_policy"], policy)
    torch.testing.assert_close(result.diagnostics["gain"], result.value - policy)
    assert (result.diagnostics["gain"] < 0).any()  # such a step size overshoots


def test_diagnostics_of_the_objective():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    state = plan(make(), model, latent, seed=1).state
    result = plan(make(reuse=0.5), model, latent, state)
    policy = proposals_of(model, latent, include_mode=True)
    mixed = 0.5 * state["candidates"][:, :, [1, 2, 2]] + 0.5 * policy
    found = result.diagnostics
    torch.testing.assert_close(found["objective_before"], score(model, latent, mixed).amax(1))
    torch.testing.assert_close(found["objective_policy"], score(model, latent, policy).amax(1))
    torch.testing.assert_close(found["objective"], result.value)
    torch.testing.assert_close(found["gain"], found["objective"] - found["objective_policy"])
    norms = gradient(model, latent, mixed).flatten(2).norm(dim=2)
    torch.testing.assert_close(found["gradient_norm"], norms.mean(1), rtol=1e-4, atol=1e-5)


# --- clipping and step rules ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip_over", "expected"), [("candidate", [1, 2, 3, 4, 4000]), ("all", [1, 2, 3, 4, 4000])]
)
def test_clipping_by_hand(clip_over, expected):
    """A candidate's norm is slope·√(H·A) = slope·√6; together √6·√(1 + 4 + 9 + 16 + 4000²)."""
    model = Steep(A)
    result = plan(make(clip_over=clip_over, step_size=1e-2), model, random_latent(model, B))
    moved = result.state["candidates"][:, :, 0, 0] / 1e-2
    if clip_over == "candidate":
        expected = [slope if slope * math.sqrt(6) < 20 else 20 / math.sqrt(6) for slope in expected]
        clipped = 1 / 5
    else:
        factor = 20 / math.sqrt(6 * (30 + 4000**2))
        expected, clipped = [slope * factor for slope in expected], 1
    torch.testing.assert_close(moved, torch.tensor(expected).expand(B, -1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(result.diagnostics["clipped"], torch.full((B,), float(clipped)))


def test_steps_start_from_projected_candidates():
    """The second gradient is that where the first step ended within [-1, 1], not where it led."""
    model, size = LinearQuadratic(A), 1.0
    latent = random_latent(model, B)
    projected = free = proposals_of(model, latent, include_mode=True)
    for _ in range(2):
        projected = (projected + size * gradient(model, latent, projected)).clamp(-1, 1)
        free = free + size * gradient(model, latent, free)
    result = plan(make(step_rule="fixed", step_size=size, clip=1e9, iterations=2), model, latent)
    assert (projected - free.clamp(-1, 1)).abs().max() > 0.1
    torch.testing.assert_close(result.state["candidates"], projected, rtol=1e-4, atol=1e-4)


def test_a_normalized_step_has_the_step_size_as_its_length_per_coordinate():
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    policy = proposals_of(model, latent, include_mode=True)
    result = plan(make(step_rule="normalized", step_size=1e-3), model, latent)
    inside = policy.abs().flatten(2).amax(-1) < 0.99
    moved = (result.state["candidates"] - policy).square().mean((2, 3)).sqrt()
    assert inside.sum() >= 3
    torch.testing.assert_close(moved[inside], torch.full_like(moved[inside], 1e-3), rtol=1e-2, atol=0)
    direction = gradient(model, latent, policy)
    cosine = torch.cosine_similarity(
        (result.state["candidates"] - policy).flatten(2), direction.flatten(2), -1
    )
    assert (cosine[inside] > 0.99).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step_size", [0.1, 5.0, 1000.0])
@pytest.mark.parametrize("step_rule", ["backtracking", "line_search"])
def test_sizes_that_are_tried_never_make_a_candidate_worse(name, step_size, step_rule):
    model = MODELS[name]()
    latent = random_latent(model, B)
    before = score(model, latent, proposals_of(model, latent, include_mode=True))
    for iterations in (1, 2, 3):
        planner = make(step_rule=step_rule, step_size=step_size, iterations=iterations)
        after = score(model, latent, plan(planner, model, latent).state["candidates"])
        assert (after >= before - 1e-4 * before.abs().clamp(min=1)).all()
        before = after


@pytest.mark.parametrize(
    ("name", "step_rule", "step_size"),
    [
        ("lq", "backtracking", 0.6),
        ("lq", "backtracking", 8.0),
        ("ensemble", "backtracking", 8.0),
        ("lq", "line_search", 1.0),
        ("ensemble", "line_search", 2.0),
    ],
)
def test_the_best_of_the_sizes_is_taken(name, step_rule, step_size):
    """Of α, α/2, α/4, α/8 and 0 along the gradient, projected, the best J."""
    model = MODELS[name]()
    latent = random_latent(model, B)
    policy = proposals_of(model, latent, include_mode=True)
    step = gradient(model, latent, policy)
    if step_rule == "line_search":
        step = step / step.square().mean((-2, -1), keepdim=True).sqrt()
    sizes = [step_size, step_size / 2, step_size / 4, step_size / 8, 0.0]
    tried = torch.stack([(policy + size * step).clamp(-1, 1) for size in sizes])
    scores = torch.stack([score(model, latent, actions) for actions in tried])
    assert len(scores.argmax(0).unique()) > 1
    result = plan(make(step_rule=step_rule, step_size=step_size, clip=1e9), model, latent)
    reached = score(model, latent, result.state["candidates"])
    torch.testing.assert_close(reached, scores.amax(0), rtol=1e-4, atol=1e-4)


class Slope(LinearQuadratic):
    """J = x·Σa, whose x stays as it is; actions start at 0."""

    def step(self, latent, action):
        return latent

    def outcome(self, latent, action, next_latent):
        return Outcome(latent["x"][:, 0] * action.sum(-1), torch.ones_like(action[:, 0]))

    def value(self, latent, action):
        return 0 * latent["x"][:, :1]

    def policy(self, latent, noise):
        return 0 * noise


def test_a_line_search_goes_as_far_on_a_flat_j_as_on_a_steep_one():
    model = Slope(A)
    latent = model.latent(torch.tensor([[0.01], [1.0], [100.0]]))
    clipped = 0.1 * 20 / math.sqrt(6)
    for step_rule, expected in (("line_search", [0.1, 0.1, 0.1]), ("backtracking", [0.001, 0.1, clipped])):
        moved = plan(make(step_rule=step_rule, step_size=0.1), model, latent).mean[:, 0, 0]
        torch.testing.assert_close(moved, torch.tensor(expected), rtol=1e-3, atol=0)


class Counted(Ensemble):
    """Counts how often the model is stepped: calls that wait for each other."""

    calls = 0

    def step(self, latent, action):
        self.calls += 1
        return super().step(latent, action)


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize(("step_rule", "batches"), [("backtracking", 2), ("line_search", 2), ("fixed", 1)])
@pytest.mark.parametrize("reuse_strategy", ["index", "none"])
def test_policy_rollouts_are_scored_in_a_batch_that_is_computed_anyway(
    step_rule, batches, iterations, reuse_strategy
):
    model = Counted(A)
    settings = {"step_rule": step_rule, "iterations": iterations, "reuse_strategy": reuse_strategy}
    result = plan(make(**settings), model, random_latent(model, B))
    rescored = H if step_rule == "fixed" else 0
    assert model.calls == (H - 1) + H * batches * iterations + rescored
    tried = iterations * N * H * (5 if batches == 2 else 1)
    apart = 0 if reuse_strategy == "none" else N * H  # there they are the first candidates
    rescored = N * rescored
    assert (result.diagnostics["evaluations"] == N * (H - 1) + tried + rescored + apart).all()


# --- spread and counting --------------------------------------------------------------------------------


@pytest.mark.parametrize("min_std", [0.1, 0.6])
def test_the_std_is_the_candidates_spread_but_at_least_min_std(min_std):
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    result = plan(make(min_std=min_std), model, latent)
    spread = result.state["candidates"].std(1, unbiased=False).clamp(min=min_std)
    torch.testing.assert_close(result.std, spread)


@pytest.mark.parametrize(("action_dim", "iterations"), [(19, 1), (20, 3), (56, 3)])
@pytest.mark.parametrize("preset", ["dream_mpc", "dream_mpc_paper"])
def test_two_more_iterations_from_twenty_actions_on(preset, action_dim, iterations):
    assert make_planner(preset, action_dim).num_iterations == iterations
    model = random_tdmpc2(action_dim)
    result = plan(make_planner(preset, action_dim), model, random_latent(model, 2))
    per_rollout = {"dream_mpc": 5 * iterations + 1, "dream_mpc_paper": iterations}[preset]
    assert result.diagnostics["evaluations"].tolist() == [N * (H - 1) + N * H * per_rollout] * 2


def test_the_papers_numbers():
    planner = make_planner("dream_mpc_paper", 6)
    assert (planner.num_candidates, planner.iterations, planner.horizon) == (5, 1, 3)
    assert (planner.step_size, planner.reuse, planner.clip, planner.uncertainty_coef) == (
        0.1,
        0.1,
        20.0,
        0.01,
    )
    assert (planner.step_rule, planner.clip_over, planner.selection) == ("fixed", "all", "before_last_step")


class Detached(LinearQuadratic):
    def step(self, latent, action):
        return super().step(latent, action.detach())

    def outcome(self, latent, action, next_latent):
        return super().outcome(latent, action.detach(), next_latent)


@pytest.mark.parametrize("name", ["dream_mpc", "grad_mpc", "cem_grad"])
def test_a_model_without_gradients_is_refused(name):
    model = Detached(A)
    with pytest.raises(ValueError, match=r"^gradient planning needs a J that is differentiable") as error:
        plan(make(name), model, random_latent(model, B))
    assert "\n" not in str(error.value)
    assert plan(make("cem"), model, random_latent(model, B)).action.shape == (B, A)


def test_no_gradient_of_the_weights_is_computed():
    """Going back through a linear layer costs one matrix product, where weights cost another."""
    model = random_tdmpc2(A)
    latent = random_latent(model, B)
    with torch.profiler.profile() as profile:
        plan(make(), model, latent)
    calls = {event.key: event.count for event in profile.key_averages()}
    assert all(parameter.requires_grad for parameter in model.reward.parameters())
    # Three layers each: three steps of the dynamics, the rewards, and the policy at the end.
    assert calls["AddmmBackward0"] == calls["aten::mm"] == 3 * 3 + 3 + 3
