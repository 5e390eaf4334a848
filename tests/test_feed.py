"""The feed's clock: seed phase, burst, update ratio, returns; and a real collector with an agent."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from feeds import FakeAgent, FakeCollector, make_feed, schedule
from tensordict import TensorDict
from toy_models import random_tdmpc2

from dreammpc.agent import EXPERT_KEYS, Agent
from dreammpc.configuration import assembly
from dreammpc.configuration.schemas import AlgorithmConfig
from dreammpc.data import Replay, make_collector
from dreammpc.envs import BatchedEnv, make_env
from dreammpc.envs.dmcontrol import DMControl
from dreammpc.interfaces import UsageError
from dreammpc.planning import make_planner


def test_seed_phase_burst_then_one_update_per_step():
    feed = make_feed(seed_steps=10, total_steps=15, utd=1)
    assert schedule(feed) == [10] * 10 + [11, 12, 13, 14, 15]
    assert feed.collector.was_random == [True] * 10 + [False] * 5
    assert (feed.updates, feed.env_steps, feed.total_env_steps) == (15, 30, 30)
    with pytest.raises(StopIteration):
        next(feed)
    assert feed.agent_steps == 15
    assert feed.exhausted


@pytest.mark.parametrize(
    ("utd", "expected"),
    [
        (0.5, [10] * 5 + [12, 14, 16]),
        (2, [10] * 20 + [step for step in range(11, 17) for _ in range(2)]),
        (0.25, [10] * 2 + [12, 16]),
        (0.05, []),
    ],
)
def test_other_update_ratios(utd, expected):
    assert schedule(make_feed(seed_steps=10, total_steps=16, utd=utd)) == expected


def test_several_environments_and_steps_per_collection():
    feed = make_feed(seed_steps=12, total_steps=24, utd=1, num_envs=3, steps=2)
    assert schedule(feed) == [12] * 12 + [18] * 6 + [24] * 6
    assert feed.collector.was_random == [True, True, False, False]
    assert feed.env_steps == 48
    assert len(feed.replay) == 24


def test_no_seed_phase():
    feed = make_feed(seed_steps=0, total_steps=4, utd=1)
    next(iter(feed.collector))
    feed.replay.extend(FakeCollector(FakeAgent(), steps=5).__iter__().__next__())  # something to sample from
    assert schedule(feed) == [1, 2, 3, 4]


def test_batches_come_from_the_replay():
    feed = make_feed(seed_steps=10, total_steps=12, utd=1)
    batch = next(feed)
    assert batch.shape == (4, 2)
    assert (batch["observation"][:, 1] == batch["observation"][:, 0] + 1).all()


@pytest.mark.parametrize("steps", [1, 3])
def test_returns_and_lengths_of_finished_episodes(steps):
    """Rewards 0+1+2+3+4 = 10 in environment 0, five more in environment 1; a third is unfinished."""
    feed = make_feed(seed_steps=24, total_steps=24, utd=0, num_envs=2, steps=steps)
    assert schedule(feed) == []
    assert feed.agent_steps == 24
    assert feed.finished == [(10.0, 5), (15.0, 5)] * 2
    feed.finished.clear()
    assert schedule(feed) == []


def test_an_episode_that_was_cut_short_is_not_counted_with_the_next():
    """As after a resume, where a fresh episode begins without the end of the last."""
    feed = make_feed(seed_steps=10, total_steps=20, utd=1)
    starts, ends = torch.tensor([[1, 0, 1, 0]]).bool(), torch.tensor([[0, 0, 0, 1]]).bool()
    after = {"reward": torch.tensor([[5.0, 5.0, 1.0, 2.0]]).unsqueeze(-1), "done": ends.unsqueeze(-1)}
    feed._count_returns(TensorDict({"is_init": starts.unsqueeze(-1), "next": after}, [1, 4]))
    assert feed.finished == [(3.0, 2)]


def test_the_clock_survives_a_checkpoint():
    feed = make_feed(seed_steps=10, total_steps=20, utd=0.75)
    for _ in range(9):
        next(feed)
    state, replay_state = feed.state_dict(), feed.replay.state_dict()
    rows = feed.replay.rows(0, state["agent_steps"])
    assert state["collector"] is None  # this collector has no environments whose state could be saved
    rest = schedule(feed)
    other = make_feed(seed_steps=10, total_steps=20, utd=0.75)
    other.replay.restore([rows], replay_state)
    other.load_state_dict(state)
    assert schedule(other) == rest
    assert not any(other.collector.was_random)
    assert other.updates == feed.updates


def test_the_seed_phase_lasts_until_its_updates_are_made_even_over_a_resume():
    """`agent.random` tells an algorithm that a batch is one of those."""
    feed = make_feed(seed_steps=10, total_steps=14, utd=0.5)
    assert [feed.agent.random for _ in feed] == [True] * 5 + [False] * 2
    feed = make_feed(seed_steps=10, total_steps=14, utd=0.5)
    for _ in range(3):
        next(feed)
    other = make_feed(seed_steps=10, total_steps=14, utd=0.5)
    other.replay.restore([feed.replay.rows(0, 10)], feed.replay.state_dict())
    other.load_state_dict(feed.state_dict())
    assert [other.agent.random for _ in other] == [True] * 2 + [False] * 2


def test_a_recording_agents_plans_reach_the_replay():
    agent = Agent(random_tdmpc2(1), make_planner("dream_mpc", 1), 1.0, record=True)
    collector = make_collector(make_env("cartpole-swingup", 2, 0), agent, steps_per_batch=4)
    replay = Replay(100, 2, 3, 8, mutable=EXPERT_KEYS)
    frames = iter(collector)
    for agent.random in (True, False):
        batch = next(frames)
        replay.extend(batch)
        assert (batch["expert", "std"] == 1).all() == agent.random
    assert replay.sample()["expert", "mean"].shape == (8, 3, 1)
    collector.shutdown()


def test_close_shuts_the_collector_down():
    feed = make_feed(10, 20, 1)
    feed.close()
    assert feed.collector.down


# --- a real collector -----------------------------------------------------------------------------------


class Recorder(Agent):
    """Notes what the planner was given at every step."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seen: list[tuple] = []

    def step(self, obs, carry, is_init):
        started, action = carry["plan", "started"][:, 0], carry["prev_action"]
        self.seen.append((is_init[:, 0].clone(), started.clone(), action.clone()))
        return super().step(obs, carry, is_init)


