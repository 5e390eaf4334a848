"""The checks of a planner. Shapes: B environments, H horizon, A action dimension."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from tensordict import TensorDictBase

from dreammpc.interfaces import Plan, Planner, PlanningModel
from dreammpc.planning.contract import common
from dreammpc.planning.contract.common import expect, no_error
from dreammpc.planning.contract.watch import NO_HOST, Watch, on_device
from dreammpc.runtime.devices import seeded_rng, tensor_device

BAD_SETTINGS = {
    **dict.fromkeys(("action_dim", "horizon", "num_samples", "num_candidates", "num_elites"), 0),
    **dict.fromkeys(("iterations", "step_size", "min_std"), -1),
}
"""Settings that many planners have, with a value that each must refuse."""
FIELDS = ("action", "mean", "std", "value")


def check_planner(
    planner: Planner,
    model: PlanningModel | None = None,
    latent: TensorDictBase | None = None,
    *,
    compile: str | None = "eager",
    device: str | None = "meta",
) -> None:
    """Check that agents can rely on `planner`.

    Args:
        planner: a frozen dataclass with the methods of `Planner`.
        model: to plan in; `None` takes a small linear one of the planner's action dimension.
        latent: example latents of the model, a TensorDict [B] of at least two rows that differ; `None`
            takes noise around `model.initial_belief`.
        compile: the backend under which planning must be one graph: `eager` traces only (seconds),
            `inductor` compiles (a minute), `None` skips it.
        device: another one than the model's, where a copy of the model is planned in: all tensors of a plan
            must be made there, without a copy from the host and without reading a tensor's value, as a GPU
            wants it (see `graphable`). `meta` is everywhere, and has no numbers; `None` skips it.

    Raises:
        ContractError: a broken promise.
        ValueError: no usable example latents.
    """
    _settings(planner)
    model = common.LinearModel(planner.action_dim) if model is None else model  # type: ignore[attr-defined]
    case = Case(planner, model, common.example_latent(model, latent))
    for check in (_initial_state, _shapes, _repeatable, _rows, _reset, _gradient_modes, _nan, _precision):
        check(case)
    if device is not None:
        _device(case, torch.device(device))
    if compile is not None:
        _compile(case, compile)


class Case:
    """A planner, a model and example latents."""

    def __init__(self, planner: Any, model: Any, latent: TensorDictBase):
        self.planner, self.model, self.latent = planner, model, latent
        self.named, self.size = type(planner).__name__, latent.shape[0]
        self.device = tensor_device(latent)
        want = model.action_dim
        expect(
            planner.action_dim == want, f"{self.named}.action_dim", f"the model's, {want}", planner.action_dim
        )

    def initial_state(self, size: int | None = None) -> TensorDictBase:
        with no_error(f"{self.named}.initial_state"):
            return self.planner.initial_state(self.size if size is None else size, self.device)

    def plan(
        self,
        state: TensorDictBase | None = None,
        *,
        latent: TensorDictBase | None = None,
        model: Any = None,
        seed: int = 0,
        mode: Callable[..., Any] = torch.no_grad,
        why: str = "",
    ) -> Plan:
        """One call of `plan`, its random numbers from `seed`."""
        latent = self.latent if latent is None else latent
        state = self.initial_state(latent.shape[0]) if state is None else state
        imagination = common.imagination_of(self.model if model is None else model, latent)
        with no_error(f"{self.named}.plan{why}"), mode(), seeded_rng(seed, self.device):
            return cast(Plan, self.planner.plan(imagination, latent, state))

    def expect_same(
        self,
        one: Plan,
        other: Plan,
        expected: str,
        rows: slice = slice(None),
        why: str = "",
        tolerance: float = common.TOLERANCE,
    ) -> None:
        """The same action, mean, std and value in the rows given, up to rounding."""
        for field in FIELDS:
            ours, theirs = getattr(one, field)[rows], getattr(other, field)[rows]
            common.expect_close(f"{self.named}.plan{why}: {field}", ours, theirs, expected, tolerance)

    def expect_action(self, plan: Plan, why: str = "") -> None:
        """Finite actions [B, A] within [-1, 1]."""
        name = f"{self.named}.plan{why}: action"
        common.expect_tensor(name, plan.action, (plan.action.shape[0], self.planner.action_dim))
        furthest = plan.action.abs().max().item()
        expect(furthest <= 1, name, "within [-1, 1]", furthest)


def _settings(planner: Any) -> None:
    named = planner.__name__ if isinstance(planner, type) else type(planner).__name__
    expect(not isinstance(planner, type), named, f"a planner, {named}(action_dim, …)", "the class")
    frozen = dataclasses.is_dataclass(planner) and type(planner).__dataclass_params__.frozen  # type: ignore
    expect(frozen, named, "a frozen dataclass of settings", "a class that is not")
    for method in ("action_dim", "initial_state", "plan"):
        expect(hasattr(planner, method), named, f"`{method}`", "none")
    with no_error(named, "settings only, which can be hashed"):
        hash(planner)
    names = {field.name for field in dataclasses.fields(planner) if field.init}
    for setting, value in BAD_SETTINGS.items():
        if setting not in names:
            continue
        name, expected = f"{named}({setting}={value})", f"a ValueError of one line that names {setting}"
        try:
            dataclasses.replace(planner, **{setting: value})
        except ValueError as error:
            expect(setting in str(error) and "\n" not in str(error), name, expected, f"ValueError: {error}")
        except Exception as error:
            common.fail(name, expected, f"{type(error).__name__}: {error}", error)
        else:
            common.fail(name, expected, "no error")


def _initial_state(case: Case) -> None:
    name = f"{case.named}.initial_state"
    for size in (case.size, 1):
        state = case.initial_state(size)
        expect(isinstance(state, TensorDictBase), name, "a TensorDict", type(state).__name__)
        expect(state.batch_size == (size,), name, f"batch size [{size}]", list(state.batch_size))
    _expect_finite(name, state)


def _expect_finite(name: str, td: TensorDictBase) -> None:
    for key, value in common.named_tensors("", td).items():
        expect(value.isfinite().all(), name + key, "finite numbers", "some that are not")


def _shapes(case: Case) -> None:
    name, actions = f"{case.named}.plan", case.planner.action_dim
    for size in (case.size, 1):
        state = case.initial_state(size)
        plan = case.plan(state.clone(), latent=case.latent[:size])
        expect(isinstance(plan, Plan), name, "a Plan", type(plan).__name__)
        common.expect_tensor(f"{name}: action", plan.action, (size, actions))
        case.expect_action(plan)
        for field in FIELDS[:3]:
            dtype = getattr(plan, field).dtype
            expect(dtype == torch.float32, f"{name}: {field}", "float32", dtype)
        common.expect_tensor(f"{name}: mean", plan.mean, (size, "H", actions))
        common.expect_tensor(f"{name}: std", plan.std, tuple(plan.mean.shape))
        expect((plan.std >= 0).all(), f"{name}: std", "at least 0", plan.std.min().item())
        common.expect_tensor(f"{name}: value", plan.value, (size,))
        common.expect_like(f"{name}: state", plan.state, state)
        _expect_finite(f"{name}: state", plan.state)
        _diagnostics(f"{name}: diagnostics", plan.diagnostics, size)
        expected = "the first action of `mean`"
        common.expect_close(f"{name}: action", plan.action, plan.mean[:, 0], expected)


def _diagnostics(name: str, diagnostics: Any, size: int) -> None:
    expect(isinstance(diagnostics, TensorDictBase), name, "a TensorDict", type(diagnostics).__name__)
    expect(diagnostics.batch_size == (size,), name, f"batch size [{size}]", list(diagnostics.batch_size))
    for key, value in common.named_tensors("", diagnostics).items():
        expect(value.shape == (size,), name + key, f"one number per environment, [{size}]", list(value.shape))


def _repeatable(case: Case) -> None:
    """Nothing is mutated, and the same call gives the same plan: no state is kept elsewhere."""
    name, state = f"{case.named}.plan", case.plan(seed=5).state
    given = {**common.named_tensors("latent", case.latent), **common.named_tensors("state", state)}
    given |= common.weights(case.model)
    with_gradient = {key: weight.grad for key, weight in given.items() if weight.grad is not None}
    given |= {f"gradient of {key}": gradient for key, gradient in with_gradient.items()}
    before = common.copies(given)
    keys = sorted(map(str, state.keys(True, True)))
    one = case.plan(state)
    common.expect_unchanged(name, given, before)
    now = sorted(map(str, state.keys(True, True)))
    expect(now == keys, f"{name}: state", f"the given one left as it was, with {keys}", now)
    for key, weight in common.weights(case.model).items():
        expect(
            key in with_gradient or weight.grad is None, f"{name}: {key}", "no gradient left behind", "one"
        )
    two = case.plan(state)
    case.expect_same(two, one, "the same plan for the same latent, state and seed")
    for key, value in common.named_tensors("state", one.state).items():
        expected = "the same state for the same latent, state and seed"
        common.expect_close(f"{name}: {key}", common.named_tensors("state", two.state)[key], value, expected)


def _rows(case: Case) -> None:
    state = case.plan(seed=5).state
    latent = common.row_changed(case.latent, case.latent)
    one = case.plan(state)
    two = case.plan(common.row_changed(state, case.initial_state()), latent=latent)
    expected = "rows that do not depend on each other (the others as before when the last row changes)"
    case.expect_same(two, one, expected, slice(0, -1))


def _reset(case: Case) -> None:
    """A row whose state is replaced by the initial one, by mask, plans as at an episode's first step."""
    first_state = case.initial_state()
    first = case.plan(first_state)
    mask = torch.arange(case.size, device=case.device) == 0
    with no_error(f"{case.named}.plan: state", "one that torch.where can reset by mask"):
        mixed = torch.where(mask, first_state, first.state)
    masked, second = case.plan(mixed), case.plan(first.state)
    why = " with the state of row 0 reset by mask"
    case.expect_same(masked, first, "row 0 planned as from the initial state", slice(0, 1), why)
    case.expect_same(masked, second, "the other rows planned as without", slice(1, None), why)


