"""The wrapper to TorchRL and the registry: specs, ends, partial resets, seeds, names, error messages."""

import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import Unbounded
from torchrl.envs import Compose, InitTracker, TensorDictPrimer, TransformedEnv
from torchrl.envs.utils import check_env_specs

from dreammpc.envs import BatchedEnv, list_tasks, make_env, register_env
from dreammpc.interfaces import RunError


class Fake(gymnasium.Env):
    """Counts its steps in its observation; ends, or gives what it is told to, at a chosen step."""

    def __init__(self, end=None, kind="terminated", reward=1.0, observation=0.0, action_space=None):
        self.end, self.kind, self.reward, self.extra = end, kind, reward, observation
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = action_space or Box(-1, 1, (1,), np.float32)
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.array([0.0, self.np_random.uniform()]), {}

    def step(self, action):
        self.actions.append(np.array(action))
        self.count += 1
        over = self.count == self.end
        observation = np.array([self.count, self.extra])
        return (
            observation,
            self.reward,
            over and self.kind == "terminated",
            over and self.kind == "truncated",
            {},
        )


def step(env, action=None, **entries):
    """One step from an otherwise empty TensorDict; returns what came next."""
    if action is None:
        action = torch.zeros(env.action_spec.shape)
    return env.step(TensorDict({"action": action, **entries}, batch_size=env.batch_size))["next"]


# --- the wrapper ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "num_envs"), [("cheetah-run", 1), ("cartpole-swingup", 3), ("quadruped-run", 2)]
)
def test_specs(task, num_envs):
    env = make_env(task, num_envs=num_envs)
    assert env.batch_size == (num_envs,)
    check_env_specs(env)
    check_env_specs(TransformedEnv(env, InitTracker()))


def test_partial_reset_keeps_the_other_rows():
    env = make_env("cheetah-run", num_envs=3)
    env.reset()
    before = step(env, torch.ones(3, 6))
    mask = torch.tensor([[False], [True], [False]])
    after = env.reset(before.clone().set("_reset", mask))["observation"]
    kept = torch.tensor([0, 2])
    assert torch.equal(after[kept], before["observation"][kept])
    assert not torch.equal(after[1], before["observation"][1])
    assert [e._steps for e in env.envs] == [2, 0, 2]
    # TorchRL may hand over the mask alone: the rows that go on then come from the wrapper's own memory.
    alone = env._reset(TensorDict({"_reset": mask}, batch_size=[3]))["observation"]
    assert torch.equal(alone[kept], before["observation"][kept])


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_ends_are_kept_apart(kind):
    env = BatchedEnv([Fake(end=2, kind=kind), Fake(end=3, kind=kind)], "fake")
    check_env_specs(env)
    env.reset()
    step(env)
    out = step(env)
    other = {"terminated": "truncated", "truncated": "terminated"}[kind]
    assert out[kind].tolist() == out["done"].tolist() == [[True], [False]] and not out[other].any()


def test_what_a_step_returned_does_not_change_later():
    env = BatchedEnv([Fake()], "fake")
    env.reset()
    first = step(env)
    kept = first.clone()
    step(env)
    assert (first == kept).all()


def test_native_bounds_reach_the_environment():
    fake = Fake(action_space=Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64))
    env = BatchedEnv([fake], "fake")
    env.reset()
    for action in ([-1.0, -1.0], [0.0, 0.0], [1.0, 0.5]):
        step(env, torch.tensor([action]))
    np.testing.assert_allclose(fake.actions, [[-2, 0], [0, 5], [2, 7.5]])


