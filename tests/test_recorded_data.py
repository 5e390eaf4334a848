"""Recorded data: what is read of files, what is refused, and trainings that learn from them."""

import json
import logging
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import TINY, logged, run_here
from faults.tiny import Snapshots, Training, everything, lines, raw
from feeds import FakeAgent, FakeCollector, schedule

from dreammpc.cli import parser as cli
from dreammpc.configuration.data_schemas import DataConfig
from dreammpc.configuration.recorded import build_demonstrations, open_data
from dreammpc.configuration.schemas import ReplayConfig, TrainerConfig
from dreammpc.data import Feed, Replay
from dreammpc.data.demonstrations import Demonstrations, spread
from dreammpc.data.episode import Episode
from dreammpc.data.recorder import write_episodes
from dreammpc.interfaces import RunError, UsageError

h5py = pytest.importorskip("h5py")
FACTS = {"task": "pendulum-swingup", "action_repeat": 2, "action_low": -1.0, "action_high": 1.0}


def episode(number: int, length: int, obs_dim: int = 3, action_dim: int = 1, pixels: bool = False) -> Episode:
    """Odd numbers terminate, the others are at a time limit."""
    rng = np.random.default_rng(number)
    seen = {"observation": rng.normal(size=(length + 1, obs_dim)).astype(np.float32)}
    if pixels:
        seen["pixels"] = rng.integers(0, 256, (length + 1, 3, 64, 64)).astype(np.uint8)
    action = rng.uniform(-1, 1, (length, action_dim)).astype(np.float32)
    reward = rng.normal(size=length).astype(np.float32)
    ends = {"terminated": number % 2 == 1, "truncated": number % 2 == 0}
    return Episode(f"episode {number}", seen, action, reward, **ends)


def columns(rows: int = 40, obs_dim: int = 3, ends: tuple[int, ...] = (9, 24)) -> dict[str, np.ndarray]:
    """As most flat files have them: what follows the last step of an episode is not there."""
    whole = episode(0, rows, obs_dim)
    timeouts = np.zeros(rows, bool)
    timeouts[list(ends)] = True
    return {
        "observations": whole.obs["observation"][:-1],
        "actions": whole.action,
        "rewards": whole.reward,
        "terminals": np.zeros(rows, bool),
        "timeouts": timeouts,
    }


def opened(path, obs="state", **settings):
    return open_data(DataConfig(path=str(path), **settings), obs)


def equal(one: Episode, other: Episode) -> bool:
    found, expected = one.transitions(), other.transitions()
    keys = set(expected.keys(True, True))
    return keys == set(found.keys(True, True)) and all(raw(found[key]) == raw(expected[key]) for key in keys)


@pytest.mark.parametrize("ending", ["npz", "h5"])
@pytest.mark.parametrize("pixels", [False, True])
def test_what_is_recorded_is_read_back_to_the_bit(ending, pixels, tmp_path):
    written = [episode(number, length, pixels=pixels) for number, length in enumerate((4, 7, 1))]
    path = tmp_path / f"data.{ending}"
    assert write_episodes(path, written, FACTS) == (3, 12)
    data = opened(path, "both" if pixels else "state")
    assert data.source.facts == {**FACTS, "format": 1}
    read = list(data.pieces())
    assert len(read) == 3 and all(equal(*pair) for pair in zip(read, written, strict=True))
    assert [(each.terminated, each.truncated) for each in read] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_what_cannot_be_written_is_one_line(ending, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"record .*file/data.* cannot be written: "):
        write_episodes(tmp_path / "file" / f"data.{ending}", [episode(0, 5)], FACTS)


def test_a_flat_file_is_cut_where_its_columns_say(tmp_path):
    np.savez(tmp_path / "flat.npz", **columns())
    data = opened(tmp_path / "flat.npz")
    assert (data.episodes, data.transitions, data.truncated) == (3, 37, 2)
    (there, left_out) = data.said()
    assert "37 transitions in 3 episodes (0 terminated, 2 at a time limit, 1 cut" in there
    assert "left out 3 transitions: what was observed after them is not in the data" in left_out
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        for name, value in columns().items():
            file[name] = value
    other = opened(tmp_path / "flat.h5")
    assert all(equal(*pair) for pair in zip(other.pieces(), data.pieces(), strict=True))
    cut = opened(tmp_path / "flat.npz", episode_length=5)
    assert (cut.episodes, cut.longest) == (8, 4)


def test_shuffled_transitions_are_no_episodes(tmp_path):
    whole = episode(0, 30)
    order = np.random.default_rng(1).permutation(30)
    np.savez(
        tmp_path / "shuffled.npz",
        obs=whole.obs["observation"][:-1][order],
        next_obs=whole.obs["observation"][1:][order],
        action=whole.action[order],
        reward=whole.reward[order],
        done=np.ones(30),
    )
    data = opened(tmp_path / "shuffled.npz")
    assert (data.episodes, data.transitions, data.longest) == (30, 30, 1)


