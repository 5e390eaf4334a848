"""What a run says of itself: phases, their own rates, a bar or lines."""

import io
from types import SimpleNamespace

import pytest

from dreammpc.support import progress as module
from dreammpc.support.progress import Phase, Progress
from dreammpc.training import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves; the watching thread sleeps through it."""
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now.s)
    monkeypatch.setattr(module, "TICK_S", 3600)
    return now


def test_a_phase_that_is_interrupted_keeps_its_own_rate(clock):
    out, done = io.StringIO(), 0
    progress = Progress(out)
    with progress.watching(lambda: Phase("training", done, 100, "steps"), lambda: {"return": "7"}):
        clock.s, done = clock.s + 10, 20
        with progress.during("evaluating policy", 2, "episodes") as step:
            step()
            clock.s += 1000
            step()
        clock.s, done = clock.s + 10, 40
        progress._show()
    lines = out.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["training"] * 2 + ["evaluating policy"] * 2 + [
        "training"
    ] * 2
    assert lines[1].endswith("20/100 [00:10<00:40,  2.00 steps/s, return=7]")
    assert "40/100 [00:20<00:30,  2.00 steps/s, return=7]" in lines[-1]


def test_lines_come_at_once_and_then_at_a_sensible_rate(clock):
    out = io.StringIO()
    progress = Progress(out)
    with progress.during("compiling"):
        for _ in range(2 * 3600):
            clock.s += 0.5
            progress._show()
    lines = out.getvalue().splitlines()
    assert lines[:3] == ["compiling [00:00]", "compiling [00:04]", "compiling [00:08]"]
    assert 100 < len(lines) < 400
    assert lines[-1].startswith("compiling [59:")


def test_a_terminal_gets_a_bar_and_each_outer_phase_leaves_its_last_one(clock):
    out = Terminal()
    progress, done = Progress(out), 0
    with progress.watching(lambda: Phase("training", done, 4, "steps")):
        with progress.during("evaluating", 1, "steps") as step:
            step()
        done = 4
    with progress.during("saving"):
        pass
    left = [line.split("\r")[-1].strip() for line in out.getvalue().split("\n")]
    assert len(left) == 3 and left[2] == ""
    assert left[0].startswith("training: 100%|") and left[1] == "saving [00:00]"


def test_a_phase_that_another_follows_came_to_its_end(clock):
    """Also where nobody looked at its last step."""
    out, phase = io.StringIO(), Phase("random actions", 0, 50, "steps")
    progress = Progress(out)
    with progress.watching(lambda: phase):
        clock.s, phase = clock.s + 10, Phase("training", 50, 90, "steps")
    lines = out.getvalue().splitlines()
    assert "random actions: 100% 50/50 [00:10<00:00,  5.00 steps/s]" in lines
    assert lines[-1].startswith("training:  56% 50/90")


@pytest.mark.parametrize("rank", ["1", "3"])
def test_other_ranks_say_nothing(monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    out = io.StringIO()
    with Progress(out).during("saving"):
        pass
    assert out.getvalue() == ""


def test_phases_of_a_training():
    feed = SimpleNamespace(
        seed_steps=10, total_steps=50, action_repeat=2, agent_steps=0, updates=0, owed=0.0,
        offline_left=4, offline=5, random=True,
        agent=SimpleNamespace(random=True),
    )  # fmt: skip
    feed.total_env_steps = 100
    bar = ProgressBar(feed, SimpleNamespace(recent={"train/return": 3.0}), SimpleNamespace(recent={}), None)

    def at(**values) -> Phase:
        vars(feed).update(values)
        feed.env_steps = 2 * feed.agent_steps
        return bar._phase()

    assert at(updates=1) == ("learning from recorded data", 1, 5, "updates")
    assert at(updates=0, offline_left=0) == ("random actions", 0, 20, "env steps")
    assert at(agent_steps=10, owed=9.0, updates=1) == ("learning from random data", 1, 10, "updates")
    assert bar._notes() == {}
    feed.agent.random = False
    assert at(agent_steps=11, owed=0.0, updates=11) == ("training", 22, 100, "env steps")
    assert bar._notes() == {"return": "3"}


def test_compilations_are_shown(clock):
    import torch
    from torch._dynamo.callback import callback_handler

    from dreammpc.training.callbacks import compilations

    out, before = io.StringIO(), len(callback_handler.start_callbacks)
    with compilations(Progress(out)):
        torch.compile(lambda x: x + 1, backend="eager")(torch.zeros(2))
    assert out.getvalue().startswith("compiling [00:00]")
    assert len(callback_handler.start_callbacks) == before