def _gradient_modes(case: Case) -> None:
    expected = case.plan()
    for mode, enter in common.gradient_modes().items():
        why = f" under {mode}"
        with enter():
            latent, state = case.latent.clone(), case.initial_state()
        plan = case.plan(state, latent=latent, mode=enter, why=why)
        case.expect_same(plan, expected, "what no_grad gives", why=why, tolerance=common.AMPLIFIED)


def _nan(case: Case) -> None:
    for part in ("latent", "reward", "discount", "value", "policy"):
        for everywhere in (True, False):
            where = "everywhere" if everywhere else "where the first action is positive"
            why = f" with NaN in the model's {part} {where}"
            broken = common.Poisoned(case.model, part, everywhere)
            first = case.plan(model=broken, why=why)
            case.expect_action(first, why)
            finite = first.std.isfinite().all()
            expect(finite, f"{case.named}.plan{why}: std", "finite numbers, as noise is in proportion", "NaN")
            second = case.plan(first.state, model=broken, why=why)
            case.expect_action(second, why)
            _expect_finite(f"{case.named}.plan{why}: state", second.state)
            healed = case.plan(second.state)
            for field in FIELDS:
                finite = getattr(healed, field).isfinite().all()
                expect(finite, f"{case.named}.plan after a step{why}: {field}", "finite numbers", "NaN")
    lost = case.latent.apply(lambda x: torch.full_like(x, torch.nan) if x.is_floating_point() else x)
    why = " from a latent of NaN"
    case.expect_action(case.plan(latent=lost, why=why), why)


