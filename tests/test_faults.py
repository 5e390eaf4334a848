"""The fault harness, shortly; by hand `python tests/faults/harness.py` has more of everything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent / "faults" / "harness.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the harness forks and reads /proc")
def test_killed_trainings_lose_nothing(tmp_path):
    """Five kills and a SIGTERM in a row, then the end of an undisturbed run, bit for bit."""
    command = [
        sys.executable,
        HARNESS,
        "--kills",
        "5",
        "--terms",
        "1",
        "--algorithms",
        "tdmpc2",
        "--kills-only",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same bits at the end") == 3, done.stdout