def test_columns_by_other_names_are_joined(tmp_path):
    own = columns(obs_dim=4)
    seen = own.pop("observations")
    with h5py.File(tmp_path / "own.hdf5", "w") as file:
        file["robot/joints"], file["robot/gripper"] = seen[:, :3], seen[:, 3]
        file["torque"], file["score"] = own["actions"], own["rewards"]
        file["trial"] = np.repeat(np.arange(4), 10)
    given = {"observation": ["robot/joints", "robot/gripper"], "action": "torque", "reward": "score"}
    data = opened(tmp_path / "own.hdf5", columns={**given, "episode": "trial"})
    assert (data.obs_dim, data.episodes, data.transitions) == (4, 4, 36)
    first = next(data.pieces())
    assert np.array_equal(first.obs["observation"], seen[:10])


def test_a_group_for_each_episode_as_robomimic_has_them(tmp_path):
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for number, length in ((0, 5), (1, 6), (10, 7), (2, 8)):
            one = episode(number, length)
            group = file.create_group(f"data/demo_{number}")
            group["obs/joints"], group["actions"] = one.obs["observation"][:-1], one.action
            group["next_obs/joints"], group["rewards"] = one.obs["observation"][1:], one.reward
            group["dones"] = np.arange(length) == length - 1
    own = {"observation": "obs/joints", "next_observation": "next_obs/joints"}
    read = list(opened(tmp_path / "demo.hdf5", columns=own).pieces())
    assert [len(each) for each in read] == [5, 6, 8, 7]
    assert np.array_equal(read[3].obs["observation"], episode(10, 7).obs["observation"])
    without = opened(tmp_path / "demo.hdf5", columns={"observation": "obs/joints"})
    assert [len(each) for each in without.pieces()] == [4, 5, 7, 6]


def test_actions_are_scaled_by_bounds(tmp_path):
    own = columns()
    own["actions"] = own["actions"] * 3 + 1
    np.savez(tmp_path / "wide.npz", **own)
    given = opened(tmp_path / "wide.npz", bounds=[-2, 4])
    assert np.allclose(next(given.pieces()).action, columns()["actions"][:9], atol=1e-6)
    recorded = opened(tmp_path / "wide.npz", bounds="recorded")
    scaled = np.concatenate([each.action for each in recorded.pieces()])
    assert scaled.min() >= -1 and scaled.max() <= 1 and np.ptp(scaled) > 1.9
    assert "scaled from -2 to 4" in given.said()[0]


def test_what_cannot_be_learned_from_is_dropped_and_counted(tmp_path):
    own = columns()
    own["observations"][5, 1], own["rewards"][15], own["actions"][30] = np.nan, np.inf, 2.0
    np.savez(tmp_path / "odd.npz", **own)
    data = opened(tmp_path / "odd.npz", invalid="drop")
    assert (data.transitions, data.episodes) == (37 - 4, 6)
    told = "\n".join(data.said())
    assert "left out 2 transitions: the observation is not finite" in told
    assert "left out 1 transition: the reward is not finite" in told
    assert "left out 1 transition: the action is outside of the bounds -1 to 1" in told


def test_what_would_be_wrong_without_a_word_is_told(tmp_path):
    """Terminations that are lost, bounds that nobody declared, and ends of two kinds at once."""
    own = columns()
    own["terminals"], own["timeouts"] = own["timeouts"], own["terminals"]
    np.savez(tmp_path / "short.npz", **own)
    told = "\n".join(opened(tmp_path / "short.npz").said())
    assert "(0 terminated, 0 at a time limit, 3 cut" in told
    assert "left out 2 transitions: their episodes terminate there, which is not learned" in told
    assert "left out 1 transition: what was observed after them" in told
    assert "taken to be within -1 and 1 as no bounds are declared" in told
    after = episode(0, 40).obs["observation"][1:]
    np.savez(tmp_path / "whole.npz", **own | {"timeouts": own["terminals"], "next_observations": after})
    told = "\n".join(opened(tmp_path / "whole.npz", bounds=[-1, 1]).said())
    assert "(2 terminated, 0 at a time limit, 1 cut" in told
    assert "declared" not in told


def test_the_file_that_the_page_writes_has_two_episodes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs/data.md").read_text()
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    data = opened("mine.npz", bounds=[-2, 2])
    assert (data.transitions, data.episodes, data.terminated) == (200, 2, 2)


@pytest.mark.filterwarnings("error")
def test_an_episode_of_invalid_actions_has_no_bounds(tmp_path):
    own = columns()
    own["actions"][10:25] = np.nan
    np.savez(tmp_path / "odd.npz", **own)
    rest = np.concatenate([own["actions"][:10], own["actions"][25:]])
    bounds = opened(tmp_path / "odd.npz", invalid="drop", bounds="recorded").bounds
    assert (bounds.low, bounds.high) == (rest.min(), rest.max())


def test_nan_does_not_end_an_episode(tmp_path):
    own, whole = columns(), episode(0, 40)
    own |= {"next_observations": whole.obs["observation"][1:].copy()}
    own["observations"] = own["observations"].copy()
    own["observations"][15] = np.nan
    own["rewards"][30] = np.inf
    np.savez(tmp_path / "odd.npz", **own)
    with pytest.raises(UsageError, match="episode 1, step 5: the observation is not finite"):
        opened(tmp_path / "odd.npz")
    data = opened(tmp_path / "odd.npz", invalid="drop")
    assert len(data.returns) == 3 and data.returns[1] == pytest.approx(float(own["rewards"][10:25].sum()))
    assert "inf" not in data.said()[0]


