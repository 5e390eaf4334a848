"""The commands as tests start them: in a process of their own, or a recipe in this one."""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "task=cartpole-swingup",
    "env.action_repeat=20",
    "steps=6000",
    "algorithm.seed_steps=3000",
    "algorithm.batch_size=16",
    "algorithm.utd=0.2",
    "evaluation.every=3000",
    "evaluation.episodes=1",
    "evaluation.planners=[policy,dream_mpc]",
    "save_every=2000",
    "trainer.compile=false",
    "tracking.log_every=1000",
    "folder=run",
]
"""A training of 300 agent steps, the first 150 of them random; an episode has 50."""
PENDULUM = [
    *TINY,
    "task=gym-InvertedPendulum-v5",
    "env.action_repeat=1",
    "steps=400",
    "algorithm.seed_steps=300",
    "evaluation.every=200",
    "save_every=200",
    "tracking=none",
    "tracking.log_every=100",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}


def recipe(name: str):
    """The function of that name in recipes/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", ROOT / f"recipes/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def refused(name: str, arguments: list[str], monkeypatch, capsys) -> str:
    """Run a recipe in this process; it must exit with 2 and one line on stderr, which is returned."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        recipe(name)()
    captured = capsys.readouterr()
    assert stop.value.code == 2, captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    return lines[0]


def run_here(name: str, *arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    """`lightning run NAME ...` in the folder `cwd`, but in this process; it must end with `code`."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [f"{name}.py", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            recipe(name)()
    assert stop.value.code == code, err.getvalue()
    return subprocess.CompletedProcess([name, *arguments], code, out.getvalue(), err.getvalue())


def logged(run: Path) -> list[dict]:
    """The lines of a run folder's log."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def train(folder: Path, *arguments: str) -> int:
    """Train in this process; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", "evaluation.video=false", *arguments])
        recipe("train")()
    return stop.value.code
