"""The page docs/add_a_world_model.md: its Python and its commands run, and the names it points at exist."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from forked import Forked

from dreammpc.algorithms import ALGORITHMS, LatentAlgorithm, bmpc, losses
from dreammpc.configuration.schemas import ALGORITHM_GROUP
from dreammpc.interfaces import WorldModel
from dreammpc.models import SIZES, BMPCModel, LatentModel

PAGE = (Path(__file__).parent.parent / "docs" / "add_a_world_model.md").read_text()


BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def page() -> dict:
    """What the page's Python leaves behind."""
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec("\n".join(BLOCKS), names)
    return names


def test_the_pages_model_plans_and_is_bmpcs(page):
    assert page["plan"].action.shape == (3, 2)
    ours = BMPCModel(5, 2, enc_dim=32, mlp_dim=32, latent_dim=16, num_heads=2)
    ours.load_state_dict(page["model"].state_dict())
    z, noise = ours.latent(torch.rand(4, 16)), torch.randn(4, 2)
    assert torch.equal(ours.policy(z, noise), page["model"].policy(z, noise))
    assert torch.equal(ours.value(z, noise), page["model"].value(z, noise))


def test_the_pages_model_from_scratch_reaches_its_goal(page):
    """The page itself runs `check_model` on it."""
    assert page["push"].action.shape == (3, 2)
    mass, agent = page["mass"], page["pusher"]
    state, carry = mass.latent(torch.tensor([[-0.5, 1.0]]), torch.zeros(1, 2)), agent.initial_carry(1)
    start = torch.ones(1, 1, dtype=torch.bool)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(40):
            seen = page["TensorDict"]({"observation": torch.cat([state["x"], state["v"]], -1)}, [1])
            plan, carry = agent.step(seen, carry, start)
            state, start = mass.step(state, plan.action), torch.zeros_like(start)
    assert (state["x"] - mass.goal).abs().max() < 0.1


def test_the_pages_table_has_the_protocols_methods(page):
    table = PAGE.partition("## A model from scratch")[2].partition("```")[0]
    found = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", table, re.M))
    assert set(found) == {
        name for name, _ in inspect.getmembers(WorldModel, inspect.isfunction) if name[0] != "_"
    }
    for name, words in found.items():
        protocol = list(inspect.signature(getattr(WorldModel, name)).parameters)[1:]
        assert [word.partition("=")[0] for word in words.split(", ")] == protocol
        assert list(inspect.signature(getattr(page["mass"], name)).parameters) == protocol


def test_the_pages_algorithm_trains_and_is_evaluated_from_a_file_and_from_a_package(tmp_path):
    (tmp_path / "patient.py").write_text("\n".join(b for b in BLOCKS if b.startswith("# patient.py")))
    (tmp_path / "patient-1.dist-info").mkdir()
    (tmp_path / "patient-1.dist-info/METADATA").write_text("Name: patient\nVersion: 1\n")
    offer = next(b for b in re.findall(r"^```toml\n(.*?)^```", PAGE, re.M | re.S))
    points = offer.replace('project.entry-points."dreammpc.algorithms"', "dreammpc.algorithms")
    (tmp_path / "patient-1.dist-info/entry_points.txt").write_text(points.replace('"', ""))

    def run(*words: str) -> str:
        done = Forked("run", *words, cwd=tmp_path, path=[tmp_path]).wait()
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ["task=pendulum-swingup", "env.action_repeat=20", "steps=4000", "algorithm.seed_steps=2000"]
    small += ["algorithm.batch_size=8"]
    small += ["algorithm.utd=0.2", "trainer.compile=false", "tracking=none", "evaluation.episodes=1"]
    small += ["evaluation.video=false", "evaluation.planners=[policy]", "planner.horizon=2"]
    run("train", "algorithm=patient.PatientBMPC", "folder=run", *small, "algorithm.reanalyze_interval=4")
    assert "| dream_mpc |" in run(
        "evaluate", "checkpoint=run/checkpoints/last.ckpt", "planner=policy,dream_mpc", "episodes=1"
    )
    shown = run("train", "algorithm=patient_bmpc", "--cfg", "job")
    assert "  name: patient_bmpc\n" in shown and "  reanalyze_interval: 40\n" in shown
    assert "  num_heads: 2\n" in shown  # as BMPC has it


def test_the_table_names_what_there_is():
    assert hasattr(losses, "rollout_loss") and hasattr(LatentAlgorithm, "update")
    assert all(hasattr(bmpc, name) for name in ("td_target", "policy_loss"))
    assert all(hasattr(LatentModel, name) for name in ("value_input", "policy"))
    assert ALGORITHMS["bmpc"].learns_from_plans and not ALGORITHMS["tdmpc2"].learns_from_plans
    assert set(ALGORITHM_GROUP) == set(ALGORITHMS)
    assert (SIZES["5M"].num_heads, ALGORITHM_GROUP["bmpc"]["model"]["num_heads"]) == (5, 2)
