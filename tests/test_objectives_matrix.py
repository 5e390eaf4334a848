"""Every planner with every objective term in every built-in model: the contract, in seconds."""

import dataclasses

import pytest
import torch
from plans import A, small
from plans import plan as make_plan
from tensordict import TensorDict
from toy_models import random_bmpc, random_latent, random_tdmpc2

from dreammpc import models
from dreammpc.models import EnsembleModel, SimulatorModel
from dreammpc.planning import PLANNERS, TERMS, Constraint, Imagination
from dreammpc.planning.contract import graphable
from dreammpc.planning.contract.common import Poisoned

STAGED = sorted(set(PLANNERS) - {"policy"})
MODELS = ("tdmpc2", "bmpc", "simulator", "ensemble")
ELSEWHERE = {"LatentModel", "JEPAModel"}
"""A base class; and a model of pictures, whose goals are none of these (tests/test_foreign_models.py)."""
B = 3


def model_of(name: str):
    """The model, latents [B] of it, and two of its observations."""
    if name == "simulator":
        model = SimulatorModel(A, A, lambda x, a: 0.9 * x + 0.5 * a, cost=lambda x, a, y: y.square().sum(-1))
        latent = model.latent(torch.randn(B, A, generator=torch.Generator().manual_seed(0)))
        return model, latent, ((0.2, -0.4), (0.5, 0.5))
    if name == "ensemble":
        model = EnsembleModel([random_tdmpc2(A), random_bmpc(A)])
        observed = torch.randn(B, 5, generator=torch.Generator().manual_seed(0))
        obs = TensorDict({"observation": observed}, [B])
        with torch.no_grad():
            latent = model.observe(obs, torch.zeros(B, A), model.initial_belief(B))
    else:
        model = {"tdmpc2": random_tdmpc2, "bmpc": random_bmpc}[name](A)
        latent = random_latent(model, B)
    return model, latent, ((0.1, 0.2, 0.3, 0.4, 0.5), (0.0, 0.0, 1.0, 0.0, 0.0))


def terms_for(observations) -> dict:
    """One of each kind."""
    own = {"goal": {"goal": observations[0], "at": "along"}, "tracking": {"reference": observations}}
    return {name: TERMS[name](weight=0.5, **own.get(name, {})) for name in sorted(TERMS)}


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("name", STAGED)
def test_the_matrix(name, model_name):
    model, latent, observations = model_of(model_name)
    terms = terms_for(observations)
    for term in terms.values():
        planner = small(name, terms=(term,))
        fresh = planner.initial_state(B)
        first = make_plan(planner, model, latent)
        second = make_plan(planner, model, latent, first.state)
        for found in (first, second):  # shapes, and nothing that is not finite
            assert found.action.shape == (B, A) and found.mean.shape == found.std.shape == (B, 2, A)
            assert all(x.isfinite().all() for x in (found.action, found.mean, found.std, found.value))
            assert found.action.abs().max() <= 1 and (found.diagnostics["fallback"] == 0).all()
            assert {k: v.shape for k, v in found.state.items()} == {k: v.shape for k, v in fresh.items()}
        changed = latent.clone()  # rows do not depend on each other
        changed[1] = latent[0]
        other = make_plan(planner, model, changed, first.state)
        torch.testing.assert_close(other.action[[0, 2]], second.action[[0, 2]], atol=1e-4, rtol=1e-4)
        torch.manual_seed(0)
        with torch.enable_grad():
            graded = planner.plan(Imagination(model), latent, fresh)
        torch.testing.assert_close(graded.value, first.value, atol=1e-2, rtol=1e-2)
        for part in ("latent", "reward", "value", "policy"):  # NaN never reaches the action
            broken = Poisoned(model, part, everywhere=False)
            state = make_plan(planner, broken, latent, first.state).state
            after = make_plan(planner, model, latent, state)
            assert state.isfinite().all() and after.action.isfinite().all() and after.value.isfinite().all()
    constraints = tuple(Constraint(term, limit=0.1) for term in terms.values())
    together = small(name, terms=tuple(terms.values()), constraints=constraints)
    timed = dataclasses.replace(together, horizon=3, action_block=2, replan_every=2)
    # What is asked of a model depends on the stages: one planner with gradients and one without are enough.
    watched = (together, timed) if model_name == "tdmpc2" else (timed,) * (name in ("dream_mpc", "mppi"))
    for planner in watched:
        assert graphable(planner, model) is None


def test_the_matrix_has_every_model():
    """A model that is added to the package must be tried here."""
    built_in = {name for name in vars(models) if name.endswith("Model")} - ELSEWHERE
    assert built_in == {type(model_of(name)[0]).__name__ for name in MODELS}
