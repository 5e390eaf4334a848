"""The control suite and the eleven further tasks: shapes, seeds, repeats, limits, rewards, rendering."""

import numpy as np
import pytest
import torch
from forked import run_python
from tensordict import TensorDict

from dreammpc.envs import make_env
from dreammpc.envs.dmcontrol import CONTROL_STEPS, DMControl, list_tasks
from dreammpc.envs.dmcontrol_extra import TASKS
from dreammpc.interfaces import RunError

DIMS = {  # observation and action sizes that published agents have
    "acrobot-swingup": (6, 1), "cartpole-swingup": (5, 1), "cheetah-run": (17, 6), "cup-catch": (8, 2),
    "dog-run": (223, 38), "fish-swim": (24, 5), "hopper-hop": (15, 4), "humanoid-run": (67, 21),
    "humanoid_CMU-run": (137, 56), "pointmass-easy": (4, 2), "quadruped-walk": (78, 12),
    "finger-turn-hard": (12, 2), "reacher-three-easy": (8, 3), "pendulum-spin": (3, 1),
    "walker-walk": (24, 6),
}  # fmt: skip
EXTRA = [
    "walker-walk-backwards", "walker-run-backwards", "cheetah-run-backwards", "cheetah-run-front",
    "cheetah-run-back", "cheetah-jump", "hopper-hop-backwards", "reacher-three-easy", "reacher-three-hard",
    "cup-spin", "pendulum-spin",
]  # fmt: skip


def step(env, action=None, **entries):
    """One step from an otherwise empty TensorDict; returns what came next."""
    if action is None:
        action = torch.zeros(env.action_spec.shape)
    return env.step(TensorDict({"action": action, **entries}, batch_size=env.batch_size))["next"]


def trajectory(env, steps=5, seed=3):
    """[B, steps + 1, O] under fixed random actions."""
    generator = torch.Generator().manual_seed(seed)
    observations = [env.reset()["observation"]]
    for _ in range(steps):
        action = torch.rand(env.action_spec.shape, generator=generator) * 2 - 1
        observations.append(step(env, action)["observation"])
    return torch.stack(observations, 1)


# --- the suite -----------------------------------------------------------------------------------------


SLOW = {"dog-run", "dog-trot", "dog-walk"}
"""A dog takes seconds to load, and dog-stand and dog-fetch have one."""


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=[pytest.mark.slow] if task in SLOW else []) for task in list_tasks()]
)
def test_every_task_steps_and_repeats_by_seed(task, request):
    if task == "quadruped-escape" and not request.getfixturevalue("can_render"):
        pytest.skip("uploads its terrain to OpenGL at every reset")
    env = make_env(task, seed=1)
    observation_dim, action_dim = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    assert (observation_dim, action_dim) == DIMS.get(task, (observation_dim, action_dim))
    first = trajectory(env, steps=1)  # the same task used before, and a new one, start alike from one seed
    assert first.shape == (1, 2, observation_dim) and first.dtype == torch.float32
    env.set_seed(1)
    assert torch.equal(trajectory(env, steps=1), first)
    assert torch.equal(trajectory(make_env(task, seed=1), steps=1), first)
    env.set_seed(2)
    assert not torch.equal(trajectory(env, steps=1), first)
    limit = env.envs[0]._env._step_limit
    assert limit == (float("inf") if task.startswith("lqr") else CONTROL_STEPS)
    assert env.max_episode_steps == 500 and env.action_repeat == 2 and env.task == task
    assert env.episodic == task.startswith("lqr")
    env.close()


def test_names_cover_the_suite_and_the_further_tasks():
    from dm_control import suite

    assert len(list_tasks()) == len(set(list_tasks())) == len(suite.ALL_TASKS) + len(TASKS)
    assert set(EXTRA) | set(DIMS) <= set(list_tasks()) and len(EXTRA) == len(TASKS)


@pytest.mark.parametrize("task", ["walker-walk", "finger-turn-easy"])  # both with scalar entries
def test_observation_order_and_repeated_reward_against_dm_control(task):
    from dm_control import suite

    raw = suite.load(*task.replace("turn-easy", "turn_easy").split("-"), task_kwargs={"random": 7})
    env = make_env(task, seed=7, action_repeat=3)

    def flat(time_step):
        return np.concatenate([np.ravel(v) for v in time_step.observation.values()]).astype(np.float32)

    np.testing.assert_array_equal(env.reset()["observation"][0].numpy(), flat(raw.reset()))
    for _ in range(20):
        action = env.action_spec.rand()
        steps = [raw.step(action[0].numpy()) for _ in range(3)]
        out = step(env, action)
        np.testing.assert_array_equal(out["observation"][0].numpy(), flat(steps[-1]))
        assert out["reward"].item() == pytest.approx(sum(s.reward for s in steps), rel=1e-6)


