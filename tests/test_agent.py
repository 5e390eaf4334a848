"""The agent: masked reset of the carry, independence of rows, random mode, what it refuses."""

from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import Compose, InitTracker, TransformedEnv
from toy_models import random_latent, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.envs import make_env
from dreammpc.planning import PLANNERS, Imagination, make_planner
from dreammpc.planning.policy import Policy

A, B = 2, 4
# Free of noise, so that a row gives the same numbers whatever the size of its batch.
QUIET = {"policy": {}, "dream_mpc": {"num_candidates": 1, "reuse": 0.5}}
# With their own steps these end on the bounds of this problem from any warm start.
SMALL_STEPS = {"cem_grad": {"grad_iterations": 1, "step_size": 0.01}, "dream_mpc": {"step_size": 0.1}}


def make_agent(name="dream_mpc", noise_scale=0.0, noise_correlation=0.0, **settings) -> Agent:
    planner = make_planner(name, A, **settings)
    return Agent(random_tdmpc2(A), planner, noise_scale, noise_correlation=noise_correlation)


def observations(size=B, seed=0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    return TensorDict({"observation": torch.randn(size, 5, generator=generator)}, [size])


def mask(*rows: bool) -> torch.Tensor:
    return torch.tensor(rows).unsqueeze(-1)


def garbage(agent, size=B) -> TensorDict:
    """A carry full of ones."""
    return agent.initial_carry(size).apply(torch.ones_like)


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_rows_with_is_init_start_from_a_fresh_carry(name):
    agent, obs = make_agent(name, **SMALL_STEPS.get(name, {})), observations()

    def step(carry, is_init):
        torch.manual_seed(0)
        return agent.step(obs, carry, is_init)

    fresh, fresh_carry = step(agent.initial_carry(B), mask(*[False] * B))
    old, old_carry = step(garbage(agent), mask(*[False] * B))
    mixed, mixed_carry = step(garbage(agent), mask(True, False, True, False))
    for row, (expected, carry) in enumerate([(fresh, fresh_carry), (old, old_carry)] * 2):
        torch.testing.assert_close(mixed.action[row], expected.action[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mixed.mean[row], expected.mean[row], rtol=1e-5, atol=1e-5)
        for key in carry.keys(True, True):
            torch.testing.assert_close(mixed_carry[row][key], carry[row][key], rtol=1e-5, atol=1e-5)
    remembers = set(agent.initial_carry(1)["plan"].keys()) > {"started"}
    if remembers:
        assert (fresh.mean - old.mean).abs().amax((1, 2)).min() > 1e-4  # the garbage does matter


def test_nan_in_an_old_carry_does_not_outlive_the_reset():
    agent = make_agent()
    bad = agent.initial_carry(B).apply(lambda x: torch.full_like(x, torch.nan))
    plan, carry = agent.step(observations(), bad, mask(*[True] * B))
    assert plan.mean.isfinite().all()
    assert all(value.isfinite().all() for value in carry.values(True, True))
    assert (plan.diagnostics["fallback"] == 0).all()


@pytest.mark.parametrize("name", QUIET)
def test_a_row_alone_acts_as_in_a_batch(name):
    agent = make_agent(name, **QUIET[name])
    carries = [agent.initial_carry(B), *(agent.initial_carry(1) for _ in range(B))]
    for t in range(3):
        obs, is_init = observations(seed=t), mask(t == 0, t == 0, t < 2, True)
        plan, carries[0] = agent.step(obs, carries[0], is_init)
        for b in range(B):
            row = slice(b, b + 1)
            alone, carries[b + 1] = agent.step(obs[row], carries[b + 1], is_init[row])
            torch.testing.assert_close(alone.action[0], plan.action[b], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(alone.value[0], plan.value[b], rtol=1e-4, atol=1e-4)


def test_the_next_carry_holds_latent_action_and_warm_start():
    agent, obs = make_agent(noise_scale=1.0), observations()
    plan, carry = agent.step(obs, agent.initial_carry(B), mask(*[True] * B))
    assert set(carry.keys()) == {"belief", "prev_action", "plan", "noise"}
    assert torch.equal(carry["belief", "z"], agent.model.encoder(obs["observation"]))
    assert torch.equal(carry["prev_action"], plan.action)
    assert torch.equal(carry["plan", "candidates"], plan.state["candidates"])
    assert not any(value.requires_grad for value in carry.values(True, True))


def test_step_changes_nothing_that_it_is_given():
    agent, obs, carry = make_agent(), observations(), None
    carry = garbage(agent)
    agent.step(obs, carry, mask(True, False, True, False))
    assert all((value == 1).all() for value in carry.values(True, True))
    assert torch.equal(obs["observation"], observations()["observation"])


def td_for(agent) -> TensorDict:
    return TensorDict(
        {
            "observation": observations()["observation"],
            "is_init": mask(*[True] * B),
            "_carry": garbage(agent),
        },
        [B],
    )


@pytest.mark.parametrize("random", [False, True])
def test_forward_writes_action_and_next_carry(random):
    agent = make_agent(noise_scale=1.0)
    agent.random = random
    td = agent(td_for(agent))
    assert td["action"].shape == (B, A)
    assert td["action"].abs().max() <= 1
    assert torch.equal(td["next", "_carry", "prev_action"], td["action"])
    started = td["next", "_carry", "plan", "started"]
    assert (started == (0 if random else 1)).all()


def test_random_mode_is_uniform_and_leaves_a_fresh_carry():
    torch.manual_seed(0)
    agent = make_agent()
    agent.random = True
    actions = torch.cat([agent(td_for(agent))["action"] for _ in range(500)])
    assert actions.abs().max() <= 1
    assert actions.mean(0).tolist() == pytest.approx([0, 0], abs=0.05)
    assert actions.var(0).tolist() == pytest.approx([1 / 3, 1 / 3], abs=0.03)
    assert (actions.quantile(0.25, 0) + 0.5).abs().max() < 0.06
    carry = agent(td_for(agent))["next", "_carry"]
    fresh = agent.initial_carry(B)
    for key in (("plan", "candidates"), ("plan", "started"), ("belief", "z")):
        assert torch.equal(carry[key], fresh[key])


def test_noise_scale_zero_repeats_the_same_action():
    agent, noisy = make_agent("policy"), make_agent("policy", noise_scale=1.0)
    carry, start = agent.initial_carry(B), mask(*[True] * B)
    first, second = (agent.step(observations(), carry, start)[0].action for _ in range(2))
    assert torch.equal(first, second)
    first, second = (noisy.step(observations(), carry, start)[0].action for _ in range(2))
    assert not torch.equal(first, second)


@dataclass(frozen=True)
class Still(Policy):
    """Plans 0 in the first action and 0.5 in the second, with a std of 0.1 and 0.4."""

    std: tuple[float, float] = (0.1, 0.4)

    def plan(self, imagination, latent, state):
        plan = super().plan(imagination, latent, state)
        action = torch.tensor([0.0, 0.5]).expand_as(plan.action)
        return plan._replace(action=action, std=torch.tensor(self.std).expand_as(plan.std))


@dataclass(frozen=True)
class Unsure(Still):
    """Knows no std of its first action."""

    def plan(self, imagination, latent, state):
        plan = super().plan(imagination, latent, state)
        return plan._replace(std=plan.std * torch.tensor([torch.nan, 1.0]))


def explored(noise_correlation: float, steps: int = 200, planner=Still, **settings) -> torch.Tensor:
    """Actions [steps, 80, A] of as many episodes at once, their first hundred steps left out."""
    agent = Agent(random_tdmpc2(A), planner(A, **settings), 0.5, noise_correlation=noise_correlation)
    rows = 80
    carry, actions = agent.initial_carry(rows), []
    for step in range(steps + 100):
        plan, carry = agent.step(observations(rows), carry, mask(*[step == 0] * rows))
        assert torch.equal(carry["prev_action"], plan.action)
        actions.append(plan.action)
    return torch.stack(actions[100:])


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_exploration_noise_is_in_proportion_to_std_and_correlated_in_time(correlation):
    torch.manual_seed(0)
    actions = explored(correlation)
    assert actions.mean((0, 1)).tolist() == pytest.approx([0.0, 0.5], abs=0.03)
    assert actions.std((0, 1)).tolist() == pytest.approx([0.05, 0.2], rel=0.1)
    assert (actions.std(0) > torch.tensor([0.02, 0.08])).all()  # in every row
    centered = actions - actions.mean((0, 1))
    for lag in (1, 2):
        found = (centered[lag:] * centered[:-lag]).mean((0, 1)) / centered.square().mean((0, 1))
        assert found.tolist() == pytest.approx([correlation**lag] * A, abs=0.08)


def test_exploration_stays_within_range_and_without_nan():
    assert explored(0.0, 50, std=(30.0, 30.0)).abs().max() == 1
    broken = explored(0.0, 50, planner=Unsure)
    assert (broken[..., 0] == 0).all()
    assert broken.isfinite().all()


def test_an_episode_begins_without_noise():
    agent = make_agent("policy", noise_scale=1.0, noise_correlation=0.9)
    carry = agent.initial_carry(B)
    carry["noise"] += 100.0
    torch.manual_seed(0)
    _, carry = agent.step(observations(), carry, mask(True, False, True, False))
    assert carry["noise"][::2].abs().max() < 5
    assert carry["noise"][1::2].min() > 80


@pytest.mark.parametrize("correlation", [-0.1, 1.0])
def test_a_correlation_out_of_range_is_refused(correlation):
    with pytest.raises(ValueError, match="noise_correlation must be at least 0 and below 1"):
        make_agent(noise_correlation=correlation)


def test_a_planner_for_other_actions_is_refused():
    with pytest.raises(ValueError, match="the planner has action_dim 3, the model 2"):
        Agent(random_tdmpc2(2), make_planner("mppi", 3))


@pytest.mark.parametrize("name", PLANNERS)
def test_a_planner_for_other_actions_is_told_by_hand_too(name):
    model, planner = random_tdmpc2(2), make_planner(name, 3)
    with torch.no_grad(), pytest.raises(ValueError, match="the planner has action_dim 3, the model 2"):
        planner.plan(Imagination(model), random_latent(model, 1), planner.initial_state(1))


def test_the_primer_gives_an_environment_the_carry():
    agent = Agent(random_tdmpc2(1), make_planner("mppi", 1))
    env = TransformedEnv(
        make_env("cartpole-swingup", 3, 0), Compose(InitTracker(), agent.make_tensordict_primer())
    )
    td = env.reset()
    assert td["_carry"].shape == (3,)
    fresh = agent.initial_carry(3)
    assert set(td["_carry"].keys(True, True)) == set(fresh.keys(True, True))
    for key in fresh.keys(True, True):
        assert torch.equal(td["_carry"][key], fresh[key])
    env.close()


@pytest.mark.slow
def test_compiled_acting_equals_eager():
    results = []
    for compile in (False, True):
        agent = Agent(random_tdmpc2(A), make_planner("dream_mpc", A, num_candidates=1), compile=compile)
        carry = agent.initial_carry(B)
        for t in range(2):
            plan, carry = agent.step(observations(seed=t), carry, mask(*[t == 0] * B))
        results.append(plan)
    torch.testing.assert_close(results[1].action, results[0].action, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[1].value, results[0].value, rtol=1e-4, atol=1e-4)


def test_a_recording_agent_writes_what_a_policy_can_learn():
    agent = Agent(random_tdmpc2(A), make_planner("mppi", A, num_samples=16, num_elites=4, num_policy=2), 1.0)
    assert "expert" not in agent(td_for(agent))
    agent.record = True
    torch.manual_seed(0)
    plan, _ = agent.step(observations(), agent.initial_carry(B), mask(*[True] * B))
    torch.manual_seed(0)
    td = agent(td_for(agent))
    assert torch.equal(td["expert", "mean"], plan.mean[:, 0])
    assert torch.equal(td["expert", "std"], plan.std[:, 0])
    assert torch.equal(td["expert", "value"], plan.value[:, None])
    assert (td["expert", "mean"] - td["action"]).abs().max() > 1e-3  # without the exploration noise
    agent.random = True
    td = agent(td_for(agent))
    assert (td["expert", "mean"] == 0).all() and (td["expert", "std"] == 1).all()
    assert td["expert", "value"].shape == (B, 1) and (td["expert", "value"] == 0).all()
