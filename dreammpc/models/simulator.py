"""A planning model from functions of one's own: known physics, a simulator, or a network trained elsewhere.

Shapes: M a flat batch, D state width, A action dimension, K value heads, O observation width.
"""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from dreammpc.interfaces import Outcome


class SimulatorModel(nn.Module):
    """Wraps batched torch functions of states `x` [M, D] and actions `a` [M, A] in [-1, 1].

    The latent is `{"x": x}`. Modules among the functions become submodules, so that `.to`, `.eval` and
    `parameters()` reach them. Gradient planners need functions that autograd can follow. Every function is
    tried once, here, on zeros.

    Args:
        state_dim: D.
        action_dim: A.
        dynamics: (x, a) → next x' [M, D].
        reward: (x, a, x') → [M]. Either this or `cost`.
        cost: (x, a, x') → [M], minus the reward.
        value: x → return-to-go beyond the horizon, [M] or one per head [M, K]; zero if not given.
        policy: x → mean action [M, A]; zero if not given.
        policy_std: standard deviation of the policy's noise, in units of action.
        discount: γ per step, in [0, 1].
        termination: x' → whether, or how probably, the episode ends there, [M]; never if not given.
        encode: observation [M, O] → x, where the observation is not the state itself.
        device: where to try the functions; by default that of the modules among them, else the CPU.

    Raises:
        ValueError: a function that fails or returns a wrong shape; a number out of range; both or neither
            of `reward` and `cost`.

    Example::

        model = SimulatorModel(2, 1, lambda x, a: x + 0.1 * a, cost=lambda x, a, x2: x2.square().sum(-1))
    """

    def __init__(
        self,
        state_dim: int,
        action_dim: int,
        dynamics: Callable[[Tensor, Tensor], Tensor],
        reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        *,
        cost: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
        value: Callable[[Tensor], Tensor] | None = None,
        policy: Callable[[Tensor], Tensor] | None = None,
        policy_std: float = 1.0,
        discount: float = 1.0,
        termination: Callable[[Tensor], Tensor] | None = None,
        encode: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        for name, number in (("state_dim", state_dim), ("action_dim", action_dim)):
            if not number >= 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if not policy_std >= 0:
            raise ValueError(f"policy_std must be at least 0, got {policy_std}")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be in [0, 1], got {discount}")
        if (reward is None) == (cost is None):
            raise ValueError(f"expected either reward or cost, got {'neither' if cost is None else 'both'}")
        self.state_dim, self.action_dim = state_dim, action_dim
        self.policy_std, self.discount = policy_std, discount
        self.dynamics: Callable = dynamics
        self.reward_fn: Any = reward
        self.cost_fn: Callable | None = cost
        self.value_fn: Callable | None = value
        self.policy_fn: Callable | None = policy
        self.termination_fn: Callable | None = termination
        self.encode_fn: Callable | None = encode
        self._try_functions(next((p.device for p in self.parameters()), None) if device is None else device)

    def latent(self, x: Tensor) -> TensorDictBase:
        """The latent TensorDict [M] of states `x` [M, D].

        Raises:
            ValueError: states of another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.state_dim:
            raise ValueError(f"expected states of shape [M, {self.state_dim}], got {list(x.shape)}")
        return TensorDict({"x": x}, x.shape[:1], device=x.device)

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with zeros `x` [B, D]; nothing reads it, as the observation tells the state."""
        return self.latent(torch.zeros(batch_size, self.state_dim, device=device))

    def observe(self, obs: TensorDictBase, prev_action: Tensor, belief: TensorDictBase) -> TensorDictBase:
        """The latent [B] of `obs["observation"]` [B, O], read as float32; the rest is not needed."""
        x = obs["observation"].float()
        x = x if self.encode_fn is None else self.encode_fn(x)
        if x.shape != (*obs.batch_size, self.state_dim):
            what = "observation" if self.encode_fn is None else "encode"
            raise ValueError(_mismatch(what, (*obs.batch_size, self.state_dim), x))
        return self.latent(x)

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """The user's dynamics."""
        return self.latent(self.dynamics(latent["x"], action))

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """The user's reward, or minus the cost, and γ·(1 - termination): both [M]."""
        along = latent["x"], action, next_latent["x"]
        reward = self.reward_fn(*along) if self.cost_fn is None else -self.cost_fn(*along)
        if self.termination_fn is None:
            return Outcome(reward, torch.full_like(reward, self.discount))
        return Outcome(reward, self.discount * (1 - self.termination_fn(next_latent["x"]).to(reward.dtype)))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """The user's value of the state, whatever the action: [M, K]."""
        x = latent["x"]
        if self.value_fn is None:
            return torch.zeros_like(x[:, :1])
        value = self.value_fn(x)
        return value.unsqueeze(-1) if value.ndim == 1 else value

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """The user's mean action, or zero, plus `policy_std`·noise, clamped: [M, A]."""
        action = self.policy_std * noise
        if self.policy_fn is not None:
            action = self.policy_fn(latent["x"]) + action
        return action.clamp(-1, 1)

    @torch.no_grad()
    def _try_functions(self, device: torch.device | str | None) -> None:
        size = max(self.state_dim, self.action_dim) + 2  # a batch that no other dimension is mistaken for
        x = torch.zeros(size, self.state_dim, device=device)
        a = torch.zeros(size, self.action_dim, device=device)
        following = _try("dynamics", self.dynamics, [x, a], x.shape)
        for name, function in (("reward", self.reward_fn), ("cost", self.cost_fn)):
            _try(name, function, [x, a, following], (size,))
        _try("policy", self.policy_fn, [x], a.shape)
        _try("termination", self.termination_fn, [x], (size,))
        _try("value", self.value_fn, [x], (size,), (size, None))


def _try(name: str, function: Callable | None, inputs: list[Tensor], *shapes: tuple[int | None, ...]):
    """What `function` returns, if it has one of the shapes (`None` fits any size); ValueError otherwise."""
    if function is None:
        return None
    given = ", ".join(str(list(x.shape)) for x in inputs)
    try:
        result = function(*inputs)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{name}: failed on inputs of shapes {given}: {reason}") from error
    if isinstance(result, Tensor):
        for shape in shapes:
            fits = all(want in (None, got) for want, got in zip(shape, result.shape, strict=False))
            if len(shape) == result.ndim and fits:
                return result
    raise ValueError(f"{_mismatch(name, shapes[0], result)} for inputs of shapes {given}")


def _mismatch(name: str, shape: tuple[int | None, ...], result: object) -> str:
    got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
    return f"{name}: expected a tensor of shape {list(shape)}, got {got}"
