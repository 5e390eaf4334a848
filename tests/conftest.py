"""What every test has: threads as a run sets them, and how tests are shared among processes."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreammpc.cli.launch import share_cores

share_cores()  # before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests at once, and models that are narrow

pytest.register_assert_rewrite("commands")

import torch  # noqa: E402
from forked import unchosen  # noqa: E402

from dreammpc.runtime.threads import set_threads  # noqa: E402

set_threads(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `pytest -n auto`: a process takes about a gigabyte, and more than eight would wait for one file."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process and in order: they share the runs that its fixtures make."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # not by the number of tests: see below
    return LoadFileScheduling(config, log)


LONGEST = (
    *("compiled_training", "recipes", "deploy", "objectives_matrix", "workers", "planning", "resume_exact"),
    *(
        "security",
        "add_a_planner",
        "foreign",
        "replicas",
        "ray_workers",
        "envs_dmcontrol",
        "trained",
        "contract",
    ),
    *("envs_envpool", "tracking_mlflow", "faults", "foreign_errors", "objectives", "recorded_data", "gpu"),
    *(
        "gymnasium_recipe",
        "evaluate_recipe",
        "bmpc_recipe",
        "add_a_world_model",
        "tracking_outage",
        "ensemble",
    ),
    *("examples", "planning_quality", "bmpc_training_step", "evaluation", "launch", "sweeps", "bare"),
)


def pytest_collection_modifyitems(config, items) -> None:
    """Several processes begin with the files that take longest: none has a long one left at the end."""
    if hasattr(config, "workerinput"):
        place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_runtest_setup(item) -> None:
    """Skipped here and not by a mark, so that the report has one line for all."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def forked_workers():
    """Workers begin as forks of this process, in no time; test_workers.py starts some as users have them."""
    before = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("fork", force=True)
    yield
    torch.multiprocessing.set_start_method(before, force=True)


@pytest.fixture(scope="session")
def can_render() -> bool:
    """Whether this machine can draw an environment."""
    # Apart from our code, and in another process: a graphics library that is half there can abort it.
    backend = "" if os.environ.get("DISPLAY") else "import os; os.environ['MUJOCO_GL'] = 'egl'; "
    code = "from dm_control import suite; suite.load('pendulum', 'swingup').physics.render(16, 16)"
    command = [sys.executable, "-c", backend + code]
    return subprocess.run(command, capture_output=True, env=unchosen()).returncode == 0


@pytest.fixture
def benchmarks(monkeypatch):
    """A function that imports a program of benchmarks/ by its name; the test's end forgets it."""
    folder = str(Path(__file__).parents[1] / "benchmarks")
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if folder in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
