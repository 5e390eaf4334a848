"""What every test has: threads as a run sets them, in this process and in those that it starts."""

import os

import pytest

from dreammpc.launch import share_cores

share_cores()  # before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests at once, and models that are narrow

pytest.register_assert_rewrite("commands")

from commands import run_python  # noqa: E402

from dreammpc.threads import set_threads  # noqa: E402

set_threads(0)


@pytest.fixture(scope="session")
def can_render() -> bool:
    """Whether this machine can draw an environment."""
    # Apart from our code, and in another process: a graphics library that is half there can abort it.
    backend = "" if os.environ.get("DISPLAY") else "import os; os.environ['MUJOCO_GL'] = 'egl'; "
    code = "from dm_control import suite; suite.load('pendulum', 'swingup').physics.render(16, 16)"
    return run_python(backend + code).returncode == 0