@pytest.fixture(scope="module")
def collected():
    """Ten batches [2, 1] of cartpole-swingup; the action repeats give episodes of three and four steps."""
    env = BatchedEnv([DMControl("cartpole", "swingup", repeat) for repeat in (334, 250)], "cartpole-swingup")
    env.set_seed(0)
    torch.manual_seed(0)
    agent = Recorder(random_tdmpc2(1), make_planner("dream_mpc", 1), 1.0)
    collector = make_collector(env, agent)
    agent.seen.clear()  # TorchRL tries the policy out once
    batches = [batch.clone() for _, batch in zip(range(10), collector, strict=False)]
    yield agent, batches
    collector.shutdown()


def test_collected_batches_have_what_the_replay_needs(collected):
    _, batches = collected
    for batch in batches:
        assert batch.shape == (2, 1)
        assert batch["observation"].shape == batch["next", "observation"].shape == (2, 1, 5)
        assert batch["action"].shape == (2, 1, 1)
        for key in ("reward", "terminated", "truncated", "done"):
            assert batch["next", key].shape == (2, 1, 1)
        assert batch["is_init"].shape == (2, 1, 1)
        assert batch["action"].abs().max() <= 1
    replay = Replay(100, 2, 3, 8)
    for batch in batches:
        replay.extend(batch)
    assert replay.sample().shape == (8, 3)


def test_the_carry_travels_and_is_fresh_at_an_episodes_first_step(collected):
    agent, batches = collected
    starts = torch.stack([batch["is_init"][:, 0, 0] for batch in batches])
    assert starts[:, 0].nonzero().flatten().tolist() == [0, 3, 6, 9]
    assert starts[:, 1].nonzero().flatten().tolist() == [0, 4, 8]
    for i, batch in enumerate(batches):
        is_init, started, prev_action = agent.seen[i]
        assert torch.equal(is_init, batch["is_init"][:, 0, 0])
        going_on = ~starts[i]
        assert (started[going_on] == 1).all()
        if i:
            assert torch.equal(prev_action[going_on], batches[i - 1]["action"][going_on, 0])


