"""Meta-World: its 50 tasks as published scores play them."""

import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs

from dreammpc.envs import list_tasks, make_env
from dreammpc.envs.mujoco_task import plain_attributes, set_plain_attributes

metaworld = pytest.importorskip("metaworld")


def play(env, decisions: int, seed: int = 0):
    """The last TensorDict of so many random decisions after a reset."""
    rng = np.random.default_rng(seed)
    state = env.reset()
    for _ in range(decisions):
        actions = rng.uniform(-1, 1, env.action_spec.shape)
        state = env.step(state.set("action", torch.tensor(actions, dtype=torch.float32)))["next"]
    return state


def test_all_fifty_tasks_are_listed():
    names = [task for task in list_tasks() if task.startswith("mw-")]
    assert len(names) == 50 and {"mw-window-open", "mw-pick-place-wall", "mw-assembly"} <= set(names)


def test_an_episode_is_that_of_published_scores():
    env = make_env("mw-window-open", 2, seed=1)
    check_env_specs(env)
    assert env.observation_spec["observation"].shape == (2, 39) and env.action_spec.shape == (2, 4)
    assert (env.action_repeat, env.max_episode_steps, env.episodic) == (2, 100, False)
    assert (env.full_return, env.title) == (None, "mw-window-open (v3)")
    assert not play(env, 99)["done"].any()
    last = play(env, 100)
    assert last["truncated"].all() and not last["terminated"].any()
    assert np.isfinite(env.success).all()


def test_goals_are_continuous_and_follow_the_seed():
    def goals(seed: int):
        env.set_seed(seed)
        return torch.cat([env.reset()["observation"][:, -3:] for _ in range(2)])

    env = make_env("mw-reach", 2, 5)
    first = goals(1)
    assert len(first.unique(dim=0)) == 4 and not (first == 0).all(1).any()
    assert torch.equal(goals(1), first)
    assert torch.equal(goals(2)[:1], first[1:2])  # row i is seeded with seed + i


def test_rewards_are_summed_over_the_repeat_and_success_is_that_of_the_last_step():
    once, twice = (make_env("mw-reach", 1, 3, action_repeat=n) for n in (1, 2))
    action = torch.tensor([[0.5, -0.5, 0.2, 0.0]])
    state, total = once.reset(), 0.0
    for _ in range(2):
        state = once.step(state.set("action", action))["next"]
        total += state["reward"]
    both = twice.step(twice.reset().set("action", action))["next"]
    assert torch.allclose(both["reward"], total) and torch.equal(both["observation"], state["observation"])

    (task,), told = twice.envs, iter([1.0, 0.0])
    step = task._env.step
    task._env.step = lambda action: (*step(action)[:4], {"success": next(told)})
    twice.step(both.exclude("reward").set("action", action))
    assert (twice.success[0], twice.any_success[0]) == (0, 1)


# Arms whose task keeps windows on MuJoCo's memory (door-lock, soccer), and states in Python of every kind.
@pytest.mark.parametrize("task", ["mw-door-lock", "mw-soccer", "mw-lever-pull"])
def test_an_episode_goes_on_from_its_state_to_the_bit(task):
    env, other = make_env(task, 1, seed=1), make_env(task, 1, seed=9)
    other.reset()
    state = play(env, 30).exclude("reward")
    other.set_state(env.get_state())
    rng = np.random.default_rng(5)
    ours = theirs = state
    for _ in range(72):  # over the end, so that the next start is the same, too
        action = torch.tensor(rng.uniform(-1, 1, (1, 4)), dtype=torch.float32)
        ours, theirs = (e.step(s.set("action", action))["next"] for e, s in ((env, ours), (other, theirs)))
        assert torch.equal(ours["observation"], theirs["observation"])
        assert torch.equal(ours["reward"], theirs["reward"])
        ours, theirs = ours.exclude("reward"), theirs.exclude("reward")
        if ours["done"].any():
            ours, theirs = env.reset(), other.reset()
            assert torch.equal(ours["observation"], theirs["observation"])


def test_frames_are_upright():
    """The room's gray wall is above the table, wherever the camera of the package stands."""
    env = make_env("mw-window-open", 1, seed=1, render=True)
    env.reset()
    frame = env.render(0, 96, 96).astype(float)
    top, bottom = frame[:16].mean((0, 1)), frame[-16:].mean((0, 1))
    assert frame.shape == (96, 96, 3) and np.ptp(top) < 25, "gray"
    assert bottom[0] > bottom[2] + 25, "the table is brown"
    env.close()


def test_attributes_of_a_state_come_back_as_they_were():
    class Thing:
        def __init__(self):
            self.number, self.array, self.scalar = 2, np.arange(3.0), np.float64(0.5)
            self.names, self.pair = np.array(["a", "bc"]), (1, [np.int64(3), None])
            self.table, self.other, self.flag = {"a": np.zeros(2)}, object(), True

    one, two = Thing(), Thing()
    one.number, one.array[1], one.names[0], one.table["a"][0] = 7, -1.0, "x", 5.0
    kept = plain_attributes(one)
    one.array[:] = 9  # what was kept is a copy
    set_plain_attributes(two, kept)
    assert two.number == 7 and two.array.tolist() == [0, -1, 2] and two.names.tolist() == ["x", "bc"]
    assert type(two.scalar) is np.float64 and two.pair == (1, [3, None]) and two.table["a"].tolist() == [5, 0]
    assert "other" not in kept