def spoiled(tmp_path, change, name="bad.npz"):
    own = columns()
    change(own)
    np.savez(tmp_path / name, **own)
    return tmp_path / name


def torn(tmp_path, ending):
    whole, path = tmp_path / f"whole.{ending}", tmp_path / f"torn.{ending}"
    write_episodes(whole, [episode(0, 200)], FACTS)
    path.write_bytes(whole.read_bytes()[:-300])
    return path


def single_array(tmp_path):
    np.save(tmp_path / "single.npy", np.zeros(3))
    return (tmp_path / "single.npy").rename(tmp_path / "single.npz")


def immense(tmp_path):
    """Its header says that the array is larger than any memory."""
    with zipfile.ZipFile(tmp_path / "immense.npz", "w") as file, file.open("actions.npy", "w") as array:
        np.lib.format.write_array_header_1_0(
            array, {"descr": "<f4", "fortran_order": False, "shape": (10**14,)}
        )
    return tmp_path / "immense.npz"


def odd_groups(tmp_path):
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        for number, more in ((0, 1), (1, 3)):
            one = episode(number, 6)
            group = file.create_group(f"episode_{number}")
            group["observations"] = np.zeros((6 + more, 3))
            group["actions"], group["rewards"] = one.action, one.reward
    return tmp_path / "odd.h5"


def newer(tmp_path):
    return spoiled(tmp_path, lambda own: own.update(dreammpc=np.array(json.dumps({"format": 7}))))


