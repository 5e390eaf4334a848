"""Several trained agents as one model: what joins, where proposals come from, what does not go together."""

import pytest
import torch
from frames import make_model, observation
from plans import small
from tensordict import TensorDict
from toy_models import actor_says, random_bmpc, random_latent, random_tdmpc2

from dreammpc import load_agent
from dreammpc.interfaces import MEMORY, UsageError
from dreammpc.models import BMPCModel, EnsembleModel
from dreammpc.planning import Imagination, Objective, PolicyRollouts, make_planner
from dreammpc.planning.context import PlanningContext
from dreammpc.planning.contract import check_model, check_planner
from dreammpc.planning.imagination import repeat_rows
from dreammpc.trained.compare import compare

SEEDS = [f"cartpole-swingup/tdmpc2-seed{seed}" for seed in (1, 2, 3)]


def observations(size):
    generator = torch.Generator().manual_seed(0)
    return TensorDict({"observation": torch.randn(size, 5, generator=generator)}, [size])


def members():
    return [random_tdmpc2(seed=0), random_bmpc(seed=1), random_tdmpc2(seed=2, latent_dim=24, num_heads=2)]


def test_it_keeps_the_contract():
    check_model(EnsembleModel(members()), obs=observations(3), compile="eager")


def test_rewards_are_averaged_and_heads_joined():
    models = members()
    ensemble = EnsembleModel(models)
    obs, action = observations(4), torch.rand(4, 2) * 2 - 1
    with torch.no_grad():
        latent = ensemble.observe(obs, action, ensemble.initial_belief(4))
        after = ensemble.step(latent, action)
        own = [model.observe(obs, action, None) for model in models]
        following = [model.step(z, action) for model, z in zip(models, own, strict=True)]
        outcomes = [m.outcome(z, action, z2) for m, z, z2 in zip(models, own, following, strict=True)]
        heads = [model.value(z, action) for model, z in zip(models, own, strict=True)]
    for key, (z, z2) in enumerate(zip(own, following, strict=True)):
        torch.testing.assert_close(latent[str(key)]["z"], z["z"])
        torch.testing.assert_close(after[str(key)]["z"], z2["z"])
    found = ensemble.outcome(latent, action, after)
    torch.testing.assert_close(found.reward, sum(outcome.reward for outcome in outcomes) / 3)
    torch.testing.assert_close(found.discount, sum(outcome.discount for outcome in outcomes) / 3)
    torch.testing.assert_close(ensemble.value(latent, action), torch.cat(heads, -1))
    assert ensemble.value(latent, action).shape == (4, 3 + 3 + 2)


def test_an_action_is_one_members_and_the_others_agree_most_with_it():
    models = [random_tdmpc2(seed=seed) for seed in range(3)]
    for model, mean in zip(models, (-1.0, 0.9, 1.0), strict=True):
        actor_says(model, mean, 0.0)
    ensemble, noise = EnsembleModel(models), torch.randn(4, 2)
    latent = TensorDict({str(k): random_latent(model, 4) for k, model in enumerate(models)}, [4])
    with torch.no_grad():
        torch.testing.assert_close(ensemble.policy(latent, noise), models[1].policy(latent["1"], noise))


def test_the_value_of_a_state_is_that_of_each_members_own_policy():
    models = members()
    ensemble = EnsembleModel(models)
    latent = TensorDict({str(k): random_latent(model, 4) for k, model in enumerate(models)}, [4])
    actions, zero = torch.rand(4, 5, 1, 2) * 2 - 1, torch.zeros(20, 2)
    with torch.no_grad():
        after = ensemble.step(repeat_rows(latent, 5), actions.flatten(0, 2))
        heads = [
            model.value(after[str(k)], model.policy(after[str(k)], zero)) for k, model in enumerate(models)
        ]
        want = torch.cat(heads, -1)
        outcome = ensemble.outcome(repeat_rows(latent, 5), actions.flatten(0, 2), after)
        for coef in (0.0, 0.01):
            found = Imagination(ensemble).score(latent, actions, Objective(coef, "std", "mean"))
            value = found.objective + coef * found.uncertainty
            plain = outcome.reward + outcome.discount * want.mean(-1)
            torch.testing.assert_close(value.flatten(), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [2, 7])
def test_proposals_are_the_members_own_rollouts_in_turn(count):
    models = members()
    ensemble = EnsembleModel(models)
    latent = TensorDict({str(k): random_latent(model, 2) for k, model in enumerate(models)}, [2])
    noise = torch.randn(2, count, 3, 2)
    with torch.no_grad():
        found = Imagination(ensemble).propose(latent, noise)
        for n in range(count):
            own = Imagination(models[n % 3]).propose(latent[str(n % 3)], noise[:, n : n + 1])
            torch.testing.assert_close(found[:, n : n + 1], own)


