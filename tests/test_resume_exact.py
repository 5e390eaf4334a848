"""A training that is stopped anywhere and goes on ends bit for bit where an uninterrupted one does."""

import functools
import os
import signal

import pytest
import torch
from faults.tiny import Snapshots, Training, everything, lines, raw
from stand_in import humanoidbench_stands_in

SHORT = {"evaluate_every": 300, "env": {"action_repeat": 8}, "seed_steps": 160, "utd": 0.4}
"""Episodes of 125 agent steps."""


SETTINGS = {
    "tdmpc2": SHORT | {"lr_end": 0.1, "lr_decay_from": 0.5, "reset_every": 20},
    "bmpc": SHORT | {"algorithm": "bmpc", "reanalyze_interval": 3, "reanalyze_slices": 2},
}
STOPS = {"tdmpc2": (4, 33), "bmpc": (27,)}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Of an algorithm: the folder of one training, with copies of it on the way; all that it ends with."""

    @functools.cache
    def train(algorithm):
        folder = tmp_path_factory.mktemp(algorithm)
        snapshots = Snapshots(folder / "whole", STOPS[algorithm])
        snapshots.run = whole = Training(folder / "whole", more=(snapshots,), **SETTINGS[algorithm])
        expected = everything(whole.run())
        assert whole.feed.env_steps == 1200 and whole.feed.updates > 55
        return folder, expected

    return train


@pytest.mark.parametrize("algorithm", STOPS)
def test_bit_for_bit(algorithm, uninterrupted):
    """Stops within the first updates, in mid-episode, and (by the copies themselves) at extra checkpoints.

    The 150 agent steps hold the end of an episode; evaluations lie before and after each stop.
    """
    place, expected = uninterrupted(algorithm)
    settings = SETTINGS[algorithm]
    logged = lines(place / "whole")
    assert any("eval/return" in line for line in logged) and any("loss/value" in line for line in logged)
    for stop in STOPS[algorithm]:
        folder = place / f"at{stop}"
        torch.manual_seed(99)  # whatever happened in this process before must not matter
        resumed = Training(folder, resume=folder / "checkpoints/last.ckpt", **settings)
        got = everything(resumed.run())
        assert got.keys() == expected.keys()
        different = [place for place, value in expected.items() if raw(value) != raw(got[place])]
        assert not different
        assert lines(folder) == logged


FAMILIES = {
    "meta-world": {"task": "mw-reach", "seed_steps": 90},
    "humanoidbench": {"task": "h1hand-balance_hard", "seed_steps": 60},
    "torchrl": {"task": "torchrl:pendulums:SavedPendulums", "env": {"num_envs": 6}, "seed_steps": 60},
    "normalized": {"env": {"normalize": True}},
    "terms": {
        "planner": {
            **{"name": "dream_mpc", "num_candidates": 3, "horizon": 4, "replan_every": 3, "action_block": 2},
            "terms": [{"name": "action_rate", "weight": 0.1}, "energy"],
            "constraints": [{"term": "energy", "limit": 0.5, "treatment": "lagrangian"}],
        }
    },
}


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families(name, tmp_path):
    """HumanoidBench's is the stand-in, whose episodes of 12 steps end while it is learned from."""
    if name == "meta-world":
        pytest.importorskip("metaworld")
    with humanoidbench_stands_in():
        settings = {"steps": 260, "save_every": 10**9, "planner": {"name": "policy"}, **FAMILIES[name]}
        snapshots = Snapshots(tmp_path / "whole", (5,))
        whole = Training(tmp_path / "whole", more=(snapshots,), **settings)
        snapshots.run = whole
        expected = everything(whole.run())
        assert whole.feed.updates > 8
        torch.manual_seed(99)
        folder = tmp_path / "at5"
        resumed = Training(folder, resume=folder / "checkpoints/last.ckpt", **settings)
        got = everything(resumed.run())
        assert [place for place, value in expected.items() if raw(value) != raw(got[place])] == []


def test_where_the_state_cannot_be_saved_it_is_said(tmp_path, caplog):
    settings = {"task": "torchrl:pendulums:Pendulums", "env": {"num_envs": 6}, "seed_steps": 60}
    settings |= {"save_every": 10**9, "planner": {"name": "policy"}}
    last = Training(tmp_path, steps=120, **settings).run().checkpoints.last
    Training(tmp_path, steps=180, resume=last, **settings).run()
    assert "Pendulums has no get_state() and set_state(state)" in caplog.text


def test_an_interrupted_evaluation_is_made_up(uninterrupted, tmp_path):
    """The signal comes when the second evaluation begins."""
    place, expected = uninterrupted("tdmpc2")
    stopped = Training(tmp_path / "stopped", **SETTINGS["tdmpc2"])
    play = stopped.evaluation.evaluate

    def interrupted():
        if stopped.feed.env_steps >= 600:
            os.kill(os.getpid(), signal.SIGINT)
        return play()

    stopped.evaluation.evaluate = interrupted
    stopped.run()
    assert stopped.stop.signal == signal.SIGINT and stopped.feed.env_steps < 650
    assert sum("eval/return" in line for line in lines(tmp_path / "stopped")) == 1
    last = tmp_path / "stopped/checkpoints/last.ckpt"
    got = everything(Training(tmp_path / "stopped", **SETTINGS["tdmpc2"], resume=last).run())
    assert [place for place, value in expected.items() if raw(value) != raw(got[place])] == []
    assert lines(tmp_path / "stopped") == lines(place / "whole")
