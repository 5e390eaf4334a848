"""TD-MPC2 as a LightningModule: optimizers, the draws of an update, and what one training step changes."""

import itertools

import pytest
import torch
from updates import A, B, H, K, make_batch, make_bmpc, make_bmpc_batch, make_tdmpc2


def test_optimizers():
    algorithm = make_tdmpc2(lr=1e-3, encoder_lr_scale=0.25)
    model = algorithm.model
    ours, policys = algorithm.configure_optimizers()
    encoder, rest = ours.param_groups
    assert isinstance(ours, torch.optim.Adam)
    assert (encoder["lr"], rest["lr"]) == pytest.approx((2.5e-4, 1e-3))
    assert rest["eps"] == 1e-8
    assert policys.param_groups[0]["lr"] == pytest.approx(1e-3)
    assert policys.param_groups[0]["eps"] == 1e-5

    def ids(parameters):
        return sorted(map(id, parameters))

    assert ids(encoder["params"]) == ids(model.encoder.parameters())
    parts = (model.dynamics, model.reward, model.value_heads, model.termination)
    assert ids(rest["params"]) == ids(p for part in parts for p in part.parameters())
    assert ids(policys.param_groups[0]["params"]) == ids(model.actor.parameters())


def test_default_learning_rates_are_the_papers():
    ours, policys = make_tdmpc2().configure_optimizers()
    assert [group["lr"] for group in ours.param_groups] == pytest.approx([0.9e-4, 3e-4])
    assert policys.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_learning_rates_fall_from_a_share_of_the_steps_to_their_end():
    done = iter((0.0, 0.5, 0.75, 1.0, 1.5))
    falling = {"lr_end": 0.2, "lr_decay_from": 0.5, "progress": lambda: next(done)}
    algorithm = make_tdmpc2(lr=1e-3, encoder_lr_scale=0.25, **falling)
    ours, policys = algorithm.optimizers()
    for height in (1.0, 1.0, 0.6, 0.2, 0.2):
        algorithm.before_update(make_batch())
        rates = [group["lr"] for optimizer in (ours, policys) for group in optimizer.param_groups]
        assert rates == pytest.approx([2.5e-4 * height, 1e-3 * height, 1e-3 * height])


def test_learning_rates_of_a_checkpoint_stay_where_none_fall():
    algorithm = make_tdmpc2(lr=1e-3, progress=lambda: 0.9)
    algorithm.optimizers()[0].param_groups[1]["lr"] = 5e-4  # as restored
    algorithm.before_update(make_batch())
    assert algorithm.optimizers()[0].param_groups[1]["lr"] == 5e-4


@pytest.mark.parametrize("number", [1, 2, 3, None])
def test_how_many_heads_a_target_looks_at_is_a_setting(number):
    algorithm, batch = make_tdmpc2(target_heads=number, target_reduction="min"), make_batch()
    seen = {tuple(sorted(algorithm.sample_noise(batch).target_heads.tolist())) for _ in range(40)}
    assert seen == set(itertools.combinations(range(K), number or K))


@pytest.mark.parametrize("make", [make_tdmpc2, make_bmpc])
def test_how_heads_of_a_target_become_one_is_a_setting(make):
    """Of the same draws the mean of all heads is above their minimum; an unknown word is refused."""
    targets = {}
    for reduction in ("mean", "min"):
        torch.manual_seed(0)
        algorithm = make(target_heads=None, target_reduction=reduction)
        for weight in algorithm.model.target_heads.weights:  # heads that differ
            torch.nn.init.normal_(weight, std=0.3)
        batch = make_bmpc_batch()
        metrics = algorithm.training_step(batch, 0)
        targets[reduction] = metrics["value/target"].item()
    assert targets["min"] < targets["mean"]
    with pytest.raises(ValueError, match="reduction must be one of mean, min, min2, mean-std, got 'most'"):
        make(target_reduction="most")


