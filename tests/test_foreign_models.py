"""Models that others trained: their files are read as they are written, and planners plan in them."""

import math
import subprocess
import sys

import pytest
import torch
from foreign_models import (
    FOREIGN,
    HISTORY,
    STATE,
    A,
    D,
    foreign_model,
    lewm_encoded,
    lewm_rollout,
    lewm_weights,
    observation,
    states,
    write_dino_wm,
    write_lewm,
    write_pets,
)
from tensordict import TensorDict

from dreammpc.agent import Agent
from dreammpc.interfaces import UsageError
from dreammpc.models import load_dino_wm, load_lewm, load_pets
from dreammpc.models.saved import load_saved
from dreammpc.planning import Goal, Imagination, make_planner
from dreammpc.planning.contract import check_model
from dreammpc.planning.objective_terms import warn_rewardless


def after(model, obs, steps: int = 0):
    """The latent [B] at an episode's first observation, and after some steps of random actions."""
    size = obs.batch_size[0]
    with torch.no_grad():
        latent = model.observe(obs, torch.zeros(size, A), model.initial_belief(size))
        for action in torch.rand(steps, size, A) * 2 - 1:
            latent = model.step(latent, action)
    return latent


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("name", FOREIGN)
def test_every_model_keeps_the_contract(tmp_path, name, steps):
    model, obs = foreign_model(name, tmp_path)
    check_model(model, after(model, obs, steps), obs, compile="eager" if steps else None)


# --- JEPA: what is read is what was written ---------------------------------------------------------------


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("generation", [4, 5])
def test_lewm_predicts_what_its_weights_say(tmp_path, generation, pickled):
    model = load_lewm(write_lewm(tmp_path, generation, pickled))
    obs, actions = observation(2), torch.rand(2, 5, A) * 2 - 1
    frames = (obs["pixels"] / 255 - model.frame_mean) / model.frame_std
    weights = lewm_weights()
    latent = after(model, obs)
    torch.testing.assert_close(latent["z"], lewm_encoded(weights, frames), rtol=1e-4, atol=1e-4)
    for t, want in enumerate(lewm_rollout(weights, latent["z"], actions).unbind(1)):
        latent = model.step(latent, actions[:, t])
        torch.testing.assert_close(latent["z"], want, rtol=1e-4, atol=1e-4)
    assert latent["past", "count"].tolist() == [[HISTORY]] * 2


def test_frames_and_executed_actions_are_remembered(tmp_path):
    model = load_lewm(write_lewm(tmp_path))
    seen, belief = [], model.initial_belief(2)
    actions = torch.rand(5, 2, A) * 2 - 1
    for t in range(5):
        belief = model.observe(observation(2, seed=t), actions[t - 1] if t else torch.zeros(2, A), belief)
        seen.append(belief["z"])
        assert belief["past", "count"].tolist() == [[min(t + 1, HISTORY)]] * 2
    torch.testing.assert_close(belief["past", "z"], torch.stack(seen[-HISTORY:], 1))
    torch.testing.assert_close(belief["past", "actions"][:, : HISTORY - 1], actions[2:4].transpose(0, 1))


def test_actions_are_scaled_and_frames_resized(tmp_path):
    folder = write_lewm(tmp_path)
    plain, scaled = load_lewm(folder), load_lewm(folder, action_mean=[0.1, 0.2], action_std=0.5)
    latent, action = after(plain, observation(2)), torch.tensor([[0.3, -0.2], [0.0, 0.1]])
    want = plain.step(latent, (action - torch.tensor([0.1, 0.2])) / 0.5)
    torch.testing.assert_close(scaled.step(latent, action)["z"], want["z"])
    large = TensorDict(
        {"pixels": observation(2)["pixels"].repeat_interleave(4, -1).repeat_interleave(4, -2)}, [2]
    )
    assert after(plain, large)["z"].shape == (2, D)


def test_dino_wm_is_read_without_its_classes(tmp_path):
    model, obs = foreign_model("dino_wm", tmp_path)
    assert not {"models", "models.vit"} & set(sys.modules)
    latent = after(model, obs, 4)
    assert latent["z"].shape == (4, 4, 64 + 6) and latent["z"].std() > 0.1
    vector = model.encoder.proprio(obs["observation"])
    torch.testing.assert_close(after(model, obs)["z"][:, 2, 64:], vector)


def test_later_frames_do_not_reach_earlier_predictions(tmp_path):
    for name in ("lewm", "dino_wm"):
        model, obs = foreign_model(name, tmp_path / name)
        past = after(model, obs, 3)["past"]
        changed = past["z"].clone()
        changed[:, -1] += torch.randn_like(changed[:, -1])
        one, two = (model.predictor(z, past["actions"]) for z in (past["z"], changed))
        torch.testing.assert_close(one[:, :-1], two[:, :-1])
        assert (one[:, -1] - two[:, -1]).abs().max() > 0.01


