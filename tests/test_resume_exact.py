"""A training that is stopped anywhere and goes on ends bit for bit where an uninterrupted one does."""

import os
import shutil
import signal

import pytest
import torch
from faults.tiny import Training, everything, lines, raw
from lightning.pytorch import Callback


class Snapshots(Callback):
    """Saves after some updates, and keeps a copy of the run's folder as it then is."""

    def __init__(self, folder, updates):
        self.folder, self.updates, self.run = folder, updates, None

    def on_train_batch_end(self, trainer, pl_module, *args):
        if self.run.feed.updates in self.updates:
            self.run.checkpoints.save(trainer)
            shutil.copytree(self.folder, self.folder.with_name(f"at{self.run.feed.updates}"))


@pytest.mark.parametrize(("algorithm", "stops"), [("tdmpc2", (4, 33)), ("bmpc", (27,))])
def test_bit_for_bit(algorithm, stops, tmp_path):
    """Stops within the first updates, in mid-episode, and (by the copies themselves) at extra checkpoints.

    The 600 agent steps hold the end of an episode; evaluations lie before and after each stop.
    """
    snapshots = Snapshots(tmp_path / "whole", stops)
    settings = {"algorithm": algorithm, "evaluate_every": 300}
    if algorithm == "bmpc":
        settings |= {"reanalyze_interval": 3, "reanalyze_slices": 2}
    whole = Training(tmp_path / "whole", more=(snapshots,), **settings)
    snapshots.run = whole
    expected = everything(whole.run())
    assert whole.feed.env_steps == 1200 and whole.feed.updates > 55
    logged = lines(tmp_path / "whole")
    assert any("eval/return" in line for line in logged) and any("loss/value" in line for line in logged)
    for stop in stops:
        folder = tmp_path / f"at{stop}"
        torch.manual_seed(99)  # whatever happened in this process before must not matter
        resumed = Training(folder, resume=folder / "checkpoints/last.ckpt", **settings)
        got = everything(resumed.run())
        assert got.keys() == expected.keys()
        different = [place for place, value in expected.items() if raw(value) != raw(got[place])]
        assert not different
        assert lines(folder) == logged


def test_an_interrupted_evaluation_is_made_up(tmp_path):
    """The signal comes when the second evaluation begins."""
    whole = Training(tmp_path / "whole", evaluate_every=300)
    expected = everything(whole.run())
    stopped = Training(tmp_path / "stopped", evaluate_every=300)
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
    got = everything(Training(tmp_path / "stopped", evaluate_every=300, resume=last).run())
    assert [place for place, value in expected.items() if raw(value) != raw(got[place])] == []
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")
