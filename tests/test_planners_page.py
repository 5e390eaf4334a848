"""docs/planners.md: its costs are what planners report, its code runs, its benchmarks compare alike."""

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from plans import plan
from toy_models import LinearQuadratic, random_latent, random_tdmpc2

from dreammpc.configuration.planners import build_planner
from dreammpc.planning import PLANNERS, Imagination, Objective, make_planner

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/planners.md").read_text()
COSTS = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|`]+) \| (\d+) \|$", PAGE, re.MULTILINE)
BLOCKS = dict.fromkeys(["python", "yaml"], "")
for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
    BLOCKS[language] += block
CHANGED = {"horizon": 4, "num_candidates": 3, "iterations": 2, "num_samples": 40, "num_policy": 7}
CHANGED |= {"num_elites": 6, "grad_iterations": 3}


def cost(name: str, **settings) -> float:
    model = LinearQuadratic(2)
    planner = make_planner(name, 2, **settings)
    return plan(planner, model, random_latent(model, 2)).diagnostics["evaluations"][0].item()


def formula(text: str, planner) -> float:
    """The page's formula for the settings of `planner`."""
    of = {
        letter: getattr(planner, name, None)
        for letter, name in (
            ("H", "horizon"),
            ("N", "num_candidates"),
            ("I", "iterations"),
            ("S", "num_samples"),
            ("P", "num_policy"),
            ("E", "num_elites"),
            ("G", "grad_iterations"),
        )
    }
    if "ΣS" in text:
        sizes = [round(of["S"] / planner.decay**i) for i in range(of["I"])]
        of["total"] = sum(max(size, min(2 * of["E"], of["S"])) for size in sizes)
    return eval(text.replace("·", "*").replace("ΣS", "total"), {"__builtins__": {}}, of)


def test_every_planner_has_its_cost_on_the_page():
    assert sorted(name for name, *_ in COSTS) == sorted(PLANNERS)


@pytest.mark.parametrize(("name", "text", "number"), COSTS, ids=[name for name, *_ in COSTS])
def test_the_cost_is_what_the_planner_reports(name, text, number):
    planner = make_planner(name, 2)
    assert cost(name) == formula(text, planner) == int(number)
    changed = {key: value for key, value in CHANGED.items() if hasattr(planner, key)}
    if name in ("cem", "icem", "cem_grad"):
        del changed["num_policy"]  # the page gives their cost without policy rollouts
    assert cost(name, **changed) == formula(text, make_planner(name, 2, **changed))
    assert not changed or cost(name, **changed) != int(number)


def test_what_one_step_size_costs():
    (text,) = re.findall(r"with `fixed` or `normalized` steps it takes (\S+ \+ \S+)\.", PAGE)
    for settings in ({}, {"num_candidates": 3, "iterations": 2}):
        settings |= {"step_rule": "fixed"}
        assert cost("dream_mpc", **settings) == formula(text, make_planner("dream_mpc", 2, **settings))


def test_the_code_of_the_page_runs_and_is_the_same_in_yaml():
    names: dict = {}
    exec(BLOCKS["python"], names)
    assert build_planner(yaml.safe_load(BLOCKS["yaml"]), 2) == names["planner"]
    model = LinearQuadratic(2)
    for planner in (names["planner"], names["mean_of_elites"]):
        assert (plan(planner, model, random_latent(model, 3)).diagnostics["gain"] > 0).all()


def test_the_pictures_candidates_are_the_planners(benchmarks):
    import plot_candidates as picture

    found = {title: picture.returns(planner, 16) for title, planner in picture.planners().items()}
    rollouts = found.pop("policy rollouts, unimproved").mean()
    assert found["dream_mpc"].mean() > max(found["mppi"].mean(), found["grad_mpc"].mean(), rollouts + 30)
    with torch.no_grad():
        for title, planner in picture.planners().items():
            before, after, chosen, value, steps = picture.stages(planner)
            assert before.shape[1:] == after.shape[1:] == chosen.shape[1:] == (picture.HORIZON, 2)
            x = torch.tensor([picture.START])
            latent, worth = picture.MODEL.latent(x), 0.0
            for action in chosen[0]:
                following = picture.MODEL.step(latent, action[None])
                worth += picture.MODEL.outcome(latent, action[None], following).reward.item()
                latent = following
            worth += picture.MODEL.value(latent, action[None]).item()
            assert value == pytest.approx(worth, rel=1e-4), title
            assert (
                steps
                == planner.plan(Imagination(picture.MODEL), picture.MODEL.latent(x), planner.initial_state(1))
                .diagnostics["evaluations"]
                .item()
            )


# --- the benchmark --------------------------------------------------------------------------------------


def test_other_libraries_plan_with_the_same_arithmetic(benchmarks):
    """What they add up over a rollout is our J, and their model steps are as many as said."""
    from other_planners import OTHERS, make_other, make_transition, missing

    model = random_tdmpc2(2, discount=0.9)
    latent = random_latent(model, 5)
    actions = torch.rand(5, 1, 3, 2) * 2 - 1
    transition = make_transition(model, 3, "eager")
    with torch.no_grad():
        z, total = latent["z"], torch.zeros(5)
        for t in range(3):
            z, worth = transition(z, actions[:, 0, t], t)
            total = total + worth
        expected = Imagination(model).score(latent, actions, Objective()).objective[:, 0]
        torch.testing.assert_close(total, expected)

        rows = []
        step = model.step
        model.step = lambda latent, action: rows.append(len(action)) or step(latent, action)
        for name, like in OTHERS.items():
            if missing(name):
                continue
            settings = {"num_samples": 30, "num_elites": 4, "iterations": 2}
            for size in (1, 5):
                call, steps = make_other(name, model, latent[:size], "eager", settings)
                rows.clear()
                action = call()
                assert action.shape == (size, 2) and action.isfinite().all() and action.abs().max() <= 1
                assert sum(rows) == size * steps == size * 30 * 3 * 2, (name, like)


def test_the_benchmark_of_planners_measures_and_saves(benchmarks, tmp_path, monkeypatch, capsys):
    import json

    import planners
    import plot_planners

    file, picture = tmp_path / "rows.json", tmp_path / "rows.png"
    words = (
        "planners.py --device cpu --size nano --batch 1 2 --mode eager --dtype bf16 --runs 2 --seconds 0.1"
    )
    words += " --threads 1 --planner policy mppi dream_mpc torchrl_cem --json"
    small = (
        "--set mppi.num_samples=24 mppi.num_elites=4 mppi.iterations=1 cem.num_samples=24 cem.num_elites=4"
    )
    monkeypatch.setattr(sys, "argv", [*words.split(), str(file), *small.split()])
    threads = torch.get_num_threads()
    planners.main()
    torch.set_num_threads(threads)
    rows = json.loads(file.read_text())["rows"]
    printed = capsys.readouterr().out.splitlines()[-len(rows) :]
    assert printed == [plot_planners.table_row(row) for row in rows]
    assert [(row["batch"], row["planner"]) for row in rows[:5]] == [
        *((1, name) for name in ("policy", "mppi", "dream_mpc", "torchrl_cem")),
        (2, "policy"),
    ]
    assert [row["steps"] for row in rows[:4]] == [0, 24 * 2 + 24 * 3, 100, 24 * 3 * 6]
    for row in rows:
        mppi = next(r for r in rows if (r["batch"], r["planner"]) == (row["batch"], "mppi"))
        assert row["ratio"] == pytest.approx(mppi["median_ms"] / row["median_ms"])
        assert 0 < row["min_ms"] <= row["median_ms"]
    plot_planners.plot(rows, str(picture))
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--mode graphs --device cpu", "--mode graphs means CUDA graphs: it needs --device cuda alone"),
        ("--set mppi=3", "--set: expected PLANNER.SETTING=VALUE, got 'mppi=3'"),
        ("--set mpi.horizon=3", "--set: expected PLANNER.SETTING=VALUE, got 'mpi.horizon=3'"),
        ("--runs 0", "--runs must be at least 1, got 0"),
    ],
)
def test_bad_words_are_one_clear_line(benchmarks, monkeypatch, capsys, words, line):
    import planners

    monkeypatch.setattr(sys, "argv", ["planners.py", *words.split()])
    with pytest.raises(SystemExit):
        planners.main()
    assert capsys.readouterr().err.splitlines()[-1] == f"planners.py: error: {line}"


def test_labels_are_moved_apart_and_stay_in_order(benchmarks):
    from plot_planners import spread

    assert spread([0.1, 0.5], 0.1) == pytest.approx([0.1, 0.5])
    assert spread([0.1, 0.12, 0.5], 0.1) == pytest.approx([0.1, 0.2, 0.5])
    assert spread([0.9, 0.95, 0.99], 0.1) == pytest.approx([0.8, 0.9, 1.0])
