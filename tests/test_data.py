"""Replay: windows within episodes, uniform, over ragged ends and the ring's wrap-around; restoring."""

import math
from itertools import pairwise

import pytest
import torch
from feeds import Writer
from tensordict import TensorDict

from dreammpc.data import Replay
from dreammpc.interfaces import RunError


def filled(num_envs, capacity, window, steps, chunk=1, batch_size=64, seed=0, **writer):
    writer = Writer(num_envs, **writer)
    replay = Replay(capacity, num_envs, window, batch_size, seed)
    for _ in range(0, steps, chunk):
        replay.extend(writer.batch(chunk))
    return replay, writer


@pytest.mark.parametrize(
    ("num_envs", "capacity", "steps", "chunk"),
    [
        (1, 1000, 90, 1),
        (3, 1000, 60, 1),
        (3, 100, 30, 4),
        (3, 100, 33, 3),
        (3, 100, 171, 1),
        (4, 102, 130, 5),
        (1, 50, 203, 7),
    ],
)
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_windows_are_consecutive_uniform_and_complete(num_envs, capacity, steps, chunk, window):
    """Half filled, at the wrap (3·33 = 99) and long after it: all valid windows, no others, equally often."""
    replay, writer = filled(num_envs, capacity, window, steps, chunk)
    valid = writer.windows(window, replay.capacity)
    counts = dict.fromkeys(valid, 0)
    draws = 100 * len(valid)
    for _ in range(math.ceil(draws / 64)):
        sample = replay.sample()
        assert sample.shape == (64, window)
        who, after = sample["observation"], sample["next", "observation"]
        assert (who[:, 1:, :2] == who[:, :-1, :2]).all()  # the same environment and episode
        assert (who[:, 1:, 2] == who[:, :-1, 2] + 1).all()  # steps in a row
        assert torch.equal(who[:, 1:], after[:, :-1])
        assert torch.equal(sample["action"][..., 0], who[..., 0])
        assert torch.equal(sample["next", "reward"][..., 0], who[..., 2])
        for start in who[:, 0].int().tolist():
            counts[tuple(start)] += 1  # a KeyError here is a window that should not exist
    expected = 64 * math.ceil(draws / 64) / len(valid)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(valid) - 1
    assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom)


def test_ends_of_episodes_appear_only_at_the_end_of_a_window():
    replay, _ = filled(2, 1000, 3, 100)
    ends = replay.sample()["next", "terminated"].squeeze(-1)
    assert not ends[:, :-1].any()
    assert ends[:, -1].any()


def test_episodes_shorter_than_the_window_are_an_error_not_an_endless_loop():
    replay, _ = filled(2, 1000, 6, 50, longest=4)
    with pytest.raises(RunError, match=r"no windows of 6 steps .*\b100 rows"):
        replay.sample()


@pytest.mark.parametrize(
    "key",
    ["observation", "action", "is_init", ("next", "observation"), ("next", "reward"), ("next", "terminated")],
)
def test_a_missing_key_is_named(key):
    batch = Writer(2).batch(3).exclude(key)
    with pytest.raises(KeyError) as error:
        Replay(100, 2, 3, 8).extend(batch)
    assert f"lacks {key}" in error.value.args[0]


def test_capacity_is_a_multiple_of_the_environments():
    assert Replay(100, 3, 2, 8).capacity == 99
    replay, _ = filled(3, 100, 2, 50)
    assert (len(replay), replay.written) == (99, 150)


def test_the_sampler_has_its_own_random_stream():
    one, other = (filled(2, 200, 3, 80, seed=7)[0] for _ in range(2))
    third = filled(2, 200, 3, 80, seed=8)[0]
    torch.manual_seed(0)
    first = one.sample()["observation"]
    state = torch.get_rng_state()
    torch.manual_seed(123)
    torch.randn(5)
    assert torch.equal(first, other.sample()["observation"])
    assert not torch.equal(first, third.sample()["observation"])
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())  # sampling takes nothing from the global stream


def test_rows_by_number():
    replay, writer = filled(3, 100, 2, 50)  # rows 51 to 149 are held, the ring is rotated
    rows = replay.rows(60, 140)["observation"].int().tolist()
    assert list(map(tuple, rows)) == writer.history[60:140]
    copy = replay.rows(51, 150)
    copy["observation"].zero_()
    assert replay.rows(52, 53)["observation"].abs().sum() > 0
    for start, stop in ((50, 60), (140, 151)):
        with pytest.raises(IndexError, match="replay holds rows 51 to 150"):
            replay.rows(start, stop)


def restored(replay, cuts, capacity=None, seed=99):
    """A new replay with the rows and state of `replay`, which travelled in chunks that end at `cuts`."""
    oldest = replay.written - len(replay)
    edges = [oldest, *cuts, replay.written]
    chunks = [replay.rows(start, stop) for start, stop in pairwise(edges)]
    state = replay.state_dict()
    other = Replay(capacity or replay.capacity, replay.num_envs, 3, 64, seed)
    other.restore(chunks, {key: v.clone() if torch.is_tensor(v) else v for key, v in state.items()})
    return other


