"""What the checks of planners and of models share.

Shapes: B environments, M a flat batch, A action dimension, K value heads.
"""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.nn import functional as F

from dreammpc.interfaces import MEMORY, Outcome
from dreammpc.planning.imagination import Imagination
from dreammpc.runtime.devices import module_device, seeded_rng, tensor_device

ROOM = Path(__file__).parent
LIBRARIES = tuple(str(Path(module.__file__ or "").parent) for module in (torch, sys.modules["tensordict"]))
ROWS = 4
"""Rows of the example latents that are made where none are given."""
TOLERANCE = 1e-4
"""Between two ways of computing the same: batched products round differently for different shapes."""
AMPLIFIED = 0.02
"""Where other kernels run (autograd chooses its own) and an optimizer amplifies how they round."""


class ContractError(AssertionError):
    """A broken promise.

    Attributes:
        name: what was checked, e.g. `MyPlanner.plan: action`.
        expected: what the contract says.
        got: what came instead.
    """

    def __init__(self, name: str, expected: str, got: object):
        self.name, self.expected, self.got = name, expected, str(got)
        super().__init__(f"{name}: expected {expected}, got {got}")


def fail(name: str, expected: str, got: object, cause: BaseException | None = None) -> NoReturn:
    """Raise ContractError."""
    raise ContractError(name, expected, got) from cause


def expect(holds: Any, name: str, expected: str, got: object) -> None:
    """Raise ContractError unless `holds`."""
    if not holds:
        fail(name, expected, got)


