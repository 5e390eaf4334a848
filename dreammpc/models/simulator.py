"""A planning model from functions of one's own: known physics, a simulator, or a network trained elsewhere.

Shapes: M a flat batch, D state width, A action dimension, K value heads, O observation width.
"""

import logging
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from dreammpc.interfaces import Outcome, UsageError
from dreammpc.runtime.devices import module_device

log = logging.getLogger(__name__)

SAME = 0.01
"""How far a row's result alone may be from that among others: absolute, and relative."""


class SimulatorModel(nn.Module):
    """Wraps batched torch functions of states `x` [M, D] and actions `a` [M, A] in [-1, 1].

    The latent is `{"x": x}`. Modules among the functions become submodules, so that `.to`, `.eval` and
    `parameters()` reach them. Gradient planners need functions that autograd can follow. What goes in is
    float32; what comes out is read as float32. Functions change nothing in place and return new tensors.
    Every function but `encode` is tried here, on small random states and on actions in [-1, 1]: on several
    rows, on rows that share their memory (as the rows of one state do) and on one row, whose result should be
    the one it had among others: a warning tells of chance, and of rows that influence each other.

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
        UsageError: here or in a plan, in one line: a function that fails, writes into what it was given,
            returns the same memory again, a wrong shape or a tensor elsewhere; a number out of range; both or
            neither of `reward` and `cost`; a device that is not there.

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
        for name, size in (("state_dim", state_dim), ("action_dim", action_dim)):
            if not isinstance(size, Integral):
                raise UsageError(f"{name} must be an integer, got {size!r}")
            if not size >= 1:
                raise UsageError(f"{name} must be at least 1, got {size}")
        for name, number in (("policy_std", policy_std), ("discount", discount)):
            if not isinstance(number, Real):
                raise UsageError(f"{name} must be a number, got {_seen(number)}")
        if not 0 <= policy_std < torch.inf:
            raise UsageError(f"policy_std must be at least 0 and finite, got {policy_std}")
        if not 0 <= discount <= 1:
            raise UsageError(f"discount must be in [0, 1], got {discount}")
        if (reward is None) == (cost is None):
            raise UsageError(f"expected either reward or cost, got {'neither' if cost is None else 'both'}")
        self.state_dim, self.action_dim = state_dim, action_dim
        self.policy_std, self.discount = policy_std, discount
        self.dynamics: Callable[..., Any] = dynamics
        self.reward_fn: Any = reward
        self.cost_fn: Callable[..., Any] | None = cost
        self.value_fn: Callable[..., Any] | None = value
        self.policy_fn: Callable[..., Any] | None = policy
        self.termination_fn: Callable[..., Any] | None = termination
        self.encode_fn: Callable[..., Any] | None = encode
        self._try_functions(module_device(self) if device is None else device)

    def latent(self, x: Tensor) -> TensorDictBase:
        """The latent TensorDict [M] of states `x` [M, D], read as float32.

        Raises:
            UsageError: no floating tensor of that shape.
        """
        fits = isinstance(x, Tensor) and x.ndim == 2 and x.shape[1] == self.state_dim
        if not fits or not x.is_floating_point() or x.layout != torch.strided:
            raise UsageError(
                f"latent: expected float32 states of shape [M, {self.state_dim}], got {_seen(x)}"
            )
        return TensorDict({"x": x.float()}, x.shape[:1], device=x.device)

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """TensorDict [B] with zeros `x` [B, D]; nothing reads it, as the observation tells the state."""
        return self.latent(torch.zeros(batch_size, self.state_dim, device=device))

    def observe(self, obs: TensorDictBase, prev_action: Tensor, belief: TensorDictBase) -> TensorDictBase:
        """The latent [B] of `obs["observation"]` [B, O], read as float32; the rest is not needed.

        Raises:
            UsageError: no batch, no observation; a state, or what `encode` returns, that is not [B, D].
        """
        x, shape = obs.get("observation", None), (*obs.batch_size, self.state_dim)
        if x is None:
            there = ", ".join(map(str, obs.keys()))
            raise UsageError(f"observation: expected an entry of that name, got {there}")
        if self.encode_fn is not None:  # of a copy: it is the environment's own tensor
            given = {"observation": x.to(torch.float32, copy=True)}
            return self.latent(_call("encode", self.encode_fn, given, shape))
        return self.latent(_checked("observation", x, (shape,)))

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        """The user's dynamics."""
        x = latent["x"]
        return self.latent(_call("dynamics", self.dynamics, {"x": x, "a": action}, x.shape))

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        """The user's reward, or minus the cost, and γ·(1 - termination): both [M]."""
        along = {"x": latent["x"], "a": action, "x'": next_latent["x"]}
        if self.cost_fn is None:
            reward = _call("reward", self.reward_fn, along, action.shape[:1])
        else:
            reward = -_call("cost", self.cost_fn, along, action.shape[:1])
        if self.termination_fn is None:
            return Outcome(reward, torch.full_like(reward, self.discount))
        ends = _call("termination", self.termination_fn, {"x'": next_latent["x"]}, action.shape[:1])
        return Outcome(reward, self.discount * (1 - ends))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        """The user's value of the state, whatever the action: [M, K]."""
        x = latent["x"]
        if self.value_fn is None:
            return torch.zeros_like(x[:, :1])
        value = _call("value", self.value_fn, {"x": x}, x.shape[:1], (x.shape[0], None))
        return value.unsqueeze(-1) if value.ndim == 1 else value

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        """The user's mean action, or zero, plus `policy_std`·noise, clamped: [M, A]."""
        action = self.policy_std * noise
        if self.policy_fn is not None:
            action = _call("policy", self.policy_fn, {"x": latent["x"]}, noise.shape) + action
        return action.clamp(-1, 1)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _try_functions(self, device: torch.device | str | None) -> None:
        size = max(self.state_dim, self.action_dim) + 2  # a batch that no other dimension is mistaken for
        random = torch.Generator().manual_seed(0)
        x = 0.1 * torch.randn(size, self.state_dim, generator=random)
        a = 1.8 * torch.rand(size, self.action_dim, generator=random) - 0.9
        try:
            x, a = x.to(device), a.to(device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"device {str(device)!r}: {_first_line(error)}") from error
        before: dict[str, tuple[Tensor, Tensor]] = {}
        for rows in (Tensor.clone, _repeated, _alone):
            given = {"x": rows(x), "a": rows(a)}
            _try(before, "dynamics", self.dynamics, given, [given["x"].shape])
            given["x'"] = rows(before["dynamics"][1].clone())
            state, following = {"x": given["x"]}, {"x'": given["x'"]}
            flat = given["x"].shape[:1]
            for name, function, inputs, shapes in (
                ("reward", self.reward_fn, given, [flat]),
                ("cost", self.cost_fn, given, [flat]),
                ("policy", self.policy_fn, state, [given["a"].shape]),
                ("termination", self.termination_fn, following, [flat]),
                ("value", self.value_fn, state, [flat, (*flat, None)]),
            ):
                if function is not None:
                    _try(before, name, function, inputs, shapes)
        if "termination" in before and not x.is_meta:
            ends = before["termination"][1]
            if ((ends < 0) | (ends > 1)).any():
                got = f"[{ends.min():.3g}, {ends.max():.3g}]"
                raise UsageError(f"termination: expected whether, or a probability in [0, 1], got {got}")


