"""Planners of other libraries in our TD-MPC2 model: TorchRL's CEMPlanner and MPPIPlanner, pytorch_mppi.

All run the dynamics, reward and terminal value of one TD-MPC2 model, with the horizon, samples and iterations
of our `mppi` (CEMPlanner: our `cem`), and as many elites where they have any. Where there is a choice, it is
made in their favor: the discount is a constant, and the terminal value is read once per rollout, at its end.
TorchRL's MPPIPlanner gets the return for its advantage, without an estimator's arithmetic. pytorch_mppi
does one iteration per command, so it is called as many times as there are iterations, and shifts its plan at
the first; one environment is its `MPPI`, several are its `MPPI_Batched`.

Neither library plans in one graph: compiled here means that the model's functions are.
"""

import importlib.util
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.model_based import ModelBasedEnvBase
from torchrl.modules import CEMPlanner, MPPIPlanner

from dreammpc.models import TDMPC2Model
from dreammpc.planning import make_planner

OTHERS = {"torchrl_mppi": "mppi", "torchrl_cem": "cem", "pytorch_mppi": "mppi"}
"""Names, and which planner of ours each takes its settings from."""


def missing(name: str) -> str:
    """Why a planner cannot take part, or an empty string."""
    if name == "pytorch_mppi" and importlib.util.find_spec("pytorch_mppi") is None:
        return "pytorch_mppi left out: not installed (pip install pytorch-mppi)"
    return ""


def compiled(function: Callable, mode: str) -> Callable:
    """`function`, compiled if the mode asks for it.

    Its code object is a copy of its own: guards and the limit of recompilations are counted per code object,
    and planners that are timed in turns should not share them.
    """
    if mode == "eager":
        return function
    own = FunctionType(function.__code__.replace(), function.__globals__, closure=function.__closure__)
    how = "reduce-overhead" if mode == "graphs" else "default"
    return torch.compile(own, fullgraph=True, dynamic=False, mode=how)


def make_other(
    name: str, model: TDMPC2Model, latent: TensorDict, mode: str, settings: dict
) -> tuple[Callable[[], Tensor], int]:
    """A call that plans from `latent` [B] and returns actions [B, A]; its model steps per environment.

    Args:
        name: one of `OTHERS`.
        mode: `eager` or `compiled`.
        settings: of our planner that it is held against.
    """
    ours = make_planner(OTHERS[name], model.action_dim, **settings)
    iterations = getattr(ours, "num_iterations", ours.iterations)
    make = pytorch_mppi_call if name == "pytorch_mppi" else torchrl_call
    call = make(model, latent, make_transition(model, ours.horizon, mode), ours, iterations)
    return call, ours.num_samples * ours.horizon * iterations


def make_transition(model: TDMPC2Model, horizon: int, mode: str) -> Callable:
    """(z [M, D], a [M, A], t) → z' [M, D] and what step t adds to J [M], the last with the value."""

    def transition(z: Tensor, action: Tensor, t: int) -> tuple[Tensor, Tensor]:
        latent = TensorDict({"z": z}, z.shape[:1])
        following = model.step(latent, action)
        worth = model.discount**t * model.outcome(latent, action, following).reward
        if t == horizon - 1:
            last = model.policy(following, torch.zeros_like(action))
            worth = worth + model.discount**horizon * model.value(following, last).mean(-1)
        return following["z"].float(), worth.float()

    return compiled(transition, mode)


# --- TorchRL --------------------------------------------------------------------------------------------


class ModelEnv(ModelBasedEnvBase):
    """The model as TorchRL's planners want it. It counts its steps: every rollout has `horizon` of them."""

    def __init__(self, model: TDMPC2Model, transition: Callable, horizon: int, device: torch.device):
        super().__init__(nn.Identity(), device=device)
        self.transition, self.horizon, self.t = transition, horizon, 0
        self.observation_spec = Composite(z=Unbounded((model.latent_dim,), device=device), device=device)
        self.state_spec = self.observation_spec.clone()
        self.action_spec = Bounded(-1, 1, (model.action_dim,), device=device)
        self.reward_spec = Unbounded((1,), device=device)

    def _step(self, tensordict):
        z, action = (tensordict[key].flatten(0, -2) for key in ("z", "action"))
        z, worth = self.transition(z, action, self.t)
        self.t = (self.t + 1) % self.horizon
        shape = tensordict.shape
        return TensorDict({"z": z.view(*shape, -1), "reward": worth.view(*shape, 1)}, shape)

    def _reset(self, tensordict, **kwargs):
        raise NotImplementedError("planners roll out from the latents that they are given")


class Return(nn.Module):
    """The advantage that MPPIPlanner ranks by: the whole return, [B, N, H, 1]."""

    def forward(self, td):
        reward = td["next", "reward"]
        return td.set("advantage", reward.sum(-2, keepdim=True).expand_as(reward))


def torchrl_call(
    model: TDMPC2Model, latent: TensorDict, transition: Callable, ours: Any, iterations: int
) -> Callable[[], Tensor]:
    """MPPIPlanner where `ours` has a temperature, else CEMPlanner."""
    env = ModelEnv(model, transition, ours.horizon, latent["z"].device)
    search = {"planning_horizon": ours.horizon, "optim_steps": iterations}
    search |= {"num_candidates": ours.num_samples, "top_k": ours.num_elites}
    if hasattr(ours, "temperature"):
        planner = MPPIPlanner(env, Return(), temperature=ours.temperature, **search)
    else:
        planner = CEMPlanner(env, **search)
    return lambda: planner(latent.clone())["action"]


# --- pytorch_mppi ---------------------------------------------------------------------------------------


def pytorch_mppi_call(
    model: TDMPC2Model, latent: TensorDict, transition: Callable, ours: Any, iterations: int
) -> Callable[[], Tensor]:
    """Its state is z and what the last step added to J: so its functions depend on their arguments only."""
    import pytorch_mppi

    z, width = latent["z"], model.latent_dim

    def dynamics(state: Tensor, action: Tensor, t: int) -> Tensor:
        following, worth = transition(state[:, :width], action, t)
        return torch.cat([following, worth.unsqueeze(1)], 1)

    def cost(state: Tensor, action: Tensor, t: int) -> Tensor:
        return -state[:, width]

    bound = torch.ones(model.action_dim, device=z.device)
    settings = {
        "num_samples": ours.num_samples,
        "horizon": ours.horizon,
        "device": z.device,
        "lambda_": 1 / ours.temperature,
        "u_min": -bound,
        "u_max": bound,
        "step_dependent_dynamics": True,
    }
    state = torch.cat([z, torch.zeros_like(z[:, :1])], 1)
    if len(z) == 1:
        planner, state = pytorch_mppi.MPPI(dynamics, cost, width + 1, bound.diag(), **settings), state[0]
    else:
        planner = pytorch_mppi.MPPI_Batched(
            dynamics, cost, width + 1, bound.diag(), num_envs=len(z), **settings
        )

    def call() -> Tensor:
        for i in range(iterations):
            action = planner.command(state, shift_nominal_trajectory=i == 0)
        return action.view(len(z), -1).clamp(-1, 1)

    return call
