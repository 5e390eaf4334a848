"""The page docs/add_a_world_model.md: its Python runs, and the names it points at exist."""

import re
from pathlib import Path

import pytest
import torch

from dreammpc.algorithms import ALGORITHMS, bmpc, latent
from dreammpc.config import ALGORITHM_GROUP
from dreammpc.models import SIZES, BMPCModel, LatentModel
from dreammpc.planning import make_planner

PAGE = (Path(__file__).parent.parent / "docs" / "add_a_world_model.md").read_text()


@pytest.fixture(scope="module")
def page() -> dict:
    """What the page's Python leaves behind."""
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)), names)
    return names


def test_the_pages_model_plans_and_is_bmpcs(page):
    assert page["plan"].action.shape == (3, 2)
    ours = BMPCModel(5, 2, enc_dim=32, mlp_dim=32, latent_dim=16, num_heads=2)
    ours.load_state_dict(page["model"].state_dict())
    z, noise = ours.latent(torch.rand(4, 16)), torch.randn(4, 2)
    assert torch.equal(ours.policy(z, noise), page["model"].policy(z, noise))
    assert torch.equal(ours.value(z, noise), page["model"].value(z, noise))


def test_the_pages_algorithm_is_made(page):
    agent = page["Agent"](
        BMPCModel(5, 2, enc_dim=32, mlp_dim=32, latent_dim=16), make_planner("cem", 2), record=True
    )
    assert page["PatientBMPC"](agent).interval == 40


def test_the_table_names_what_there_is():
    assert all(hasattr(latent, name) for name in ("rollout_loss", "LatentAlgorithm"))
    assert all(hasattr(bmpc, name) for name in ("td_target", "policy_loss"))
    assert all(hasattr(LatentModel, name) for name in ("value_input", "policy"))
    assert ALGORITHMS["bmpc"].learns_from_plans and not ALGORITHMS["tdmpc2"].learns_from_plans
    assert set(ALGORITHM_GROUP) == set(ALGORITHMS)
    assert (SIZES["5M"].num_heads, ALGORITHM_GROUP["bmpc"]["model"]["num_heads"]) == (5, 2)
