"""One rule for threads, asked by whatever computes."""

import os

import pytest
import torch

from dreammpc.cli import commands, launch
from dreammpc.cli import parser as cli
from dreammpc.runtime import threads
from dreammpc.runtime.threads import set_threads
from dreammpc.trained import agent_names, compare


@pytest.fixture
def chosen(monkeypatch):
    """What torch is told, where its own choice is 8."""
    now = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.setattr(threads, "_own_choice", 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv(threads.SHARE, raising=False)
    return now


def test_narrow_models_take_one(chosen, monkeypatch):
    for width, asked in ((512, None), (128, None), (512, None), (512, 3), (0, None)):
        set_threads(width, asked)
    assert chosen == [8, 1, 8, 3, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # by a user
    set_threads(128)
    assert chosen[-1] == 8
    monkeypatch.setenv(threads.SHARE, "8")  # by a sweep
    set_threads(128)
    assert chosen[-1] == 1
    set_threads(512)
    assert chosen[-1] == 8


def test_no_more_than_a_few_for_each_core(chosen, monkeypatch, caplog):
    """A great many end the process, and a checkpoint of a larger machine must load."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    set_threads(128, 16)
    assert chosen[-1] == 16 and not caplog.text
    set_threads(128, 100_000)
    set_threads(128, 17)
    assert max(chosen) == 16 and "trainer.threads=17: 16 are taken, 4 for each core here" in caplog.text


class Asked(Exception):
    pass


def test_whoever_plays_asks(monkeypatch, tmp_path):
    """Before it plays, with the width of the agent's model."""
    name = agent_names()[0]

    def asked(width):
        raise Asked(width)

    for room in (commands, compare):
        monkeypatch.setattr(room, "set_threads", asked)
    with pytest.raises(Asked, match="128"):
        commands.demo(name, ["planner=policy"], 0, None, False)
    with pytest.raises(Asked, match="128"):
        list(compare.compare(name, "policy", seeds=[1]))


def test_commands_let_threads_sleep(monkeypatch):
    def started(command):
        raise Asked(os.environ["OMP_WAIT_POLICY"])

    monkeypatch.setattr(launch, "replace_process", started)
    for main, words in ((launch.main, ["run", "train"]), (cli.main, ["run", "train"])):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        with pytest.raises(Asked, match="passive"):
            main(words)
        monkeypatch.setenv("OMP_WAIT_POLICY", "active")
        with pytest.raises(Asked, match="active"):
            main(words)
