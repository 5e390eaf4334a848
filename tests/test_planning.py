"""What holds for every planner in every model, and of their settings."""

import pytest
import torch
from plans import plan
from tensordict import TensorDict
from toy_models import Broken, Ensemble, LinearQuadratic, random_latent, random_tdmpc2

from dreammpc.interfaces import Outcome, Planner
from dreammpc.planning import CEM, MPPI, PLANNERS, DreamMPC, GradMPC, Imagination, make_planner

A = 2
MODELS = {
    "tdmpc2": lambda: random_tdmpc2(A),
    "tdmpc2-episodic": lambda: random_tdmpc2(A, seed=4, episodic=True),
    "lq": lambda: LinearQuadratic(A),
    "ensemble": lambda: Ensemble(A),
}
DIAGNOSTICS = {
    *("objective", "objective_before", "objective_policy", "gain", "gradient_norm", "clipped"),
    *("evaluations", "fallback", "stopped_early"),
}
EVERY_PAIR = pytest.mark.parametrize(
    ("name", "model"), [(name, model) for name in sorted(PLANNERS) for model in MODELS]
)


def assert_same(one: TensorDict, other: TensorDict) -> None:
    assert set(one.keys(True, True)) == set(other.keys(True, True))
    for key in one.keys(True, True):
        assert torch.equal(one[key], other[key]), key


@EVERY_PAIR
@pytest.mark.parametrize("size", [1, 3])
def test_shapes_and_range(name, model, size):
    model, planner = MODELS[model](), make_planner(name, A)
    assert isinstance(planner, Planner)
    state = planner.initial_state(size)
    result = plan(planner, model, random_latent(model, size), state)
    assert result.action.shape == (size, A)
    assert result.mean.shape == result.std.shape
    assert (result.mean.shape[0], result.mean.shape[2]) == (size, A)
    assert result.value.shape == (size,)
    assert result.action.abs().max() <= 1
    assert result.mean.abs().max() <= 1
    assert (result.std >= 0).all()
    assert result.value.isfinite().all()
    assert result.state.shape == result.diagnostics.shape == (size,)
    assert {key: v.shape for key, v in result.state.items()} == {key: v.shape for key, v in state.items()}
    diagnostics = result.diagnostics
    assert set(diagnostics.keys()) == DIAGNOSTICS
    unknown = {"objective_policy", "gain"} if name == "dream_mpc_paper" else set()
    for key, found in diagnostics.items():
        assert found.shape == (size,)
        assert (found.isnan() if key in unknown else found.isfinite()).all()
    assert (diagnostics["fallback"] == 0).all()
    assert (diagnostics["stopped_early"] == 0).all()
    assert (diagnostics["objective"] >= result.value - 1e-5).all()


@EVERY_PAIR
def test_greedy_planning_executes_the_plan(name, model):
    model, planner = MODELS[model](), make_planner(name, A)
    result = plan(planner, model, random_latent(model, 3))
    torch.testing.assert_close(result.action, result.mean[:, 0])


@EVERY_PAIR
def test_rows_are_independent(name, model):
    model, planner = MODELS[model](), make_planner(name, A)
    latent, other = random_latent(model, 3), random_latent(model, 3, seed=9)
    started = plan(planner, model, latent, seed=5).state
    changed, changed_state = latent.clone(), started.clone()
    changed[1] = other[1]
    changed_state[1] = planner.initial_state(1)[0]
    one = plan(planner, model, latent, started)
    two = plan(planner, model, changed, changed_state)
    for field in ("action", "mean", "std", "value"):
        ours, theirs = getattr(one, field), getattr(two, field)
        torch.testing.assert_close(ours[[0, 2]], theirs[[0, 2]], rtol=1e-5, atol=1e-5)
    assert (one.value[1] - two.value[1]).abs() > 1e-4


@EVERY_PAIR
def test_nothing_is_mutated(name, model):
    model, planner = MODELS[model](), make_planner(name, A)
    latent = random_latent(model, 2)
    state = plan(planner, model, latent, seed=5).state
    copies = latent.clone(), state.clone()
    weights = [p.clone() for p in model.parameters()] if hasattr(model, "parameters") else []
    result = plan(planner, model, latent, state)
    assert_same(latent, copies[0])
    assert_same(state, copies[1])
    if weights:
        assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
        assert all(p.grad is None for p in model.parameters())
    again = plan(planner, model, latent, copies[1])  # state in, state out: the same call, the same plan
    assert torch.equal(result.action, again.action)
    assert_same(result.state, again.state)


