"""Observations that are no vectors: dictionaries, tuples, pictures; and the arguments of an environment."""

import gymnasium
import numpy as np
import pytest
import torch
from faults.tiny import Training
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from dreammpc.configuration.assembly import check_spaces
from dreammpc.configuration.schemas import EnvConfig
from dreammpc.envs import make_env
from dreammpc.evaluation import Evaluator
from dreammpc.interfaces import RunError, UsageError
from dreammpc.trained.loading import load_model

INF = np.inf
CAMERA = Box(0, 255, (48, 96, 3), np.uint8)


class Seeing(gymnasium.Env):
    """Shows `value()` of its space at each step; takes an action of any shape, and arguments."""

    def __init__(self, space, value, action=None, gain=1.0):
        self.observation_space, self.value, self.gain = space, value, gain
        self.action_space = action or Box(-1, 1, (1,), np.float32)
        self.t, self.got = 0, None

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.value(self.t), {}

    def step(self, action):
        self.t, self.got = self.t + 1, action
        return self.value(self.t), self.gain, False, False, {"success": self.t == 2}


@pytest.fixture
def task():
    """Makes tasks, and takes them away again."""
    names = []

    def make(space, value, **kwargs):
        name = f"Seeing{len(names)}-v0"
        names.append(name)
        gymnasium.register(
            name, lambda gain=1.0: Seeing(space, value, gain=gain, **kwargs), max_episode_steps=4
        )
        return f"gym-{name}"

    yield make
    for name in names:
        del gymnasium.registry[name]


def step(env, state):
    return env.step(state.set("action", torch.zeros(env.action_spec.shape)))["next"].exclude("reward")


def test_numeric_entries_are_joined_in_a_recorded_order(task):
    space = Dict(
        {
            "z": Box(-INF, INF, (2, 2), np.float64),
            "goal": Dict({"b": Box(0, 9, (), np.int64), "a": Box(-1, 1, (1,), np.float32)}),
            "kind": Tuple((Discrete(3), Box(-1, 1, (1,), np.float32))),
        }
    )
    value = {
        "z": np.arange(4.0).reshape(2, 2),
        "goal": {"b": np.int64(7), "a": np.float32([0.5])},
        "kind": (1, np.float32([-0.5])),
    }
    env = make_env(task(space, lambda t: value), 2)
    assert env.layout == "goal/a[1], goal/b[1], kind/0[3], kind/1[1], z[4]" == env.facts()["observation"]
    expected = [0.5, 7, 0, 1, 0, -0.5, 0, 1, 2, 3]
    assert env.reset()["observation"].tolist() == [expected, expected]


@pytest.mark.parametrize("wrong", [{"a": np.zeros(3)}, {"a": np.zeros(1), "b": np.zeros((2, 2))}, None])
def test_entries_that_are_missing_or_of_another_shape_are_one_line(task, wrong):
    space = Dict({"a": Box(-1, 1, (1,)), "b": Box(-1, 1, (2,))})
    right = {"a": np.zeros(1), "b": np.zeros(2)}
    env = make_env(task(space, lambda t: right if t < 2 else wrong))
    state = step(env, env.reset())
    with pytest.raises(RunError, match=r"environment 0, step 2: entry '[ab]' of the observation .*, got "):
        step(env, state)


def shade(t):
    picture = np.zeros(CAMERA.shape, np.uint8)
    picture[:, :48] = 10 * (t + 1)
    return picture


def test_a_picture_among_the_entries_is_what_pixels_are(task):
    space = Dict({"x": Box(-1, 1, (2,)), "camera": CAMERA})
    name = task(space, lambda t: {"x": np.full(2, 0.1 * t), "camera": shade(t)})
    env = make_env(name, obs="both")
    assert env.layout == "x[2]; picture: camera"
    state = env.reset()
    for t in range(3):
        state = step(env, state) if t else state
        assert state["pixels"].shape == (1, 3, 64, 64) and state["pixels"].dtype == torch.uint8
        assert (state["pixels"][0, :, :, :32] == 10 * (t + 1)).all()  # resized, its left half
        assert (state["pixels"][0, :, :, 32:] == 0).all()
        assert state["observation"].tolist() == [pytest.approx([0.1 * t] * 2)]
    assert make_env(name).reset()["observation"].shape == (1, 2)