def test_collector_with_a_stateful_policy_and_automatic_resets():
    ends = (3, 4)
    env = TransformedEnv(
        BatchedEnv([Fake(end=end) for end in ends], "fake"),
        Compose(InitTracker(), TensorDictPrimer({"plan": Unbounded((2, 1))}, expand_specs=False)),
    )

    def policy(observation, plan, is_init):  # counts the steps since the reset in its carry
        plan = torch.where(is_init, 0, plan) + 1
        return torch.zeros_like(plan), plan

    module = TensorDictModule(policy, ["observation", "plan", "is_init"], ["action", ("next", "plan")])
    collector = Collector(env, module, frames_per_batch=2 * 6, total_frames=2 * 12)
    data = torch.cat(list(collector), dim=1)
    for row, end in enumerate(ends):
        count = torch.arange(12) % end
        assert torch.equal(data["observation"][row, :, 0], count.float())
        assert torch.equal(data["next", "observation"][row, :, 0], count + 1.0)
        assert torch.equal(data["next", "plan"][row, :, 0], count + 1.0)
        assert torch.equal(data["is_init"][row, :, 0], count == 0)
        assert torch.equal(data["next", "terminated"][row, :, 0], count == end - 1)
    collector.shutdown()


def test_gymnasiums_own_environments_fit():
    env = BatchedEnv([gymnasium.make("Pendulum-v1") for _ in range(2)], "gym-Pendulum")
    check_env_specs(env)
    assert (env.max_episode_steps, env.action_repeat) == (200, 1)


# --- messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fakes", "message"),
    [
        ([], "at least one environment"),
        ([Fake(action_space=Discrete(3))], "discrete actions, Discrete.* are not supported"),
        ([Fake(action_space=Box(-1, 1, (2, 2)))], "action space must be a flat Box"),
        ([Fake(action_space=Box(-np.inf, np.inf, (2,)))], "action bounds must be finite"),
        ([Fake(), Fake(action_space=Box(-2, 2, (1,)))], "the same action space"),
    ],
)
def test_spaces_that_do_not_fit(fakes, message):
    with pytest.raises(ValueError, match=message) as error:
        BatchedEnv(fakes, "odd")
    assert "'odd'" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"reward": float("nan")}, "the reward is not finite: nan"),
        ({"observation": np.inf}, r"observation\[1\] .* inf"),
    ],
)
def test_numbers_that_are_not_finite(fault, message):
    env = BatchedEnv([Fake(), Fake(**fault)], "broken")
    env.reset()
    with pytest.raises(RunError, match=f"'broken', environment 1, (reset after )?step .: .*{message}"):
        step(env)


def test_unknown_tasks_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown task 'walker-wlak': did you mean .*walker-walk") as error:
        make_env("walker-wlak")
    assert re.search(r"\d+ tasks exist", str(error.value)) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"unknown task 'zzz': \d+ tasks exist.* begins with 'gym-'"):
        make_env("zzz")


@pytest.mark.parametrize("wrong", [{"num_envs": 0}, {"action_repeat": 0}])
def test_counts_below_one(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least 1, got 0"):
        make_env("cheetah-run", **wrong)


def test_families_are_found_by_the_longest_prefix(monkeypatch):
    from dreammpc.envs import families

    monkeypatch.setattr(families.FAMILIES, "_things", dict(families.FAMILIES._things))
    monkeypatch.setattr(families, "_DECLARED", dict(families._DECLARED))

    @register_env("fake-")
    def fake(task, *, action_repeat, render):
        return Fake(end=action_repeat)

    register_env(
        "fake-long-", lambda task, action_repeat, render: Fake(end=9), tasks=lambda: ["fake-long-one"]
    )
    assert make_env("fake-any", action_repeat=4).envs[0].end == 4
    assert make_env("fake-long-one", num_envs=2).envs[1].end == 9
    assert "fake-long-one" in list_tasks()
    with pytest.raises(ValueError, match=r"did you mean fake-long-one.* begins with 'fake-', .*'gym-'"):
        make_env("fake-long-two")
    with pytest.raises(ValueError, match="task prefix name 'fake-' is already taken by test_envs"):
        register_env("fake-", Fake)


def test_an_action_that_is_not_finite_is_named_and_not_simulated():
    env = make_env("pendulum-swingup", 2, 0)
    td = env.reset()
    td["action"] = torch.tensor([[0.5], [float("nan")]])
    with pytest.raises(RunError, match=r"environment 1, step 1: the action is not finite: \[nan\]"):
        env.step(td)
    td["action"] = torch.zeros(2, 1)
    assert env.step(td)["next", "observation"].isfinite().all()
