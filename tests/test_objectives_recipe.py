"""Objective terms and constraints as a training takes them from its command line, and goes on with them."""

import re

import pytest
import torch
from commands import TINY, logged, refused, run_here

from dreammpc import load_agent
from dreammpc.cli.commands import planner_choices
from dreammpc.configuration.planners import build_planner
from dreammpc.interfaces import UsageError
from dreammpc.planning import ActionRate, Constraint, Energy

GIVEN = [
    "planner.terms=[{name:action_rate,weight:0.1}]",
    "planner.constraints=[{term:energy,limit:0.5,treatment:lagrangian,weight:5}]",
]


def test_a_training_plans_with_them_and_goes_on_with_them(tmp_path):
    less = [
        "tracking=none",
        "evaluation.video=false",
        "evaluation.every=2000",
        "evaluation.planners=dream_mpc",
    ]
    short = [*TINY, *less, "steps=4000", "planner=dream_mpc"]
    run_here("train", *short, *GIVEN, cwd=tmp_path)
    path = tmp_path / "run/checkpoints/last.ckpt"
    assert any("loss/value" in line for line in logged(tmp_path / "run"))
    run_here("train", "resume=run/checkpoints/last.ckpt", "steps=4400", *less[:2], cwd=tmp_path)
    told = torch.load(path, weights_only=True)["dreammpc"]
    assert told["env_steps"] == 4400
    kept = told["config"]["planner"]
    planner = load_agent(path, "dream_mpc", terms=kept["terms"], constraints=kept["constraints"]).planner
    assert planner.terms == (ActionRate(0.1),)
    assert planner.constraints == (Constraint(Energy(), 0.5, "lagrangian", 5.0),)


def test_a_command_reads_settings_as_a_recipe_does():
    words = [
        "planner=dream_mpc",
        *GIVEN,
        "planner.horizon=5",
        "planner.step_sizes=[0.1,1]",
        "planner.max_ms=null",
    ]
    settings = planner_choices(words, "agent")
    assert settings["horizon"] == 5 and settings["step_sizes"] == [0.1, 1] and settings["max_ms"] is None
    kept = {key: settings[key] for key in ("name", "terms", "constraints")}
    planner = build_planner(kept, 2)
    assert planner.terms == (ActionRate(0.1),)
    assert planner.constraints == (Constraint(Energy(), 0.5, "lagrangian", 5.0),)
    for word in ("planner.horizon=3,5", "planner.terms=[energy", "planner.horizon=range(1,3)"):
        with pytest.raises(UsageError, match=re.escape(word)) as error:
            planner_choices([word], "agent")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("planner.terms=energy", "terms must be of type tuple"),
        ("planner.terms=[enrgy]", "unknown term 'enrgy'; did you mean energy?"),
        ("planner.terms=[{name:energy,weight:nan}]", "term 'energy': weight must be a number, got nan"),
        ("planner.terms=[{name:goal,goal:[1,2]}]", "expected the shape [B, 5], got [1, 2]"),
        ("planner.constraints=[{term:energy,treatment:reject}]", "a gradient planner takes penalty or"),
        ("planner.constraints=[{term:energy,limit:nan}]", "limit must be a number, got nan"),
        ("planner.replan_every=4", "replan_every must be at most the horizon, 3, got 4"),
    ],
)
def test_mistakes_are_one_line(argument, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = refused("train", [*TINY, "tracking=none", "planner=dream_mpc", argument], monkeypatch, capsys)
    assert words in line
