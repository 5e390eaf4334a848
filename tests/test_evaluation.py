"""Episodes side by side: masks after an episode's end, determinism, the table."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from dreammpc.agent import Agent
from dreammpc.envs import BatchedEnv, make_env
from dreammpc.evaluation import Episodes, Evaluator, finals, run_episodes, table
from dreammpc.evaluation.film import side_by_side
from dreammpc.models import TDMPC2Model
from dreammpc.planning import make_planner


class Countdown(gymnasium.Env):
    """Ends after `length` steps, each worth 1; terminates if `falls`, else is truncated."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length: int, falls: bool, succeeds: bool | None = None, key: str = "success"):
        self.length, self.falls, self.taken = length, falls, 0
        self.info = {} if succeeds is None else {key: succeeds}

    def reset(self, *, seed=None, options=None):
        self.taken = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.taken += 1
        over = self.taken >= self.length
        return np.ones(2, np.float32), 1.0, over and self.falls, over and not self.falls, self.info


def small_agent(planner: str = "dream_mpc", obs_dim: int = 2, action_dim: int = 1) -> Agent:
    torch.manual_seed(0)
    model = TDMPC2Model(obs_dim, action_dim, enc_dim=16, mlp_dim=16, latent_dim=16, num_heads=2)
    return Agent(model, make_planner(planner, action_dim))


def test_rows_stop_counting_at_their_own_end():
    env = BatchedEnv([Countdown(3, True), Countdown(7, False), Countdown(5, True)], task="countdown")
    result = run_episodes(env, small_agent(), seed=0)
    assert result.returns == [3.0, 7.0, 5.0]
    assert result.lengths == [3, 7, 5]
    assert result.terminated == [True, False, True]
    assert result.mean == 5.0
    # 5 candidates: 2 steps to propose, 3 for the gradient, 12 to try four sizes, 3 to score the proposals.
    assert result.diagnostics["evaluations"] == 5 * (2 + 3 + 12 + 3)
    assert result.ms_per_action > 0


def test_same_seed_same_episodes_and_random_state_untouched():
    env, agent = make_env("cartpole-swingup", 2, 0, action_repeat=20), small_agent("dream_mpc", 5, 1)
    torch.manual_seed(11)
    first = run_episodes(env, agent, seed=3)
    drawn = torch.rand(1)
    torch.manual_seed(11)
    assert torch.rand(1) == drawn  # the episodes drew nothing from the global stream
    torch.rand(100)
    again = run_episodes(env, agent, seed=3)
    assert first.returns == again.returns
    assert run_episodes(env, agent, seed=4).returns != first.returns


def test_each_episode_has_its_own_success_and_diagnostics():
    env = BatchedEnv(
        [Countdown(3, True, True, "is_success"), Countdown(5, False, False), Countdown(4, True)],
        task="countdown",
    )
    agent = small_agent()
    torch.nn.init.normal_(agent.model.value_heads.weights[-1])  # a fresh model values everything at 0
    result = run_episodes(env, agent, seed=0)
    assert result.successes == result.scores == [1.0, 0.0, None]
    assert result.success_rates() == {}  # not all say it
    weights = [length / 12 for length in result.lengths]
    for key, mean in result.diagnostics.items():
        rows = [row[key] for row in result.row_diagnostics]
        assert mean == pytest.approx(
            sum(w * x for w, x in zip(weights, rows, strict=True)), rel=1e-4, abs=1e-6
        )
    objectives = {round(row["objective"], 6) for row in result.row_diagnostics}
    assert len(objectives) == 3


