"""EnvPool in place of a task's own simulator: the same observations, limits, returns; what it refuses."""

import importlib.util

import numpy as np
import pytest
import torch
from commands import TINY, refused, train
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from dreammpc.envs import families, make_env
from dreammpc.envs.envpool import EnvPoolEnv
from dreammpc.interfaces import UsageError

THERE = importlib.util.find_spec("envpool") is not None
needs = pytest.mark.skipif(not THERE, reason="needs EnvPool: pip install 'dreammpc[envpool]'")


def test_without_it_a_line_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "envpool" else find(name))
    monkeypatch.chdir(tmp_path)
    line = refused("train", ["task=walker-walk", "env.backend=envpool"], monkeypatch, capsys)
    assert "not installed: pip install 'dreammpc[envpool]'" in line


@pytest.mark.parametrize("task", ["mw-reach", "torchrl:pendulums:Pendulums", "h1hand-run", "new-task"])
def test_other_families_have_simulators_of_their_own(task, monkeypatch):
    monkeypatch.setattr(families.FAMILIES, "_things", {**families.FAMILIES._things, "new-": None})
    with pytest.raises(UsageError, match=r"of the control suite and of Gymnasium only|takes no env.backend"):
        make_env(task, backend="envpool")


def test_arguments_are_not_left_out_without_a_word():
    with pytest.raises(UsageError, match=r"takes no env\.kwargs"):
        make_env("gym-Ant-v5", backend="envpool", kwargs={"ctrl_cost_weight": 0.1})


def random_returns(env, seed=0):
    env.set_seed(seed)
    now, total = env.reset(), 0
    stream = torch.Generator().manual_seed(1)
    for _ in range(env.max_episode_steps):
        now["action"] = torch.rand(env.action_spec.shape, generator=stream) * 2 - 1
        now = env.step(now)["next"]
        total = total + now.pop("reward").squeeze(-1)
    assert now["truncated"].all() and not now["terminated"].any()
    return total.double().numpy()


@needs
@pytest.mark.parametrize("task", ["cartpole-balance", "walker-walk"])
def test_random_returns_agree(task):
    """Sixteen episodes each: the means differ by no more than their noise allows."""
    theirs = random_returns(make_env(task, 16, backend="envpool"))
    ours = random_returns(make_env(task, 16))
    noise = np.sqrt(theirs.var() / 16 + ours.var() / 16)
    assert abs(theirs.mean() - ours.mean()) < 4 * noise + 1e-6


@needs
def test_specs_seeds_and_resets_of_some_rows():
    env = make_env("walker-walk", 4, seed=3, backend="envpool")
    assert isinstance(env, EnvPoolEnv) and (env.action_repeat, env.max_episode_steps) == (2, 500)
    check_env_specs(env)
    assert "backend" not in env.options, "evaluations play the task's own simulator"
    env.set_seed(3)
    start = env.reset()["observation"]
    assert len(start.unique(dim=0)) == 4
    assert torch.equal(start, make_env("walker-walk", 4, seed=3, backend="envpool").reset()["observation"])
    after = env.step(TensorDict({"action": torch.zeros(4, 6)}, [4]))["next"]
    mask = torch.tensor([[False], [True], [False], [False]])
    again = env.reset(after.exclude("reward").set("_reset", mask))["observation"]
    kept = [0, 2, 3]
    assert torch.equal(again[kept], after["observation"][kept])
    assert not torch.equal(again[1], after["observation"][1])
    env.seed_rows([2**40, 1, 2, 3])
    env.reset()


@needs
@pytest.mark.parametrize("task", ["cartpole-swingup", "walker-run", "gym-HalfCheetah-v5", "cheetah-run"])
def test_the_order_of_observations_is_the_tasks_own(task):
    """Of fields that have a scale of their own: means over random steps are near each other."""
    means = []
    for backend in (None, "envpool"):
        env = make_env(task, 8, backend=backend)
        env.set_seed(0)
        seen = env.rollout(60, break_when_any_done=False)["observation"]
        means.append((seen.mean((0, 1)), seen.std((0, 1))))
    (ours, spread), (theirs, _) = means
    assert ((ours - theirs).abs() < 1.5 * spread + 0.3).all()


@needs
@pytest.mark.parametrize("task", ["walker-walk-backwards", "gym-InvertedPendulum-v5"])
def test_what_it_does_not_have(task):
    with pytest.raises(UsageError, match=r"EnvPool has no|takes no action repeat"):
        make_env(task, 2, action_repeat=2, backend="envpool")


@needs
def test_a_training(tmp_path):
    assert train(tmp_path, *TINY, "env.backend=envpool", "env.num_envs=4", "tracking=none") == 0
