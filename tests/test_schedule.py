"""The learning rate over environment steps."""

from types import SimpleNamespace

import pytest
import torch

from dreammpc.training import LearningRate


def rates(schedule: LearningRate, optimizer: torch.optim.Optimizer, env_steps: int) -> list[float]:
    schedule.feed.env_steps = env_steps
    schedule.on_train_batch_start(SimpleNamespace(optimizers=[optimizer]), None, None, 0)
    return [group["lr"] for group in optimizer.param_groups]


def make_optimizer() -> torch.optim.Optimizer:
    one, other = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    return torch.optim.Adam([{"params": one, "lr": 0.3}, {"params": other}], lr=1.0)


def test_falls_linearly_for_every_group():
    schedule = LearningRate(SimpleNamespace(total_env_steps=100), final_scale=0.1)
    optimizer = make_optimizer()
    assert rates(schedule, optimizer, 0) == pytest.approx([0.3, 1.0])
    assert rates(schedule, optimizer, 50) == pytest.approx([0.165, 0.55])
    assert rates(schedule, optimizer, 100) == pytest.approx([0.03, 0.1])
    assert rates(schedule, optimizer, 102) == pytest.approx([0.03, 0.1])


def test_goes_on_from_a_saved_optimizer_and_towards_a_later_end():
    schedule = LearningRate(SimpleNamespace(total_env_steps=100), final_scale=0.0)
    optimizer = make_optimizer()
    rates(schedule, optimizer, 50)
    resumed = make_optimizer()
    resumed.load_state_dict(optimizer.state_dict())
    later = LearningRate(SimpleNamespace(total_env_steps=200), final_scale=0.0)
    assert rates(later, resumed, 50) == pytest.approx([0.3 * 0.75, 0.75])


def test_one_leaves_the_optimizer_alone():
    schedule = LearningRate(SimpleNamespace(total_env_steps=100), final_scale=1.0)
    optimizer = make_optimizer()
    assert rates(schedule, optimizer, 90) == [0.3, 1.0]
    assert "initial_lr" not in optimizer.param_groups[0]