class Slips(Countdown):
    """Succeeds at its second step and not at its last."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"success": float(self.taken == 2)}


def test_success_at_any_step_is_told_from_success_at_the_last():
    env = BatchedEnv([Slips(2, True), Slips(3, True), Slips(1, True)], task="slips")
    result = run_episodes(env, small_agent(), seed=0)
    assert result.successes == result.scores == [1.0, 0.0, 0.0]
    assert result.any_successes == [1.0, 1.0, 0.0]
    assert result.success_rates() == pytest.approx({"success": 1 / 3, "any_success": 2 / 3})
    text = table({"policy": result})
    assert "success" in text and "any success" in text and "0.67" in text
    assert finals({"policy": result}) == pytest.approx(
        {"final/policy": 2.0, "final_success/policy": 1 / 3, "final_any_success/policy": 2 / 3}
    )
    again = run_episodes(env, small_agent(), seed=0)
    assert again.any_successes == result.any_successes  # an episode forgets the one before


class Crosses(Countdown):
    """Says by how much it crosses a limit, at every step but its first."""

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, {"cost": 3.0} if self.taken > 1 else {}


def test_a_violation_that_the_environment_reports_is_told_beside_the_foreseen_one():
    env = BatchedEnv([Crosses(3, True), Crosses(1, True)], task="crosses")
    result = run_episodes(env, small_agent(), seed=0)
    told = [row["violation_reported"] for row in result.row_diagnostics]
    assert told == pytest.approx([2.0, 0.0]) and result.diagnostics["violation_reported"] == 1.5
    silent = run_episodes(BatchedEnv([Countdown(3, True)], task="silent"), small_agent(), seed=0)
    assert "violation_reported" not in silent.diagnostics


def test_an_environment_that_names_its_full_return_is_scored_by_it():
    envs = [Slips(2, True), Slips(3, True)]
    for env in envs:
        env.full_return = 4.0
    assert run_episodes(BatchedEnv(envs, task="slips"), small_agent(), seed=0).scores == [0.5, 0.75]
    full = {
        task: make_env(task).full_return for task in ("cartpole-swingup", "lqr-lqr-2-1", "gym-Pendulum-v1")
    }
    assert list(full.values()) == [1000, None, None]


def test_seeds_may_be_named_one_by_one():
    env, agent = make_env("cartpole-swingup", 2, 0, action_repeat=20), small_agent("policy", 5, 1)
    consecutive = run_episodes(env, agent, seed=3)
    assert run_episodes(env, agent, seed=[3, 4]).returns == consecutive.returns
    assert run_episodes(env, agent, seed=[4, 3]).returns == pytest.approx(consecutive.returns[::-1], rel=1e-5)
    with pytest.raises(ValueError, match="expected 2 seeds"):
        run_episodes(env, agent, seed=[3])


def test_interrupted_gives_none():
    env = BatchedEnv([Countdown(5, True)], task="countdown")
    assert run_episodes(env, small_agent(), seed=0, should_stop=lambda: True) is None


@pytest.mark.parametrize("name", ["episode.mp4", "episode.gif"])
def test_film_writes_a_moving_picture(tmp_path, name, monkeypatch):
    import imageio.v3 as iio

    evaluator = Evaluator("cartpole-swingup", 1, seed=0, action_repeat=100)
    result = evaluator.film(small_agent("policy", 5, 1), tmp_path / name)
    assert result is not None and result.lengths == [10]
    frames = iio.imread(tmp_path / name)
    assert len(frames) == (10 if name.endswith("mp4") else 3)


def test_two_planners_side_by_side_on_the_same_start(tmp_path):
    import imageio.v3 as iio

    evaluator = Evaluator("cartpole-swingup", 1, seed=0, action_repeat=100)
    agents = {"policy": small_agent("policy", 5, 1), "dream_mpc": small_agent("dream_mpc", 5, 1)}
    results = evaluator.film_together(agents, tmp_path / "both.mp4")
    assert list(results) == ["policy", "dream_mpc"]
    assert (results["policy"].frames[0] == results["dream_mpc"].frames[0]).all()
    frames = iio.imread(tmp_path / "both.mp4")
    assert frames.shape == (10, 256 + 24, 512, 3)
    assert frames[0, :24].max() > 200  # the captions


def test_who_ends_first_stays_in_the_picture():
    def film(count: int, value: int) -> list[np.ndarray]:
        return [np.full((4, 30, 3), value, np.uint8)] * count

    frames = side_by_side({"a": film(2, 100), "b": film(3, 200)})
    assert len(frames) == 3 and frames[0].shape == (28, 60, 3)
    assert (frames[1][24:, :30] == 100).all() and (frames[2][24:, :30] == 50).all()
    assert (frames[2][24:, 30:] == 200).all()
    assert len(side_by_side({"a": film(2, 100)})) == 2


def test_table_lines_up_and_compares_with_the_policy():
    def episodes(*returns: float, **diagnostics: float) -> Episodes:
        return Episodes(list(returns), [5] * len(returns), [False] * len(returns), 1.5, diagnostics)

    text = table({"policy": episodes(1.0, 3.0), "mppi": episodes(4.0, 6.0, evaluations=15.0)})
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells == ["mppi", "5.0", "1.0", "4.0", "6.0", "+3.0", "1.50", "15"]
    assert lines[2].split("|")[-2].strip() == ""  # what a planner does not report is no zero