@pytest.mark.parametrize("steps", [20, 33, 34, 50, 66, 71])
@pytest.mark.parametrize("cut", [[], [10], [10, 11]])
def test_restoring_gives_identical_samples(steps, cut):
    """Before, at and after the wrap of a ring of 99 rows."""
    replay, writer = filled(3, 100, 3, steps)
    oldest = replay.written - len(replay)
    other = restored(replay, [oldest + c for c in cut])
    assert (len(other), other.written, other.episodes) == (len(replay), replay.written, replay.episodes)
    for _ in range(3):
        assert torch.equal(replay.sample()["observation"], other.sample()["observation"])
    # Going on after a resume: fresh episodes start, in both, and overwrite the same rows.
    onward = Writer(3, seed=5)
    onward.episode = [100, 100, 100]
    for _ in range(25):
        batch = onward.batch(1)
        replay.extend(batch)
        other.extend(batch)
    writer.history += onward.history
    valid = writer.windows(3, 99)
    for _ in range(3):
        mine, theirs = replay.sample()["observation"], other.sample()["observation"]
        assert torch.equal(mine, theirs)
        assert {tuple(row) for row in theirs[:, 0].int().tolist()} <= valid
    start = other.written - len(other)
    expected = list(map(tuple, replay.rows(start, other.written)["observation"].int().tolist()))
    assert list(map(tuple, other.rows(start, other.written)["observation"].int().tolist())) == expected
    assert expected == writer.history[-len(other) :]


@pytest.mark.parametrize("capacity", [60, 150, 300])
def test_restoring_into_another_capacity(capacity):
    """The ring had wrapped at 99 rows; it goes on with fewer or more."""
    replay, writer = filled(3, 100, 3, 50)
    other = restored(replay, [], capacity)
    held = min(99, capacity)
    onward = Writer(3, seed=5)
    onward.episode = [100, 100, 100]
    for _ in range(70):
        other.extend(onward.batch(1))
        held = min(held + 3, other.capacity)
        assert len(other) == held
    written = (writer.history[-99:] + onward.history)[-held:]
    rows = other.rows(other.written - held, other.written)["observation"].int().tolist()
    assert list(map(tuple, rows)) == written
    held_rows = set(written)
    for start in other.sample()["observation"][:, 0].int().tolist():
        b, e, s = start
        assert all((b, e, s + i) in held_rows for i in range(3))


def test_a_restored_window_never_spans_the_resume():
    """Episodes that were cut off by the stop end there: the first new row starts a new one."""
    replay, _ = filled(1, 200, 3, 40, shortest=30, longest=30)
    other = restored(replay, [])
    onward = Writer(1, shortest=30, longest=30)
    onward.episode = [7]
    for _ in range(20):
        other.extend(onward.batch(1))
    for _ in range(20):
        who = other.sample()["observation"]
        assert (who[:, :, 1] == who[:, :1, 1]).all()


def with_plans(batch: TensorDict) -> TensorDict:
    """`batch` with an entry `plan` that says who the row is."""
    batch["plan"] = TensorDict({"mean": batch["observation"] + 0.5}, batch.batch_size)
    return batch


@pytest.mark.parametrize("on_disk", [False, True])
def test_mutable_entries_are_stored_and_updated_where_the_row_is_still_there(on_disk, tmp_path):
    folder = tmp_path / "replay" if on_disk else None
    writer, replay = Writer(3), Replay(100, 3, 3, 16, mutable=(("plan", "mean"),), folder=folder)
    with pytest.raises(KeyError) as error:
        replay.extend(Writer(3).batch(4))
    assert "lacks ('plan', 'mean')" in error.value.args[0]
    for _ in range(30):
        replay.extend(with_plans(writer.batch(1)))
    sample = replay.sample()
    assert torch.equal(sample["plan", "mean"], sample["observation"] + 0.5)
    assert sample["index"].shape == sample["frame"].shape == (16, 3)
    for _ in range(10):  # rows 0 to 20 are overwritten: 120 written, 99 held
        replay.extend(with_plans(writer.batch(1)))

    who = [tuple(row) for row in sample["observation"].flatten(0, 1).int().tolist()]
    alive = torch.tensor([row in writer.history[-99:] for row in who])
    assert 0 < alive.sum() < len(who)
    fresh = sample["plan", "mean"].flatten(0, 1) + 100
    index, stamps = sample["index"].flatten(), sample["frame"].flatten()
    assert torch.equal(replay.update(index, stamps, {"plan": {"mean": fresh}}), alive)

    rows = replay.rows(21, 120)
    renewed = {row for row, here in zip(who, alive.tolist(), strict=True) if here}
    for row, mean in zip(writer.history[21:], rows["plan", "mean"].tolist(), strict=True):
        assert mean == pytest.approx([x + (100.5 if row in renewed else 0.5) for x in row])
    with pytest.raises(KeyError, match="reward may not be changed"):
        replay.update(index, stamps, {"reward": fresh[:, :1]})
