"""Several processes that train one agent: the same weights, the same updates as one, a common end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import replica_recipe
import torch
from feeds import make_feed, schedule

from dreammpc.configuration import assembly
from dreammpc.configuration.schemas import AlgorithmConfig
from dreammpc.interfaces import UsageError
from dreammpc.training import load_checkpoint, open_resume

RECIPE = Path(replica_recipe.__file__)
PATH = os.pathsep.join(filter(None, [str(RECIPE.parents[2]), os.environ.get("PYTHONPATH")]))
two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")


class Training:
    """Two processes of `replica_recipe.py` behind the launcher, in a session of their own."""

    def __init__(self, folder: Path, *words: str):
        self.folder = folder
        for old in (*folder.glob("pid-*"), *folder.glob("ended-*")):
            old.unlink()
        words = ("run", str(RECIPE), str(folder), *words, "--devices", "2", "--accelerator", "cpu")
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", "dreammpc.cli.launch", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
        )

    def wait_for(self, seconds: float, *names: str) -> list[Path]:
        files = [self.folder / name for name in names]
        deadline = time.monotonic() + seconds
        while not all(file.exists() and file.stat().st_size for file in files):
            if self.launcher.poll() is not None or time.monotonic() > deadline:
                self.launcher.kill()
                pytest.fail(f"{names} did not appear: {self.launcher.communicate()[0]}")
            time.sleep(0.1)
        return files

    def pids(self) -> list[int]:
        return [int(file.read_text()) for file in self.wait_for(300, "pid-0", "pid-1")]

    def end(self, seconds: float = 300) -> tuple[int, str]:
        """Exit code and output, once the launcher has ended by itself; no process may be left."""
        pids = self.pids() if self.launcher.poll() is None else []
        try:
            output, _ = self.launcher.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.launcher.kill()
            pytest.fail(f"still running {seconds} s later")
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        return self.launcher.returncode, output


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Two processes that made given updates, then trained until one of them, not the first, got SIGTERM."""
    folder = tmp_path_factory.mktemp("replicas")
    training = Training(folder, "updates")
    training.wait_for(300, "checkpoints/last.ckpt")
    os.kill(training.pids()[1], signal.SIGTERM)
    return folder, *training.end()


def state(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)


@two_cores
def test_two_ranks_with_half_the_batch_learn_as_one_with_all_of_it(stopped, tmp_path):
    folder, *_ = stopped
    replica_recipe.updates(tmp_path)
    for name in replica_recipe.ALGORITHMS:
        first, second = (state(folder, f"{name}-2-{rank}.pt") for rank in (0, 1))
        assert all(torch.equal(first[key], second[key]) for key in first)
        whole = state(tmp_path, f"{name}-1-0.pt")
        before = replica_recipe.build(name).state_dict()
        moved = {key for key in whole if not torch.equal(whole[key], before[key])}
        for part in ("encoder", "dynamics", "reward", "value_heads", "target_heads", "actor"):
            keys = [key for key in moved if f"model.{part}." in key]
            assert keys
            way = torch.cat([(whole[key] - before[key]).flatten() for key in keys])
            error = torch.cat([(first[key] - whole[key]).flatten() for key in keys])
            # Percentiles of two halves are not those of the whole (see replica_recipe.ALGORITHMS).
            assert error.norm() < (0.1 if name == "scaled" else 0.002) * way.norm(), (name, part)
    assert state(folder, "scaled-2-0.pt")["value_scale"] > 1


@two_cores
def test_a_signal_to_one_rank_stops_all_after_the_same_update(stopped):
    folder, code, output = stopped
    assert code == 143, output
    ends = [(folder / f"ended-{rank}").read_text().split() for rank in (0, 1)]
    assert ends[0] == ends[1]
    updates, env_steps, rows = map(int, ends[0])
    assert env_steps == 2 * rows and updates > 0  # steps of both are counted, each keeps its own rows
    weights = [state(folder, f"weights-{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])

    facts = load_checkpoint(folder / "checkpoints/last.ckpt")["dreammpc"]
    assert facts["env_steps"] == env_steps
    assert [rank["replay"]["written"] for rank in facts["resume"]["ranks"]] == [rows, rows]
    segments = [
        torch.load(folder / f"checkpoints/replay/rank{rank}" / saved["segments"][0][2], weights_only=True)
        for rank, saved in enumerate(facts["resume"]["ranks"])
    ]
    assert not torch.equal(segments[0]["observation"], segments[1]["observation"])  # environments differ
    assert not torch.equal(segments[0]["action"], segments[1]["action"])  # and so does exploration
    with pytest.raises(UsageError, match="saved by 2 processes, and 1 would go on"):
        open_resume(folder / "checkpoints/last.ckpt")


@two_cores
def test_when_a_rank_dies_all_end_and_the_checkpoint_is_good(stopped):
    folder, *_ = stopped
    last = folder / "checkpoints/last.ckpt"
    before = load_checkpoint(last)["dreammpc"]["env_steps"]
    training = Training(folder)  # resumes
    pids = training.pids()
    deadline = time.monotonic() + 300
    while load_checkpoint(last)["dreammpc"]["env_steps"] == before and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(pids[1], signal.SIGKILL)
    code, output = training.end()
    assert code == 137, output
    assert "process 1 ended with exit code 137; all are stopped" in output
    facts = load_checkpoint(last)["dreammpc"]
    assert facts["env_steps"] > before
    for rank, saved in enumerate(facts["resume"]["ranks"]):
        for start, stop, name in saved["segments"]:
            rows = torch.load(folder / f"checkpoints/replay/rank{rank}" / name, weights_only=True)
            assert len(rows["frame"]) == stop - start


def test_steps_of_all_ranks_are_counted():
    """Two ranks with one environment each keep the schedule of one with two environments."""
    one = make_feed(seed_steps=12, total_steps=24, utd=1, num_envs=2)
    rank = make_feed(seed_steps=12, total_steps=24, utd=1)
    rank.world_size = 2
    assert schedule(rank) == schedule(one)
    assert (rank.env_steps, rank.updates, len(rank.replay)) == (48, one.updates, len(one.replay) // 2)


def test_a_batch_that_cannot_be_shared_is_refused():
    config = AlgorithmConfig(batch_size=16, capacity=100, seed_steps=1)
    with pytest.raises(UsageError, match="batch_size must be a multiple of the 3 processes"):
        assembly.build_feed(None, None, 100, 0, config, world_size=3)
