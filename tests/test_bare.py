"""A machine that has only what a training needs: no MLflow, nothing that writes videos."""

import subprocess
import sys

import pytest
from commands import ENVIRONMENT, PENDULUM, ROOT

from dreammpc.interfaces import UsageError
from dreammpc.tracking import make_loggers

ABSENT = ("mlflow", "imageio_ffmpeg", "ray", "metaworld")
CODE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT}))
sys.argv[0] = "train.py"
runpy.run_path({str(ROOT / "recipes" / "train.py")!r}, run_name="__main__")
"""


def test_training_needs_no_mlflow_and_nothing_that_writes_videos(tmp_path):
    words = [
        *PENDULUM,
        "steps=60",
        "algorithm.seed_steps=50",
        "planner=policy",
        "evaluation.planners=[policy]",
    ]
    command = [sys.executable, "-c", CODE, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "no video: " in done.stderr and "imageio_ffmpeg" in done.stderr
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


def test_mlflow_is_missed_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"tracking=mlflow needs MLflow.*choose tracking=none"):
        make_loggers(tmp_path, {})
