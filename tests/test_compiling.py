"""How functions run: each compiled one has its own code object, and none falls back in silence."""

import os

import pytest
import torch
from commands import ROOT
from tensordict import TensorDict
from torch._inductor.runtime.cache_dir_utils import cache_dir
from toy_models import random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.interfaces import UsageError
from dreammpc.planning import make_planner
from dreammpc.runtime import recording
from dreammpc.runtime.compiling import compile_mode, compiled, keep_compiled

A, O = 2, 5


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        (True, "default"),
        (False, "off"),
        (None, None),
        ("off", "off"),
        ("graphs", "graphs"),
        ("true", "default"),
    ],
)
def test_modes_and_their_old_spellings(given, mode):
    assert compile_mode(given) == mode


def test_an_unknown_mode_is_one_line():
    with pytest.raises(UsageError, match=r"unknown trainer.compile 'graph'; did you mean graphs\?"):
        compile_mode("graph", "trainer.compile")


def act_in(agent: Agent, batch: int) -> None:
    agent.checked = True
    obs = TensorDict({"observation": torch.randn(batch, O)}, [batch])
    agent.step(obs, agent.initial_carry(batch), torch.ones(batch, 1, dtype=torch.bool))


def test_the_last_of_many_agents_is_compiled_like_the_first(monkeypatch):
    """Agents with one code object among them would run into torch's limit of compilations for one."""
    monkeypatch.setattr(recording, "compiled", lambda f, mode: compiled(f, mode, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = random_tdmpc2(A)
    with torch._dynamo.config.patch(recompile_limit=1):
        for i in range(3):
            one = Agent(model, make_planner("policy", A), compile="default", noise_scale=0.1 * i)
            act_in(one, 1 + i % 2)
            act_in(one, 1 + i % 2)
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == i + 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert "recompile_limit" not in str(torch._dynamo.utils.counters)


def double(x):
    torch._dynamo.graph_break()
    return 2 * x


def test_what_cannot_be_one_graph_is_an_error():
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(double, backend="eager")(torch.ones(1))


def test_what_is_compiled_is_kept_where_a_reboot_leaves_it(monkeypatch, tmp_path):
    key = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(key, "mine")
    keep_compiled()
    assert os.environ[key] == "mine"
    monkeypatch.delenv(key)
    compiled(double, "off")
    assert key not in os.environ
    compiled(double)
    assert os.environ[key] == str(tmp_path / "dreammpc" / "compiled")
    monkeypatch.delenv(key)
    assert cache_dir() == os.environ[key] != str(tmp_path / "dreammpc" / "compiled")  # torch's own default
    keep_compiled()
    assert cache_dir() == str(tmp_path / "dreammpc" / "compiled")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(key)
    keep_compiled()
    assert key not in os.environ


def test_nothing_that_is_compiled_leaves_an_iterator_halfway():
    """`next(iter(…))` of a TensorDict's values, which torch 2.14 cannot compile; this suite's torch can."""
    rooms = [ROOT / "dreammpc" / room for room in ("planning", "models", "nn", "runtime", "algorithms")]
    files = [ROOT / "dreammpc/agent.py", *(path for room in rooms for path in room.rglob("*.py"))]
    assert len(files) > 50 and not [path.name for path in files if "next(iter(" in path.read_text()]
