"""Whatever a user's own code raises: the training is saved, one line, the traceback in a log, resumable."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import TINY, recipe, train

from dreammpc.cli import parser as cli
from dreammpc.configuration.recipe import main
from dreammpc.interfaces import RunError, UsageError
from dreammpc.support import faults
from dreammpc.training.checkpoint import load_checkpoint

TASK = "task=gym-odd_envs:RaiseEarly-v0"
LAST = "run/checkpoints/last.ckpt"
QUICK = [
    *TINY,
    "env.action_repeat=1",
    "evaluation.planners=[policy]",
    "tracking=none",
    "algorithm.seed_steps=100",
    "algorithm.utd=0.05",
    "steps=320",
    "save_every=1000",
    "evaluation.every=1000",
]


def failed(folder: Path, capsys, *words: str) -> str:
    """The one line of a training that ends with exit code 1."""
    capsys.readouterr()
    assert train(folder, *QUICK, *words) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "error", "steps"),
    [
        ("RaiseValue", "step 300: ValueError: the episode is over", 299),
        ("RaiseConn", "step 300: ConnectionResetError: [Errno 104] Connection reset by peer", 299),
        ("RaiseTimeout", "step 300: TimeoutError: the simulator does not answer", 299),
        ("RaiseReset", "reset after step 300: RuntimeError: scene cannot be loaded", 299),
        ("RaiseStop", "step 300: StopIteration: the log has ended", 299),
        ("RaiseAssert", "step 300: AssertionError", 299),
        ("RaiseEarly", "step 3: ValueError: no", 2),
        ("RaiseExit", "step 3: SystemExit: 0", 2),
    ],
)
def test_an_environment_that_raises(name, error, steps, tmp_path, capsys):
    line = failed(tmp_path, capsys, f"task=gym-odd_envs:{name}-v0", "planner=policy")
    assert line.startswith(f"error: task 'gym-odd_envs:{name}-v0', environment 0, {error} (odd_envs.py:")
    assert f"saved at {steps} environment steps, go on with resume={tmp_path / LAST}" in line
    assert line.endswith(f"traceback: {tmp_path / 'run/errors.log'}")
    log = (tmp_path / "run/errors.log").read_text()
    assert "Traceback (most recent call last)" in log and "odd_envs.py" in log
    content = load_checkpoint(tmp_path / LAST)
    assert content["dreammpc"]["env_steps"] == steps
    if name == "RaiseValue":  # a new process, whose environment has not been stepped 300 times
        assert (
            train(tmp_path, f"resume={LAST}", f"task=gym-odd_envs:{name}-v0", "steps=330", "tracking=none")
            == 0
        )
        assert load_checkpoint(tmp_path / LAST)["dreammpc"]["env_steps"] == 330


BOOM = """
import builtins
from dataclasses import dataclass
from dreammpc.planning import make_planner

@dataclass(frozen=True)
class Boom:
    '''A policy whose plan fails at last.'''

    action_dim: int
    raises: str = "ConnectionError"

    def initial_state(self, batch_size, device=None):
        return make_planner("policy", self.action_dim).initial_state(batch_size, device)

    def plan(self, imagination, latent, state):
        CALLS.append(1)
        if len(CALLS) == 40:
            raise getattr(builtins, self.raises)("no answer\\nfrom the planner")
        return make_planner("policy", self.action_dim).plan(imagination, latent, state)

