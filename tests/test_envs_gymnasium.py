"""Gymnasium's environments by id: specs, ends, time limits, action repeat, pictures, error messages."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Text
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from dreammpc.configuration.assembly import build_env
from dreammpc.envs import list_tasks, make_env
from dreammpc.interfaces import RunError, UsageError


class Line(gymnasium.Env):
    """Says how many steps were taken; terminates after `end`, and gives `reward` each time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, end=None, reward=1.0, observation=None, action=None, render_mode=None):
        self.end, self.reward, self.render_mode = end, reward, render_mode
        self.observation_space = observation or Box(-np.inf, np.inf, (1,))
        self.action_space = action or Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1), {}

    def step(self, action):
        self.count += 1
        return np.full(1, self.count), self.reward, self.count == self.end, False, {}

    def render(self):
        picture = np.zeros((8, 4, 3), np.uint8)
        picture[:4] = 200
        return picture


@pytest.fixture
def register():
    """Registers `Line` under an id of the test's own, with a time limit and arguments."""
    names = []

    def add(name, limit=None, **arguments):
        gymnasium.register(name, lambda **more: Line(**arguments, **more), max_episode_steps=limit)
        names.append(name)

    yield add
    for name in names:
        del gymnasium.registry[name]


def after(env, steps):
    """What the last of so many steps gave."""
    env.reset()
    for _ in range(steps):
        action = TensorDict({"action": torch.zeros(env.action_spec.shape)}, env.batch_size)
        out = env.step(action)["next"]
    return out


@pytest.mark.parametrize(
    ("task", "dims", "episodic"),
    [
        ("gym-Hopper-v5", (11, 3), True),
        ("gym-Walker2d-v5", (17, 6), True),
        ("gym-Ant-v5", (105, 8), True),
        ("gym-Humanoid-v5", (348, 17), True),
        ("gym-HalfCheetah-v5", (17, 6), False),
        ("gym-InvertedPendulum-v5", (4, 1), True),
        ("gym-InvertedDoublePendulum-v5", (9, 1), True),
    ],
)
def test_mujocos_tasks(task, dims, episodic):
    assert task in list_tasks()
    check_env_specs(make_env(task, num_envs=2))
    env = make_env(task, num_envs=2, seed=1)
    assert (env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]) == dims
    assert (env.episodic, env.max_episode_steps, env.action_repeat) == (episodic, 1000, 1)
    first = env.reset()["observation"]
    assert not torch.equal(first[0], first[1])
    assert torch.equal(make_env(task, 2, 1).reset()["observation"], first)
    env.close()


def test_against_gymnasium_itself():
    """The same episode by hand: native bounds, rewards, and the step at which it terminates."""
    raw, env = gymnasium.make("InvertedPendulum-v5"), make_env("gym-InvertedPendulum-v5", seed=3)
    observation, _ = raw.reset(seed=3)
    td, terminated = env.reset(), False
    for _ in range(50):
        np.testing.assert_allclose(td["observation"][0], observation, rtol=1e-6)
        observation, reward, terminated, _, _ = raw.step(np.array([3.0], np.float32))
        td = env.step(td.set("action", torch.ones(1, 1)))["next"]
        assert td["reward"].item() == reward and td["terminated"].item() == terminated
        if terminated:
            break
        td = td.exclude("reward")
    assert terminated and not td["truncated"].item()


def test_a_time_limit_is_no_termination(register):
    register("Endless-v0", limit=6)
    register("Ends-v0", limit=6, end=6)
    for repeat, steps in ((1, 6), (2, 3), (4, 2)):
        env = make_env("gym-Endless-v0", action_repeat=repeat)
        assert env.max_episode_steps == steps and env.fps == 10 / repeat
        assert not after(env, steps - 1)["done"]
        out = after(env, steps)
        assert out["truncated"] and not out["terminated"]
        assert out["reward"].item() == 6 - repeat * (steps - 1)  # what was left of the last repeat
        assert after(make_env("gym-Ends-v0", action_repeat=repeat), steps)["terminated"]