@contextlib.contextmanager
def no_error(name: str, expected: str = "no error", hint: str = "") -> Iterator[None]:
    """Turn an exception of the code under test into a ContractError of one line."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        text, place = str(error).strip().partition("\n")[0], frame_of(error)
        got = f"{type(error).__name__}: {text}{f' at {place}' if place else ''}{hint}"
        fail(name, expected, got, error)


def frame_of(error: BaseException) -> str:
    """File and line of the innermost frame outside libraries that `error` went through; empty without one.

    What `torch.compile` cannot trace has not run, and is named in the error's text.
    """
    found, trace = "", error.__traceback__
    while trace is not None:
        if not skipped(trace.tb_frame.f_code.co_filename):
            found = line(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    traced = re.findall(r'File "(.+)", line (\d+), in', str(error).partition("from user code:")[2])
    outside = [line(file, int(number)) for file, number in traced if not skipped(file)]
    return outside[-1] if outside else found


def skipped(file: str) -> bool:
    """Whether a file is a library's, or one of this room's."""
    return file.startswith(LIBRARIES) or Path(file).parent == ROOM or file.startswith("<frozen")


def line(file: str, number: int) -> str:
    return f"{Path(file).name}, line {number}"


def structure(td: TensorDictBase) -> dict[str, str]:
    """Key → shape and dtype of every tensor in `td`."""
    return {
        ".".join(key) if isinstance(key, tuple) else key: f"{list(value.shape)} {str(value.dtype)[6:]}"
        for key, value in td.items(True, True)
    }


def expect_like(name: str, td: Any, example: TensorDictBase) -> None:
    """Raise ContractError unless `td` has the batch, keys, shapes and dtypes of `example`."""
    expect(isinstance(td, TensorDictBase), name, "a TensorDict", type(td).__name__)
    batch = list(example.batch_size)
    expect(td.batch_size == example.batch_size, name, f"batch size {batch}", list(td.batch_size))
    has, wants = structure(td), structure(example)
    expect(set(has) == set(wants), name, f"keys {sorted(wants)}", sorted(has))
    for key, want in wants.items():
        expect(has[key] == want, f"{name}[{key}]", want, has[key])


def expect_tensor(name: str, value: Any, shape: tuple[int | str, ...]) -> None:
    """Raise ContractError unless `value` is a finite floating tensor of `shape`; a letter fits any size."""
    expect(isinstance(value, Tensor), name, "a tensor", type(value).__name__)
    want = "[" + ", ".join(map(str, shape)) + "]"
    fits = len(shape) == value.ndim and all(
        got == size or (isinstance(size, str) and got > 0)
        for got, size in zip(value.shape, shape, strict=True)
    )
    expect(fits, name, f"shape {want}", list(value.shape))
    expect(value.is_floating_point(), name, "a floating dtype", value.dtype)
    expect(value.isfinite().all(), name, "finite numbers", f"{(~value.isfinite()).sum()} that are not")


def expect_device(name: str, tensors: dict[str, Tensor], device: torch.device) -> None:
    """Raise ContractError if any of the named tensors is on a device of another type."""
    for key, value in tensors.items():
        expect(value.device.type == device.type, f"{name}{key}", f"a tensor on {device}", value.device)


def expect_close(name: str, one: Tensor, other: Tensor, expected: str, tolerance: float = TOLERANCE) -> None:
    """Raise ContractError unless both tensors agree up to rounding."""
    gap = (one.detach().float() - other.detach().float()).abs() / (1 + other.detach().float().abs())
    expect((gap <= tolerance).all(), name, expected, f"a relative difference of {gap.max():.3g}")


def expect_unchanged(name: str, now: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    """Raise ContractError if any of the named tensors changed (NaN equals NaN)."""
    for key, value in before.items():
        same = torch.equal(now[key].nan_to_num(), value.nan_to_num())
        expect(same, f"{name}: {key}", "to be left unchanged", "a change in place")


def weights(model: Any) -> dict[str, Tensor]:
    """Parameters and buffers of a model by name, none where it is no module."""
    if not isinstance(model, nn.Module):
        return {}
    return {f"weight {key}": value for key, value in [*model.named_parameters(), *model.named_buffers()]}


def named_tensors(name: str, td: TensorDictBase) -> dict[str, Tensor]:
    """The tensors of `td`, named `name[key]`."""
    return {f"{name}[{key}]": td.get(tuple(key.split("."))) for key in structure(td)}


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in tensors.items()}


def example_latent(model: Any, latent: TensorDictBase | None) -> TensorDictBase:
    """The given example latents [B], or noise around the model's initial belief.

    Raises:
        ValueError: none given and none to be made; fewer than two rows, or rows that do not differ.
    """
    if latent is None:
        if not hasattr(model, "initial_belief"):
            raise ValueError(
                f"latent: expected a TensorDict [B] of example latents, got None, and {type(model).__name__}"
                " has no initial_belief to make them from"
            )
        device = module_device(model)
        latent = model.initial_belief(ROWS, device).exclude(MEMORY)
        with seeded_rng(0, device):
            latent = latent.apply(lambda x: x + torch.randn_like(x) if x.is_floating_point() else x)
    if len(latent.batch_size) != 1 or latent.batch_size[0] < 2:
        raise ValueError(f"latent: expected batch size [B] with B at least 2, got {list(latent.batch_size)}")
    if all(torch.equal(x[0], x[-1]) for x in latent.values(True, True)):
        raise ValueError("latent: expected rows that differ, got the same first and last row")
    return latent.detach()


def imagination_of(model: Any, latent: TensorDictBase) -> Imagination:
    """`model` as a planner is given it in the middle of an episode, after an action of zeros."""
    size, device = latent.shape[0], tensor_device(latent)
    last = latent.apply(lambda x: 0.5 * x if x.is_floating_point() else x)
    return Imagination(model, torch.zeros(size, model.action_dim, device=device), last)


def row_changed(td: TensorDictBase, source: TensorDictBase) -> TensorDictBase:
    """A copy of `td` whose last row is the first row of `source`."""
    changed = td.clone()
    changed[-1] = source[0]
    return changed


def gradient_modes() -> dict[str, Callable[..., Any]]:
    """The modes under which everything must work, by name."""
    return {
        "enabled gradients": torch.enable_grad,
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
    }


@contextlib.contextmanager
def autocast(device: torch.device) -> Iterator[None]:
    """bfloat16 as PyTorch mixes it: float32 weights, matrix products in bfloat16; without gradients."""
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        yield


class LinearModel(nn.Module):
    """The planning model that `check_planner` takes where none is given: x' = 0.9x + 0.5a, two value heads.

    Its policy, tanh(-x/2 + noise/2), is poor but depends on the state; its matrix products feel autocast.
    """

    def __init__(self, action_dim: int):
        super().__init__()
        self.action_dim = action_dim
        self.eye: Tensor
        self.register_buffer("eye", torch.eye(action_dim))

    def initial_belief(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        return self._latent(torch.zeros(batch_size, self.action_dim, device=device))

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        return self._latent(F.linear(latent["x"], 0.9 * self.eye) + F.linear(action, 0.5 * self.eye))

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        reward = -(latent["x"].square() + 0.1 * action.square()).sum(-1).float()
        return Outcome(reward, torch.full_like(reward, 0.95))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        square = latent["x"].square().sum(-1).float()
        return torch.stack([-square, -1.5 * square], -1)

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        return torch.tanh(F.linear(0.5 * noise - 0.5 * latent["x"], self.eye))

    @staticmethod
    def _latent(x: Tensor) -> TensorDictBase:
        return TensorDict({"x": x}, x.shape[:1], device=x.device)


class Poisoned:
    """A model with NaN in one part: everywhere, or in rows whose first action (or noise) is positive."""

    def __init__(self, model: Any, part: str, everywhere: bool):
        self.model, self.part, self.everywhere = model, part, everywhere
        self.action_dim = model.action_dim

    def __getattr__(self, name: str) -> Any:  # what objective terms ask for besides, as `observe`
        return getattr(self.__dict__["model"], name)

    def _poison(self, part: str, x: Tensor, action: Tensor) -> Tensor:
        if part != self.part or not x.is_floating_point():
            return x
        hit = torch.ones_like(action[:, 0], dtype=torch.bool) if self.everywhere else action[:, 0] > 0
        return torch.where(hit.view(-1, *[1] * (x.ndim - 1)), torch.nan, x)

    def step(self, latent: TensorDictBase, action: Tensor) -> TensorDictBase:
        return self.model.step(latent, action).apply(lambda x: self._poison("latent", x, action))

    def outcome(self, latent: TensorDictBase, action: Tensor, next_latent: TensorDictBase) -> Outcome:
        reward, discount = self.model.outcome(latent, action, next_latent)
        return Outcome(self._poison("reward", reward, action), self._poison("discount", discount, action))

    def value(self, latent: TensorDictBase, action: Tensor) -> Tensor:
        return self._poison("value", self.model.value(latent, action), action)

    def policy(self, latent: TensorDictBase, noise: Tensor) -> Tensor:
        return self._poison("policy", self.model.policy(latent, noise), noise)