# --- PETS ---------------------------------------------------------------------------------------------


def test_particles_follow_members_and_their_heads_are_their_returns(tmp_path):
    model = load_pets(write_pets(tmp_path, members=3), A, particles=6)
    actions = torch.rand(4, 2, A) * 2 - 1
    latent, returns = after(model, states(2)), torch.zeros(2, 6)
    mean = torch.zeros(2)
    for action in actions:
        following = model.step(latent, action)
        returns = returns + following["reward"]
        mean = mean + model.outcome(latent, action, following).reward
        latent = following
    torch.testing.assert_close(mean, returns.mean(1))
    heads = model.value(latent, actions[0])
    torch.testing.assert_close(mean.unsqueeze(1) + heads, returns, rtol=1e-4, atol=1e-4)


def test_a_particle_is_moved_by_the_networks_of_its_member(tmp_path):
    folder = write_pets(tmp_path, members=3)
    model = load_pets(folder, A, particles=6)
    weights = load_saved(folder / "model.pth")["state_dict"]
    obs, action = states(2), torch.rand(2, A) * 2 - 1
    latent, following = after(model, obs), None
    following = model.step(latent, action)
    for particle in range(6):
        member, x = 1 + particle // 2, torch.cat([obs["observation"], action], -1)
        for layer in ("hidden_layers.0.0", "hidden_layers.1.0"):
            x = torch.nn.functional.silu(
                x @ weights[f"{layer}.weight"][member] + weights[f"{layer}.bias"][member]
            )
        out = x @ weights["mean_and_logvar.weight"][member] + weights["mean_and_logvar.bias"][member]
        mean, raw = out.chunk(2, -1)
        upper, lower = weights["max_logvar"], weights["min_logvar"]
        bounded = upper - torch.log1p(torch.exp(upper - raw))
        bounded = lower + torch.log1p(torch.exp(bounded - lower))
        want = mean + (bounded / 2).exp() * model.noise[0, particle]
        torch.testing.assert_close(
            following["x"][:, particle], obs["observation"] + want[:, :STATE], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(following["reward"][:, particle], want[:, STATE], rtol=1e-4, atol=1e-5)


def test_ts1_deals_particles_out_anew(tmp_path):
    fixed, dealt = (load_pets(write_pets(tmp_path), A, propagation=way) for way in ("tsinf", "ts1"))
    assert (fixed.deal == torch.arange(12)).all()
    assert (dealt.deal.sort(1).values == torch.arange(12)).all() and not torch.equal(
        dealt.deal[0], dealt.deal[1]
    )


def test_a_reward_may_be_a_function(tmp_path):
    folder = write_pets(tmp_path, learned_reward=False)
    model = load_pets(folder, A, lambda x, a, following: -following.square().sum(-1), value=lambda x: x[:, 0])
    latent, action = after(model, states(2)), torch.rand(2, A)
    following = model.step(latent, action)
    torch.testing.assert_close(following["reward"], -following["x"].square().sum(-1))
    torch.testing.assert_close(model.value(following, action), following["gain"] + following["x"][..., 0])


# --- plans --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", ["dream_mpc", "cem"])
@pytest.mark.parametrize("name", FOREIGN)
def test_plans_come_nearer_to_a_goal_by_the_goal_alone(tmp_path, name, planner):
    model, obs = foreign_model(name, tmp_path)
    goal = {}
    reached = observation(1, name == "dino_wm", seed=9) if "pets" not in name else states(1, seed=9)
    if "pixels" in reached:
        goal["frames"] = reached["pixels"][0]
    if "observation" in reached:
        goal["goal"] = tuple(reached["observation"][0].tolist())
    settings = {"num_samples": 24, "num_elites": 6} if planner != "dream_mpc" else {"iterations": 2}
    plan = make_planner(planner, A, terms=[Goal(weight=10.0, **goal)], horizon=3, **settings)
    agent = Agent(model, plan)
    made, carry = agent.step(obs, agent.initial_carry(4), torch.ones(4, 1, dtype=torch.bool))
    gain = made.diagnostics["gain"]
    assert (gain >= -1e-4).all() and (gain > 1e-4).any() and made.diagnostics["fallback"].sum() == 0
    made, _ = agent.step(obs, carry, torch.zeros(4, 1, dtype=torch.bool))
    assert made.action.abs().max() <= 1


def test_a_plan_for_nothing_is_told_once(tmp_path, caplog):
    warn_rewardless.cache_clear()
    model, obs = foreign_model("lewm", tmp_path)
    agent = Agent(model, make_planner("dream_mpc", A, terms=[]), compile=False)
    for _ in range(2):
        with pytest.raises(ValueError, match="differentiable in the actions"):  # J is constant
            agent.step(obs, agent.initial_carry(4), torch.ones(4, 1, dtype=torch.bool))
    assert caplog.text.count("JEPAModel has neither reward nor value") == 1


def test_the_goals_distance_is_the_models_own(tmp_path):
    model, _ = foreign_model("lewm", tmp_path)
    here, there = after(model, observation(2), 2), after(model, observation(2, seed=5))
    want = (here["z"] - there["z"]).square().mean(-1)
    term = Goal(frames=observation(1)["pixels"][0])
    torch.testing.assert_close(term.between(here, there, model), want)


# --- what does not fit ----------------------------------------------------------------------------------


def saved(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    return tmp_path / "other.pt"


@pytest.mark.parametrize("load", [load_lewm, load_dino_wm, lambda path: load_pets(path, A)])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"layer.weight": torch.zeros(2)}, "layout.*layer.weight"),
        ([1, 2], "layout"),
        ({}, "layout"),
        (3, "layout"),
        (torch.nn.Linear(2, 2), "layout"),
    ],
)
def test_files_of_another_layout_are_refused_in_one_line(tmp_path, load, content, line):
    with pytest.raises(UsageError, match=line) as error:
        load(saved(tmp_path, content))
    assert "\n" not in str(error.value) and "other.pt" in str(error.value)