def test_time_limit_truncates_and_the_last_repeat_is_cut_short():
    env = make_env("cartpole-balance", action_repeat=400)
    env.reset()
    assert env.max_episode_steps == 3
    outs = [step(env) for _ in range(3)]
    assert [bool(o["truncated"]) for o in outs] == [False, False, True]
    assert not any(bool(o["terminated"]) for o in outs)
    assert outs[2]["reward"] < 201 < outs[0]["reward"]  # 200 control steps were left
    with pytest.raises(RunError, match=r"step 4: AssertionError: the episode is over: reset"):
        step(env)


def test_lqr_has_a_limit_and_terminates_at_rest():
    env = DMControl("lqr", "lqr_2_1", action_repeat=CONTROL_STEPS)
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (False, True)
    env.action_repeat = 1
    env.reset()
    with env._env.physics.reset_context():
        env._env.physics.data.qpos[:] = 0
    assert env.step(np.zeros(1))[2:4] == (True, False)


def test_actions_are_rescaled_to_the_tasks_bounds():
    env = make_env("quadruped-walk")
    env.reset()
    physics, spec = env.envs[0]._env.physics, env.envs[0]._env.action_spec()
    assert spec.maximum.max() == 1.1  # or this test shows nothing
    for value, expected in (
        (-1.0, spec.minimum),
        (1.0, spec.maximum),
        (0.0, (spec.minimum + spec.maximum) / 2),
    ):
        step(env, torch.full((1, 12), value))
        np.testing.assert_allclose(physics.control(), expected, atol=1e-12)


def test_render(can_render):
    if not can_render:
        pytest.skip("no graphics library")
    done = run_python(
        "from dreammpc.envs import make_env\n"
        "make_env('pendulum-swingup').reset()  # the environment for videos comes after one without frames\n"
        "env = make_env('pendulum-swingup', num_envs=2, render=True); env.reset()\n"
        "frame = env.render(index=1, height=24, width=32)\n"
        "assert frame.shape == (24, 32, 3) and frame.dtype == 'uint8' and frame.std() > 1, frame"
    )
    assert done.returncode == 0, done.stderr


def test_no_graphics_and_no_dm_control_unless_asked():
    done = run_python(
        "import os, sys, dreammpc.envs\n"
        "assert 'dm_control' not in sys.modules\n"
        "env = dreammpc.envs.make_env('pendulum-swingup'); env.reset()\n"
        "assert 'MUJOCO_GL' not in os.environ\n"
        "try: env.render()\n"
        "except ValueError as error: assert 'render=True' in str(error)\n"
        "else: assert False"
    )
    assert done.returncode == 0, done.stderr
    assert "glfw" not in done.stderr.lower()


def test_rows_are_the_single_environments_with_the_same_seeds():
    together = trajectory(make_env("cheetah-run", num_envs=3, seed=5))
    for i in range(3):
        env = make_env("cheetah-run", seed=5 + i)
        generator = torch.Generator().manual_seed(3)
        rows = [env.reset()["observation"]]
        for _ in range(5):
            rows.append(
                step(env, (torch.rand((3, 6), generator=generator) * 2 - 1)[i : i + 1])["observation"]
            )
        assert torch.equal(torch.stack(rows, 1)[0], together[i])


def test_a_reset_without_a_seed_goes_on_with_the_stream():
    env = make_env("cartpole-swingup", seed=4)
    first, second = env.reset()["observation"], env.reset()["observation"]
    assert not torch.equal(first, second)
    env.set_seed(4)
    assert torch.equal(env.reset()["observation"], first) and torch.equal(env.reset()["observation"], second)


# --- the eleven further tasks --------------------------------------------------------------------------


@pytest.mark.parametrize("task", EXTRA)
def test_extra_rewards_lie_in_the_unit_interval(task):
    env = make_env(task, num_envs=1, action_repeat=1)
    env.reset()
    rewards = torch.stack([step(env, env.action_spec.rand())["reward"] for _ in range(60)])
    assert (rewards >= 0).all() and (rewards <= 1).all()