BAD = {
    "missing": (lambda folder: folder / "none.npz", {}, ["none.npz", "does not exist"]),
    "unknown ending": (lambda folder: Path(__file__), {}, ["nothing is known", ".npz"]),
    "no data set": (lambda folder: "no/such-v0", {}, ["no/such-v0 is no file or folder", "Minari"]),
    "empty folder": (lambda folder: folder, {}, ["neither a run's folder", "LeRobot"]),
    "pattern": (lambda folder: folder / "*.npz", {}, ["no file matches"]),
    "no reward": (lambda f: spoiled(f, lambda own: own.pop("rewards")), {}, ["reward", "there are: actions"]),
    "wrong column": (
        lambda f: spoiled(f, lambda own: None),
        {"columns": {"reward": "score"}},
        ["no column 'score'", "rewards"],
    ),
    "unknown role": (
        lambda f: spoiled(f, lambda own: None),
        {"columns": {"torque": "actions"}},
        ["no entry 'torque'", "observation"],
    ),
    "NaN": (
        lambda f: spoiled(f, lambda own: own["observations"].__setitem__((12, 0), np.nan)),
        {},
        ["episode 1, step 2", "observation is not finite", "data.invalid=drop"],
    ),
    "no ends": (
        lambda f: spoiled(f, lambda own: (own.pop("terminals"), own.pop("timeouts"))),
        {},
        ["where its episodes end", "data.columns.episode=", "data.episode_length="],
    ),
    "ends that never come": (
        lambda f: spoiled(f, lambda own: own["timeouts"].fill(False)),
        {},
        ["all zero: terminals, timeouts"],
    ),
    "torn npz": (lambda folder: torn(folder, "npz"), {}, ["torn.npz is damaged"]),
    "an array that is called npz": (single_array, {}, ["single.npz is damaged or no npz file"]),
    "torn HDF5": (lambda folder: torn(folder, "h5"), {}, ["torn.h5 is damaged"]),
    "pickles": (
        lambda f: spoiled(f, lambda own: own.update(actions=np.array([{}] * 40, dtype=object))),
        {},
        ["'actions' is not of numbers", "Python objects"],
    ),
    "actions beyond": (
        lambda f: spoiled(f, lambda own: own["actions"].__setitem__(3, 5.0)),
        {},
        ["step 3", "outside of the bounds -1 to 1", "data.bounds="],
    ),
    "bounds of another width": (
        lambda f: spoiled(f, lambda own: None),
        {"bounds": [[-1, -1], [1, 1]]},
        ["bounds are 2 and 2 numbers", "actions have 1"],
    ),
    "unequal rows": (
        lambda f: spoiled(f, lambda own: own.update(rewards=own["rewards"][:-1])),
        {},
        ["different numbers of rows", "rewards 39"],
    ),
    "text": (
        lambda f: spoiled(f, lambda own: own.update(rewards=np.array(["1.0"] * 40))),
        {},
        ["'rewards' is not of numbers"],
    ),
    "odd groups": (odd_groups, {}, ["episode 1", "6 actions", "9 rows of 'observations'"]),
    "ends that say neither": (
        lambda f: spoiled(f, lambda own: own.update(terminals=np.full(40, np.nan))),
        {},
        ["'terminals' is to say yes or no", "row 0 has nan"],
    ),
    "ends that count": (
        lambda f: spoiled(f, lambda own: own.update(timeouts=np.arange(40))),
        {},
        ["'timeouts' is to say yes or no", "row 2 has 2"],
    ),
    "rows of two by turns": (
        lambda f: spoiled(f, lambda own: own.update(timeouts=np.zeros(40), episode=np.arange(40) % 2)),
        {},
        ["'episode' changes with every row"],
    ),
    "an episode without its number": (
        lambda f: spoiled(f, lambda own: own.update(episode=np.array([0.0] * 38 + [np.nan] * 2))),
        {},
        ["'episode' is not a number in 2 of 40 rows, first in row 38"],
    ),
    "immense": (immense, {}, ["immense.npz is damaged", "MemoryError"]),
    "too large an observation": (
        lambda f: spoiled(f, lambda own: own["observations"].__setitem__((12, 0), 1e20)),
        {},
        ["episode 1, step 2", "observation is beyond 1e+15"],
    ),
    "too large a reward": (
        lambda f: spoiled(f, lambda own: own["rewards"].__setitem__(12, -1e20)),
        {},
        ["episode 1, step 2", "reward is beyond 1e+15"],
    ),
    "a newer format": (newer, {}, ["has format 7", "reads 1"]),
    "frames that are not there": (
        lambda f: spoiled(f, lambda own: None),
        {"obs": "both"},
        ["known to be the pixels"],
    ),
    "nothing left": (
        lambda f: spoiled(f, lambda own: own["rewards"].fill(np.nan)),
        {"invalid": "drop"},
        ["no transition to learn from", "37 left out, as the reward is not finite"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_one_line(name, tmp_path):
    make, settings, words = BAD[name]
    with pytest.raises(UsageError) as error:
        opened(make(tmp_path), **settings)
    line = str(error.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line


def task(obs_dim=3, action_dim=1, action_repeat=2):
    """As much of an environment as is asked for spaces."""
    shape = SimpleNamespace(shape=(1, obs_dim))
    return SimpleNamespace(
        observation_spec={"observation": shape},
        action_spec=SimpleNamespace(shape=(1, action_dim)),
        action_repeat=action_repeat,
        task="a-task",
        channels=3,
    )


@pytest.mark.parametrize(
    ("env", "horizon", "words"),
    [
        (task(obs_dim=4), 3, ["3 observations and 1 actions", "a-task has 4 and 1"]),
        (task(action_dim=2), 3, ["a-task has 3 and 2"]),
        (task(action_repeat=4), 3, ["action repeat of 2", "a-task has 4", "env.action_repeat=2"]),
        (task(), 9, ["longest episode has 8 transitions", "algorithm.horizon=9"]),
    ],
)
def test_data_of_another_task_are_refused(env, horizon, words, tmp_path):
    write_episodes(tmp_path / "data.npz", [episode(0, 8)], FACTS)
    config = SimpleNamespace(
        folder=tmp_path,
        data=DataConfig(),
        replay=ReplayConfig(),
        trainer=TrainerConfig(),
        algorithm=SimpleNamespace(horizon=horizon, batch_size=8),
    )
    agent = SimpleNamespace(obs_keys=("observation",), record=False, model=None)
    with pytest.raises(UsageError) as error:
        build_demonstrations(opened(tmp_path / "data.npz"), env, agent, config, 1, 1)
    for word in words:
        assert word in str(error.value)


def demonstrations(updates: int, share: float, mutable: tuple = (), place=None) -> Demonstrations:
    """Observations of 100 and more, where those of the collector are below 10."""
    replay = Replay(40, 1, 2, 4, mutable=mutable, folder=place)
    for number in range(4):
        one = episode(number, 10, obs_dim=1)
        one.obs["observation"] = 100 + np.arange(11, dtype=np.float32)[:, None]
        replay.extend(one.transitions())
    return Demonstrations(replay, "sum", updates, share)


@pytest.mark.parametrize(("share", "recorded"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_updates_on_data_come_first_and_then_a_share(share, recorded):
    agent = FakeAgent()
    collector = FakeCollector(agent)
    feed = Feed(collector, agent, Replay(1000, 1, 2, 4), 6, 10, 1.0, 2, data=demonstrations(5, share))
    clocks, shares = [], []
    for batch in feed:
        clocks.append(feed.clock)
        shares.append(int((batch["observation"][:, 0] >= 100).sum()))
    assert clocks == [-4, -3, -2, -1, 0] + [12] * 6 + [14, 16, 18, 20]
    assert shares == [4] * 5 + [recorded] * 10
    assert feed.exhausted and feed.progress() == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_beside_data_on_a_device_every_update_is_given_the_same_tensors(share):
    """A graph is captured for them; rows of two replays have no numbers in common."""
    agent, place = FakeAgent(), torch.device("cpu")
    feed = Feed(FakeCollector(agent), agent, Replay(1000, 1, 2, 4, folder=place), 6, 10, 1.0, 2)
    feed.data, feed.offline = demonstrations(5, share, place=place), 5
    shapes, shares = set(), []
    for _ in range(15):
        drawn = feed.draw()
        shapes.add(str({key: drawn[key].shape for key in sorted(drawn.keys(True, True), key=str)}))
        shares.append(int((feed.complete(drawn)["observation"][:, 0] >= 100).sum()))
    assert len(shapes) == 1 and shares == [4] * 5 + [int(4 * share)] * 10


def test_without_random_steps_the_agent_acts_from_the_first_one_on():
    agent = FakeAgent()
    collector = FakeCollector(agent)
    feed = Feed(collector, agent, Replay(1000, 1, 2, 4), 6, 8, 1.0, 2, random=False)
    assert schedule(feed) == [6] * 6 + [7, 8]
    assert collector.was_random == [False] * 8


def test_both_kinds_are_spread_over_a_batch():
    order = spread(6, 2)
    assert sorted(order.tolist()) == list(range(8))
    assert [place for place, which in enumerate(order.tolist()) if which >= 6] == [2, 6]


def test_a_trainings_replay_is_read_back_to_the_bit(tmp_path):
    run = Training(tmp_path / "run", steps=500, save_every=200, env={"num_envs": 2, "action_repeat": 8}).run()
    replay, data = run.feed.replay, opened(tmp_path / "run")
    assert "declared" not in data.said()[0]  # an agent's actions are within -1 and 1
    rows = replay.rows(0, replay.written)
    order = torch.argsort(rows["frame"], stable=True)
    read = torch.cat([each.transitions()[0] for each in data.pieces()])
    for key in ("observation", "action", ("next", "observation"), ("next", "reward"), ("next", "terminated")):
        assert raw(read[key]) == raw(rows[key][order])
    assert data.transitions == replay.written
    again = Replay(data.transitions, 1, 3, 8)
    first, second = data.fill(again), data.fill(Replay(data.transitions, 1, 3, 8))
    assert first == second


OFFLINE = {"updates": 6, "share": 0.5}


@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
def test_a_run_on_data_goes_on_to_the_bit(algorithm, tmp_path):
    """Stops within the updates on data alone, and later, while a share of each batch comes from them."""
    path = tmp_path / "data.h5"
    write_episodes(path, [episode(number, 20) for number in range(3)], {})
    settings = {"algorithm": algorithm, "data": {"path": str(path), **OFFLINE}, "frozen": {"encoder": 8}}
    settings |= {"steps": 240, "env": {"action_repeat": 8}, "seed_steps": 80, "utd": 0.5, "log_every": 2}
    if algorithm == "bmpc":
        settings |= {"reanalyze_interval": 2, "reanalyze_slices": 4}
    snapshots = Snapshots(tmp_path / "whole", (3, 10))
    whole = Training(tmp_path / "whole", more=(snapshots,), **settings)
    snapshots.run = whole
    expected = everything(whole.run())
    assert whole.feed.updates == 6 + 15
    assert [line["env_steps"] for line in lines(tmp_path / "whole")][:2] == [-4, -2]
    for stop in (3, 10):
        torch.manual_seed(99)
        folder = tmp_path / f"at{stop}"
        resumed = Training(folder, resume=folder / "checkpoints/last.ckpt", **settings)
        got = everything(resumed.run())
        assert [place for place, value in expected.items() if raw(value) != raw(got[place])] == []
        assert lines(folder) == lines(tmp_path / "whole")
    write_episodes(path, [episode(number, 21) for number in range(3)], {})
    with pytest.raises(UsageError, match="learned from other data"):
        Training(folder, resume=folder / "checkpoints/last.ckpt", **settings).run()


def test_frozen_parts_stay_and_thaw(tmp_path):
    path = tmp_path / "data.npz"
    write_episodes(path, [episode(number, 20) for number in range(3)], {})
    seen = []

    class Watch(Snapshots):
        def on_train_batch_end(self, trainer, pl_module, *args):
            model = pl_module.model
            seen.append(
                [model.encoder.linears[0].weight.sum().item(), model.dynamics.linears[0].weight.sum().item()]
            )

    settings = {
        "data": {"path": str(path), "updates": 6},
        "steps": 8,
        "seed_steps": 8,
        "env": {"action_repeat": 8},
    }
    run = Training(
        tmp_path / "run", frozen={"encoder": 4, "dynamics": 2}, more=(Watch(tmp_path, ()),), **settings
    ).run()
    assert run.feed.updates == 6
    encoder, dynamics = zip(*seen, strict=True)
    assert len(set(encoder[:4])) == 1 and len(set(encoder[3:])) == 3
    assert len(set(dynamics[:2])) == 1 and len(set(dynamics[1:])) == 5


def test_the_recipe_learns_from_a_recording_without_a_step(tmp_path):
    recorded = "checkpoint=agent:cartpole-swingup", "planner=policy", "episodes=2", "record=data.h5"
    said = run_here("evaluate", *recorded, cwd=tmp_path).stdout
    assert "record: 1,000 transitions in 2 episodes, data.h5" in said
    words = [word for word in TINY if not word.startswith(("env.", "steps="))]
    words += ["tracking=none", "evaluation.video=false", "steps=0", "data=data.h5", "data.updates=30"]
    told = run_here("train", *words, "data.most=600", "tracking.log_every=10", cwd=tmp_path)
    assert "data data.h5: 500 transitions in 1 episode " in told.stderr
    assert "after 0 environment steps and 30 updates on recorded data" in told.stdout
    assert [line["env_steps"] for line in logged(tmp_path / "run")][:3] == [-20, -10, 0]
    resumed = "resume=run/checkpoints/last.ckpt"
    said = run_here("train", resumed, "tracking=none", cwd=tmp_path, code=2).stderr
    assert "its run learned from recorded data" in said and "add data=data.h5, or data=null" in said
    more = "data=null", "steps=400", "algorithm.seed_steps=300", "tracking=none", "evaluation.episodes=1"
    assert (
        "after 400 environment steps and 30 updates" in run_here("train", resumed, *more, cwd=tmp_path).stdout
    )


def lerobot(folder: Path, images: str = "") -> list[Episode]:
    """Two episodes; `images`: where frames are, with them (`parquet`), in a `video` each or in one `film`."""
    pyarrow = pytest.importorskip("pyarrow")
    import io

    import imageio.v3 as imageio
    import pyarrow.parquet as parquet

    episodes = [episode(number, length, obs_dim=2, pixels=True) for number, length in enumerate((6, 9))]
    features = {"observation.state": {"dtype": "float32"}, "action": {"dtype": "float32"}}
    if images:
        features["observation.top"] = {"dtype": "image" if images == "parquet" else "video"}
    (folder / "meta/episodes/chunk-000").mkdir(parents=True)
    info = {"codebase_version": "v2.1" if images == "video" else "v3.0", "features": features, "fps": 10}
    (folder / "meta/info.json").write_text(json.dumps(info))
    tables = []
    for number, one in enumerate(episodes):
        rows = len(one)
        own = {
            "observation.state": list(one.obs["observation"][:-1]),
            "action": list(one.action),
            "next.reward": one.reward,
            "next.done": np.arange(rows) == rows - 1,
            "episode_index": np.full(rows, number),
            "frame_index": np.arange(rows),
        }
        frames = one.obs["pixels"][:-1].transpose(0, 2, 3, 1)
        if images == "parquet":
            own["observation.top"] = [{"bytes": png(io.BytesIO(), frame), "path": None} for frame in frames]
        elif images == "video":
            place = folder / f"videos/chunk-000/observation.top/file-{number:03d}.mp4"
            place.parent.mkdir(parents=True, exist_ok=True)
            imageio.imwrite(place, np.full((rows, 96, 128, 3), 60 * number + 60, np.uint8), fps=10)
        tables.append(pyarrow.table(own))
    if images == "film":  # a second of another episode, and then both
        place = folder / "videos/observation.top/chunk-000/file-002.mp4"
        place.parent.mkdir(parents=True)
        shades = np.repeat(np.uint8([240, 60, 120]), [10, 6, 9])
        film = np.broadcast_to(shades[:, None, None, None], (25, 96, 128, 3))
        imageio.imwrite(place, film, fps=10)
        where = {"chunk_index": [0, 0], "file_index": [2, 2], "from_timestamp": [1.0, 1.6]}
        where = {f"videos/observation.top/{key}": values for key, values in where.items()}
        said = pyarrow.table({"episode_index": [0, 1], **where})
        parquet.write_table(said, folder / "meta/episodes/chunk-000/file-000.parquet")
    (folder / "data/chunk-000").mkdir(parents=True)
    if images == "video":
        for number, table in enumerate(tables):
            parquet.write_table(table, folder / f"data/chunk-000/file-{number:03d}.parquet")
    else:
        parquet.write_table(pyarrow.concat_tables(tables), folder / "data/chunk-000/file-000.parquet")
    return episodes


def png(file, frame: np.ndarray) -> bytes:
    from PIL import Image

    Image.fromarray(frame).save(file, "png")
    return file.getvalue()


def test_lerobots_layout(tmp_path):
    written = lerobot(tmp_path / "set")
    data = opened(tmp_path / "set")
    assert data.dropped["what was observed after them is not in the data"] == 2
    expected = [each.piece(0, len(each) - 1) for each in written]
    for each in expected:
        del each.obs["pixels"]
    assert all(equal(*pair) for pair in zip(data.pieces(), expected, strict=True))
    assert [each.truncated for each in data.pieces()] == [True, True]


def test_lerobots_frames(tmp_path):
    written = lerobot(tmp_path / "inside", "parquet")
    read = list(opened(tmp_path / "inside", "both", columns={"pixels": "observation.top"}).pieces())
    assert np.array_equal(read[1].obs["pixels"], written[1].obs["pixels"][:-1])
    for kind in ("video", "film"):
        lerobot(tmp_path / kind, kind)
        data = opened(tmp_path / kind, "pixels", columns={"pixels": "observation.top"})
        read = list(data.pieces())
        assert [each.obs["pixels"].shape for each in read] == [(6, 3, 64, 64), (9, 3, 64, 64)]
        for each, shade in zip(read, (60, 120), strict=True):
            assert np.abs(each.obs["pixels"].astype(int) - shade).max() < 6
        assert "frames of 3 × 64 × 64, 1 action" in data.said()[0] and "observation" not in data.said()[0]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: next(folder.glob("videos/*/*/*")).unlink(), "there is no video .*file-002.mp4"),
        (lambda folder: next(folder.glob("videos/*/*/*")).write_bytes(b"x" * 99), "file-002.mp4 is damaged"),
        (
            lambda folder: next(folder.glob("meta/episodes/*/*")).unlink(),
            "does not say where .* of episode 0 are",
        ),
        (
            lambda folder: next(folder.glob("meta/episodes/*/*")).write_bytes(b"x"),
            "file-000.parquet is damaged",
        ),
        (lambda folder: without(folder, "fps"), "meta/info.json has no frames per second, `fps`"),
        (lambda folder: change_place(folder, "file_index", None), "does not say where .* of episode 1 are"),
        (lambda folder: change_place(folder, "from_timestamp", float("nan")), "file-000.parquet is damaged"),
        (lambda folder: change_place(folder, "from_timestamp", float("inf")), "file-000.parquet is damaged"),
        (lambda folder: change_place(folder, "from_timestamp", 9.0), "file-002.mp4 ends before its frame 99"),
    ],
)
def test_videos_of_lerobots_that_cannot_be_read(spoil, said, tmp_path):
    lerobot(tmp_path / "set", "film")
    spoil(tmp_path / "set")
    with pytest.raises(UsageError, match=said):
        opened(tmp_path / "set", "pixels", columns={"pixels": "observation.top"})


def change_place(folder: Path, name: str, value: float | None) -> None:
    """Of the second episode's frames."""
    change_column(
        folder, f"videos/observation.top/{name}", lambda cells: [cells[0], value], "meta/episodes/*/*"
    )


def without(folder: Path, key: str) -> None:
    path = folder / "meta/info.json"
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key})
    )


