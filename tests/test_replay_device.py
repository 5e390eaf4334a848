"""A replay on the device that trains: the windows, the writing back and the restoring of one in memory."""

import pytest
import torch
from foreign import foreign
from tensordict import TensorDict
from torch.fx.experimental.proxy_tensor import make_fx

from dreammpc.data import Replay, check_replay_memory, replay_place
from dreammpc.interfaces import UsageError

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def transitions(steps: int, start: int, length: int = 7) -> TensorDict:
    """[2, steps] of two environments, in episodes of `length` steps."""
    number = (start + torch.arange(steps)).expand(2, -1).unsqueeze(-1)
    x = number.float() + torch.tensor([0.0, 1000.0])[:, None, None]
    after = {"observation": x + 1, "reward": x, "terminated": number % length == length - 1}
    content = {"observation": x, "action": x, "is_init": number % length == 0, "next": after}
    return TensorDict({**content, "expert": {"mean": x}}, [2, steps])


def make(place, ragged: bool) -> Replay:
    """Over its capacity, so that the ring has closed."""
    replay = Replay(40, 2, 3, 16, seed=4, mutable=(("expert", "mean"),), ragged=ragged, folder=place)
    for start in range(0, 30, 5):
        replay.extend(transitions(5, start))
    return replay


def same(one: TensorDict, other: TensorDict) -> bool:
    one, other = one.cpu(), other.cpu()
    keys = set(one.keys(True, True))
    return keys == set(other.keys(True, True)) and all((one[key] == other[key]).all() for key in keys)


@pytest.mark.parametrize("ragged", [False, True])
def test_on_a_foreign_device_nothing_is_mixed(ragged):
    with foreign() as device:
        check_against_memory(device, ragged)


@DEVICES
@pytest.mark.parametrize("ragged", [False, True])
def test_it_gives_what_a_replay_in_memory_gives(device, ragged):
    check_against_memory(torch.device(device), ragged)


def check_against_memory(place: torch.device, ragged: bool) -> None:
    memory, there = make(None, ragged), make(place, ragged)
    for i in range(3):
        ours, theirs = there.sample(), memory.sample()
        assert ours["observation"].device.type == place.type
        assert same(ours, theirs)
        index, stamps = theirs["index"].flatten(), theirs["frame"].flatten()
        patch = torch.full((len(index), 1), float(-i - 1))
        memory.update(index, stamps, {("expert", "mean"): patch})
        mine = ours["index"].flatten(), ours["frame"].flatten()
        there.update(*mine, {("expert", "mean"): patch.to(place)})
    rows = there.rows(20, 60)
    assert same(rows, memory.rows(20, 60)) and rows["observation"].device.type == "cpu"
    assert (rows["expert", "mean"] < 0).any()
    restored = Replay(40, 2, 3, 16, mutable=(("expert", "mean"),), ragged=ragged, folder=place)
    restored.restore([rows], there.state_dict())
    assert same(restored.sample(), there.sample())


@DEVICES
@pytest.mark.parametrize("ragged", [False, True])
def test_only_numbers_are_sent(device, ragged):
    replay = make(torch.device(device), ragged)
    drawn = replay.draw()
    assert set(drawn.keys()) == {"index", "frame"} and drawn["index"].device.type == "cpu"
    batch = replay.complete(drawn)
    assert batch.batch_size == (16, 3) and ("valid" in set(batch.keys())) == ragged
    assert set(drawn.keys()) == {"index", "frame"}  # what a graph keeps is given as it is
    assert same(replay.complete(batch), batch)


def test_operations_noted_once_see_the_rows_that_come_later():
    """As a captured graph, which repeats the operations of its first call on the same memory."""
    replay = Replay(40, 2, 3, 16, seed=4, folder=torch.device("cpu"))
    replay.extend(transitions(5, 0))

    def observed(index):
        batch = replay.complete(TensorDict({"index": index}, [16]))
        return batch["observation"], batch["next", "reward"]

    noted = make_fx(observed)(replay.draw()["index"])
    for start in range(5, 40, 5):
        replay.extend(transitions(5, start))
        index = replay.draw()["index"]
        for ours, theirs in zip(noted(index), observed(index), strict=True):
            assert torch.equal(ours, theirs)
    assert index.max() > 10  # beyond what there was at first


def test_frames_stay_on_the_host():
    with pytest.raises(UsageError, match=r"storage=device holds what is observed as vectors"):
        Replay(10, 1, 2, 4, obs_keys=("pixels",), folder=torch.device("cpu"))


def test_what_does_not_fit_on_the_device_is_one_line(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (30 * 10**9, 80 * 10**9))
    assert check_replay_memory(10**9, 1000, gpu).endswith("1.0 GB on cuda:0, of 30.0 GB that are free")
    with pytest.raises(UsageError, match=r"25.0 GB do not fit on cuda:0, where 30.0 GB .*storage=memory"):
        check_replay_memory(25 * 10**9, 1000, gpu)


def test_the_device_is_the_one_that_trains():
    assert replay_place("device", None, "run", 0, "cpu") == torch.device("cpu")
    assert replay_place("memory", None, "run", 0, "cpu") is None