CALLS = []
"""


@pytest.mark.parametrize("raises", ["ConnectionError", "StopIteration", "SystemExit"])
def test_a_planner_that_raises(raises, tmp_path, capsys, monkeypatch):
    (tmp_path / "boom.py").write_text(BOOM)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("boom", None)
    line = failed(tmp_path, capsys, "planner=boom.Boom", f"planner.raises={raises}")
    assert f"{raises}: no answer from the planner" in line
    assert "boom" in line and "saved at " in line and "errors.log" in line
    assert "in plan" in (tmp_path / "run/errors.log").read_text()
    assert line.startswith(f"error: planner boom.Boom: {raises}: ")
    assert load_checkpoint(tmp_path / LAST)["dreammpc"]["env_steps"] > 100


@pytest.mark.parametrize("error", [KeyError("no such metric"), StopIteration("enough")])
def test_a_callback_that_raises(error, tmp_path, capsys, monkeypatch):
    from dreammpc.training import Monitor

    class Watcher(Monitor):
        def on_train_batch_end(self, *arguments):
            if self.feed.env_steps > 200:
                raise error
            super().on_train_batch_end(*arguments)

    function = recipe("train")
    monkeypatch.setitem(function.__globals__, "recipe", None)
    module = sys.modules[recipe.__module__]
    monkeypatch.setattr(module, "recipe", lambda name: function)
    made = function.__closure__ and [c.cell_contents for c in function.__closure__]
    body = next(cell.__wrapped__ for cell in made if hasattr(cell, "__wrapped__"))
    inner = body.__wrapped__ if hasattr(body, "__wrapped__") else body
    monkeypatch.setitem(inner.__globals__, "Monitor", Watcher)
    line = failed(tmp_path, capsys, "planner=policy")
    if isinstance(error, StopIteration):
        assert "a callback or the model raised StopIteration" in line and "of 320 environment steps" in line
    else:
        assert line.startswith("error: callback test_foreign_errors.test_a_callback_that_raises")
        assert "KeyError: 'no such metric' (test_foreign_errors.py:" in line and "errors.log" in line
    assert "saved at " in line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_ends_the_last_comparison_ends_the_run(number, code, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments):
        os.kill(os.getpid(), number)
        time.sleep(10)
        raise AssertionError("the signal was ignored")

    monkeypatch.setattr("dreammpc.evaluation.Evaluator.compare", interrupted)
    words = [*QUICK, "task=cartpole-swingup", "env.action_repeat=20", "evaluation.every=10000"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # behind a shell it is ignored
    try:
        assert train(tmp_path, *words) == code
    finally:
        signal.signal(signal.SIGINT, before)
    again = f"interrupted; trained; go on with resume={tmp_path / LAST}"
    assert capsys.readouterr().err.strip().splitlines()[-1] == again
    assert json.loads((tmp_path / "run/origin.json").read_text())["ended"] == "killed"


def test_evaluate_and_demo(tmp_path, capsys, monkeypatch):
    failed(tmp_path, capsys, "task=gym-odd_envs:RaiseEarly-v0", "planner=policy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["evaluate.py", f"checkpoint={LAST}", TASK, "planner=policy", "episodes=1"]
    )
    with pytest.raises(SystemExit) as stop:
        recipe("evaluate")()
    assert stop.value.code == 1
    expected = "error: task 'gym-odd_envs:RaiseEarly-v0', environment 0, step 3: ValueError: no (odd_envs.py:"
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(expected)
    log = Path(lines[-1].rpartition("traceback: ")[2])
    assert "Traceback" in log.read_text()
    log.unlink()
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", LAST, "planner=policy", TASK, "--no-video"])
    assert stop.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(expected)
    Path(line.rpartition("traceback: ")[2]).unlink()


def test_in_a_worker(forked_workers, tmp_path, capfd):
    words = ["task=gym-odd_envs:RaiseEarly-v0", "collector=multiprocess", "collector.workers=1"]
    assert train(tmp_path, *QUICK, *words) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    line = said.strip().splitlines()[-1]
    assert line.startswith(
        "error: in a worker: task 'gym-odd_envs:RaiseEarly-v0', environment 0, step 3: Value"
    )
    assert "errors.log" in line and "odd_envs.py" in (tmp_path / "run/errors.log").read_text()


def test_what_exits_within_a_command_or_a_recipe(capsys, monkeypatch):
    def quits(*_):
        sys.exit(0)

    def calls(config):
        quits()

    monkeypatch.setattr(cli, "print_tasks", quits)
    monkeypatch.setattr(sys, "argv", ["mine.py"])
    for code, function in (
        (1, lambda: cli.main(["tasks"])),
        (1, main("train")(calls)),
        (0, main("train")(quits)),
    ):
        with pytest.raises(SystemExit) as stop:
            function()
        assert stop.value.code == code
        said = capsys.readouterr().err
        assert ("SystemExit: 0 (test_foreign_errors.py:" in said) == (code == 1)
        if code == 1:
            Path(said.strip().rpartition("traceback: ")[2]).unlink()


# --- the line -----------------------------------------------------------------------------------------


def raised(function) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_our_own_faults_are_not_laid_to_the_user(tmp_path):
    from dreammpc.data import Replay

    error = raised(lambda: Replay(10, 1, 3, 4).sample(oops=1))
    faults.keep_in(tmp_path)
    try:
        assert "function test_foreign_errors." in faults.report(error)  # called from here
        assert faults.report(RunError("said")) == faults.report(UsageError("said")) == "said"
        error = raised(lambda: torch.zeros(2) @ torch.zeros(3))
        error.add_note("saved")
        assert "; saved; traceback: " in faults.report(error)
        full = OSError(28, "No space left on device", "file.bin")
        assert faults.report(full) == "file.bin cannot be written: No space left on device"
    finally:
        faults.keep_in(None)
    assert (tmp_path / "errors.log").read_text().count("Traceback") == 2


def test_too_little_memory_is_told_with_what_takes_it():
    error = raised(lambda: torch.empty(2**60))
    line = faults.error_line(error)
    assert line.startswith("out of memory, lower the model's size, algorithm.batch_size, ")
    assert "you tried to allocate" in line
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")):
        assert faults.error_line(error).startswith("out of memory, lower ")


def test_a_long_text_is_cut():
    line = faults.exception_line(ValueError("x" * 3000))
    assert len(line) < 500 and line.endswith("…")