def _call(
    name: str, function: Callable[..., Any], inputs: dict[str, Tensor], *shapes: tuple[int | None, ...]
) -> Tensor:
    """What `function` makes of `inputs`, as float32; `None` in one of the `shapes` fits any size.

    Raises:
        UsageError: it failed, wrote into an input, or returned no tensor of one of the shapes.
    """
    watched = {} if torch.compiler.is_compiling() else _versions(inputs)
    try:
        result = function(*inputs.values())
    except Exception as error:
        given = ", ".join(f"{key} {_seen(x)}" for key, x in inputs.items())
        raise UsageError(f"{name}: failed on {given}: {_first_line(error)}") from error
    if watched:
        for key, version in _versions(inputs).items():
            if version != watched[key]:
                raise UsageError(_wrote(name, key))
    result = _checked(name, result, shapes)
    for x in inputs.values():
        if result.device != x.device:
            raise UsageError(f"{name}: expected a tensor on {x.device}, as its inputs, got {result.device}")
    return result


def _versions(inputs: dict[str, Tensor]) -> dict[str, int]:
    """How often each input has been written to; inference tensors do not know."""
    return {key: x._version for key, x in inputs.items() if not x.is_inference()}


def _wrote(name: str, key: str) -> str:
    return f"{name}: wrote into its input {key} in place; compute a new tensor, or write into {key}.clone()"


def _checked(name: str, result: Any, shapes: tuple[tuple[int | None, ...], ...]) -> Tensor:
    """`result` as float32. Raises UsageError if it is no real, dense tensor of one of the shapes."""
    if isinstance(result, Tensor) and not result.is_complex() and result.layout == torch.strided:
        for shape in shapes:
            if len(shape) == result.ndim and all(
                want == got or (want is None and got > 0)
                for want, got in zip(shape, result.shape, strict=True)
            ):
                return result.float()
    raise UsageError(f"{name}: expected a tensor of shape {list(shapes[0])}, got {_seen(result)}")


def _try(
    before: dict[str, tuple[Tensor, Tensor]],
    name: str,
    function: Callable[..., Any],
    inputs: dict[str, Tensor],
    shapes: Sequence[tuple[int | None, ...]],
) -> None:
    """`_call`, with a closer look at inputs whose first row is always the same.

    `before` holds what each function returned at first, and a copy of it.
    """
    copies = {key: x.clone() for key, x in inputs.items()}
    result = _call(name, function, inputs, *shapes)
    first, copy = before.setdefault(name, (result, result.clone()))
    if result.is_meta:
        return
    for key, x in inputs.items():
        if not _equal(x, copies[key]):  # through numpy, which no version counts
            raise UsageError(_wrote(name, key))
    if not _equal(first, copy):
        raise UsageError(f"{name}: wrote into what it returned before; return a new tensor each time")
    alone = len(result) == 1
    if alone and not torch.isclose(result, copy[:1], SAME, SAME, equal_nan=True).all():
        log.warning(
            "%s: a row alone has another result than among others; plans need functions without chance, whose"
            " rows do not influence each other (dropout in training mode? call .eval())",
            name,
        )


def _repeated(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


def _alone(x: Tensor) -> Tensor:
    return x[:1].clone()


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, NaN at the same places included."""
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _seen(value: Any) -> str:
    """Type and shape, as an error tells them."""
    if isinstance(value, Tensor):
        form = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        return f"{form}{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__
