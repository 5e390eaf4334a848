"""Replay of frames: each stored once, stacked by number: ragged ends, wrap-around, memmap, restoring."""

import math

import pytest
import torch
from tensordict import TensorDict

from dreammpc.data import Replay, check_replay_memory, replay_bytes
from dreammpc.data.frames import FrameStore, ring_size, stacked
from dreammpc.interfaces import FRAME_SHAPE, UsageError
from dreammpc.training import archive

KEYS = ("observation", "pixels")


class Filmed:
    """B environments with episodes of random length. Rows tell who they are: (env, episode, step).

    The frame of step s in an episode is filled with (env, episode, s).
    """

    def __init__(self, num_envs: int, longest: int = 9, shortest: int = 2, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        self.range = (shortest, longest + 1)
        self.who = [[b, 0, 0] for b in range(num_envs)]
        self.left = [self._length() for _ in range(num_envs)]

    def _length(self) -> int:
        return int(torch.randint(*self.range, (), generator=self.generator))

    def batch(self, steps: int) -> TensorDict:
        columns = [self._step() for _ in range(steps)]
        return torch.stack(columns, 1)

    def _step(self) -> TensorDict:
        who = torch.tensor(self.who)
        after = who + torch.tensor([0, 0, 1])
        done = torch.zeros(len(self.who), 1, dtype=torch.bool)
        for b, row in enumerate(self.who):
            row[2] += 1
            self.left[b] -= 1
            if self.left[b] == 0:
                self.who[b], self.left[b], done[b] = [b, row[1] + 1, 0], self._length(), True
        then = {"observation": after.float(), "pixels": film(after)}
        then |= {"reward": who[:, 2:].float(), "terminated": done}
        content = {
            "observation": who.float(),
            "pixels": film(who),
            "action": who[:, :1].float(),
            "next": then,
        }
        return TensorDict({**content, "is_init": who[:, 2:] == 0}, [len(self.who)])


def film(who: torch.Tensor) -> torch.Tensor:
    return (who % 256).to(torch.uint8)[..., None, None].expand(*who.shape, 64, 64)


def filled(num_envs=3, capacity=60, window=3, steps=50, chunk=1, keys=KEYS, folder=None, **filmed):
    writer, replay = (
        Filmed(num_envs, **filmed),
        Replay(capacity, num_envs, window, 64, obs_keys=keys, folder=folder),
    )
    for _ in range(0, steps, chunk):
        replay.extend(writer.batch(chunk))
    return replay, writer


def check(sample: TensorDict) -> None:
    """All stacks are the frames of their own episode, the first one repeated."""
    who = sample["observation"].long()
    for stacks, last in ((sample["pixels"], who[..., 2]), (sample["next", "pixels"], who[..., 2] + 1)):
        assert stacks.shape == (*sample.shape, 9, 64, 64) and stacks.dtype == torch.uint8
        flat = stacks.flatten(-2)
        assert (flat.amin(-1) == flat.amax(-1)).all()
        seen = flat[..., 0].unflatten(-1, (3, 3))  # [S, H, 3 frames, (env, episode, step)]
        assert torch.equal(seen[..., 0].long(), who[..., :1].expand(*who.shape[:2], 3))
        assert torch.equal(seen[..., 1].long(), (who[..., 1:2] % 256).expand(*who.shape[:2], 3))
        steps = torch.stack([last - 2, last - 1, last], -1).clamp(min=0)
        assert torch.equal(seen[..., 2].long(), steps)


@pytest.mark.parametrize(("num_envs", "chunk"), [(1, 1), (3, 1), (3, 4), (4, 7)])
@pytest.mark.parametrize("window", [1, 3])
def test_stacks_are_those_of_the_episode(num_envs, chunk, window):
    """Before and after the wrap of both rings; what has lost its frames to short episodes is not drawn."""
    writer, replay = Filmed(num_envs), Replay(25, num_envs, window, 64, obs_keys=KEYS)
    for _ in range(30):
        replay.extend(writer.batch(chunk))
        if replay.written > 10 * window * num_envs:
            check(replay.sample())
    assert replay.frames.written > replay.frames.size


def test_frames_are_stored_once_each():
    replay, _ = filled(num_envs=2, steps=40, shortest=10, longest=10)
    assert replay.frames.written == 2 * (40 + 4)  # one more for each of four episodes
    rows = replay.buffer.storage.get(slice(None))
    assert rows["frames"].shape == (60, 4) and not {"pixels", ("next", "pixels")} & set(rows.keys(True, True))
    pixels_only, _ = filled(keys=("pixels",))
    assert "observation" not in pixels_only.sample()


def test_windows_whose_frames_are_gone_are_never_drawn_and_all_others_are():
    replay, _ = filled(num_envs=1, capacity=100, steps=330, shortest=3, longest=3)
    assert replay.frames.written == 440 and replay.frames.size == ring_size(100, 1) == 106
    rows = replay.buffer.storage.get(slice(None))
    whole = rows["frames"][:, 0] >= replay.frames.oldest
    drawn = torch.zeros(100, dtype=torch.bool)
    for _ in range(60):
        sample = replay.sample()
        check(sample)
        drawn[sample["frame"][:, 0].apply_(lambda stamp: (rows["frame"] == stamp).nonzero().item())] = True
    starts = (rows["frame"] % 2**32 == 0) & whole
    starts &= torch.roll(whole, -2)
    assert 0 < whole.sum() < 100 and (drawn & ~whole).sum() == 0
    assert (drawn == starts).float().mean() > 0.97  # the newest episode may not be whole yet


def test_a_missing_frame_is_named():
    with pytest.raises(KeyError, match="the batch lacks pixels"):
        Replay(100, 2, 3, 8, obs_keys=KEYS).extend(Filmed(2).batch(3).exclude("pixels"))


def test_memmap_holds_the_same_in_files(tmp_path):
    in_memory, _ = filled(steps=60)
    on_disk, _ = filled(steps=60, folder=tmp_path / "replay")
    one, other = in_memory.sample(), on_disk.sample()
    check(other)
    assert (one == other).all()
    files = {p.name for p in (tmp_path / "replay").rglob("*.memmap")}
    assert {"frames.memmap", "action.memmap"} <= files


@pytest.mark.parametrize("steps", [10, 40, 90])
@pytest.mark.parametrize("capacity", [60, 150])
def test_restoring_gives_identical_stacks(steps, capacity):
    """In chunks, before and after the wrap, into the same ring and a larger one; then writing goes on."""
    replay, _ = filled(steps=steps, shortest=20, longest=40)
    oldest, middle = replay.written - len(replay), replay.written - len(replay) // 3
    other = Replay(capacity, 3, 3, 64, seed=9, obs_keys=KEYS)
    chunks = [replay.rows(oldest, middle), replay.rows(middle, replay.written)]
    for chunk in chunks:
        other.put_frames(chunk, replay.frames_of(chunk))
    other.restore(chunks, replay.state_dict())
    if capacity == 60:
        assert (replay.sample() == other.sample()).all()
    onward = Filmed(3, shortest=20, longest=40)
    onward.who = [[b, 100, 0] for b in range(3)]
    for _ in range(30):
        other.extend(onward.batch(1))
        check(other.sample())


def test_an_episode_that_goes_on_after_restoring_keeps_its_stack():
    store, other = FrameStore(50, 1), FrameStore(50, 1)
    images = torch.arange(8, dtype=torch.uint8).view(1, 8, 1, 1, 1).expand(1, 8, 3, 64, 64)
    is_init = torch.tensor([[True, False, False]])
    store.extend(images[:, :3], images[:, 1:4], is_init)
    other.put(0, store.get(0, 4))
    other.load_state_dict(store.state_dict())
    numbers = other.extend(images[:, 3:5], images[:, 4:6], torch.tensor([[False, False]]))
    before, after = stacked(other.gather(numbers))
    assert before[0, :, ::3, 0, 0].tolist() == [[1, 2, 3], [2, 3, 4]]
    assert after[0, :, ::3, 0, 0].tolist() == [[2, 3, 4], [3, 4, 5]]


def test_frames_are_saved_with_their_rows(tmp_path, monkeypatch):
    """In files of a few rows, some of whose frames belong to the file before; the rings have wrapped."""
    monkeypatch.setattr(archive, "SEGMENT_BYTES", 20 * math.prod(FRAME_SHAPE))
    replay, writer = filled(steps=0)
    saved, ours = {}, archive.ReplayArchive(tmp_path)
    for _ in range(5):
        for _ in range(12):
            replay.extend(writer.batch(1))
        saved = {**ours.save(replay), "replay": replay.state_dict()}
        ours.sweep()
    other = Replay(60, 3, 3, 64, seed=9, obs_keys=KEYS)
    archive.ReplayArchive(tmp_path).load(other, saved)
    assert len(saved["segments"]) > 3
    sample = other.sample()
    check(sample)
    assert (sample == replay.sample()).all()


def test_a_frame_is_sent_once():
    replay, _ = filled()
    state = replay.generator.get_state()
    drawn = replay.draw()
    windows, steps = drawn["action"].shape[:2]
    assert drawn["frames"].shape == (windows, steps + 3, *FRAME_SHAPE)
    assert not any("pixels" in key for key in drawn.keys(True, True))
    batch = replay.complete(drawn)
    assert not any("pixels" in key for key in drawn.keys(True, True))  # a graph is given the same again
    replay.generator.set_state(state)
    assert (replay.sample() == batch).all() and batch.batch_size == (windows, steps)
    assert torch.equal(batch["next", "pixels"][:, :-1], batch["pixels"][:, 1:])


@pytest.mark.parametrize("obs", ["state", "both"])
@pytest.mark.parametrize("plans", [False, True])
def test_the_need_that_is_said_is_what_is_taken(obs, plans):
    pixels = obs == "both"
    writer = Filmed(1, shortest=500, longest=500)
    mutable = (("expert", "mean"), ("expert", "std"), ("expert", "value")) if plans else ()
    replay = Replay(200, 1, 3, 8, 0, mutable, obs_keys=KEYS if pixels else KEYS[:1])
    for _ in range(2):
        batch = writer.batch(110)
        if plans:
            one = torch.ones(1, 110, 1)
            batch["expert"] = TensorDict({"mean": one, "std": one, "value": one}, [1, 110])
        replay.extend(batch)
    taken = sum(value.nbytes for value in replay.buffer.storage.get(slice(None)).values(True, True))
    taken += replay.frames.ring.nbytes if pixels else 0
    said = replay_bytes(200, 1, 3, 1, pixels, plans)
    assert taken == said


def test_a_million_transitions_of_frames_stay_below_13_gigabytes():
    assert replay_bytes(1_000_000, 1, 0, 6, pixels=True) < 13e9
    assert replay_bytes(1_000_000, 1, 24, 6, pixels=True) < 13e9


def test_what_does_not_fit_is_refused_with_what_would_help(tmp_path):
    assert check_replay_memory(3 * 10**6, 1000) == "replay of 1,000 transitions: 3 MB of memory when full"
    assert check_replay_memory(3 * 10**6, 1000, tmp_path / "deep" / "er").endswith(
        f"3 MB on disk, in {tmp_path}/deep/er"
    )
    with pytest.raises(UsageError, match=r"1,000 transitions: 9.* GB do not fit .* replay.storage=memmap"):
        check_replay_memory(9 * 10**15, 1000)
    with pytest.raises(UsageError, match=rf"do not fit on the disk of {tmp_path}, .* replay.folder"):
        check_replay_memory(9 * 10**15, 1000, tmp_path / "deep" / "er")
    assert not list(tmp_path.iterdir())