def test_a_column_of_frames_that_nobody_asked_for_is_told(tmp_path):
    lerobot(tmp_path / "set", "parquet")
    with pytest.raises(
        UsageError, match=r"data\.columns\.pixels needs obs=pixels or obs=both, and obs is state"
    ):
        opened(tmp_path / "set", columns={"pixels": "observation.top"})


def change_column(folder: Path, name: str, change, files: str = "data/*/*"):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    (path,) = folder.glob(files)
    table = parquet.read_table(path)
    place = table.column_names.index(name)
    parquet.write_table(table.set_column(place, name, pyarrow.array(change(table[name].to_pylist()))), path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "meta/info.json").write_text("{"), ["meta/info.json", "damaged"]),
        (lambda folder: next(folder.glob("data/*/*")).write_bytes(b"PAR1"), ["file-000.parquet is damaged"]),
        (lambda folder: next(folder.glob("data/*/*")).unlink(), ["no data/*/*.parquet"]),
        (
            lambda folder: change_column(folder, "observation.state", lambda cells: [*cells[:-1], None]),
            ["file-000.parquet", "'observation.state', row 14 is empty"],
        ),
        (
            lambda folder: change_column(folder, "next.reward", lambda cells: ["much"] * len(cells)),
            ["file-000.parquet", "'next.reward', row 0 is no list of numbers: 'much'"],
        ),
    ],
)
def test_bad_folders_of_lerobots_are_one_line(spoil, words, tmp_path):
    lerobot(tmp_path / "set")
    spoil(tmp_path / "set")
    with pytest.raises(UsageError) as error:
        opened(tmp_path / "set")
    for word in words:
        assert word in str(error.value)