@pytest.mark.parametrize("load", [load_lewm, load_dino_wm, lambda path: load_pets(path, A)])
def test_no_file_and_no_torch_file(tmp_path, load):
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UsageError, match=r"text\.pt: not a file that torch.save") as error:
        load(tmp_path / "text.pt")
    assert "\n" not in str(error.value)


def test_nothing_in_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return subprocess.check_call, (["touch", str(tmp_path / "ran")],)

    torch.save(
        {"predictor": Evil(), "action_encoder": 1, "proprio_encoder": 2, "encoder": 3}, tmp_path / "evil.pth"
    )
    with pytest.raises(UsageError):
        load_dino_wm(tmp_path / "evil.pth")
    load_saved(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def without(folder, name):
    """mbrl-lib's file with one tensor less."""
    content = load_saved(folder / "model.pth")
    del content["state_dict"][name]
    torch.save(content, folder / "less.pth")
    return folder / "less.pth"


def elite(folder, members):
    """mbrl-lib's file with other elite members."""
    content = load_saved(folder / "model.pth") | {"elite_models": members}
    torch.save(content, folder / "other.pth")
    return folder / "other.pth"


def configured(folder, text):
    (folder / "config.json").write_text(text)
    return folder


def test_what_does_not_fit_is_named(tmp_path):
    checkpoint, encoder = write_dino_wm(tmp_path / "dino")
    pets, lewm = write_pets(tmp_path / "pets"), write_lewm(tmp_path / "lewm")
    for line, call in {
        "has no encoder": lambda: load_dino_wm(checkpoint),
        "12 positions of width 75 are not 2 frames": lambda: load_dino_wm(checkpoint, encoder, history=2),
        "particles must be a multiple of the 3 members, got 5": lambda: load_pets(pets, A, particles=5),
        "propagation must be ts1 or tsinf": lambda: load_pets(pets, A, propagation="ts2"),
        "discount must be above 0 and at most 1, got 0": lambda: load_pets(pets, A, discount=0),
        "policy_std must be a number of at least 0, got nan": lambda: load_pets(pets, A, policy_std=math.nan),
        r"elite_models \[0, 7\] are not all of the 5 members": lambda: load_pets(elite(pets, [0, 7]), A),
        "elite_models are no list of numbers": lambda: load_pets(elite(pets, object), A),
        "expected 2 \\+ 3 to 3": lambda: load_pets(pets, 3),
        "action_std: expected one number or 2, got 3": lambda: load_lewm(lewm, action_std=[1, 1, 1]),
        "max_logvar is missing": lambda: load_pets(without(pets, "max_logvar"), A),
        "config.json: not of LeWM's layout": lambda: load_lewm(configured(lewm, "{")),
        "config.json: not of LeWM": lambda: load_lewm(configured(lewm, '{"encoder": 3}')),
    }.items():
        with pytest.raises(UsageError, match=line) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_goal_of_another_kind_is_refused_in_one_line(tmp_path):
    model, obs = foreign_model("lewm", tmp_path)
    latent = after(model, obs)
    for settings, line in (
        ({"goal": (0.0,)}, "which sees pixels: expected frames=picture"),
        ({"frames": torch.zeros(6, 14, 14, dtype=torch.uint8)}, r"expected bytes of shape \[B, 3, h, w\]"),
    ):
        planner = make_planner("dream_mpc", A, terms=[Goal(**settings)])
        with pytest.raises(UsageError, match=line) as error:
            planner.plan(Imagination(model), latent, planner.initial_state(4))
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="pixels: expected bytes"):
        model.observe(
            TensorDict({"pixels": torch.rand(2, 3, 14, 14)}, [2]), torch.zeros(2, A), model.initial_belief(2)
        )
