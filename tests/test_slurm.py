"""The example for SLURM, with stand-ins for its commands: what it starts, when it returns to the queue."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs/train.sbatch"

# `srun` runs one task, that of the second of two machines; `lightning` is a training as seen from outside.
SRUN = '#!/bin/bash\nshift\nSLURM_NNODES=2 SLURM_NODEID=1 exec "$@"\n'
SCONTROL = """#!/bin/bash
[ $1 = show ] && echo first && echo second
[ $1 = requeue ] && echo $2 > requeued
exit 0
"""
LIGHTNING = """#!/bin/bash
printf '%s\\n' "$@" > arguments
trap 'exit 138' USR1
trap 'exit 143' TERM
touch ready
if [ -n "$CODE" ]; then exit $CODE; fi
while true; do sleep 0.05; done
"""


def start(folder: Path, **environment: str) -> subprocess.Popen:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "lightning": LIGHTNING}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return subprocess.Popen(
        ["bash", str(SCRIPT), "task=walker-walk", "seed=2"],
        cwd=folder,
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "first,second",
            **environment,
        },
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 138), (signal.SIGTERM, 143)])
def test_a_warned_job_goes_back_to_the_queue(tmp_path, number, code):
    job = start(tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(number)
    assert job.wait(300) == code
    assert (tmp_path / "requeued").read_text() == "4711\n"
    arguments = (tmp_path / "arguments").read_text().split()
    assert " ".join(arguments) == (
        "run train --num-nodes 2 --node-rank 1 --main-address first --main-port 24711 --devices 4"
        " folder=runs/slurm-4711 resume=auto task=walker-walk seed=2"
    )


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_job_that_is_done_or_wrong_does_not(tmp_path, code):
    assert start(tmp_path, CODE=str(code)).wait(300) == code
    assert not (tmp_path / "requeued").exists()
