"""Checkpoint files: atomic, plain data, replay in segments that are written once."""

import os
import pickle
import random

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from dreammpc.data import Replay
from dreammpc.interfaces import UsageError
from dreammpc.training.checkpoint import (
    DESCRIPTION,
    FORMAT,
    ReplayArchive,
    load_checkpoint,
    random_state,
    save_atomically,
    set_random_state,
)


def steps(count: int, first: int, num_envs: int = 1, init: bool = False) -> TensorDict:
    """Transitions [num_envs, count] numbered by their observation."""
    numbers = torch.arange(first, first + count, dtype=torch.float32).expand(num_envs, count).unsqueeze(-1)
    is_init = torch.zeros(num_envs, count, 1, dtype=torch.bool)
    is_init[:, 0] = init
    after = {
        "observation": numbers + 1,
        "reward": numbers * 10,
        "terminated": torch.zeros_like(is_init),
    }
    content = {"observation": numbers, "action": -numbers, "is_init": is_init, "next": after}
    return TensorDict(content, [num_envs, count])


def filled(rows: int, capacity: int = 20) -> Replay:
    replay = Replay(capacity, 1, 3, 4, seed=1)
    for first in range(0, rows, 5):
        replay.extend(steps(5, first, init=first == 0))
    return replay


def test_save_replaces_only_when_complete(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    save_atomically({"value": 1}, path)

    def torn(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="No space"):
        save_atomically({"value": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"value": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_load_refuses_what_is_not_ours(tmp_path):
    path = tmp_path / "x.ckpt"
    with pytest.raises(UsageError, match="does not exist"):
        load_checkpoint(path)
    path.write_bytes(b"garbage")
    with pytest.raises(UsageError, match="damaged"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UsageError, match="not written by dreammpc"):
        load_checkpoint(path)
    torch.save({DESCRIPTION: {"format": FORMAT + 1}}, path)
    with pytest.raises(UsageError, match=f"format {FORMAT + 1}"):
        load_checkpoint(path)


def test_load_runs_no_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps({DESCRIPTION: {"format": FORMAT}, "x": Malicious()}))
    with pytest.raises(UsageError, match="damaged or not one of ours"):
        load_checkpoint(path)
    torch.save({DESCRIPTION: {"format": FORMAT}, "x": Malicious()}, path)
    with pytest.raises(UsageError, match="damaged or not one of ours"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_archive_writes_each_row_once(tmp_path):
    replay, archive = filled(10), ReplayArchive(tmp_path)
    assert archive.save(replay) == [[0, 10]]
    before = (tmp_path / "rows-0000000000-0000000010.pt").stat().st_mtime_ns
    assert archive.save(replay) == [[0, 10]]  # nothing new, nothing written
    replay.extend(steps(5, 10))
    assert archive.save(replay) == [[0, 10], [10, 15]]
    assert (tmp_path / "rows-0000000000-0000000010.pt").stat().st_mtime_ns == before


def test_archive_forgets_overwritten_segments_only_when_swept(tmp_path):
    replay, archive = filled(10), ReplayArchive(tmp_path)
    archive.save(replay)
    for first in range(10, 35, 5):
        replay.extend(steps(5, first))
    segments = archive.save(replay)  # capacity 20: rows 15 to 35 are left
    assert segments == [[15, 35]]
    names = {p.name for p in tmp_path.iterdir()}
    assert "rows-0000000000-0000000010.pt" in names  # the previous checkpoint still needs it
    archive.sweep()
    assert {p.name for p in tmp_path.iterdir()} == {"rows-0000000015-0000000035.pt"}


@pytest.mark.parametrize("rows", [10, 20, 35])
def test_archive_round_trip_draws_the_same_batches(tmp_path, rows):
    replay, archive = filled(rows), ReplayArchive(tmp_path)
    replay.sample()
    segments, state = archive.save(replay), replay.state_dict()
    restored = Replay(20, 1, 3, 4, seed=99)
    ReplayArchive(tmp_path).load(restored, segments, state)
    for _ in range(5):
        expected, got = replay.sample(), restored.sample()
        assert (expected["observation"] == got["observation"]).all()
        assert (expected["next", "reward"] == got["next", "reward"]).all()
    assert len(restored) == len(replay) and restored.written == replay.written


def test_archive_says_which_segment_is_missing(tmp_path):
    replay, archive = filled(10), ReplayArchive(tmp_path)
    segments, state = archive.save(replay), replay.state_dict()
    path = tmp_path / "rows-0000000000-0000000010.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"rows-0000000000-0000000010.pt is missing or damaged"):
        ReplayArchive(tmp_path).load(Replay(20, 1, 3, 4), segments, state)


def test_random_state_round_trip(tmp_path):
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    np.random.normal()  # leaves a second normal number cached
    path = tmp_path / "random.pt"
    save_atomically(random_state(), path)
    expected = random.random(), np.random.normal(), torch.rand(1).item()
    set_random_state(torch.load(path, weights_only=True))
    assert (random.random(), np.random.normal(), torch.rand(1).item()) == expected


@pytest.mark.parametrize("rows", [10, 35, 50])
def test_archive_keeps_what_was_overwritten_in_old_rows(tmp_path, rows):
    """Rows are written once; their mutable entries are saved as they are at each save."""
    key = ("plan", "mean")
    replay, archive = Replay(20, 1, 3, 4, seed=1, mutable=(key,)), ReplayArchive(tmp_path)
    for first in range(0, rows, 5):
        batch = steps(5, first, init=first == 0)
        batch["plan"] = TensorDict({"mean": batch["observation"].clone()}, batch.batch_size)
        replay.extend(batch)
        archive.save(replay)
        sample = replay.sample().flatten()
        changed = {"plan": {"mean": sample["observation"] + 1000}}
        assert replay.update(sample["index"], sample["index_generation"], changed).all()
    segments, state = archive.save(replay), replay.state_dict()
    archive.sweep()
    assert len(list(tmp_path.glob("mutable-*.pt"))) == 1
    assert all("plan/mean" not in torch.load(path) for path in tmp_path.glob("rows-*.pt"))

    restored = Replay(20, 1, 3, 4, seed=9, mutable=(key,))
    ReplayArchive(tmp_path).load(restored, segments, state)
    held = slice(replay.written - len(replay), replay.written)
    ours, theirs = replay.rows(held.start, held.stop), restored.rows(held.start, held.stop)
    assert torch.equal(ours[key], theirs[key]) and torch.equal(ours["observation"], theirs["observation"])
    assert (ours[key] >= 1000).any() and torch.equal(replay.sample()[key], restored.sample()[key])
    next(iter(tmp_path.glob("mutable-*.pt"))).unlink()
    with pytest.raises(UsageError, match=r"mutable-.* is missing or damaged"):
        ReplayArchive(tmp_path).load(restored, segments, state)


def test_an_unreadable_checkpoint_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refuse)  # the superuser may read anything, so no chmod
    with pytest.raises(UsageError, match=r"last\.ckpt cannot be read: no permission"):
        load_checkpoint(path)