def _precision(case: Case) -> None:
    why, state = " under bfloat16 autocast", case.initial_state()
    for _ in range(2):
        plan = case.plan(state, mode=lambda: common.autocast(case.device), why=why)
        case.expect_action(plan, why)
        dtype = plan.action.dtype
        expect(dtype == torch.float32, f"{case.named}.plan{why}: action", "float32", dtype)
        common.expect_like(f"{case.named}.plan{why}: state", plan.state, state)
        state = plan.state


def _device(case: Case, device: torch.device) -> None:
    why = f" on {device}"
    model, latent = on_device(case.model, device), case.latent.to(device)
    with Watch(device) as watch, torch.no_grad(), seeded_rng(0, device):
        state = case.planner.initial_state(case.size, device)
        plan = case.planner.plan(common.imagination_of(model, latent), latent, state)
    expect(not watch.found, f"{case.named}.plan{why}", NO_HOST, f"one that {watch.found}")
    common.expect_device(f"{case.named}.initial_state{why}", common.named_tensors("", state), device)
    results = {f": {field}": getattr(plan, field) for field in FIELDS}
    results |= common.named_tensors(": state", plan.state) | common.named_tensors(
        ": diagnostics", plan.diagnostics
    )
    common.expect_device(f"{case.named}.plan{why}", results, device)


def _compile(case: Case, backend: str) -> None:
    why = " under torch.compile(fullgraph=True)"
    imagination, state = common.imagination_of(case.model, case.latent), case.initial_state()

    def call(latent: TensorDictBase, state: TensorDictBase) -> Any:
        return case.planner.plan(imagination, latent, state)

    torch.compiler.reset()
    compiled = torch.compile(call, backend=backend, fullgraph=True)
    with no_error(f"{case.named}.plan{why}"), torch.no_grad(), seeded_rng(0, case.device):
        plan = compiled(case.latent, state)
    case.expect_action(plan, why)
    common.expect_like(f"{case.named}.plan{why}: state", plan.state, state)
    if backend == "eager":
        case.expect_same(plan, case.plan(state), "what eager gives", why=why)
