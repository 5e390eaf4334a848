"""The recipe `pendulum`: which planners swing up by planning alone, and what it prints and refuses."""

import dataclasses
import importlib.util
import math

import pytest
import torch
from commands import ROOT, refused

from dreammpc.planning import PLANNERS, make_planner

spec = importlib.util.spec_from_file_location("recipe_pendulum", ROOT / "recipes/pendulum.py")
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)

NOT_UPRIGHT = {"policy"}
"""Without a policy of its own the model's is to do nothing."""
LIGHT = {"num_samples": 128, "num_elites": 16, "num_policy": 0}
EPISODES, STEPS = 2, 140
SLOW = {"grad_mpc", "cem_grad"}


def swing(name: str, **settings):
    known = {field.name for field in dataclasses.fields(PLANNERS[name])}
    given = {**recipe.SETTINGS, **LIGHT, **settings}
    planner = make_planner(name, 1, **{key: value for key, value in given.items() if key in known})
    return recipe.swing_up(planner, EPISODES, STEPS, seed=0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in sorted(PLANNERS)],
)
def test_who_swings_up(name):
    result = swing(name)
    assert result.angles.shape == (STEPS, EPISODES)
    assert (result.angles[0].abs() > 2.5).all()  # hanging at first
    if name in NOT_UPRIGHT:
        assert not result.upright.any()
    else:
        assert result.upright.all()


def test_long_steps_that_never_lose_swing_up_at_less_cost():
    long, short = swing("dream_mpc"), swing("dream_mpc", step_rule="fixed", step_size=0.1)
    assert (long.returns > short.returns + 50).all()


def test_the_physics_is_that_of_gymnasium():
    import gymnasium

    env = gymnasium.make("Pendulum-v1").unwrapped
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x = torch.rand(1, 2, generator=generator) * torch.tensor([6.0, 16.0]) - torch.tensor([3.0, 8.0])
        a = torch.rand(1, 1, generator=generator) * 2 - 1
        env.reset()
        env.state = x[0].double().numpy()
        _, reward, *_ = env.step((recipe.MAX_TORQUE * a[0]).numpy())
        next_x = recipe.dynamics(x, a)
        assert next_x[0].tolist() == pytest.approx(list(env.state), abs=1e-5)
        assert -recipe.cost(x, a, next_x).item() == pytest.approx(float(reward), rel=1e-4)


def test_upright_is_the_whole_last_second():
    angles = torch.zeros(40, 2)
    angles[-20, 1] = 0.3
    assert recipe.Swing(angles, torch.zeros(2), 0.0).upright.tolist() == [True, False]
    angles[-20, 1], angles[-21, 1] = 0.0, 0.3
    assert recipe.Swing(angles, torch.zeros(2), 0.0).upright.tolist() == [True, True]


def test_the_picture_shows_the_rod():
    up, right = recipe.draw(0.0), recipe.draw(math.pi / 2)
    assert up.shape == (128, 128, 3)
    assert up[:64, 64].min() < 100 and up[80:].min() == 255
    assert right[64, 64:].min() < 100 and right[:, :50].min() == 255


def test_it_compares_planners_and_films_the_last(tmp_path, monkeypatch, capsys):
    import imageio.v3 as iio

    monkeypatch.chdir(tmp_path)
    arguments = [
        "planner=policy,dream_mpc",
        "planner.horizon=4",
        "steps=20",
        "episodes=1",
        "video=v/s.mp4",
    ]
    monkeypatch.setattr("sys.argv", ["pendulum.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        recipe.pendulum()
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "0 of 1" in line] == ["policy", "dream_mpc"]
    assert iio.imread("v/s.mp4").shape == (20, 128, 128, 3)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("planner=mpi", ["mpi", "mppi"]),
        ("planner.horizn=3", ["'horizn'", "each of", "policy"]),
        ("steps=3", ["steps must be at least 20, got 3"]),
        ("video=swing.avi", ["swing.avi", ".mp4 or .gif"]),
        ("episodes=0", ["episodes must be at least 1, got 0"]),
        ("stesp=30", ["stesp", "did you mean steps"]),
    ],
)
def test_mistakes_are_one_line(argument, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = refused("pendulum", [argument], monkeypatch, capsys)
    assert all(word in line for word in words), line
