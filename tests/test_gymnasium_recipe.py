"""A task whose episodes end, as a user trains it: several planners, resume, the plot, mistakes."""

from pathlib import Path

import pytest
from commands import PENDULUM, ROOT, logged, refused, train

from dreammpc.configuration import assembly
from dreammpc.configuration.resuming import start_seed
from dreammpc.trained.loading import load_model
from dreammpc.training.checkpoint import load_checkpoint

LAST = "run/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training of BMPC: gradient planning collects, three planners evaluate."""
    folder = tmp_path_factory.mktemp("gymnasium")
    more = ["algorithm=bmpc", "algorithm.reanalyze_interval=5", "planner.num_candidates=3"]
    more += ["eval_planner=policy,dream_mpc,cem", "eval_planner.num_samples=8", "eval_planner.num_elites=4"]
    assert train(folder, *PENDULUM, *more) == 0
    return folder


def test_terminations_are_learned_and_every_planner_evaluates(run):
    losses = [line["loss/termination"] for line in logged(run / "run") if "loss/termination" in line]
    assert losses and losses[-1] < 0.9 * losses[0]
    evaluated = [line for line in logged(run / "run") if "eval/return" in line][-1]
    assert evaluated["planner/evaluations"] == 0  # the policy comes first
    assert evaluated["planner/dream_mpc/evaluations"] > 0 and evaluated["planner/cem/evaluations"] > 0
    model, facts = load_model(run / LAST)
    assert model.termination is not None and facts["episodic"]
    assert facts["env_steps"] == 400  # action repeat 1


def test_predicted_against_actual_terminations(run, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import termination

    options = ["--steps", "160", "--num-envs", "4", "--planner", "policy"]
    termination.main([str(run / LAST), str(run / "ends.png"), *options])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = [line.split("|")[1:-1] for line in lines[1:]]
    assert [row[0].strip() for row in rows] == ["policy"] * 3 + ["random"] * 3
    assert all(0 < int(row[3]) < int(row[2]) for row in rows)
    assert int(rows[0][2]) == 160 > int(rows[2][2])
    assert (run / "ends.png").stat().st_size > 10_000


def test_resume_with_another_time_limit_says_what_that_changes(run, caplog, monkeypatch):
    more, seeds = ("steps=450", "tracking=none", "env.max_episode_steps=500"), []
    make = assembly.make_env
    monkeypatch.setattr(
        assembly, "make_env", lambda task, seed, **k: seeds.append(seed) or make(task, seed=seed, **k)
    )
    assert train(run, f"resume={LAST}", *more) == 0
    began = load_checkpoint(run / LAST)["dreammpc"]["config"]["seed"]
    assert (
        seeds == [start_seed(began, {"env_steps": 400})] and began not in seeds
    )  # not its first episodes again
    assert load_checkpoint(run / LAST)["dreammpc"]["env_steps"] == 450
    assert "collected with env.max_episode_steps=null, now it is 500: the replay holds" in caplog.text
    assert "learned values of discount 0.995, now they are of 0.99 " in caplog.text


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("algorithm.episodic=false", "has algorithm.episodic=true, not false"),
        ("env.action_repeat=2", "collected with env.action_repeat=1, not 2"),
        ("env.action_bound=5", "has env.action_bound=null, not 5.0"),
        ("model.latent_dim=72", "has model.latent_dim=64, not 72"),
        (f"data={LAST}", "is of a run without recorded data"),
    ],
)
def test_resume_and_a_choice_that_does_not_fit(argument, said, run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    assert said in refused("train", [f"resume={LAST}", "steps=600", argument], monkeypatch, capsys)


def test_without_termination_the_same_agent_takes_ends_for_time_limits(tmp_path):
    assert train(tmp_path, *PENDULUM, "steps=400", "algorithm.episodic=false") == 0
    model, facts = load_model(tmp_path / LAST)
    assert model.termination is None and not facts["episodic"]
    keys = set().union(*logged(tmp_path / "run"))
    assert "loss/reward" in keys and "loss/termination" not in keys


NAN = """
import gymnasium, numpy as np
from gymnasium.spaces import Box

class Nan(gymnasium.Env):
    observation_space, action_space = Box(-1, 1, (2,)), Box(-1, 1, (1,))
    def reset(self, *, seed=None, options=None):
        return np.zeros(2), {}
    def step(self, action):
        return np.zeros(2), float("nan"), False, False, {}

gymnasium.register("Nan-v0", Nan, max_episode_steps=20)
"""


def test_a_reward_of_nan_ends_a_run_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text(NAN)
    monkeypatch.syspath_prepend(tmp_path)
    assert train(tmp_path, *PENDULUM, "task=gym-broken:Nan-v0") == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    said = (
        "error: task 'gym-broken:Nan-v0', environment 0, step 1: the reward is not finite: nan; saved at 0 "
    )
    assert last.startswith(said)


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for task, expected in (
        ("gym-CartPole-v1", "discrete actions, Discrete(2), are not supported"),
        ("gym-Hoper-v5", "Did you mean gym-Hopper-v5"),
    ):
        assert expected in refused("train", [f"task={task}", "folder=other"], monkeypatch, capsys)
    assert not Path("other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
def test_balancing_is_learned(algorithm, tmp_path):
    """Random actions last 6 steps; a few thousand updates later the pole stands far longer."""
    more = ["steps=4000", "algorithm.seed_steps=500", "algorithm.utd=1", "algorithm.batch_size=128"]
    more += ["evaluation.every=4000", "evaluation.episodes=5", "algorithm.discount=0.99"]
    assert train(tmp_path, *PENDULUM, *more, f"algorithm={algorithm}") == 0
    assert max(line.get("final/dream_mpc", 0) for line in logged(tmp_path / "run")) > 100


def test_environments_start_from_another_seed_wherever_a_run_goes_on():
    assert start_seed(7, None) == start_seed(7, {"env_steps": 0}) == 7  # nothing was collected before
    seeds = {
        start_seed(seed, {"env_steps": steps}) for seed in (1, 2, 10_001) for steps in (100, 10_000, 20_000)
    }
    assert len(seeds | {1, 2, 10_001}) == 12 and all(0 <= seed < 2**31 for seed in seeds)
