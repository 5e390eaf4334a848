"""Plans, what they are compared with, and small planners and models that keep the contract."""

import dataclasses
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import nn
from toy_models import LinearQuadratic

from dreammpc.interfaces import Outcome, Plan
from dreammpc.planning import PLANNERS, Imagination, Objective, make_planner

A, B, N, H = 2, 3, 5, 3
SMALL = {
    "num_samples": 16,
    "num_candidates": 4,
    "num_elites": 4,
    "num_policy": 2,
    "iterations": 1,
    "horizon": 2,
    "grad_iterations": 1,
}
PLAIN = {"step_rule": "fixed", "step_size": 0.1, "uncertainty": "std", "value_reduction": "mean"}


def plan(planner, model, latent, state=None, seed=0):
    state = planner.initial_state(latent.shape[0]) if state is None else state
    torch.manual_seed(seed)
    with torch.no_grad():
        return planner.plan(Imagination(model), latent, state)


def make(preset="dream_mpc", **settings):
    """One plain gradient step unless the settings say otherwise, whatever the preset's own."""
    return make_planner(preset, A, **((PLAIN if preset == "dream_mpc" else {}) | settings))


def proposals_of(model, latent, include_mode: bool, seed: int = 0):
    """The policy rollouts [B, N, H, A] that `plan(..., seed=seed)` starts from, rolled out here."""
    torch.manual_seed(seed)
    noise = torch.randn(latent.shape[0], N, H, A)
    if include_mode:
        noise[:, 0] = 0
    rows = latent.repeat_interleave(N, 0)
    actions = []
    with torch.no_grad():
        for t in range(H):
            actions.append(model.policy(rows, noise[:, :, t].flatten(0, 1)))
            rows = model.step(rows, actions[-1])
    return torch.stack(actions, 1).unflatten(0, (-1, N))


def score(model, latent, actions, coef=0.01, uncertainty="std"):
    return Imagination(model).score(latent, actions, Objective(coef, uncertainty)).objective


def gradient(model, latent, actions, **objective):
    actions = actions.clone().requires_grad_()
    return torch.autograd.grad(score(model, latent, actions, **objective).sum(), actions)[0]


class Steep(LinearQuadratic):
    """dJ/da is `slopes[n]` in every coordinate for candidate n; nothing else matters. Actions start at 0."""

    slopes = torch.tensor([1.0, 2.0, 3.0, 4.0, 4000.0])

    def outcome(self, latent, action, next_latent):
        slope = self.slopes.repeat(action.shape[0] // N)
        return Outcome(slope * action.sum(-1), torch.ones_like(slope))

    def value(self, latent, action):
        return 0 * latent["x"][:, :1]

    def policy(self, latent, noise):
        return 0 * noise


def small(name: str, **settings):
    """The planner of that name with little to compute."""
    known = {field.name for field in dataclasses.fields(PLANNERS[name])}
    return make_planner(name, A, **{key: value for key, value in SMALL.items() if key in known}, **settings)


@dataclass(frozen=True)
class Good:
    """Acts with the mean of this and the last step's policy action."""

    action_dim: int
    horizon: int = 1

    def __post_init__(self):
        for name in ("action_dim", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def initial_state(self, batch_size, device=None):
        return TensorDict({"last": torch.zeros(batch_size, self.action_dim, device=device)}, [batch_size])

    def plan(self, imagination, latent, state):
        mode = imagination.mode(latent).float().nan_to_num(0.0)
        mode = 0.5 * (mode + state["last"])
        value = imagination.model.value(latent, mode).mean(-1).nan_to_num(0.0)
        kept, diagnostics = TensorDict({"last": mode}, [len(mode)]), TensorDict({"v": value}, [len(mode)])
        return Plan(mode, mode[:, None], torch.ones_like(mode)[:, None], value, kept, diagnostics)


class Linear(nn.Module):
    """x' = 0.9x + 0.5a, with a counter that broken variants may touch."""

    def __init__(self):
        super().__init__()
        self.action_dim = A
        self.register_buffer("calls", torch.zeros(()))

    def initial_belief(self, batch_size, device=None):
        return TensorDict({"x": torch.zeros(batch_size, A, device=device)}, [batch_size], device=device)

    def step(self, latent, action):
        return TensorDict({"x": 0.9 * latent["x"] + 0.5 * action}, [len(action)], device=action.device)

    def outcome(self, latent, action, next_latent):
        reward = -next_latent["x"].square().sum(-1)
        return Outcome(reward, torch.full_like(reward, 0.9))

    def value(self, latent, action):
        return -latent["x"].square().sum(-1, keepdim=True)

    def policy(self, latent, noise):
        return torch.tanh(noise - latent["x"])