def test_without_a_time_limit_episodes_are_cut(register):
    register("Open-v0")
    with pytest.warns(UserWarning, match="no time limit: episodes are cut off after 1000 steps"):
        env = make_env("gym-Open-v0")
    assert env.max_episode_steps == 1000 and env.episodic
    out = after(env, 1000)
    assert out["truncated"] and not out["terminated"]


def test_pictures_have_the_size_that_is_asked_for(register):
    register("Seen-v0", limit=5)
    env = make_env("gym-Seen-v0", render=True)
    env.reset()
    assert env.render(height=8, width=4).shape == (8, 4, 3)
    assert env.render(height=2, width=2)[..., 0].tolist() == [[200, 200], [0, 0]]


def test_mujoco_renders(can_render):
    if not can_render:
        pytest.skip("no OpenGL")
    env = make_env("gym-InvertedDoublePendulum-v5", render=True)
    env.reset()
    frame = env.render(height=64, width=48)
    assert frame.shape == (64, 48, 3) and frame.dtype == np.uint8 and frame.std() > 5
    env.close()


def refusal(task):
    with pytest.raises(UsageError) as error:
        build_env(task, 0)
    assert "\n" not in str(error.value) and task in str(error.value)
    return str(error.value)


def test_an_environment_that_cannot_be_drawn():
    gymnasium.register("Unseen-v0", lambda: Line(), max_episode_steps=5)
    try:
        after(make_env("gym-Unseen-v0"), 1)
        with pytest.raises(UsageError, match=r"'gym-Unseen-v0' cannot be made: .*render_mode"):
            make_env("gym-Unseen-v0", render=True)
    finally:
        del gymnasium.registry["Unseen-v0"]


def test_unknown_ids():
    message = refusal("gym-Hoper-v5")
    assert "unknown task" in message and "gym-Hopper-v5" in message
    assert "gym-Hopper-v5" in refusal("gym-Hopper-v9")
    assert "cannot be made: No module named 'nowhere'" in refusal("gym-nowhere:Name-v0")
    with pytest.warns(DeprecationWarning):
        assert "gymnasium-robotics" in refusal("gym-Hopper-v2")


def test_spaces_that_do_not_fit(register):
    assert "discrete actions, Discrete(2), are not supported; expected a Box" in refusal("gym-CartPole-v1")
    register("Boundless-v0", limit=5, action=Box(-np.inf, np.inf, (40,)))
    assert "action bounds must be finite, got Box(-inf, inf" in refusal("gym-Boundless-v0")
    low = np.arange(60.0) - 100
    low[3] = -np.inf  # its text has several lines
    register("Uneven-v0", limit=5, action=Box(low, np.full(60, 9.0), dtype=np.float64))
    assert "action bounds must be finite" in refusal("gym-Uneven-v0")
    assert "env.action_bound=1" in refusal("gym-Uneven-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_env("gym-Uneven-v0", action_bound=2.0)
    assert (env.envs[0].action_space.low[3], env.envs[0].action_space.low[4]) == (-2, -96)
    register("Bounded-v0", limit=5)
    with pytest.warns(UserWarning, match=r"has bounds of actions: env\.action_bound changes nothing"):
        make_env("gym-Bounded-v0", action_bound=2.0)
    register("Named-v0", limit=5, observation=Dict({"x": Text(3)}))
    assert "entry 'x' of the observation must hold numbers, got Text" in refusal("gym-Named-v0")


def test_a_reward_that_is_nan_ends_the_run(register):
    register("NoReward-v0", limit=5, reward=float("nan"))
    with pytest.raises(
        RunError, match="'gym-NoReward-v0', environment 0, step 1: the reward is not finite: nan"
    ):
        after(make_env("gym-NoReward-v0"), 1)


def test_what_drew_is_closed_before_the_graphics_library():
    """Of an environment that is still referred to when its program ends by `sys.exit`, as recipes do."""
    program = """
import sys
from dreammpc.envs import make_env

def main():
    env = make_env("gym-InvertedDoublePendulum-v5", obs="pixels")
    env.itself = env
    print(env.reset()["pixels"].float().std() > 0)
    sys.exit()

main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "True" in done.stdout
    assert "Traceback" not in done.stderr, done.stderr
