"""Environments that go on where they were: the same observations, rewards and resets, to the bit."""

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from dreammpc.envs import BatchedEnv, make_env
from dreammpc.envs.state import set_stream_state, stream_state
from dreammpc.interfaces import RunError
from dreammpc.training.files import save_atomically

# Targets and gains in the model, contacts, tendons.
TASKS = ["cartpole-swingup", "reacher-easy", "finger-turn-hard", "cup-catch", "fish-swim", "pointmass-hard"]


def play(env, steps: int, seed: int) -> list[torch.Tensor]:
    """Everything that `steps` random steps show, resets where an episode ends."""
    stream, seen = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        action = torch.rand(env.action_spec.shape, generator=stream) * 2 - 1
        after = env.step(td(env, action))["next"]
        seen += [after["observation"], after["reward"], after["done"]]
        if after["done"].any():
            seen.append(env.reset()["observation"])
    return seen


def td(env, action):
    return TensorDict({"action": action}, env.batch_size)


@pytest.mark.parametrize("task", TASKS)
def test_a_control_suite_task_goes_on_exactly(task, tmp_path):
    env = make_env(task, 2, seed=1)
    env.reset()
    play(env, 20, seed=2)
    for one in env.envs:
        one._steps += 900  # an end, and a reset that draws from the task's stream, within what follows
    save_atomically(env.get_state(), tmp_path / "state.pt")
    expected = play(env, 60, seed=3)

    other = make_env(task, 2, seed=77)
    other.reset()
    play(other, 7, seed=5)
    other.set_state(torch.load(tmp_path / "state.pt", weights_only=True))
    got = play(other, 60, seed=3)
    assert len(got) == len(expected) > 180
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_a_random_stream_goes_on():
    stream, other = np.random.RandomState(3), np.random.RandomState(4)
    stream.normal()  # leaves a second number cached
    set_stream_state(other, stream_state(stream))
    assert stream.normal() == other.normal() and stream.uniform() == other.uniform()


class Forgetful(gymnasium.Env):
    """Offers no state; its observation is NaN when asked for."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.full(1, np.nan if action[0] > 0.5 else 0.0, np.float32), 0.0, False, False, {}


class Remembering(Forgetful):
    def get_state(self):
        return {}

    def set_state(self, state): ...


def test_none_where_the_environment_offers_no_state():
    env = BatchedEnv([Remembering(), Forgetful()], "x")
    env.reset()
    assert env.get_state() is None


def test_no_state_after_a_step_that_failed():
    env = BatchedEnv([Remembering()], "x")
    env.reset()
    env.step(td(env, torch.zeros(1, 1)))
    assert env.get_state() is not None
    with pytest.raises(RunError, match=r"environment 0, step 2: observation\[0\] is not finite: nan"):
        env.step(td(env, torch.ones(1, 1)))
    assert env.get_state() is None
