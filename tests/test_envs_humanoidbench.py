"""HumanoidBench's adapter, against a small package with the benchmark's habits; it itself is on no index."""

import sys

import numpy as np
import pytest
import torch
from forked import run_python
from stand_in import humanoidbench_stands_in
from torchrl.envs.utils import check_env_specs

from dreammpc.configuration import assembly
from dreammpc.configuration.schemas import AlgorithmConfig, TrainConfig
from dreammpc.envs import canonical, humanoidbench, list_tasks, make_env, not_installed
from dreammpc.interfaces import UsageError
from dreammpc.sweeps import check_installed, expand


@pytest.fixture(scope="module")
def package():
    with humanoidbench_stands_in():
        yield


def steps(env, count: int):
    state = env.reset()
    for _ in range(count):
        state = env.step(state.set("action", torch.full(env.action_spec.shape, 0.3)))["next"].exclude(
            "reward"
        )
    return state


def test_what_the_benchmark_registers_and_has_a_model_of_is_listed(package):
    names = [task for task in list_tasks() if task.startswith(humanoidbench.PREFIXES)]
    assert names == ["h1-balance_hard", "h1-run", "h1hand-balance_hard", "h1hand-run"]
    assert "jax" not in sys.modules, "what stands for JAX is there while the benchmark is imported, no longer"


def test_dash_or_underscore_is_one_task(package):
    assert canonical("h1hand-balance-hard") == TrainConfig(task="h1hand-balance-hard").task
    assert make_env("h1hand-balance-hard").task == "h1hand-balance_hard" == canonical("h1hand-balance_hard")
    assert expand(["h1hand-balance-hard", "h1hand-balance_hard"])[0] == ["h1hand-balance_hard"]
    with pytest.raises(ValueError, match=r"unknown task 'h1hand-rum': did you mean h1hand-run"):
        make_env("h1hand-rum")


def test_falls_terminate_and_time_limits_truncate(package):
    env = make_env("h1hand-balance_hard", 2, seed=1)
    check_env_specs(env)
    assert env.observation_spec["observation"].dtype == torch.float32
    assert (env.action_repeat, env.max_episode_steps, env.episodic, env.full_return) == (1, 12, True, 8.0)
    end = steps(env, 5)
    assert end["terminated"].all() and not end["truncated"].any()
    end = steps(make_env("h1hand-run", 2, seed=1), 12)
    assert end["truncated"].all() and not end["terminated"].any()


def test_every_row_has_its_own_stream_and_the_global_one_is_left_alone(package):
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = make_env("h1hand-run", 3, seed=1).reset()["observation"]
    np.random.seed(7)
    again = make_env("h1hand-run", 3, seed=1).reset()["observation"]
    shifted = make_env("h1hand-run", 3, seed=2).reset()["observation"]
    np.random.seed(0)
    assert np.array_equal(np.random.get_state()[1], before)
    assert torch.equal(first, again) and torch.equal(shifted[:2], first[1:])
    assert len(first[:, -1].unique()) == 3  # the goal, which the benchmark draws from the global stream


def test_an_episode_goes_on_from_its_state_to_the_bit(package):
    env, other = make_env("h1hand-balance_hard", 1, seed=1), make_env("h1hand-balance_hard", 1, seed=5)
    other.reset()
    ours = theirs = steps(env, 3)
    other.set_state(env.get_state())
    for _ in range(2):
        action = torch.tensor([[0.7]])
        ours, theirs = (e.step(s.set("action", action))["next"] for e, s in ((env, ours), (other, theirs)))
        assert torch.equal(ours["observation"], theirs["observation"])
        ours, theirs = ours.exclude("reward"), theirs.exclude("reward")
    assert ours["terminated"].all() and theirs["terminated"].all()  # the stage is part of the state
    assert torch.equal(env.reset()["observation"], other.reset()["observation"])


def test_ends_are_merged_for_parity_with_published_runs(package):
    """`algorithm.episodic=false`: every end is a time limit to the agent, and nothing is learned of ends."""
    env = make_env("h1hand-balance_hard")
    size = {"enc_dim": 16, "mlp_dim": 16, "latent_dim": 16, "num_heads": 2}
    assert assembly.build_model(env, size).episodic
    merged = assembly.build_model(env, size, AlgorithmConfig(episodic=False))
    assert not merged.episodic and not any("termination" in name for name, _ in merged.named_parameters())


def test_frames_are_drawn_from_the_default_camera(package):
    env = make_env("h1hand-run", render=True)
    env.reset()
    frame = env.render(0, 64, 64).astype(int)
    red, blue = frame[..., 0] - frame[..., 2] > 40, frame[..., 2] - frame[..., 0] > 40
    assert red.any() and blue.any()
    rows = np.arange(64)[:, None]
    assert (rows * red).sum() / red.sum() < (rows * blue).sum() / blue.sum(), "the red beam is above"
    env.close()


def test_what_the_benchmark_cannot_make_is_one_line(package, monkeypatch):
    monkeypatch.setitem(humanoidbench._table(), "h1-unbuilt", "h1-unbuilt-v0")
    with pytest.raises(UsageError, match=r"^task 'h1-unbuilt': HumanoidBench cannot make it: .*unbuilt\.xml"):
        humanoidbench.make("h1-unbuilt", action_repeat=None, render=False)


def test_a_family_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("dreammpc.envs.families.importlib.util.find_spec", lambda name: None)
    meta, humanoid = sorted(not_installed(), reverse=True)
    assert meta == "mw-…: Meta-World is not installed: pip install 'dreammpc[metaworld]'"
    assert (
        humanoid.startswith("g1-…, h1-…, h1hand-…")
        and "pip install --no-deps -e ./humanoid-bench" in humanoid
    )
    assert not [task for task in list_tasks() if task.startswith(("mw-", *humanoidbench.PREFIXES))]
    with pytest.raises(
        UsageError, match=r"^task 'mw-reach' needs Meta-World, which is not installed: pip inst"
    ):
        make_env("mw-reach")
    with pytest.raises(UsageError) as told:
        check_installed(expand(["paper24"])[0])
    text = str(told.value)
    assert (
        text.startswith("16 of 24 tasks are not installed here: mw-assembly, ") and "did you mean" not in text
    )
    assert "mw-…: Meta-World is not installed" in text and "h1hand-…: HumanoidBench is not installed" in text


def test_another_package_of_that_name_is_one_line(tmp_path):
    (tmp_path / "humanoid_bench").mkdir()
    (tmp_path / "humanoid_bench" / "__init__.py").write_text("")
    (tmp_path / "metaworld.py").write_text("")
    code = (
        "from dreammpc.envs import make_env\n"
        "for task in ('h1-run', 'mw-reach'):\n"
        "    try: make_env(task)\n"
        "    except ValueError as error: print(error)"
    )
    humanoid, meta = run_python(code, path=[tmp_path]).stdout.splitlines()
    assert (
        humanoid.startswith("HumanoidBench cannot be imported (No module named") and "git clone" in humanoid
    )
    assert meta.startswith("tasks mw-…: Meta-World") and "no environments of version 3" in meta
