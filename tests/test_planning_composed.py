"""Planners as compositions: hybrids in Python and YAML, stages that do not fit, the time budget."""

from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from plans import plan
from toy_models import Ensemble, LinearQuadratic, random_latent

from dreammpc.configuration.planners import build_planner
from dreammpc.planning import (
    Composed,
    GaussianProposal,
    GaussianRefit,
    GradientAscent,
    Objective,
    PolicyRollouts,
    SelectBest,
    make_planner,
)

A = 2
HYBRID = """
_target_: dreammpc.planning.Composed
action_dim: 2
propose: {_target_: dreammpc.planning.PolicyRollouts, num_candidates: 6, reuse: 0.5}
refine:
  - {_target_: dreammpc.planning.GaussianRefit, num_samples: 32, iterations: 2, num_elites: 4}
  - {_target_: dreammpc.planning.GradientAscent, iterations: 2, step_rule: backtracking}
select: {_target_: dreammpc.planning.SelectBest}
objective: {_target_: dreammpc.planning.Objective, uncertainty_coef: 0.1}
"""


def hybrid() -> Composed:
    return Composed(
        A,
        propose=PolicyRollouts(num_candidates=6, reuse=0.5),
        refine=(
            GaussianRefit(num_samples=32, iterations=2, num_elites=4),
            GradientAscent(2, step_rule="backtracking"),
        ),
        objective=Objective(uncertainty_coef=0.1),
    )


def test_a_hybrid_in_a_few_lines():
    """Policy rollouts, refitted, then climbing: each stage of it never makes the best worse."""
    model, planner = Ensemble(A), hybrid()
    latent = random_latent(model, 3)
    first = plan(planner, model, latent)
    second = plan(planner, model, latent, first.state)
    for result in (first, second):
        found = result.diagnostics
        assert (found["objective"] >= found["objective_before"]).all()
        assert (found["gain"] > 0).all()
        # 6 rollouts; two populations of 32 and, with the first, the 6 rollouts as they came once they differ
        # from the candidates; gradients and four trial steps of 4 elites, twice.
        assert found["evaluations"].tolist() == [6 * 2 + 3 * (2 * 32 + 6 + 2 * 5 * 4)] * 3
    assert first.state["candidates"].shape == (3, 4, 3, A)  # the elites, which six rollouts take in turns


@pytest.mark.parametrize(
    "make",
    [
        lambda settings: instantiate(settings, _convert_="all"),
        lambda settings: build_planner(without(settings), A),
    ],
)
def test_the_same_hybrid_from_yaml(make):
    planner = make(OmegaConf.to_container(OmegaConf.create(HYBRID)))
    assert planner == hybrid()
    assert hash(planner) == hash(hybrid())


def without(settings: dict) -> dict:
    return {key: value for key, value in settings.items() if key != "action_dim"}


def test_stages_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"^no candidates to choose from: the proposal must draw some"):
        Composed(A, propose=GaussianProposal())
    with pytest.raises(ValueError, match=r"^candidates to ascend from must be at least 1, got 0$"):
        Composed(A, propose=GaussianProposal(), refine=(GradientAscent(),))
    with pytest.raises(ValueError, match=r"^num_samples must be at least 100, got 64$"):
        Composed(A, propose=GaussianProposal(num_samples=100), refine=(GaussianRefit(num_samples=64),))
    with pytest.raises(ValueError, match=r"^two stages want to carry 'adam_steps'; only one"):
        Composed(A, propose=PolicyRollouts(), refine=(GradientAscent(optimizer="adam"),) * 2)


# --- the time budget ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "least"), [("dream_mpc", 0), ("grad_mpc", 0), ("mppi", 1), ("icem", 1)])
def test_a_time_budget_ends_the_iterations_and_is_counted(name, least):
    """No time at all: gradient planners choose among what was proposed, sampling planners refit once."""
    model = LinearQuadratic(A)
    latent = random_latent(model, 3)
    hurried = plan(make_planner(name, A, max_ms=0.0, iterations=4), model, latent)
    assert (hurried.diagnostics["stopped_early"] == 1).all()
    expected = plan(make_planner(name, A, iterations=max(least, 1)), model, latent)
    if least:  # the only difference: iCEM adds the mean to the last iteration that was planned
        assert hurried.diagnostics["evaluations"][0] == expected.diagnostics["evaluations"][0]
    else:
        assert hurried.diagnostics["evaluations"][0] < expected.diagnostics["evaluations"][0]
    assert (hurried.diagnostics["gain"] >= 0).all() or name == "grad_mpc"
    assert hurried.value.isfinite().all()
    unhurried = plan(make_planner(name, A, max_ms=1e6, iterations=4), model, latent)
    assert (unhurried.diagnostics["stopped_early"] == 0).all()
    torch.testing.assert_close(unhurried.mean, plan(make_planner(name, A, iterations=4), model, latent).mean)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ({"propose": "gaussian"}, "propose takes PolicyRollouts() or the like, got 'gaussian'"),
        ({"propose": GaussianRefit()}, "propose takes PolicyRollouts() or the like, got GaussianRefit("),
        (
            {"propose": PolicyRollouts(), "refine": GradientAscent()},
            "refine must be a list of refinements, got",
        ),
        (
            {"propose": PolicyRollouts(), "refine": [SelectBest()]},
            "refine takes GaussianRefit() or GradientAscent() or the like",
        ),
        (
            {"propose": PolicyRollouts(), "select": SelectBest},
            "select takes SelectBest() or the like, got <class",
        ),
        (
            {"propose": PolicyRollouts(), "select": GradientAscent()},
            "select takes SelectBest() or the like, got GradientAscent(",
        ),
    ],
)
def test_stages_in_the_wrong_place_are_refused(stages, words):
    with pytest.raises(ValueError) as error:
        Composed(2, **stages)
    assert str(error.value).startswith(words)


class CopyingRollouts(PolicyRollouts):
    """Hands its candidates on as a copy, as a proposal of a user's own may."""

    def __call__(self, context):
        state = super().__call__(context)
        return replace(state, candidates=state.candidates.clone())


@pytest.mark.parametrize(
    "refine", [(), (GradientAscent(),), (GaussianRefit(num_samples=16, num_elites=4, iterations=1),)]
)
def test_a_proposal_that_returns_a_copy_is_not_scored_twice(refine):
    model = Ensemble(A)
    latent, plans = random_latent(model, 2), []
    for propose in (PolicyRollouts, CopyingRollouts):
        plans.append(plan(Composed(A, propose(reuse_strategy="none"), refine), model, latent))
    one, other = plans
    assert torch.equal(one.diagnostics["evaluations"], other.diagnostics["evaluations"])
    assert torch.equal(one.action, other.action)


def test_policy_rollouts_among_sampled_candidates_are_scored_once():
    model = Ensemble(A)
    propose = GaussianProposal(num_samples=6, num_policy=4, warm_start=False)
    result = plan(Composed(A, propose), model, random_latent(model, 2))
    assert result.diagnostics["evaluations"].tolist() == [4 * 2 + 3 * (4 + 6)] * 2
    assert (result.diagnostics["objective"] >= result.diagnostics["objective_policy"]).all()