def test_what_lerobots_index_says(tmp_path):
    """Frames that no file has are counted; a layout of another version is refused."""
    lerobot(tmp_path / "set")
    index = tmp_path / "set/meta/info.json"
    info = json.loads(index.read_text())
    index.write_text(json.dumps({**info, "total_frames": 22}))
    assert "left out 7 transitions: meta/info.json counts them" in "\n".join(opened(tmp_path / "set").said())
    other = tmp_path / "other"
    lerobot(other)
    both = opened(tmp_path / "*t*").said()  # set and other
    assert "left out 7 transitions: meta/info.json counts them" in "\n".join(both)
    index.write_text(json.dumps({**info, "codebase_version": "v9.0"}))
    with pytest.raises(UsageError, match=r"version v9.0 of LeRobot's layout; 2.x and 3.x are read"):
        opened(tmp_path / "set")


def test_python_objects_beside_what_is_read_are_left_alone(tmp_path):
    path = spoiled(tmp_path, lambda own: own.update(infos=np.array([{}] * 40, dtype=object)))
    assert opened(path).transitions == 37


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_a_data_set_of_minaris(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box, Dict

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    written = [episode(number, length) for number, length in enumerate((4, 6))]
    buffers = [
        minari.data_collector.EpisodeBuffer(
            id=number,
            observations={"joints": one.obs["observation"], "goal": one.obs["observation"][:, :1]},
            actions=one.action * 2,
            rewards=one.reward.astype(float),
            terminations=[one.terminated and step == len(one) - 1 for step in range(len(one))],
            truncations=[one.truncated and step == len(one) - 1 for step in range(len(one))],
        )
        for number, one in enumerate(written)
    ]
    minari.create_dataset_from_buffers(
        "ours/pendulum-v0",
        buffers,
        observation_space=Dict({"joints": Box(-9, 9, (3,)), "goal": Box(-9, 9, (1,))}),
        action_space=Box(-2, 2, (1,)),
    )
    data = opened("ours/pendulum-v0", columns={"observation": "observations/joints"})
    assert data.bounds.high.tolist() == [2.0]
    assert (data.terminated, data.truncated, data.dropped.total()) == (1, 1, 0)
    assert all(equal(*pair) for pair in zip(data.pieces(), written, strict=True))
    with pytest.raises(
        UsageError, match=r"Minari has no such data set on this machine; there are: ours/pendulum-v0"
    ):
        opened("ours/pendulum-v1")
    (file,) = tmp_path.rglob("*.hdf5")
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UsageError, match=r"data ours/pendulum-v0 is damaged or no data set of Minari"):
        opened("ours/pendulum-v0")


