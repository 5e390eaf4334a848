"""The fault harness, shortly; by hand `python tests/faults/harness.py` has more of everything."""

import sys
from pathlib import Path

import pytest
from forked import run_python

HARNESS = Path(__file__).parent / "faults" / "harness.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the harness forks and reads /proc")
def test_killed_trainings_lose_nothing(tmp_path):
    """Five kills and a SIGTERM in a row, then the end of an undisturbed run, bit for bit."""
    words = [str(HARNESS), "--kills", "5", "--terms", "1", "--algorithms", "tdmpc2", "--kills-only"]
    code = f"import runpy, sys; sys.argv = {words!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = run_python(code, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same bits at the end") == 3, done.stdout
