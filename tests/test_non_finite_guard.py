"""Numerical faults: the update is skipped and counted, weights go back once, then the training stops."""

import copy

import pytest
import torch
from faults.tiny import Training
from updates import make_batch, make_tdmpc2

from dreammpc.algorithms.non_finite_guard import NonFiniteGuard
from dreammpc.interfaces import RunError
from dreammpc.training import DESCRIPTION, load_checkpoint


def state(algorithm) -> dict:
    """All that an update may change."""
    optimizers = [optimizer.state_dict()["state"] for optimizer in algorithm.optimizers()]
    moments = {
        f"{o}.{p}.{k}": v for o, s in enumerate(optimizers) for p, e in s.items() for k, v in e.items()
    }
    return copy.deepcopy({**algorithm.state_dict(), **moments})


def changed(before: dict, after: dict) -> set[str]:
    return {key for key in after if key not in before or not torch.equal(before[key], after[key])}


def with_updates(count: int = 2, **settings):
    """An algorithm whose optimizers have a state."""
    torch.manual_seed(0)
    algorithm = make_tdmpc2(**settings)
    for _ in range(count):
        algorithm.training_step(make_batch(), 0)
    return algorithm


def test_sound_updates_are_computed_as_without_a_guard(monkeypatch):
    guarded = with_updates(4)
    monkeypatch.setattr(NonFiniteGuard, "nan_gradient_unless_finite", lambda self, loss: loss)
    monkeypatch.setattr(NonFiniteGuard, "gate", lambda self, optimizer, norm: None)
    monkeypatch.setattr(NonFiniteGuard, "update_scale", lambda self, scale, to: scale.copy_(to))
    monkeypatch.setattr(NonFiniteGuard, "finish_update", lambda self: torch.zeros(()))
    torch.manual_seed(0)
    bare = make_tdmpc2()
    for _ in range(4):
        bare.training_step(make_batch(), 0)
    assert not changed(state(bare), state(guarded))
    assert changed(state(with_updates(3)), state(guarded))


def test_an_update_that_is_not_finite_changes_nothing():
    algorithm = with_updates()
    before = state(algorithm)
    batch = make_batch()
    batch["next", "reward"][0, 0] = torch.nan
    metrics = algorithm.training_step(batch, 0)
    assert not changed(before, state(algorithm))
    assert metrics["count/skipped_updates"] == 1
    metrics = algorithm.training_step(make_batch(), 0)
    assert metrics["count/skipped_updates"] == 0 and metrics["grad_norm/model"].isfinite()
    assert any("target_heads" in key for key in changed(before, state(algorithm)))


def test_a_loss_that_is_infinite_with_finite_gradients_is_skipped_too():
    algorithm = with_updates()
    whole = algorithm._model_loss

    def infinite(*args):
        loss, zs, metrics = whole(*args)
        return loss + torch.inf, zs, metrics

    algorithm._model_loss = infinite
    before = state(algorithm)
    algorithm.training_step(make_batch(), 0)
    assert not changed(before, state(algorithm))


def test_the_policys_part_alone_is_skipped_for_its_own_fault():
    algorithm = with_updates()
    whole = algorithm._policy_loss

    def poisoned(*args):
        loss, scale, metrics = whole(*args)
        return loss * torch.nan, scale * torch.nan, metrics

    algorithm._policy_loss = poisoned
    before = state(algorithm)
    assert algorithm.training_step(make_batch(), 0)["count/skipped_updates"] == 1
    moved = changed(before, state(algorithm))
    assert not any("actor" in key or key.startswith("1.") or key == "value_scale" for key in moved)
    assert any("dynamics" in key for key in moved)


def test_it_trips_after_so_many_in_a_row():
    algorithm = with_updates(max_skipped=3)
    bad = make_batch()
    bad["next", "reward"][:] = torch.nan
    answers = []
    for batch in (bad, bad, make_batch(), bad, bad, bad):
        algorithm.training_step(batch, 0)
        answers.append(algorithm.guard.limit_reached())
    assert answers == [False, False, False, False, False, True]


def test_weights_go_back_once_then_the_training_stops(tmp_path, caplog):
    """From the 25th update on all losses are NaN; the checkpoint before is of 302 steps."""
    run = Training(tmp_path, steps=1000, save_every=300, planner={"name": "policy"}, max_skipped=3)
    whole, updates = run.algorithm._model_loss, 0

    def failing(*args):
        nonlocal updates
        updates += 1
        loss, zs, metrics = whole(*args)
        return loss * (torch.nan if updates >= 25 else 1), zs, metrics

    run.algorithm._model_loss = failing
    with pytest.raises(RunError, match=r"again; the last checkpoint, of 302 steps, is .*last\.ckpt") as error:
        run.run()
    assert "\n" not in str(error.value)
    assert [r.message for r in caplog.records if "went back to the weights of 302 steps" in r.message]
    content = load_checkpoint(run.checkpoints.last)
    assert content[DESCRIPTION]["env_steps"] == 302  # what stands on the disk is from before
    assert updates == 24 + 3 + 3
    weights = run.algorithm.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in content["state_dict"].items())
    assert '"count/skipped_updates": 3.0' in (tmp_path / "metrics.jsonl").read_text()