def test_the_command_tells_of_data_and_writes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("flat.npz", **columns())
    cli.main(["data", "flat.npz", "-o", "out/flat.h5", "data.episode_length=10"])
    said = capsys.readouterr().out
    assert "data flat.npz: 35 transitions in 5 episodes" in said and "left out 5 transitions" in said
    assert "lightning run train data=out/flat.h5" in said
    cli.main(["data", "flat.npz", "-o", "flat.h5"])
    assert "lightning run train data=flat.h5\n" in capsys.readouterr().out
    pairs = zip(opened("out/flat.h5").pieces(), opened("flat.npz", episode_length=10).pieces(), strict=True)
    assert all(equal(*pair) for pair in pairs)


def test_the_return_is_said_to_be_that_of_whole_episodes(tmp_path, capsys):
    path = tmp_path / "data.npz"
    write_episodes(path, [episode(0, 20)], {})
    total = float(np.sum(episode(0, 20).reward))
    cli.main(["data", str(path), "data.most=1", "-o", str(tmp_path / "one.npz")])
    said = capsys.readouterr().out
    assert f"data {path}: 1 transition in 1 episode (" in said
    assert f"; the whole episodes, as stored, return {total:.1f} ({total:.1f} to {total:.1f}); " in said
    assert "one.npz: 1 transition in 1 episode\n" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.npz"], ["none.npz", "does not exist"]),
        (["flat.npz", "-o", "flat.zip"], ["flat.zip", "ends in .npz, .h5, .hdf5"]),
        (["flat.npz", "steps=3"], ["steps=3", "data.KEY=VALUE"]),
        (["flat.npz", "data.bound=1"], ["data.bound", "did you mean data.bounds?"]),
        (["flat.npz", "data.colums.action=a"], ["data.colums.action", "did you mean data.columns?"]),
        (["flat.npz", "-o", "flat.npz"], ["flat.npz is what is read"]),
        (["flat[1].npz", "-o", "flat[1].npz"], ["flat[1].npz is what is read"]),
        (["flat.npz", "data.bounds=[1,2,3]"], ["data.bounds must be recorded, or [low, high]"]),
    ],
)
def test_mistakes_of_the_command_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("flat.npz", **columns())
    np.savez("flat[1].npz", **columns())
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", *arguments])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and all(word in line for word in words), line