def test_the_planner_gets_a_fresh_carry_in_the_rows_that_start(collected):
    """An episode's first action is planned from nothing, whatever the carry still holds."""
    agent, batches = collected
    greedy = Agent(agent.model, make_planner("dream_mpc", 1, num_candidates=1))
    batch = batches[3]
    obs = batch.select("observation")[:, 0]
    is_init = batch["is_init"][:, 0]
    assert is_init[:, 0].tolist() == [True, False]
    stale = greedy.step(batches[2].select("observation")[:, 0], greedy.initial_carry(2), is_init)[1]
    plan, carry = greedy.step(obs, stale, is_init)
    alone, _ = greedy.step(obs, greedy.initial_carry(2), torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(plan.mean[0], alone.mean[0], rtol=1e-5, atol=1e-5)
    assert (plan.mean[1] - alone.mean[1]).abs().max() > 1e-4
    assert (carry["plan", "started"] == 1).all()


def test_random_steps_in_a_real_collector():
    agent = Recorder(random_tdmpc2(1), make_planner("dream_mpc", 1), 1.0)
    collector = make_collector(make_env("cartpole-swingup", 2, 0), agent, steps_per_batch=4)
    agent.seen.clear()
    agent.random = True
    frames = iter(collector)
    batch = next(frames).clone()
    assert batch.shape == (2, 4)
    assert not agent.seen
    agent.random = False
    next(frames)
    assert [bool(started.any()) for _, started, _ in agent.seen] == [False, True, True, True]
    collector.shutdown()


def test_random_steps_are_environment_steps_and_a_run_that_ends_in_them_says_so(caplog):
    env = make_env("cartpole-swingup", 1, 0)
    agent = Agent(random_tdmpc2(1), make_planner("policy", 1))
    config = AlgorithmConfig(batch_size=8, capacity=1000, seed_steps=100)
    feed = assembly.build_feed(env, agent, 102, 0, config)
    assert (feed.seed_steps, feed.total_steps) == (50, 51) and not caplog.text  # two to each agent step
    assembly.build_feed(env, agent, 100, 0, config)
    (warning,) = caplog.messages
    assert " 100 " in warning and "algorithm.seed_steps" in warning
    caplog.clear()
    data = SimpleNamespace(updates=3)
    assembly.build_feed(env, agent, 100, 0, config, data=data, random=False)
    assembly.build_feed(env, agent, 0, 0, config, data=data, random=False)  # from the data alone
    (warning,) = caplog.messages
    assert warning.startswith("nothing is learned after the data: the first 100 steps are without updates ")
    config.seed_steps = None
    assert assembly.build_feed(env, agent, 10_000, 0, config).seed_steps == 2500  # five episodes
    with pytest.raises(UsageError, match=r"horizon .*\b500\b.*\b600\b"):
        assembly.build_feed(env, agent, 10_000, 0, replace(config, horizon=600))


def turns_of(feed) -> list[tuple[int, int]]:
    """For each turn the agent steps at which it was handed out, and its updates."""
    return [(feed.agent_steps, sum(1 for _ in turn)) for turn in feed.turns()]


@pytest.mark.parametrize(
    ("utd", "num_envs", "expected"),
    [
        (1, 1, [(6, 1)] * 6 + [(7, 1), (8, 1), (9, 1)]),
        (1, 3, [(6, 3)] * 2 + [(9, 3)]),
        (0.5, 3, [(6, 1)] * 3 + [(9, 1)]),
        (2, 1, [(6, 2)] * 6 + [(7, 2), (8, 2), (9, 2)]),
    ],
)
def test_a_turn_has_all_updates_of_a_collect(utd, num_envs, expected):
    """The burst on the seed phase comes in turns of the same size."""
    assert turns_of(make_feed(6, 9, utd, num_envs)) == expected
    one_by_one = schedule(make_feed(6, 9, utd, num_envs))
    assert one_by_one == [step for step, size in expected for _ in range(size)]


def test_a_stopped_feed_ends_a_turn_after_the_running_update():
    feed = make_feed(6, 20, 3)
    turns = feed.turns()
    batches = iter(next(turns))
    next(batches)
    feed.stopped = True
    assert list(batches) == []
    assert (feed.updates, feed.owed) == (1, 17)
    resumed = make_feed(6, 20, 3)
    resumed.load_state_dict(feed.state_dict())
    assert next(resumed.turns()).size == 3
