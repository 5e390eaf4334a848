"""The page docs/use_without_training.md does what it says: its code runs, and the goals are reached."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "use_without_training.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """All code of the page in one module, imported."""
    path = tmp_path_factory.mktemp("page") / "code_of_the_page.py"
    path.write_text("\n".join(BLOCKS))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setitem(sys.modules, path.stem, module)
        spec.loader.exec_module(module)
    return module


def test_planning_takes_thirty_lines():
    (planning,) = (block for block in BLOCKS if "SimulatorModel(state_dim" in block)
    assert len(planning.splitlines()) <= 30


def test_the_point_reaches_its_goal(page):
    assert page.loss < 1e-3
    goal = torch.tensor(page.goal)
    assert (goal.norm() > 1) and (page.x.shape == (1, 4))
    assert (page.x[0, :2] - goal).norm() < 0.1


def test_the_pendulum_stands_in_torchrl(page):
    batch = page.batch
    assert batch["action"].shape == (200, 1) and batch["action"].abs().max() <= 1
    assert (batch["next", "observation"][-10:, 0] > 0.98).all()
    assert batch["is_init"].squeeze(-1).nonzero().tolist() == [[0]]
