"""BMPC as a LightningModule: what an update changes, the seed phase, reanalyze and what it writes back."""

import pytest
import torch
from tensordict import TensorDict
from toy_models import random_bmpc, random_tdmpc2
from updates import CALLS, A, B, H, Oracle, make_bmpc, make_bmpc_batch

from dreammpc.agent import EXPERT_KEYS, Agent
from dreammpc.algorithms import ALGORITHMS, BMPC
from dreammpc.algorithms.bmpc import REANALYZE_LOG_STD_LIMITS, WideProposalModel, replan
from dreammpc.data import Replay
from dreammpc.interfaces import UsageError
from dreammpc.planning import make_planner


def moved(before: dict, model) -> set[str]:
    """Parts of the model with a weight that is not as it was."""
    return {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def reanalyzed(algorithm, batch):
    """Fresh plans, which the replay is given, too."""
    fresh = algorithm.replanned(batch)
    algorithm._write(batch, fresh)
    return fresh


PARTS = {"encoder", "dynamics", "reward", "value_heads", "target_heads", "termination"}


@pytest.mark.parametrize("seed_phase", [False, True])
def test_one_training_step_moves_what_it_should(seed_phase):
    algorithm = make_bmpc(scale_rate=0.5)
    algorithm.agent.random = seed_phase
    algorithm.divergence_scale.fill_(3.0)
    before = {name: p.detach().clone() for name, p in algorithm.model.named_parameters()}
    metrics = algorithm.training_step(make_bmpc_batch(), 0)
    assert moved(before, algorithm.model) == (PARTS if seed_phase else PARTS | {"actor"})
    assert algorithm.policy_updates == (0 if seed_phase else 1)
    assert (algorithm.divergence_scale.item() == 3.0) == seed_phase
    assert ("loss/policy" in metrics) == (not seed_phase)
    assert all(value.ndim == 0 and value.isfinite() and not value.requires_grad for value in metrics.values())
    assert not CALLS


def test_reanalyze_comes_every_so_many_updates_outside_the_seed_phase():
    algorithm = make_bmpc(reanalyze_interval=3, reanalyze_slices=2)
    when = []
    for i in range(12):
        algorithm.agent.random = i < 4
        when.append("reanalyze/moved" in algorithm.training_step(make_bmpc_batch(), i))
    assert [i for i, did in enumerate(when) if did] == [6, 9]
    assert len(CALLS) == 2
    never = make_bmpc(reanalyze_interval=0)
    for i in range(3):
        never.training_step(make_bmpc_batch(), i)
    assert not CALLS


def test_reanalyze_is_one_batched_call_without_warm_start():
    algorithm, written = make_bmpc(reanalyze_slices=3, reanalyze_horizon=2), []
    algorithm.write_back = lambda *arguments: written.append(arguments)
    batch = make_bmpc_batch()
    fresh = reanalyzed(algorithm, batch[:3])
    (call,) = CALLS
    assert (call["size"], call["horizon"]) == (3 * H, 2)
    assert all((value == 0).all() for value in call["state"].values())
    assert (fresh["mean"] == 0.5).all() and (fresh["std"] == 0.25).all() and fresh.shape == (3, H)
    with torch.no_grad():
        z = algorithm.model.encoder(batch["observation"][:3])
    torch.testing.assert_close(fresh["value"], z[..., :1])
    ((index, stamps, values),) = written
    assert index.tolist() == list(range(3 * H)) and torch.equal(stamps, batch["frame"][:3].flatten())
    assert torch.equal(values["expert"]["value"], fresh["value"].flatten(0, 1))


def test_fresh_plans_serve_the_update_that_asked_for_them():
    """In the first two slices the fresh plan is imitated, beyond them the stored one."""
    losses = []
    for interval, change in ((1, False), (0, True)):
        algorithm, batch = make_bmpc(reanalyze_interval=interval, reanalyze_slices=2), make_bmpc_batch()
        if change:
            batch["expert", "mean"][:2], batch["expert", "std"][:2] = 0.5, 0.25
        stored = batch.clone()
        torch.manual_seed(0)
        losses.append(algorithm.training_step(batch, 0)["loss/policy"])
        assert (batch == stored).all()
    torch.testing.assert_close(*losses)
    plain = make_bmpc(reanalyze_interval=0)
    torch.manual_seed(0)
    assert (plain.training_step(make_bmpc_batch(), 0)["loss/policy"] - losses[0]).abs() > 1e-3


def test_proposals_of_reanalyze_spread_wider_than_the_policy():
    algorithm = make_bmpc()
    last = algorithm.model.actor.linears[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, 0.0, -9.0, -9.0]))  # as narrow as it gets
    algorithm.replanned(make_bmpc_batch())
    lowest = torch.tensor(REANALYZE_LOG_STD_LIMITS[0]).exp()
    torch.testing.assert_close(CALLS[0]["spread"], lowest.expand(B * H, A))
    narrow = algorithm.model.policy(algorithm.model.initial_belief(1), torch.ones(1, A))
    torch.testing.assert_close(narrow, torch.tensor(-3.0).exp().expand(1, A))
    assert WideProposalModel(algorithm.model).action_dim == A