@EVERY_PAIR
def test_a_fresh_state_is_no_warm_start(name, model):
    model, planner = MODELS[model](), make_planner(name, A)
    latent = random_latent(model, 2)
    state = planner.initial_state(2)
    assert all((value == 0).all() for value in state.values())
    first = plan(planner, model, latent, state)
    assert (first.state["started"] == 1).all()
    # One row reset by mask plans like a first step, the other does not lose its warm start.
    mixed = torch.where(torch.tensor([True, False]), state, first.state)
    second, masked = plan(planner, model, latent, first.state), plan(planner, model, latent, mixed)
    torch.testing.assert_close(masked.mean[0], first.mean[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(masked.mean[1], second.mean[1], rtol=1e-5, atol=1e-5)


@EVERY_PAIR
def test_gradient_modes_agree(name, model):
    model, planner = MODELS[model](), make_planner(name, A)
    latent, results = random_latent(model, 2), []
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            torch.manual_seed(0)
            result = planner.plan(Imagination(model), latent.clone(), planner.initial_state(2))
            results.append(result.action.detach().clone())
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dream_mpc", {"step_rule": "backtracking", "optimizer": "adam", "reuse_strategy": "matched"}),
        ("dream_mpc", {"reuse_strategy": "none", "value_reduction": "mean-std", "max_ms": 0.0}),
    ],
)
def test_planning_is_one_graph(name, settings):
    """With settings that the contract's tests do not compile."""
    torch.compiler.reset()
    model, planner = MODELS["tdmpc2-episodic"](), make_planner(name, A, **settings)
    latent = random_latent(model, 2)

    def call(latent, state):
        result = planner.plan(Imagination(model), latent, state)
        return result.action, result.value

    compiled = torch.compile(call, backend="eager", fullgraph=True)
    unlimited = {key: value for key, value in settings.items() if key != "max_ms"}  # no effect when compiled
    expected = plan(make_planner(name, A, **unlimited), model, latent)
    torch.manual_seed(0)
    with torch.no_grad():
        action, value = compiled(latent, planner.initial_state(2))
    torch.testing.assert_close(action, expected.action, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(value, expected.value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(PLANNERS))
@pytest.mark.parametrize("part", ["reward", "latent", "value", "policy"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_nan_never_reaches_the_action(name, part, everywhere):
    model, planner = Broken(part, everywhere), make_planner(name, A)
    latent = random_latent(model, 3)
    first = plan(planner, model, latent)
    second = plan(planner, model, latent, first.state, seed=1)
    for result in (first, second):
        assert result.action.isfinite().all()
        assert result.action.abs().max() <= 1
        assert all(value.isfinite().all() for value in result.state.values())
        unknown = {"objective_policy", "gain"} if name == "dream_mpc_paper" else set()
        assert all(v.isfinite().all() for key, v in result.diagnostics.items() if key not in unknown)
        assert result.value.isfinite().all()
    healed = plan(planner, LinearQuadratic(A), latent, second.state, seed=2)  # nothing bad is carried on
    assert healed.mean.isfinite().all()
    assert healed.value.isfinite().all()


@pytest.mark.parametrize("name", ["dream_mpc", "dream_mpc_paper"])
def test_a_gradient_that_is_not_finite_leaves_the_candidates_where_they_are(name):
    class NoGradient(LinearQuadratic):
        def outcome(self, latent, action, next_latent):
            reward, discount = super().outcome(latent, action, next_latent)
            return Outcome(reward + (action - action.detach()).square().sum(-1).sqrt(), discount)  # + 0

    model = NoGradient(A)
    latent, still = random_latent(model, 3), make_planner(name, A, step_size=0.0)
    moved = plan(make_planner(name, A), model, latent)
    expected = plan(still, LinearQuadratic(A), latent).state["candidates"]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(moved.state["candidates"], expected)


def test_the_fallback_is_the_policy_and_not_the_warm_start():
    model = Broken("reward", everywhere=True)
    model.center = 0.4
    planner = make_planner("dream_mpc", A, reuse=0.5)
    state = planner.initial_state(3).apply(torch.ones_like)
    result = plan(planner, model, random_latent(model, 3), state)
    torch.testing.assert_close(result.action, torch.full((3, A), 0.4))
    torch.testing.assert_close(result.mean, torch.full((3, 3, A), 0.4))


def test_the_policy_planner_is_the_policy():
    model = random_tdmpc2(A)
    latent = random_latent(model, 4)
    result = plan(make_planner("policy", A), model, latent)
    with torch.no_grad():
        mode, one = model.policy(latent, torch.zeros(4, A)), model.policy(latent, torch.ones(4, A))
    torch.testing.assert_close(result.action, mode)
    torch.testing.assert_close(result.std[:, 0], (one - mode).abs())


# --- settings -------------------------------------------------------------------------------------------

GRADIENT_MISTAKES = {
    **{"horizon": 0, "num_candidates": 0, "iterations": -1, "step_size": -0.1, "clip": -1.0, "reuse": -0.1},
    **{
        "min_std": -0.1,
        "step_rule": "newton",
        "clip_over": "batch",
        "selection": "worst",
        "non_finite": "win",
    },
    **{"uncertainty": "var", "value_reduction": "max"},
}
CEM_MISTAKES = {
    **{
        "noise_beta": -1.0,
        "keep_elites": 1.5,
        "decay": 0.9,
        "momentum": 1.1,
        "num_elites": 0,
        "iterations": 0,
    },
    **{"init_std": -1.0, "min_std": -1.0, "num_samples": 5, "num_policy": -1, "horizon": 0},
}
MPPI_MISTAKES = {
    **{"horizon": 0, "num_samples": 10, "num_policy": -1, "iterations": 0, "num_elites": 0, "min_std": -1.0},
    **{"max_std": 0.01, "temperature": -1.0, "value_reduction": "max"},
}


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        *[(name, *pair) for name in ("dream_mpc", "dream_mpc_paper") for pair in GRADIENT_MISTAKES.items()],
        *[("mppi", *pair) for pair in MPPI_MISTAKES.items()],
        *[("icem", *pair) for pair in CEM_MISTAKES.items()],
        *[("cem_grad", "grad_iterations", -1), ("cem_grad", "step_size", -1.0), ("cem", "num_samples", 63)],
        *[
            ("grad_mpc", "init_std", -1.0),
            ("grad_mpc", "num_candidates", 0),
            ("random_shooting", "std", -0.1),
        ],
        *[("random_shooting", "num_samples", 0), ("dream_mpc", "reuse_strategy", "worst")],
        *[("dream_mpc", "optimizer", "lion"), ("dream_mpc", "max_ms", -1.0), ("mppi", "max_ms", -1.0)],
        *[("dream_mpc", "value_std_weight", -1.0), ("dream_mpc", "uncertainty_coef", float("nan"))],
        *[("dream_mpc", "reuse", 1.5), ("dream_mpc", "step_size", float("nan"))],
        *[("dream_mpc", "step_size", float("inf")), ("mppi", "uncertainty_coef", float("inf"))],
    ],
)
def test_a_bad_value_names_its_setting(name, setting, value):
    with pytest.raises(ValueError, match=rf"^planner '{name}': {setting} must be .*got .*$") as error:
        make_planner(name, A, **{setting: value})
    assert "\n" not in str(error.value)


def test_what_bounds_something_may_be_infinite():
    planner = make_planner("dream_mpc", A, clip=torch.inf, max_ms=torch.inf)
    assert planner.clip == planner.max_ms == torch.inf


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_a_bad_action_dim_is_refused(name):
    with pytest.raises(ValueError, match=rf"^planner '{name}': action_dim must be at least 1, got 0$"):
        make_planner(name, 0)


@pytest.mark.parametrize("cls", [DreamMPC, MPPI, GradMPC, CEM])
def test_a_count_that_is_no_integer_is_refused(cls):
    with pytest.raises(ValueError, match=r"^horizon must be of type int, got 2\.5 \(float\)$"):
        cls(A, horizon=2.5)
    with pytest.raises(ValueError, match=r"^iterations must be of type int, got True \(bool\)$"):
        cls(A, iterations=True)


def test_a_setting_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"^reuse must be of type float, got 'much' \(str\)$"):
        DreamMPC(A, reuse="much")


def test_another_action_dimension_than_the_models_is_refused():
    model = LinearQuadratic(A)
    planner = make_planner("dream_mpc", A + 1)
    with pytest.raises(ValueError, match=r"^the planner has action_dim 3, the model 2$"):
        plan(planner, model, random_latent(model, 1))


@pytest.mark.parametrize("name", PLANNERS)
def test_no_graph_is_carried_from_call_to_call(name):
    model, planner = random_tdmpc2(2), make_planner(name, 2)
    state = planner.initial_state(1)
    for _ in range(2):
        state = planner.plan(Imagination(model), random_latent(model, 1), state).state
    assert not any(value.requires_grad for value in state.values())