def reward_at(domain, task, **state):
    """Reward of a hand-made state: qpos and qvel entries by joint, sensors by name."""
    env = TASKS[domain, task](np.random.RandomState(0))
    env.reset()
    physics = env.physics
    with physics.reset_context():
        for joint, (position, velocity) in state.items():
            physics.named.data.qpos[joint], physics.named.data.qvel[joint] = position, velocity
    return float(env.task.get_reward(physics))


@pytest.mark.parametrize(("speed", "reward"), [(9, 1), (-9, 1), (-20, 1), (4.5, 0.5), (6.75, 0.75), (0, 0)])
def test_pendulum_spin(speed, reward):
    assert reward_at("pendulum", "spin", hinge=(0.3, speed)) == pytest.approx(reward)


@pytest.mark.parametrize(("speed", "reward"), [(-8, 1), (-4, 0.5), (0, 0), (8, 0)])
def test_cheetah_run_backwards(speed, reward):
    # With every joint still, the whole body moves with its root.
    assert reward_at("cheetah", "run_backwards", rootx=(0, speed)) == pytest.approx(reward)


@pytest.mark.parametrize("task", ["run_front", "run_back", "jump"])
def test_cheetah_in_the_air(task):
    fast, slow = (
        reward_at("cheetah", task, rootx=(0, 6), rootz=(5, 0)),
        reward_at("cheetah", task, rootz=(5, 0)),
    )
    assert (fast, slow) == pytest.approx((5 / 6, 1) if task == "jump" else (1, 1 / 6))


def test_cheetah_on_one_foot_rewards_the_right_foot():
    # Nose down, turned about the torso: the back foot is in the air, the front foot low.
    state = {"rootx": (0, 6), "rootz": (0.3, 0), "rooty": (1.2, 0)}
    assert reward_at("cheetah", "run_front", **state) > reward_at("cheetah", "run_back", **state) + 0.2


@pytest.mark.parametrize(
    ("x", "speed", "reward"), [(0.5, 6, 1), (0.25, 6, 2.5 / 3), (0.25, 0, 0.5 / 3), (0, 6, 0)]
)
def test_cup_spin(x, speed, reward):
    # The ball at height 0.55 is level with the middle of the cup, x metres beside it.
    state = {"ball_x": (x, speed), "ball_z": (0.35, 0)}
    assert reward_at("ball_in_cup", "spin", **state) == pytest.approx(reward)


@pytest.mark.parametrize(("task", "speed"), [("walk_backwards", 1.0), ("run_backwards", 8.0)])
def test_walker_backwards_mirrors_the_suite(task, speed):
    upright = {"rootz": (0, 0)}
    full, still, forward = (
        reward_at("walker", task, rootx=(0, v), **upright) for v in (-speed, -speed / 4, speed)
    )
    assert (
        full == pytest.approx(1)
        and still == pytest.approx((5 * 0.25 + 1) / 6)
        and forward == pytest.approx(1 / 6)
    )


@pytest.mark.parametrize(("speed", "reward"), [(-1, 1), (-0.5, 0.5), (0, 0), (2, 0)])
def test_hopper_backwards(speed, reward):
    assert reward_at("hopper", "hop_backwards", rootx=(0, speed)) == pytest.approx(reward)


def test_three_link_reacher_is_three_links_long():
    env = TASKS["reacher", "three_hard"](np.random.RandomState(0))
    env.reset()
    with env.physics.reset_context():
        env.physics.data.qpos[:] = 0
        env.physics.named.model.geom_pos["target", :2] = (0.27, 0.02)
    np.testing.assert_allclose(env.physics.named.data.geom_xpos["finger", :2], (0.27, 0), atol=1e-12)
    assert env.task.get_reward(env.physics) == 1  # 0.02 away, and the radii are 0.015 and 0.01
    np.testing.assert_allclose(
        env.physics.named.model.jnt_range[["elbow", "wrist"]], np.deg2rad([[-80, 80]] * 2)
    )
    for i in range(3):  # motor i turns joint i
        assert env.physics.model.actuator_trnid[i, 0] == i


def test_warnings_are_printed_as_they_are():
    """Importing the suite had absl put the name of a logger before those of everybody."""
    code = (
        "import logging\nfrom dreammpc.envs import make_env\n"
        "make_env('cartpole-swingup', 1, 0).close()\n"
        "logging.getLogger('dreammpc.x').warning('nothing is learned')"
    )
    done = run_python(code)
    assert done.stderr.splitlines()[-1] == "nothing is learned"