def test_the_first_proposals_are_every_policys_mode():
    ensemble = EnsembleModel(members())
    latent = TensorDict({str(k): random_latent(model, 2) for k, model in enumerate(ensemble.members)}, [2])
    planner = make_planner("dream_mpc", 2, num_candidates=4, iterations=0, reuse_strategy="none")
    context = PlanningContext(
        Imagination(ensemble), latent, planner.initial_state(2), planner.horizon, Objective()
    )
    with torch.no_grad():
        found = PolicyRollouts(4, reuse_strategy="none")(context).candidates
        modes = Imagination(ensemble).propose(latent, torch.zeros(2, 4, planner.horizon, 2))
    torch.testing.assert_close(found[:, :3], modes[:, :3])
    assert not torch.allclose(found[:, 3], modes[:, 3])


def test_members_see_frames_with_memories_of_their_own():
    ensemble = EnsembleModel([make_model(), make_model(BMPCModel)])
    belief = ensemble.initial_belief(2)
    for seed in range(2):
        obs = observation(2, "pixels", seed)
        belief = ensemble.observe(obs, torch.zeros(2, 2), belief)
    assert set(belief[MEMORY].keys()) == {"0", "1"} and MEMORY not in belief["0"]
    alone = ensemble.members[1]
    own = alone.initial_belief(2)
    own[MEMORY] = belief[MEMORY, "1"]
    want = alone.observe(obs, torch.zeros(2, 2), own)
    torch.testing.assert_close(ensemble.observe(obs, torch.zeros(2, 2), belief)["1"]["z"], want["z"])


def test_packaged_seeds_act_as_one_agent():
    agent = load_agent(SEEDS, "dream_mpc")
    obs = TensorDict({"observation": torch.randn(2, agent.model.obs_dim)}, [2])
    start = torch.ones(2, 1, dtype=torch.bool)
    plan, carry = agent.step(obs, agent.initial_carry(2), start)
    assert plan.action.shape == (2, 1) and plan.diagnostics["fallback"].sum() == 0
    assert set(carry["belief"].keys()) == {"0", "1", "2"}


def test_the_value_of_an_ensemble_is_the_mean_of_all_heads_unless_asked_otherwise(monkeypatch):
    asked = [load_agent(SEEDS[0]), load_agent(SEEDS), load_agent(SEEDS, value_reduction="min")]
    assert [agent.planner.value_reduction for agent in asked] == ["min", "mean", "min"]

    class PlayedError(Exception):
        pass

    def play(self, agent, **more):
        raise PlayedError(agent.planner.value_reduction)

    monkeypatch.setattr("dreammpc.evaluation.Evaluator.play", play)
    for settings, reduction in (({}, "mean"), ({"value_reduction": "min"}, "min")):
        with pytest.raises(PlayedError, match=reduction):
            list(compare(SEEDS[:2], "dream_mpc", settings, seeds=[1], ensemble=True))


def test_rows_of_an_ensemble_name_all_checkpoints_and_no_seed():
    (played,) = compare(SEEDS[:2], "policy", seeds=[1], ensemble=True)
    assert {row["checkpoint"] for row in played.rows} == {" + ".join(f"agent:{name}" for name in SEEDS[:2])}
    assert {(row["train_seed"], row["model"]) for row in played.rows} == {(None, "2 x nano")}


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (SEEDS[:1], "at least two checkpoints, got 1"),
        ([SEEDS[0], "cheetah-run/tdmpc2-seed1"], "task cartpole-swingup, .* has cheetah-run"),
    ],
)
def test_agents_that_do_not_go_together_are_refused_in_one_line(names, line):
    with pytest.raises(UsageError, match=line) as error:
        load_agent(names)
    assert "\n" not in str(error.value)


def test_models_of_other_spaces_are_refused():
    for other, what in ((random_tdmpc2(3), "action_dim: 2, 3"), (make_model(), "obs_dim: 5, 0")):
        with pytest.raises(UsageError, match=what):
            EnsembleModel([random_tdmpc2(2), other])
    for models, what in (([], "got none"), (["walker"], "nn.Module, got str")):
        with pytest.raises(UsageError, match=what):
            EnsembleModel(models)


@pytest.mark.parametrize("name", ["dream_mpc", "mppi"])
def test_planners_keep_their_promises_in_it(name):
    ensemble = EnsembleModel([random_tdmpc2(seed=0), random_tdmpc2(seed=1)])
    latent = ensemble.observe(observations(3), torch.zeros(3, 2), ensemble.initial_belief(3))
    # As one graph and on a device without data: in this model with mppi, and dream_mpc's in others.
    more = {} if name == "mppi" else {"compile": None, "device": None}
    check_planner(small(name), ensemble, latent.detach(), **more)