def test_an_observation_that_is_a_picture_alone(task):
    name = task(CAMERA, shade)
    assert (make_env(name, obs="pixels").reset()["pixels"][0, :, :, :32] == 10).all()
    with pytest.raises(UsageError, match=r"a picture alone: it needs env\.obs=pixels"):
        make_env(name)
    first = task(Box(0, 255, (1, 20, 30), np.uint8), lambda t: np.full((1, 20, 30), 7, np.uint8))
    assert (make_env(first, obs="pixels").reset()["pixels"] == 7).all()  # gray, channels first


def two_cameras(t):
    return {"left": shade(t), "right": 255 - shade(t), "x": np.full(2, 0.1 * t)}


TWO = Dict({"left": CAMERA, "right": CAMERA, "x": Box(-1, 1, (2,))})


def test_several_cameras_are_channels(task):
    env = make_env(task(TWO, two_cameras), 2, obs="both")
    assert env.channels == 6 and env.layout == "x[2]; pictures: left, right"
    seen = env.reset()["pixels"]
    assert seen.shape == (2, 6, 64, 64) and env.observation_spec["pixels"].shape == seen.shape
    assert (seen[:, :3, :, :32] == 10).all() and (seen[:, 3:, :, :32] == 245).all()


@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_a_training_on_two_cameras(task, obs, tmp_path):
    """Replay, updates and checkpoints; a task with one camera does not take what was learned."""
    name = task(TWO, two_cameras)
    settings = {"task": name, "env": {"obs": obs}, "seed_steps": 20, "save_every": 10**9, "utd": 0.2}
    settings |= {"planner": {"name": "policy"}, "batch_size": 2}
    run = Training(tmp_path, steps=30, **settings).run()
    assert run.feed.updates > 1 and run.agent.model.encoder.conv.center.shape == (6, 64, 64)
    assert run.feed.replay.sample()["pixels"].shape[2:] == (18, 64, 64)
    again = Training(tmp_path, steps=40, resume=run.checkpoints.last, **settings).run()
    model, facts = load_model(again.checkpoints.last)
    assert model.channels == facts["channels"] == 6
    single = task(
        Dict({"left": CAMERA, "x": Box(-1, 1, (2,))}), lambda t: {"left": shade(t), "x": np.zeros(2)}
    )
    with pytest.raises(UsageError, match="trained on frames of 6 channels, but those of task"):
        check_spaces("x.ckpt", facts, make_env(single, obs=obs))


def test_stacks_are_refused(task):
    with pytest.raises(UsageError, match=r"is no picture.* \[4, 48, 96, 3\]; frames are stacked here"):
        make_env(task(Box(0, 255, (4, 48, 96, 3), np.uint8), lambda t: None))


def test_actions_of_any_shape(task):
    act = Box(np.float32([[0, -2], [1, 3]]), np.float32([[1, 2], [5, 4]]))
    env = make_env(task(Box(-1, 1, (1,)), lambda t: np.zeros(1), action=act))
    assert env.action_spec.shape == (1, 4)
    env.step(env.reset().set("action", torch.tensor([[-1.0, 0.0, 1.0, 0.5]])))
    assert env.envs[0].unwrapped.got.tolist() == [[0, 0], [5, 3.75]]


def test_arguments_reach_the_environment_and_its_evaluations(task):
    name = task(Box(-1, 1, (1,)), lambda t: np.zeros(1))
    options = {"kwargs": {"gain": 3.0}, "max_episode_steps": 2}
    env = make_env(name, **options)
    assert env.envs[0].unwrapped.gain == 3 and env.max_episode_steps == 2
    state = step(env, step(env, env.reset()))
    assert state["truncated"].all() and env.success[0] == 1
    evaluator = Evaluator(name, 2, 0, options=env.options)
    assert [each.unwrapped.gain for each in evaluator.env.envs] == [3, 3]
    assert evaluator.env.max_episode_steps == 2
    with pytest.raises(UsageError, match=r"cannot be made: .*unexpected keyword argument 'gian'"):
        make_env(name, kwargs={"gian": 1})
    with pytest.raises(UsageError, match=r"'cartpole-swingup' takes no env\.max_episode_steps"):
        make_env("cartpole-swingup", max_episode_steps=5)
    with pytest.raises(UsageError, match=r"env\.action_bound must be positive and finite, got -1"):
        EnvConfig(action_bound=-1)
