"""Frames as observations: specs, one drawing per decision, and what is said where nothing can be drawn."""

import gymnasium
import numpy as np
import pytest
import torch
from forked import run_python
from gymnasium.spaces import Box
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from dreammpc.envs import BatchedEnv, make_env, register_env
from dreammpc.envs.families import FAMILIES
from dreammpc.interfaces import UsageError


class Drawn(gymnasium.Env):
    """A frame says how many steps, and how many drawings, came before it."""

    observation_space, action_space = Box(-1, 1, (2,)), Box(-1, 1, (1,))

    def __init__(self):
        self.count = self.drawings = 0

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(2), {}

    def step(self, action):
        self.count += 1
        return np.full(2, self.count), 1.0, self.count == 5, False, {}

    def render(self, height, width):
        self.drawings += 1
        frame = np.zeros((height, width, 3), np.uint8)
        frame[0, :, 0], frame[:, 1, 2] = self.count, self.drawings
        return frame


class Blind(Drawn):
    render = gymnasium.Env.render


class Squeezed(Drawn):
    def render(self, height, width):
        return super().render(32, 32)


def step(env: BatchedEnv) -> TensorDict:
    return env.step(TensorDict({"action": torch.zeros(env.action_spec.shape)}, env.batch_size))["next"]


@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_specs(obs):
    env = BatchedEnv([Drawn() for _ in range(2)], "drawn", obs)
    check_env_specs(env)
    keys = {"pixels"} | ({"observation"} if obs == "both" else set())
    assert set(env.observation_spec.keys()) == keys
    frames = env.reset()["pixels"]
    assert frames.shape == (2, 3, 64, 64) and frames.dtype == torch.uint8


def test_the_newest_frame_is_drawn_once_per_decision():
    envs = [Drawn(), Drawn()]
    env = BatchedEnv(envs, "drawn", "pixels")
    env.set_seed(0)
    first = env.reset()["pixels"]
    second = step(env)["pixels"]
    assert [e.drawings for e in envs] == [2, 2]
    # Channels first, rows before columns: red stands in the first row, blue in the second column.
    assert (first[:, 0, 0] == 0).all() and (second[:, 0, 0] == 1).all()
    assert (second[:, 2, :, 1] == 2).all() and (second[:, 2, :, 2] == 0).all()
    assert (first[:, 2, :, 1] == 1).all()  # the frame that was handed out is not drawn over
    mask = torch.tensor([[True], [False]])
    after = env._reset(TensorDict({"_reset": mask}, [2]))["pixels"]
    assert after[:, 0, 0, 0].tolist() == [0, 1] and [e.drawings for e in envs] == [3, 2]


def test_the_control_suite_draws_what_render_gives():
    env = make_env("cartpole-swingup", seed=3, obs="both")
    state = make_env("cartpole-swingup", seed=3)
    start = env.reset()
    assert torch.equal(start["observation"], state.reset()["observation"])  # drawing changes no start
    np.testing.assert_array_equal(start["pixels"][0].permute(1, 2, 0).numpy(), env.render())
    assert start["pixels"].float().std() > 5
    assert not torch.equal(start["pixels"], step(env)["pixels"])


@pytest.fixture
def families(monkeypatch):
    monkeypatch.setattr(FAMILIES, "_things", dict(FAMILIES._things))
    register_env("blind-", lambda task, action_repeat, render: Blind())
    register_env("squeezed-", lambda task, action_repeat, render: Squeezed())


@pytest.mark.parametrize(
    ("task", "obs", "words"),
    [
        ("blind-x", "pixels", r"obs=pixels: task 'blind-x' cannot be drawn: .* render\(height=, width=\)"),
        ("squeezed-x", "both", r"must give uint8 \[64, 64, 3\], got an array uint8 \[32, 32, 3\]"),
        ("blind-x", "pixel", r"unknown obs 'pixel'.*did you mean pixels"),
    ],
)
def test_what_cannot_be_observed_is_named(families, task, obs, words):
    with pytest.raises(UsageError, match=words):
        make_env(task, obs=obs)
    make_env("blind-x", obs="state")


def test_without_a_renderer_the_line_says_what_mends_it():
    code = (
        "from dreammpc.envs import make_env\nfrom dreammpc.interfaces import UsageError\n"
        "try:\n    make_env('cartpole-swingup', obs='pixels')\nexcept UsageError as error:\n    print(error)"
    )
    done = run_python(code, MUJOCO_GL="disabled")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "obs=pixels" in line and "libegl1" in line and "MUJOCO_GL" in line
