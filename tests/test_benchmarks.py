"""Programs of benchmarks/: all can be imported, and those whose tables the pages show count right."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from dreammpc.interfaces import UsageError

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
HARD = ROOT / "docs" / "hard_tasks"
AGENT = HARD / "agents" / "acrobot-swingup" / "bmpc-hard-tasks-seed1.csv"


def source(name: str) -> str:
    return (ROOT / "benchmarks" / f"{name}.py").read_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_can_be_imported(benchmarks, name):
    try:
        benchmarks(name)
    except ModuleNotFoundError as error:  # what only `benchmarks` or another extra installs
        if error.name in {*PROGRAMS, "dreammpc"} or str(error.name).startswith("dreammpc."):
            raise
        pytest.skip(f"needs {error.name}")


@pytest.mark.parametrize("name", [name for name in PROGRAMS if "__main__" in source(name)])
def test_every_program_says_what_it_does(benchmarks, name, monkeypatch, capsys):
    try:
        benchmarks(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert end.value.code == 0 and "usage: " in capsys.readouterr().out


def test_rollouts_that_ride_are_those_scored_apart(benchmarks):
    riding = benchmarks("riding")
    torch.manual_seed(0)
    with torch.no_grad():
        line = riding.compare_times("nano", 1, 1)
    assert re.fullmatch(r"\| nano \| 1( \| \d+\.\d\d){3} \|", line)
    model = benchmarks("planners").random_model("nano", "cpu")
    observation = torch.randn(2, model.obs_dim)
    latent = model.observe(riding.TensorDict({"observation": observation}, [2]), None, None)
    both = riding.Both(model.action_dim)
    with torch.no_grad():
        both.plan(riding.Imagination(model), latent, both.initial_state(2))
    assert len(riding.GAPS) == 1 and riding.GAPS[0] < 1e-3


def test_half_of_the_starts_choose_for_the_other(benchmarks):
    choose = benchmarks("choose")
    played = {
        "a": {0: 9.0, 1: 1.0, 2: 9.0, 3: 1.0},  # best where even starts choose
        "b": {0: 2.0, 1: 4.0, 2: 2.0, 3: 4.0},  # best where odd ones do
    }
    returns = {"chosen": (1 + 1 + 2 + 2) / 4, "a": 5.0, "b": 3.0}
    assert choose.chosen("agent", played, ["a", "b"]) == (["a", "b"], returns)
    played["a"][4] = 100.0  # which "b" did not play
    assert choose.chosen("agent", played, ["a", "b"]) == (["a", "b"], returns)
    with pytest.raises(UsageError, match="at least two starts"):
        choose.chosen("agent", {"a": {0: 1.0}, "b": {0: 1.0}}, ["a", "b"])
    printed = choose.report([str(AGENT)], ["policy", "dream_mpc"], ["policy"])
    assert "| acrobot-swingup, bmpc-hard-tasks-seed1 | `dream_mpc` |" in printed
    with pytest.raises(UsageError, match="no agent was played by all of policy, mpi; there are: cem_grad"):
        choose.report([str(AGENT)], ["policy", "mpi"], ["policy"])


def test_rows_of_one_agent_in_several_files_are_one_line(benchmarks):
    agents = benchmarks("agents")
    from dreammpc.evaluation.rows import read_rows

    rows = read_rows([str(AGENT), str(HARD / "within_policy" / "hard.csv")])
    found = agents.by_agent(rows)["acrobot-swingup", "agent:acrobot-swingup/bmpc-hard-tasks-seed1"]
    assert {len(found["dream_mpc"]), len(found["dream_mpc within_policy=True"])} == {10}
    twice = read_rows([str(AGENT)]) * 2
    with pytest.raises(UsageError, match="played a start twice"):
        agents.by_agent(twice)


def test_planners_on_agents_are_drawn(benchmarks, tmp_path):
    plots = benchmarks("plot_agents")
    rows = [*plots.read_rows([str(AGENT)])]
    plots.plot(str(tmp_path / "agents.png"), rows, ["policy", "dream_mpc", "mppi"])
    assert (tmp_path / "agents.png").stat().st_size > 10_000
    with pytest.raises(UsageError, match="no rows of 'mpi'; there are: cem_grad"):
        plots.plot(str(tmp_path / "none.png"), rows, ["policy", "mpi"])
    with pytest.raises(UsageError, match=r"agents\.foo: expected a picture's name that ends in"):
        plots.plot(str(tmp_path / "agents.foo"), rows, ["policy"])
    assert [path.name for path in tmp_path.iterdir()] == ["agents.png"]