def test_frames_of_short_episodes_are_all_kept(tmp_path, caplog, monkeypatch):
    """Each episode has a first frame more than it has transitions."""
    write_episodes(tmp_path / "short.h5", [episode(number, 2, pixels=True) for number in range(60)], FACTS)
    config = SimpleNamespace(
        folder=tmp_path,
        data=DataConfig(),
        replay=ReplayConfig(),
        trainer=TrainerConfig(),
        algorithm=SimpleNamespace(horizon=2, batch_size=8),
    )
    agent = SimpleNamespace(obs_keys=("pixels",), record=False, model=None)
    data = opened(tmp_path / "short.h5", "pixels")
    env = SimpleNamespace(**{**vars(task(0)), "observation_spec": {}})
    logger = logging.getLogger("torchrl")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    logger.setLevel(logging.INFO)
    known, said = build_demonstrations(data, env, agent, config, 1, 1)
    assert not caplog.records  # TorchRL says of every storage that it was made
    assert known.replay.frames.oldest == 0
    of = "recorded on task pendulum-swingup, whose rewards are learned, not on a-task"
    assert any(of in line for line in said)


def test_a_run_that_goes_on_without_its_data(tmp_path):
    """Stopped within the updates on data alone: what was left of them is left out."""
    path = tmp_path / "data.npz"
    write_episodes(path, [episode(number, 20) for number in range(3)], {})
    settings = {"steps": 240, "env": {"action_repeat": 8}, "seed_steps": 80, "utd": 0.5}
    snapshots = Snapshots(tmp_path / "whole", (3,))
    whole = Training(
        tmp_path / "whole", more=(snapshots,), data={"path": str(path), "updates": 6}, **settings
    )
    snapshots.run = whole
    whole.run()
    on = Training(tmp_path / "at3", resume=tmp_path / "at3/checkpoints/last.ckpt", **settings).run()
    assert (on.feed.updates, on.feed.env_steps) == (3 + 15, 240)


@pytest.mark.parametrize("rows", [0, 1])
def test_data_without_a_transition_are_one_line(rows, tmp_path):
    np.savez(
        tmp_path / "few.npz", **{key: value[:rows] for key, value in columns().items()}, episode=[0] * rows
    )
    with pytest.raises(UsageError, match="no transition to learn from"):
        opened(tmp_path / "few.npz")


def test_a_link_to_nowhere_is_no_column(tmp_path):
    own = columns()
    del own["observations"]
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["observations"] = h5py.SoftLink("/nowhere")
        for name, value in own.items():
            file[name] = value
    with pytest.raises(UsageError, match="known to be the observation"):
        opened(tmp_path / "link.h5")
