"""Swing up a pendulum by planning alone: known physics, nothing learned.

lightning run pendulum                                     # several planners side by side
lightning run pendulum planner=mppi planner.horizon=30
lightning run pendulum planner=dream_mpc planner.reuse=0.9 video=swing.mp4
"""

import math
import time
from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from dreammpc.agent import Agent
from dreammpc.configuration.evaluate_schemas import PendulumConfig
from dreammpc.configuration.planners import planners_for
from dreammpc.configuration.recipe import main
from dreammpc.evaluation.film import video_path
from dreammpc.models import SimulatorModel
from dreammpc.runtime.devices import CPU, choose_device, measured_on
from dreammpc.tracking.video import write_video
from dreammpc.training import open_target

# Gymnasium's Pendulum-v1. The state is [angle from upright in rad, angular speed in rad/s].
GRAVITY, MASS, LENGTH, DT = 10.0, 1.0, 1.0, 0.05
MAX_SPEED, MAX_TORQUE = 8.0, 2.0
SETTINGS = {"horizon": 20}
"""One second ahead, for every planner that looks ahead; all else is each planner's own default."""
UPRIGHT = 0.2
"""An angle below this, in rad, counts as upright."""


def dynamics(x: Tensor, a: Tensor) -> Tensor:
    """Next states [M, 2] of `x` [M, 2] under actions `a` [M, 1] in [-1, 1], which scale the torque."""
    angle, speed = x.unbind(-1)
    torque = MAX_TORQUE * a[:, 0]
    acceleration = 1.5 * GRAVITY / LENGTH * torch.sin(angle) + 3 / (MASS * LENGTH**2) * torque
    speed = (speed + DT * acceleration).clamp(-MAX_SPEED, MAX_SPEED)
    return torch.stack([angle + DT * speed, speed], -1)


def cost(x: Tensor, a: Tensor, next_x: Tensor) -> Tensor:
    """[M]: squared angle, and a little for speed and torque."""
    torque = MAX_TORQUE * a[:, 0]
    return wrapped(x[:, 0]).square() + 0.1 * x[:, 1].square() + 0.001 * torque.square()


def wrapped(angle: Tensor) -> Tensor:
    """The angle in [-π, π)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


class Swing(NamedTuple):
    """What one planner did in B episodes of T steps."""

    angles: Tensor
    """[T, B], in rad from upright."""
    returns: Tensor
    """[B]"""
    ms_per_step: float

    @property
    def upright(self) -> Tensor:
        """[B], whether it stood during the whole last second."""
        return (self.angles[-round(1 / DT) :].abs() < UPRIGHT).all(0)


@torch.no_grad()
def swing_up(planner, episodes: int, steps: int, seed: int, device: torch.device = CPU) -> Swing:
    """Plan, act, repeat, from hanging at rest; the model is also the world, and `device` has both."""
    torch.manual_seed(seed)
    model = SimulatorModel(state_dim=2, action_dim=1, dynamics=dynamics, cost=cost)
    agent = Agent(model, planner)
    carry, is_init = agent.initial_carry(episodes, device), torch.ones(episodes, 1, dtype=torch.bool)
    x = (torch.tensor([math.pi, 0.0]) + 0.1 * torch.randn(episodes, 2)).to(device)
    angles, returns, began = [], x.new_zeros(episodes), time.perf_counter()
    for _ in range(steps):
        plan, carry = agent.step(TensorDict({"observation": x}, [episodes]), carry, is_init)
        next_x = dynamics(x, plan.action)
        returns -= cost(x, plan.action, next_x)
        x, is_init = next_x, torch.zeros_like(is_init)
        angles.append(wrapped(x[:, 0]))
    return Swing(torch.stack(angles).cpu(), returns.cpu(), 1e3 * (time.perf_counter() - began) / steps)


def draw(angle: float, size: int = 128) -> np.ndarray:
    """A picture, uint8 [size, size, 3]."""
    right, up = np.meshgrid(np.linspace(-1.3, 1.3, size), np.linspace(1.3, -1.3, size))
    tip = math.sin(angle), math.cos(angle)
    along = np.clip(right * tip[0] + up * tip[1], 0, 1)  # the rod's point next to each pixel
    distance = np.hypot(right - along * tip[0], up - along * tip[1])
    return np.where(distance[..., None] < 0.08, (180, 40, 40), (255, 255, 255)).astype(np.uint8)


@main("pendulum")
def pendulum(config: PendulumConfig) -> None:
    video = open_target(video_path(config.video)) if config.video else None
    device = choose_device(config.device)
    planners = planners_for(config.planners, config.settings, action_dim=1, defaults=SETTINGS)
    seconds = f"{config.steps} steps ({config.steps * DT:g} s)"
    print(f"{config.episodes} episodes of {seconds}, seed {config.seed}, {measured_on(device)}:\n")
    print(f"{'planner':<18}{'return':>8}  upright at the end  ms per step (all episodes)")
    for name, planner in planners.items():
        swing = swing_up(planner, config.episodes, config.steps, config.seed, device)
        upright = f"{swing.upright.sum()} of {config.episodes}"
        print(f"{name:<18}{swing.returns.mean():>8.0f}  {upright:<18}  {swing.ms_per_step:.1f}", flush=True)
    if video:
        write_video(video, [draw(angle) for angle in swing.angles[:, 0].tolist()], fps=1 / DT)
        print(f"\nvideo of {name}: {video}")


if __name__ == "__main__":
    pendulum()
