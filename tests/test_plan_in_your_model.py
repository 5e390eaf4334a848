"""The page docs/plan_in_your_model.md does what it says: its code runs, on files of these layouts."""

import re
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from foreign_models import write_dino_wm, write_lewm, write_pets

PAGE = Path(__file__).parent.parent / "docs" / "plan_in_your_model.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's code leaves behind, run where its files are."""
    folder, names = tmp_path_factory.mktemp("files"), {}
    write_lewm(folder / "lewm"), write_dino_wm(folder), write_pets(folder / "pets", learned_reward=False)
    imageio.imwrite(folder / "goal.png", np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(folder)
        torch.manual_seed(0)
        for block in BLOCKS:
            exec(block, names)
            for name in ("plan", "model", "x"):
                names.setdefault("seen_" + name, []).append(names.get(name))
    return names


def test_every_loop_takes_forty_lines():
    assert len(BLOCKS) == 5
    assert max(len(block.splitlines()) for block in BLOCKS) <= 40


def test_plans_come_nearer_to_the_goal_than_their_proposals(page):
    for plan in page["seen_plan"][:2]:
        assert plan.diagnostics["gain"].item() > 0 and plan.diagnostics["fallback"].item() == 0
        assert plan.action.shape == (1, 2) and plan.action.abs().max() <= 1


def test_the_ensembles_plan_was_executed(page):
    x = page["seen_x"][2]
    assert x.shape == (1, 3) and x.isfinite().all()
    assert page["seen_plan"][2].diagnostics["objective"].isfinite().all()


def test_the_cart_is_pushed_to_its_goal(page):
    assert abs(page["x"][0, 0].item() - 1) < 0.1 and page["x"][0, 1].abs() < 0.3