def test_runs_of_different_seeds_are_reset_differently():
    algorithms, batch = [make_tdmpc2(reset_every=1, seed=seed) for seed in (1, 2, 1)], make_bmpc_batch()
    for algorithm in algorithms:
        for _ in range(2):
            algorithm.before_update(batch)
    first, other, again = (a.model.actor.state_dict() for a in algorithms)
    assert all(first[name].equal(again[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


@pytest.mark.parametrize("make", [make_tdmpc2, make_bmpc])
def test_resets_draw_value_heads_and_policy_anew(make):
    """Before the third update, the fifth, …; Adam forgets their moments, and nothing else changes."""
    torch.manual_seed(0)
    algorithm, batch = make(reset_every=2), make_bmpc_batch()
    for _ in range(2):
        algorithm.before_update(batch)
        algorithm.training_step(batch, 0)
    model, (ours, policys) = algorithm.model, algorithm.optimizers()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    kept = ours.state[model.dynamics.linears[0].weight]["exp_avg"].clone()
    stream = torch.random.get_rng_state()
    algorithm.before_update(batch)

    changed = {name.split(".")[0] for name, now in model.state_dict().items() if not now.equal(before[name])}
    assert changed == {"value_heads", "target_heads", "actor"}
    for new, target in zip(model.value_heads.parameters(), model.target_heads.parameters(), strict=True):
        assert new.equal(target)
        assert not any(value.any() for value in ours.state[new].values())
    assert not any(value.any() for held in policys.state.values() for value in held.values())
    assert ours.state[model.dynamics.linears[0].weight]["exp_avg"].equal(kept) and kept.any()
    assert torch.random.get_rng_state().equal(stream)
    actor = [weight.clone() for weight in model.actor.parameters()]
    algorithm.before_update(batch)  # not due
    assert all(weight.equal(was) for weight, was in zip(model.actor.parameters(), actor, strict=True))


def test_draws():
    torch.manual_seed(0)
    algorithm = make_tdmpc2(dropout=0.5)
    batch, seen = make_batch(), set()
    for _ in range(60):
        draws = algorithm.sample_noise(batch)
        seen.add(tuple(sorted(draws.target_heads.tolist())))
    assert seen == {(0, 1), (0, 2), (1, 2)}
    assert draws.target_noise.shape == (H * B, A)
    assert draws.policy_noise.shape == ((H + 1) * B, A)
    assert draws.dropout.shape == (K, H * B, 32)
    assert make_tdmpc2(dropout=0.0).sample_noise(make_batch()).dropout is None


def test_one_training_step_moves_everything_it_should():
    algorithm = make_tdmpc2(target_rate=0.25, scale_rate=0.5)
    model = algorithm.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    algorithm.value_scale.fill_(3.0)
    torch.manual_seed(0)
    metrics = algorithm.training_step(make_batch(terminated=[(1, 1)]), 0)

    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        if name.startswith("target_heads"):
            fast = dict(model.named_parameters())[name.replace("target_heads", "value_heads")]
            torch.testing.assert_close(parameter, 0.75 * before[name] + 0.25 * fast)
        else:
            moved = (parameter - before[name]).abs().max().item()
            lr = 3e-4 * (0.3 if name.startswith("encoder") else 1)
            assert moved == pytest.approx(lr, rel=0.05), name  # Adam's first step moves by lr
    assert algorithm.value_scale.item() == pytest.approx(metrics["value/scale"].item())
    assert algorithm.value_scale.item() >= 2  # half way from 3 towards a spread of at least 1
    assert algorithm.value_scale.item() != 3
    expected = {
        *(f"loss/{name}" for name in ("consistency", "reward", "value", "termination", "policy")),
        *(
            "grad_norm/model",
            "grad_norm/policy",
            "value/target",
            "value/policy",
            "value/scale",
            "policy/entropy",
            "count/skipped_updates",
        ),
    }
    assert set(metrics) == expected
    assert all(value.ndim == 0 and value.isfinite() and not value.requires_grad for value in metrics.values())


def test_gradients_are_clipped_apart_for_model_and_policy():
    torch.manual_seed(0)
    free, tight = make_tdmpc2(clip=1e9), make_tdmpc2(clip=1e-3)
    torch.manual_seed(1)
    unclipped = free.training_step(make_batch(), 0)
    torch.manual_seed(1)
    clipped = tight.training_step(make_batch(), 0)
    norms = [unclipped["grad_norm/model"].item(), unclipped["grad_norm/policy"].item()]
    assert free.steps == pytest.approx(norms, rel=1e-4)
    assert tight.steps == pytest.approx([1e-3, 1e-3], rel=1e-2)
    assert clipped["grad_norm/model"].item() == pytest.approx(norms[0], rel=1e-4)  # what is logged: before


def test_updates_learn_a_constant_reward():
    torch.manual_seed(0)
    algorithm = make_tdmpc2(lr=3e-3)
    batch = make_batch()
    batch["next", "reward"] = torch.full_like(batch["next", "reward"], 2.0)
    losses = [algorithm.training_step(batch, i)["loss/reward"].item() for i in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_checkpoint_holds_model_targets_and_scale():
    keys = set(make_tdmpc2().state_dict())
    assert "value_scale" in keys
    for part in ("encoder", "dynamics", "reward", "value_heads", "target_heads", "actor", "termination"):
        assert any(key.startswith(f"agent.model.{part}.") for key in keys), part
    assert not any(key.startswith("model.") for key in keys)


def test_updates_of_one_training_step_are_those_of_several():
    """Also in low precision, where torch keeps copies of the weights as long as an autocast context lasts."""
    batches, results = [make_batch(), make_batch()], []
    for together in (False, True):
        torch.manual_seed(0)
        algorithm = make_tdmpc2()
        metrics = []
        for turn in [batches] if together else [[batch] for batch in batches]:
            with torch.autocast("cpu", torch.bfloat16):
                metrics += algorithm.training_step(turn, 0)["updates"]
        results.append((algorithm.state_dict(), metrics))
    (apart, said), (joined, also) = results
    assert all(torch.equal(weight, joined[name]) for name, weight in apart.items())
    assert [sorted(m.items()) for m in said] == [sorted(m.items()) for m in also]