@pytest.mark.parametrize("name", ["dream_mpc", "mppi"])
def test_replanning_is_one_graph(name):
    settings = {"num_samples": 8, "num_elites": 4, "num_policy": 2} if name == "mppi" else {}
    model, planner = random_bmpc(), make_planner(name, A, **settings)
    obs = TensorDict({"observation": torch.randn(6, 5)}, [6])
    plans = []
    for function in (replan, torch.compile(replan, backend="eager", fullgraph=True)):
        torch.manual_seed(0)
        with torch.no_grad():
            plans.append(function(model, planner, obs))
    torch.testing.assert_close(plans[1].mean, plans[0].mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plans[1].std, plans[0].std, rtol=1e-4, atol=1e-4)


def filled_replay(capacity: int = 60) -> Replay:
    """Two episodes of 30 steps; the expert's mean of every row is -1."""
    replay = Replay(capacity, 1, H, 8, mutable=EXPERT_KEYS)
    for episode in range(2):
        replay.extend(episode_of(30, 30 * episode))
    return replay


def episode_of(steps: int, first: int) -> TensorDict:
    numbers = torch.arange(first, first + steps + 1.0).view(1, -1, 1).expand(1, -1, 5)
    flags = torch.zeros(1, steps, 1, dtype=torch.bool)
    after = {"observation": numbers[:, 1:], "reward": numbers[:, 1:, :1], "terminated": flags}
    ones = torch.ones(1, steps, A)
    expert = {"mean": -ones, "std": ones, "value": ones[..., :1]}
    is_init = flags.clone()
    is_init[:, 0] = True
    content = {"observation": numbers[:, :-1], "action": ones, "is_init": is_init, "next": after}
    return TensorDict({**content, "expert": expert}, [1, steps])


def test_reanalyzed_rows_are_found_again_and_stale_ones_are_skipped():
    replay = filled_replay()
    algorithm = make_bmpc(write_back=replay.update)
    batch = replay.sample()
    replay.extend(episode_of(30, 60))  # takes the place of the first episode
    reanalyzed(algorithm, batch)
    numbers = batch["observation"][..., 0].flatten()
    assert (numbers < 30).any() and (numbers >= 30).any()
    rows = replay.rows(30, 90)
    renewed = rows["expert", "mean"][:, 0] == 0.5
    held = set(rows["observation"][:, 0][renewed].tolist())
    assert held == {number for number in numbers.tolist() if number >= 30}
    assert (rows["expert", "mean"][~renewed] == -1).all()
    assert (rows["expert", "std"][renewed] == 0.25).all()


def test_who_may_be_the_expert():
    for name in ("mppi", "dream_mpc", "cem"):
        BMPC(Agent(random_bmpc(), make_planner(name, A), record=True))
    with pytest.raises(UsageError, match="Policy cannot be BMPC's expert: it takes no step in the model"):
        make_bmpc(make_planner("policy", A))
    with pytest.raises(UsageError, match=r"Oracle cannot be BMPC's expert: .* standard deviation of 0"):
        make_bmpc(Oracle(std=0.0))


def test_algorithm_and_model_must_fit():
    planner = make_planner("dream_mpc", A)
    with pytest.raises(UsageError, match=r"bmpc trains a BMPCModel, .* a TDMPC2Model"):
        BMPC(Agent(random_tdmpc2(), planner, record=True))
    with pytest.raises(UsageError, match=r"tdmpc2 trains a TDMPC2Model, .* a BMPCModel"):
        ALGORITHMS["tdmpc2"](Agent(random_bmpc(), planner))
    with pytest.raises(UsageError, match="record=True"):
        BMPC(Agent(random_bmpc(), planner))


def test_the_count_of_updates_survives_a_checkpoint():
    algorithm, checkpoint = make_bmpc(reanalyze_interval=3), {}
    for i in range(2):
        algorithm.training_step(make_bmpc_batch(), i)
    algorithm.on_save_checkpoint(checkpoint)
    other = make_bmpc(reanalyze_interval=3)
    other.on_load_checkpoint(checkpoint)
    assert "reanalyze/moved" in other.training_step(make_bmpc_batch(), 0)
    assert "divergence_scale" in other.state_dict()
