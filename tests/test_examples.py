"""The examples as a user runs them, in short form; the benchmark of constraints against exact solutions."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SHORT = {
    "another_speed": ["--speeds", "2", "--episodes", "1", "--steps", "60"],
    "reach_a_state": ["--postures", "1", "--steps", "40"],
}


def run(name: str, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(ROOT / f"examples/{name}.py"), run_name="__main__")


def test_every_example_is_tried():
    elsewhere = {"ros2_node"}  # tests/test_deploy_examples.py
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SHORT) | elsewhere


def test_a_runner_is_told_to_slow_down(monkeypatch, capsys, tmp_path):
    picture = tmp_path / "speeds.png"
    run("another_speed", monkeypatch, *SHORT["another_speed"], "--figure", str(picture))
    text = capsys.readouterr().out
    speeds = dict(re.findall(r"^\| (as trained|2 m/s) \| ([\d.]+)", text, re.MULTILINE))
    assert float(speeds["2 m/s"]) < 2.8 < float(speeds["as trained"]) + 1
    assert float(re.search(r"latents to ([\d.]+) m/s", text)[1]) < 0.3
    assert picture.stat().st_size > 10_000


def test_a_reacher_is_told_a_posture(monkeypatch, capsys):
    run("reach_a_state", monkeypatch, *SHORT["reach_a_state"])
    (end,) = re.findall(r"^\| \(.*\) \| \d+ \| ([\d.]+)", capsys.readouterr().out, re.MULTILINE)
    assert float(end) < 15


@pytest.fixture
def constraints(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import constraints

    return constraints


def test_the_exact_plan_is_exact(constraints):
    """Where the bound is not met the gradient is zero; where it is, it points outward."""
    x, horizon, limit = torch.tensor([1.0, 0.0]), constraints.LQ_HORIZON, 0.5
    plan = constraints.exact_plan(x, horizon, limit).requires_grad_()
    state, cost = x.double().unsqueeze(0), 0.0
    for t in range(horizon):
        after = constraints.lq_step(state, plan[t].view(1, 1))
        cost = cost + constraints.lq_cost(state, plan[t].view(1, 1), after).sum()
        state = after
    (slope,) = torch.autograd.grad(cost, plan)
    free = plan.detach().abs() < limit - 1e-9
    assert 0 < free.sum() < horizon  # the bound is active at some steps
    assert slope[free].abs().max() < 1e-9
    assert (slope * plan.detach())[~free].max() < 0


def test_a_bound_on_the_input_costs_what_the_exact_solution_says(constraints, monkeypatch):
    monkeypatch.setattr(constraints, "LQ_STEPS", 12)
    rows = {row["treatment"]: row for row in constraints.linear(["cem_grad"], range(1))}
    assert set(rows) == {"none", "penalty", "lagrangian"}
    assert rows["none"]["exact"] < rows["penalty"]["exact"]
    assert abs(rows["none"]["above"]) < 0.01 and abs(rows["penalty"]["above"]) < 0.06
    assert rows["none"]["effort"] > 0.9 and rows["penalty"]["effort"] < 0.501
    assert abs(rows["lagrangian"]["above"]) < 0.15 and rows["lagrangian"]["effort"] < 0.7
