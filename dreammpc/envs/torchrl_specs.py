"""What a TorchRL environment declares: which entries are learned from, its action, what it is made of."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, MultiCategorical, OneHot, TensorSpec, Unbounded
from torchrl.envs import EnvBase, TransformedEnv, VecGymEnvTransform
from torchrl.envs.transforms import AutoResetEnv, Compose, Transform

from dreammpc.envs.spaces import one_line
from dreammpc.envs.state import Unusable
from dreammpc.interfaces import UsageError
from dreammpc.runtime.devices import seeded_rng

UNLIMITED = 1e30
"""Action bounds beyond it are none: TorchRL's `Unbounded` has the largest float."""


def layers(env: EnvBase) -> Iterator[Any]:
    """The environment, what it wraps, and the transforms in between."""
    while isinstance(env, TransformedEnv):
        yield env
        transform: Transform = env.transform
        yield from transform if isinstance(transform, Compose) else [transform]
        env = env.base_env
    yield env


def resets_itself(layer: Any) -> bool:
    return isinstance(layer, AutoResetEnv | VecGymEnvTransform)


def owner(env: EnvBase) -> Any:
    """Which of the layers offers its state.

    Raises:
        Unusable: none does.
    """
    for layer in layers(env):
        if hasattr(type(layer), "get_state") and hasattr(type(layer), "set_state"):
            return layer
    raise Unusable(f"{type(env).__qualname__} has no get_state() and set_state(state)")


def observed(env: EnvBase, task: str) -> list[Any]:
    """The entries that are learned from."""
    leaves = {
        key: spec
        for key, spec in env.observation_spec.items(True, True)
        if isinstance(spec, TensorSpec) and spec.dtype is not None and not spec.dtype.is_complex
    }
    handed = set(env.state_spec.keys(True, True))
    keys = [key for key in leaves if key not in handed] or list(leaves)
    keys = [key for key in keys if math.prod(leaves[key].shape)]
    pictures = [key for key in keys if leaves[key].dtype == torch.uint8 and len(leaves[key].shape) > 2]
    if pictures:
        raise UsageError(
            f"task {task!r}: entry {name(pictures[0])!r} is a picture, and of TorchRL's environments numbers"
            " are learned from: leave it out in the factory"
        )
    if not keys:
        raise UsageError(
            f"task {task!r}: the observation spec has no numbers: {one_line(env.observation_spec)}"
        )
    return keys


def action(env: EnvBase, task: str) -> tuple[Any, TensorSpec]:
    """Key and spec of the action."""
    if len(env.action_keys) != 1 or env.reward_keys != ["reward"] or "done" not in env.done_keys:
        raise UsageError(
            f"task {task!r}: expected one agent with an action, a reward and done at the root, got"
            f" {', '.join(map(name, [*env.action_keys, *env.reward_keys, *env.done_keys]))}"
        )
    spec = env.action_spec
    if isinstance(spec, Categorical | OneHot | MultiCategorical) or not spec.dtype.is_floating_point:
        raise UsageError(
            f"task {task!r}: discrete actions, {type(spec).__name__}, are not supported; expected Bounded"
            " (continuous)"
        )
    if not isinstance(spec, Bounded | Unbounded) or not width(env, spec):
        raise UsageError(f"task {task!r}: the action spec must be Bounded (continuous), got {one_line(spec)}")
    return env.action_keys[0], spec


def bounds(env: EnvBase, spec: TensorSpec, bound: float | None, task: str) -> tuple[Tensor, Tensor]:
    """Of each row's actions, both [b, A]."""
    shape = (env.batch_size.numel(), width(env, spec))
    low, high = (x.expand(spec.shape).reshape(shape).float() for x in (spec.space.low, spec.space.high))
    if bound is not None:
        if bool(((low.abs() < UNLIMITED) & (high.abs() < UNLIMITED)).all()):
            text = f"task {task!r} has bounds of actions: env.action_bound changes nothing"
            warnings.warn(text, stacklevel=2)
        low = torch.where(low.abs() < UNLIMITED, low, -bound)
        high = torch.where(high.abs() < UNLIMITED, high, bound)
    if not bool(((low.abs() < UNLIMITED) & (high.abs() < UNLIMITED)).all()):
        raise UsageError(
            f"task {task!r}: action bounds must be finite; env.action_bound=1 sets those that are not"
        )
    if bool((low > high).any()):
        raise UsageError(f"task {task!r}: action bounds must be in order, got {one_line(spec)}")
    return low, high


def width(env: EnvBase, spec: TensorSpec) -> int:
    return math.prod(spec.shape[env.batch_dims :])


def name(key: Any) -> str:
    return "/".join(key) if isinstance(key, tuple) else str(key)


def heeds_masks(env: EnvBase) -> bool:
    """Whether a reset of the first row alone leaves the others as they were.

    Two steps from the same seed, with and without such a reset in between, must lead the others to the same
    observations. True also where that cannot be told: of one row, of environments that reset themselves, and
    of those that do other things each time.
    """
    if env.batch_size.numel() < 2 or any(map(resets_itself, layers(env))):
        return True
    first = torch.arange(env.batch_size.numel()).reshape(env.full_done_spec["done"].shape) == 0
    keys = observed(env, "")

    def others(restart: bool) -> Tensor:
        env.set_seed(0)
        now = env.reset()
        with seeded_rng(0, env.device):  # of the actions
            for step in range(2):
                now = env.step_mdp(env.step(env.rand_action(now)))
                if restart and step == 0:
                    mask = first.to(env.device or "cpu")
                    now = env.reset(now.set("_reset", mask), select_reset_only=True)
        return torch.cat([now[key].reshape(env.batch_size.numel(), -1)[1:].double() for key in keys], -1)

    plain = others(False)
    return not torch.equal(plain, others(False)) or torch.equal(plain, others(True))


def ends(answer: TensorDictBase, size: int) -> tuple[Tensor, Tensor]:
    """`terminated` and `truncated` [b, 1]; of an environment that says one of them, or `done` alone."""
    done, terminated, truncated = (answer.get(key, None) for key in ("done", "terminated", "truncated"))
    if terminated is None:
        terminated = done if truncated is None else done & ~truncated
    if truncated is None:
        truncated = done & ~terminated
    return terminated.reshape(size, 1), truncated.reshape(size, 1)
