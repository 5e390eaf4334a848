"""Checkpoint files: atomic, plain data, replay in segments that are written once."""

import os
import pickle
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from dreammpc.data import Replay
from dreammpc.interfaces import UsageError
from dreammpc.models import TDMPC2Model
from dreammpc.nn import ConvFeatures
from dreammpc.training import checkpoint_format
from dreammpc.training.archive import ReplayArchive, damaged, flat
from dreammpc.training.checkpoint_format import DESCRIPTION, FORMAT, load_checkpoint, migrated
from dreammpc.training.files import intact, keep_as, save_atomically, sweep_drafts
from dreammpc.training.random_state import random_state, set_random_state
from dreammpc.training.resume import find_resumable, open_resume, open_run


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


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "last.ckpt"
    save_atomically({"weights": torch.randn(50)}, path)
    whole = path.read_bytes()
    assert intact(path) and torch.load(path, weights_only=True)["weights"].shape == (50,)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not intact(path), place
    for length in (0, 1, 100, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert not intact(path)
        with pytest.raises(UsageError, match="damaged"):
            load_checkpoint(path)


def test_files_of_earlier_versions_have_no_checksum_and_load(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({DESCRIPTION: {"format": FORMAT, "task": "x"}}, path)
    assert intact(path) and load_checkpoint(path)[DESCRIPTION]["task"] == "x"


def test_previous_takes_the_place_of_last_in_one_step(tmp_path):
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for number in (1, 2, 3):
        save_atomically({"number": number}, last, (last, previous) if number > 1 else None)
    assert torch.load(last)["number"] == 3 and torch.load(previous)["number"] == 2
    (tmp_path / ".last.ckpt.77.tmp").write_bytes(b"torn")
    sweep_drafts(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_without_hard_links_previous_is_renamed(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(1, "Operation not permitted")

    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    save_atomically({"number": 1}, last)
    monkeypatch.setattr(os, "link", refuse)
    keep_as(last, previous)
    assert torch.load(previous)["number"] == 1 and not last.exists()


def test_migrations_run_one_after_the_other(tmp_path, monkeypatch):
    """A made-up history: 0 named the task `env`, 1 knew no unit of it."""
    path = tmp_path / "old.ckpt"
    save_atomically({DESCRIPTION: {"format": 0, "env": "cup"}}, path)
    with pytest.raises(UsageError, match="format 0, which this version reads no more"):
        load_checkpoint(path)

    def renamed(content):
        facts = content[DESCRIPTION]
        return {**content, DESCRIPTION: {**facts, "task": facts["env"]}}

    def suffixed(content):
        content[DESCRIPTION]["task"] += "-catch"
        return content

    monkeypatch.setattr(checkpoint_format, "MIGRATIONS", {0: renamed, 1: suffixed})
    monkeypatch.setattr(checkpoint_format, "FORMAT", 2)
    facts = load_checkpoint(path)[DESCRIPTION]
    assert facts["task"] == "cup-catch" and facts["format"] == 2


def test_format_1_finds_its_replay_files(tmp_path):
    replay = filled(10)
    rank = {"segments": [[0, 4], [4, 10]], "replay": replay.state_dict()}
    facts = {"format": 1, "config": {"algorithm": {"name": "tdmpc2"}}, "resume": {"ranks": [rank]}}
    torch.save({DESCRIPTION: facts}, tmp_path / "last.ckpt")
    archive = ReplayArchive(tmp_path)
    for start, stop in ([0, 4], [4, 10]):
        torch.save(flat(replay.rows(start, stop)), tmp_path / f"rows-{start:010d}-{stop:010d}.pt")
    (share,) = load_checkpoint(tmp_path / "last.ckpt")[DESCRIPTION]["resume"]["ranks"]
    restored = Replay(20, 1, 3, 4, seed=9)
    archive.load(restored, share)
    assert torch.equal(restored.rows(0, 10)["observation"], replay.rows(0, 10)["observation"])


def test_format_2_saw_images_less_gray():
    weights = {"agent.model.encoder.conv.layers.0.weight": torch.ones(32, 9, 7, 7, dtype=torch.float16)}
    content = migrated({"state_dict": weights, DESCRIPTION: {"format": 2}}, Path("old.ckpt"))
    center = content["state_dict"]["agent.model.encoder.conv.center"]
    assert torch.equal(center, ConvFeatures(9).center.half())
    states = {"state_dict": {"weight": center}, DESCRIPTION: {"format": 2}}
    assert list(migrated(states, Path("old.ckpt"))["state_dict"]) == ["weight"]


def test_format_3_had_another_name_for_the_mean_image():
    model = TDMPC2Model(0, 2, enc_dim=8, mlp_dim=8, latent_dim=8, obs="pixels")
    weights = {key.replace("conv.center", "conv.centre"): value for key, value in model.state_dict().items()}
    assert weights.keys() != model.state_dict().keys()
    content = migrated({"state_dict": weights, DESCRIPTION: {"format": 3}}, Path("old.ckpt"))
    model.load_state_dict(content["state_dict"])


def test_archive_writes_each_row_once(tmp_path):
    replay, archive = filled(10), ReplayArchive(tmp_path)
    (first,) = archive.save(replay)["segments"]
    assert first[:2] == [0, 10]
    before = (tmp_path / first[2]).stat().st_mtime_ns
    assert archive.save(replay)["segments"] == [first]  # nothing new, nothing written
    replay.extend(steps(5, 10))
    assert [s[:2] for s in archive.save(replay)["segments"]] == [[0, 10], [10, 15]]
    assert (tmp_path / first[2]).stat().st_mtime_ns == before


def test_archive_cuts_what_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr("dreammpc.training.archive.SEGMENT_BYTES", 100)
    replay, archive = filled(10), ReplayArchive(tmp_path)
    saved = archive.save(replay)
    edges = [s[:2] for s in saved["segments"]]
    assert len(edges) > 2 and edges[0][0] == 0 and edges[-1][1] == 10
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    restored = Replay(20, 1, 3, 4)
    ReplayArchive(tmp_path).load(restored, {**saved, "replay": replay.state_dict()})
    assert torch.equal(restored.rows(0, 10)["observation"], replay.rows(0, 10)["observation"])


def test_archive_spares_what_the_checkpoint_before_needs(tmp_path):
    """A ring that overwrites: of three saves the files of the last two stay whole."""
    replay, archive = filled(10), ReplayArchive(tmp_path)
    saves = [archive.save(replay)]
    for first in (10, 35):
        for more in range(first, first + 25, 5):
            replay.extend(steps(5, more))
        saves.append(archive.save(replay))
    assert [s[:2] for s in saves[1]["segments"]] == [[15, 35]]  # capacity 20
    assert not any(damaged(tmp_path, saved) for saved in saves)
    archive.sweep()
    assert damaged(tmp_path, saves[0]) and not damaged(tmp_path, saves[1]) and not damaged(tmp_path, saves[2])


@pytest.mark.parametrize("rows", [10, 20, 35])
def test_archive_round_trip_draws_the_same_batches(tmp_path, rows):
    replay, archive = filled(rows), ReplayArchive(tmp_path)
    replay.sample()
    saved = {**archive.save(replay), "replay": replay.state_dict()}
    restored = Replay(20, 1, 3, 4, seed=99)
    ReplayArchive(tmp_path).load(restored, saved)
    for _ in range(5):
        expected, got = replay.sample(), restored.sample()
        assert (expected["observation"] == got["observation"]).all()
        assert (expected["next", "reward"] == got["next", "reward"]).all()
    assert len(restored) == len(replay) and restored.written == replay.written


def test_archive_says_which_segment_is_missing(tmp_path):
    replay, archive = filled(10), ReplayArchive(tmp_path)
    saved = {**archive.save(replay), "replay": replay.state_dict()}
    path = tmp_path / saved["segments"][0][2]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=f"{path.name} is missing or damaged"):
        ReplayArchive(tmp_path).load(Replay(20, 1, 3, 4), saved)


def test_a_replay_file_runs_no_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    replay, archive = filled(10), ReplayArchive(tmp_path)
    saved = {**archive.save(replay), "replay": replay.state_dict()}
    save_atomically({"observation": Malicious()}, tmp_path / saved["segments"][0][2])
    del saved["sums"]  # as in a file that somebody made
    with pytest.raises(UsageError, match="missing or damaged"):
        ReplayArchive(tmp_path).load(Replay(20, 1, 3, 4), saved)
    assert not (tmp_path / "harm").exists()


def run_folder(folder, steps_done, seed=1, previous=None):
    """A run as resume sees it: `last.ckpt` and `previous.ckpt`, each with a replay file."""
    for name, number in (("last", steps_done), ("previous", previous)):
        if number is None:
            continue
        archive = ReplayArchive(folder / "checkpoints/replay/rank0")
        ranks = [archive.save(filled(10))]
        facts = {
            "format": FORMAT,
            "task": "walker-walk",
            "model": {"name": "nano"},
            "config": {"seed": seed, "steps": 1000, "algorithm": {"name": "tdmpc2"}},
            "env_steps": number,
            "resume": {"ranks": ranks},
        }
        save_atomically({DESCRIPTION: facts}, folder / f"checkpoints/{name}.ckpt")
    return folder


def test_auto_takes_the_newest_that_is_whole(tmp_path):
    assert find_resumable([tmp_path]) == (None, [])
    old = run_folder(tmp_path / "old", 500, seed=2)
    new = run_folder(tmp_path / "new", 300, previous=200)
    last, previous = (new / f"checkpoints/{name}.ckpt" for name in ("last", "previous"))
    os.utime(old / "checkpoints/last.ckpt", (1, 1))
    assert find_resumable([old, new]) == (last, [])
    assert find_resumable([old, new], seed=2) == (old / "checkpoints/last.ckpt", [])

    segment = load_checkpoint(last)[DESCRIPTION]["resume"]["ranks"][0]["segments"][0][2]
    (new / "checkpoints/replay/rank0" / segment).unlink()
    found, said = find_resumable([old, new])
    assert found == previous and len(said) == 1 and segment in said[0] and "last.ckpt" in said[0]

    previous.write_bytes(previous.read_bytes()[:-3])
    found, said = find_resumable([old, new])
    assert found == old / "checkpoints/last.ckpt" and len(said) == 2
    with pytest.raises(UsageError, match=r"no whole checkpoint.*last\.ckpt.*previous\.ckpt.*damaged"):
        find_resumable([new])


def test_a_checkpoint_without_its_replay_says_what_to_copy(tmp_path):
    folder = run_folder(tmp_path / "run", 300)
    alone = tmp_path / "copy/last.ckpt"
    alone.parent.mkdir()
    alone.write_bytes((folder / "checkpoints/last.ckpt").read_bytes())
    with pytest.raises(UsageError, match=r"copy/replay beside it.*rank0/rows-.*copy replay/ too.*alone"):
        open_resume(alone)


def test_a_new_run_does_not_go_over_another(tmp_path):
    folder = run_folder(tmp_path / "run", 300)
    with pytest.raises(UsageError, match=r"holds a run already.*resume=auto"):
        open_run(folder, None)
    assert open_run("anything", str(folder / "checkpoints/last.ckpt")) == folder
    for inside in ("checkpoints", "checkpoints/replay/mine"):
        with pytest.raises(UsageError, match=rf"lies among the checkpoints of the run {folder}: choose"):
            open_run(folder / inside, None)
    assert not (folder / "checkpoints/replay/mine").exists()


def test_a_folder_that_cannot_be_looked_through_is_refused(tmp_path, monkeypatch):
    def denied(folder, pattern):
        raise PermissionError(13, "Permission denied", "/proc/1/cwd")

    monkeypatch.setattr(Path, "rglob", denied)
    with pytest.raises(UsageError, match=r"cannot be looked through \(.*Permission denied.*/proc/1/cwd"):
        open_run(tmp_path, None)


def test_random_state_round_trip(tmp_path):
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    np.random.normal()  # leaves a second normal number cached
    path = tmp_path / "random.pt"
    save_atomically(random_state(), path)
    expected = random.random(), np.random.normal(), torch.rand(1).item()
    set_random_state(torch.load(path, weights_only=True))
    assert (random.random(), np.random.normal(), torch.rand(1).item()) == expected


def test_archive_writes_again_what_somebody_deleted(tmp_path):
    replay, archive = filled(10), ReplayArchive(tmp_path)
    first = archive.save(replay)["segments"][0][2]
    (tmp_path / first).unlink()
    saved = {**archive.save(replay), "replay": replay.state_dict()}
    restored = Replay(20, 1, 3, 4)
    ReplayArchive(tmp_path).load(restored, saved)
    assert torch.equal(restored.rows(0, 10)["observation"], replay.rows(0, 10)["observation"])


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
        assert replay.update(sample["index"], sample["frame"], changed).all()
    saved = {**archive.save(replay), "replay": replay.state_dict()}
    archive.sweep()
    assert len(list(tmp_path.glob("mutable-*.pt"))) == 2  # and that of the save before
    assert all("plan/mean" not in torch.load(path) for path in tmp_path.glob("rows-*.pt"))

    restored = Replay(20, 1, 3, 4, seed=9, mutable=(key,))
    ReplayArchive(tmp_path).load(restored, saved)
    held = slice(replay.written - len(replay), replay.written)
    ours, theirs = replay.rows(held.start, held.stop), restored.rows(held.start, held.stop)
    assert torch.equal(ours[key], theirs[key]) and torch.equal(ours["observation"], theirs["observation"])
    assert (ours[key] >= 1000).any() and torch.equal(replay.sample()[key], restored.sample()[key])
    (tmp_path / saved["mutable"]).unlink()
    with pytest.raises(UsageError, match=r"mutable-.* is missing or damaged"):
        ReplayArchive(tmp_path).load(restored, saved)


def test_an_unreadable_checkpoint_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "read_bytes", refuse)  # the superuser may read anything, so no chmod
    with pytest.raises(UsageError, match=r"last\.ckpt cannot be read: no permission"):
        load_checkpoint(path)
