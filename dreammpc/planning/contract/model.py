"""The checks of a model. Shapes: M a flat batch, A action dimension, K value heads."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.interfaces import Outcome, PlanningModel
from dreammpc.planning.contract import common
from dreammpc.planning.contract.common import expect, no_error
from dreammpc.planning.contract.watch import NO_HOST, Watch, on_device
from dreammpc.runtime.devices import seeded_rng, tensor_device

METHODS = ("step", "outcome", "value", "policy")
PERTURBATION = 0.01
"""How far inputs are moved to see whether an output depends on them."""


def check_model(
    model: PlanningModel,
    latent: TensorDictBase | None = None,
    obs: TensorDictBase | None = None,
    *,
    gradients: bool = True,
    compile: str | None = "eager",
    device: str | None = "meta",
) -> None:
    """Check that planners can rely on `model`.

    Args:
        model: with the methods of `PlanningModel`, or of `WorldModel`.
        latent: example latents, a TensorDict [B] of at least two rows that differ; `None` takes noise around
            `model.initial_belief`.
        obs: example observations, a TensorDict [B]: `observe` is checked too.
        gradients: whether gradients must reach actions and latents; False for a model that only sampling
            planners will use.
        compile: the backend under which every method must be one graph: `eager` traces only (seconds),
            `inductor` compiles (minutes), `None` skips it.
        device: another one than the model's, to which a copy is moved as by `model.to(device)`: every method
            must do all its work there, without the host (see `graphable`), and latents must say where they
            are, since planners make tensors on `latent.device`. `meta` is everywhere, and has no numbers;
            `None` skips it.

    Raises:
        ContractError: a broken promise.
        ValueError: no usable example latents.
    """
    named = type(model).__name__
    for method in ("action_dim", *METHODS):
        expect(hasattr(model, method), named, f"`{method}`", "none")
    whole = isinstance(model.action_dim, Integral) and model.action_dim > 0
    expect(whole, f"{named}.action_dim", "a whole number of at least 1", repr(model.action_dim))
    latent = common.example_latent(model, latent)
    with seeded_rng(0, latent.device):
        case = Case(model, latent)
    checks = [_shapes, _unchanged, _rows, _policy_mode, _gradient_modes, _precision]
    checks += [_gradients] if gradients else []
    for check in checks:
        check(case)
    if obs is not None:
        _observe(case, obs)
    if device is not None:
        _device(case, torch.device(device), obs)
    if compile is not None:
        _compile(case, compile)


class Case:
    """A model with example inputs: latents, actions and noise of M rows."""

    def __init__(self, model: Any, latent: TensorDictBase):
        self.model, self.latent, self.size = model, latent, latent.shape[0]
        self.named, self.device = type(model).__name__, tensor_device(latent)
        shape = (self.size, model.action_dim)
        self.action = torch.rand(shape, device=self.device) * 1.8 - 0.9
        self.noise = torch.randn(shape, device=self.device)
        self.next_latent = self.call("step", latent, self.action)
        common.expect_like(f"{self.named}.step", self.next_latent, latent)
        self.inputs = {
            "step": (latent, self.action),
            "outcome": (latent, self.action, self.next_latent),
            "value": (latent, self.action),
            "policy": (latent, self.noise),
        }
        self.input_names = {"outcome": ("latent", "action", "next_latent"), "policy": ("latent", "noise")}

    def call(
        self,
        method: str,
        *inputs: Any,
        mode: Callable[..., Any] = torch.no_grad,
        why: str = "",
        seed: int = 0,
    ) -> Any:
        """What a method returns, its random numbers from `seed`."""
        name = f"{self.named}.{method}{why}"
        with no_error(name), mode(), seeded_rng(seed, self.device):
            return getattr(self.model, method)(*inputs)

    def named_inputs(self, method: str) -> dict[str, Tensor]:
        """Every tensor that a method is given, by name."""
        names = self.input_names.get(method, ("latent", "action"))
        tensors: dict[str, Tensor] = {}
        for name, value in zip(names, self.inputs[method], strict=True):
            tensors |= {name: value} if isinstance(value, Tensor) else common.named_tensors(name, value)
        return tensors


def tensors_of(method: str, result: Any) -> dict[str, Tensor]:
    """The tensors that a method returned, by name."""
    if isinstance(result, TensorDictBase):
        return common.named_tensors(f"{method} latent", result)
    if isinstance(result, Outcome):
        return {"outcome reward": result.reward, "outcome discount": result.discount}
    return {method: result}


def _shapes(case: Case) -> None:
    for size in (case.size, 1):
        _check_results(case, size, "")


def _check_results(case: Case, size: int, why: str, mode: Callable[..., Any] = torch.no_grad) -> None:
    named = case.named
    inputs = {method: tuple(x[:size] for x in case.inputs[method]) for method in METHODS}
    results = {method: case.call(method, *inputs[method], mode=mode, why=why) for method in METHODS}
    if not why:
        common.expect_like(f"{named}.step", results["step"], case.latent[:size])
    for name, value in tensors_of("step", results["step"]).items():
        finite = value.isfinite().all()
        expect(finite, f"{named}.{name}{why}", "finite numbers", "some that are not")
    outcome = results["outcome"]
    is_outcome = isinstance(outcome, Outcome)
    expect(is_outcome, f"{named}.outcome{why}", "an Outcome(reward, discount)", type(outcome).__name__)
    common.expect_tensor(f"{named}.outcome{why}: reward", outcome.reward, (size,))
    common.expect_tensor(f"{named}.outcome{why}: discount", outcome.discount, (size,))
    low, high = outcome.discount.min().item(), outcome.discount.max().item()
    expect(low >= 0 and high <= 1, f"{named}.outcome{why}: discount", "within [0, 1]", f"[{low}, {high}]")
    common.expect_tensor(f"{named}.value{why}", results["value"], (size, "K"))
    common.expect_tensor(f"{named}.policy{why}", results["policy"], (size, case.model.action_dim))
    furthest = results["policy"].abs().max().item()
    expect(furthest <= 1, f"{named}.policy{why}", "actions within [-1, 1]", furthest)


def _unchanged(case: Case) -> None:
    for method in METHODS:
        given = {**case.named_inputs(method), **common.weights(case.model)}
        before = common.copies(given)
        case.call(method, *case.inputs[method])
        common.expect_unchanged(f"{case.named}.{method}", given, before)


def _rows(case: Case) -> None:
    for method in METHODS:
        changed = []
        for x in case.inputs[method]:
            changed.append(x.clone())
            changed[-1][-1] = x[0]
        one = tensors_of(method, case.call(method, *case.inputs[method]))
        two = tensors_of(method, case.call(method, *changed))
        for name in one:
            expected = "rows that do not depend on each other (row 0 as before when the last row changes)"
            common.expect_close(f"{case.named}.{name}", two[name][:-1], one[name][:-1], expected)


def _policy_mode(case: Case) -> None:
    zero = torch.zeros_like(case.noise)
    one, two = (case.call("policy", case.latent, zero, seed=seed) for seed in (0, 1))
    common.expect_close(f"{case.named}.policy", two, one, "the same action whenever the noise is zero")


def _gradient_modes(case: Case) -> None:
    for method in METHODS:
        expected = tensors_of(method, case.call(method, *case.inputs[method]))
        for mode, enter in common.gradient_modes().items():
            why = f" under {mode}"
            inputs = [x.clone() for x in case.inputs[method]]
            result = tensors_of(method, case.call(method, *inputs, mode=enter, why=why))
            for name in expected:
                common.expect_close(
                    f"{case.named}.{name}{why}", result[name], expected[name], "what no_grad gives"
                )


def _precision(case: Case) -> None:
    why = " under bfloat16 autocast"

    def mode() -> Any:
        return common.autocast(case.device)

    _check_results(case, case.size, why, mode)
    half = case.call("step", *case.inputs["step"], mode=mode, why=why)
    for method, inputs in {"step": (half, case.action), "policy": (half, case.noise)}.items():
        result = case.call(method, *inputs, mode=mode, why=why)  # its own output is an input again
        for name, value in tensors_of(method, result).items():
            expect(value.isfinite().all(), f"{case.named}.{name}{why}", "finite numbers", "some that are not")


def _gradients(case: Case) -> None:
    """Where an output changes with an input, the gradient must reach that input."""
    for method in METHODS:
        given = case.named_inputs(method)
        for key, tensor in given.items():
            if not tensor.is_floating_point() or key == "noise":
                continue
            with seeded_rng(1, case.device):
                moved = tensor + PERTURBATION * torch.randn_like(tensor)
            still = tensors_of(method, case.call(method, *_with(case, method, key, tensor)))
            after = tensors_of(method, case.call(method, *_with(case, method, key, moved)))
            leaf = tensor.detach().clone().requires_grad_()
            inputs = _with(case, method, key, leaf)
            results = tensors_of(method, case.call(method, *inputs, mode=torch.enable_grad))
            for name, result in results.items():
                depends = (after[name] - still[name]).abs().max() > 1e-6
                if not depends or not result.is_floating_point() or name == "outcome discount":
                    continue
                name = f"{case.named}.{name}: gradient with respect to {key}"
                expected = "one, as the output changes with it"
                expect(result.requires_grad, name, expected, "none: it was detached on the way")
                with seeded_rng(2, case.device):  # a plain sum can be constant, as that of a softmax is
                    total = (result * torch.randn_like(result)).sum()
                (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True, retain_graph=True)
                expect(gradient is not None, name, expected, "none: it was detached on the way")
                expect(gradient.isfinite().all(), name, "finite numbers", "some that are not")
                expect((gradient != 0).any(), name, expected, "zeros everywhere")


def _with(case: Case, method: str, key: str, value: Tensor) -> list[Any]:
    """The inputs of a method with the tensor called `key` replaced."""
    name, _, leaf = key.rstrip("]").partition("[")
    names = case.input_names.get(method, ("latent", "action"))
    inputs: list[Any] = list(case.inputs[method])
    place = names.index(name)
    if leaf:
        inputs[place] = inputs[place].clone()
        inputs[place][tuple(leaf.split("."))] = value
    else:
        inputs[place] = value
    return inputs


def _device(case: Case, device: torch.device, obs: TensorDictBase | None) -> None:
    model, size = on_device(case.model, device), case.size
    inputs = {method: tuple(x.to(device) for x in case.inputs[method]) for method in METHODS}
    if hasattr(model, "initial_belief"):
        inputs["initial_belief"] = (size, device)
    if obs is not None and hasattr(model, "observe"):
        belief, action = model.initial_belief(obs.shape[0], device), case.action[:1].expand(obs.shape[0], -1)
        inputs["observe"] = (obs.to(device), action.to(device), belief)
    for method, given in inputs.items():
        name = f"{case.named}.{method} on {device}"
        with Watch(device) as watch, torch.no_grad(), seeded_rng(0, device):
            result = getattr(model, method)(*given)
        expect(not watch.found, name, NO_HOST, f"one that {watch.found}")
        common.expect_device(name, {f": {key}": x for key, x in tensors_of(method, result).items()}, device)
        if isinstance(result, TensorDictBase):
            says = "a latent that says where it is, TensorDict(…, device=…)"
            expect(result.device is not None, f"{name}: device", says, result.device)


def _compile(case: Case, backend: str) -> None:
    why = " under torch.compile(fullgraph=True)"
    for method in METHODS:
        expected = tensors_of(method, case.call(method, *case.inputs[method]))
        torch.compiler.reset()
        compiled = torch.compile(getattr(case.model, method), backend=backend, fullgraph=True)
        with no_error(f"{case.named}.{method}{why}"), torch.no_grad(), seeded_rng(0, case.device):
            results = tensors_of(method, compiled(*case.inputs[method]))
        for name, value in results.items():
            if backend == "eager":
                common.expect_close(f"{case.named}.{name}{why}", value, expected[name], "what eager gives")
            expect(value.isfinite().all(), f"{case.named}.{name}{why}", "finite numbers", "some that are not")


def _observe(case: Case, obs: TensorDictBase) -> None:
    named, model, size = case.named, case.model, obs.shape[0]
    for method in ("initial_belief", "observe"):
        expect(hasattr(model, method), named, f"`{method}`", "none")
    belief = case.call("initial_belief", size, case.device)
    action = torch.zeros(size, model.action_dim, device=case.device)
    given = {
        **common.named_tensors("obs", obs),
        **common.named_tensors("belief", belief),
        **common.weights(model),
    }
    before = common.copies(given)
    latent = case.call("observe", obs, action, belief)
    common.expect_unchanged(f"{named}.observe", given, before)
    common.expect_like(f"{named}.observe", latent, belief)
    changed = case.call("observe", common.row_changed(obs, obs), action, belief)
    for key, value in tensors_of("observe", latent).items():
        after = tensors_of("observe", changed)[key]
        common.expect_close(f"{named}.{key}", after[:-1], value[:-1], "rows that do not depend on each other")
