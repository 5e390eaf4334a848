"""The default configuration as users run it, compiled: it trains, and it learns."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import logged

from dreammpc.training.speed import missing_compiler

ROOT = Path(__file__).parent.parent
WORDS = (
    "trainer.compile=default steps=800 algorithm.seed_steps=500 save_every=800 evaluation.episodes=1"
    " evaluation.video=false evaluation.planners=[policy] eval_planner=policy tracking=none"
    " tracking.log_every=100 folder=run"
)


@pytest.mark.skipif(bool(missing_compiler(torch.device("cpu"))), reason="no C++ compiler")
def test_the_default_configuration_is_compiled_and_learns(tmp_path):
    """250 updates on random data and one for each of 150 steps.

    An untrained reward network spreads its mass over all bins. What a mean over the horizon's weights 1, 1/2
    and 1/4 makes of that cross-entropy must at least have been halved.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, str(ROOT / "recipes" / "train.py"), *WORDS.split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "trainer.compile=default" in said
    for setting in ("tdmpc2", "nano", "lr 0.001", "batch 128", "target rate 0.03"):
        assert setting in said
    losses = [line for line in logged(tmp_path / "run") if "loss/reward" in line]
    untrained = math.log(101) * (1 + 1 / 2 + 1 / 4) / 3
    assert losses[-1]["loss/reward"] < 0.5 * untrained
    assert all(line["count/skipped_updates"] == 0 for line in losses)
