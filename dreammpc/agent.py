"""observe → plan → explore → action, as a TorchRL policy. Owns the carry and its masked reset.

The carry is a TensorDict [B] with `belief`, `prev_action`, `plan` and `noise`; it travels in the
environment's TensorDict under `_carry` and is reset, by the mask `is_init`, here and nowhere else. An agent
plans where its model's weights are; environments may be elsewhere.
"""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs.transforms import TensorDictPrimer

from dreammpc.interfaces import MEMORY, Plan, Planner, UsageError, WorldModel
from dreammpc.planning.imagination import Imagination
from dreammpc.runtime.compiling import compile_mode
from dreammpc.runtime.cuda_graphs import Graphed, tree_leaves, tree_unflatten
from dreammpc.runtime.devices import CPU, forked_rng, lies_at, module_device, tensor_device, to_device
from dreammpc.runtime.recording import prepared

EXPERT_KEYS = (("expert", "mean"), ("expert", "std"), ("expert", "value"))


class Agent(TensorDictModuleBase):
    """A world model with a planner, acting for B environments at once.

    Args:
        model: the world model.
        planner: a planner for the model's action dimension.
        noise_scale: of exploration noise, which is in proportion to a plan's `std`; 0 acts greedily.
        noise_correlation: ρ of the noise from one step to the next, 0 ≤ ρ < 1; its variance stays the same.
        compile: how observing and planning run, see `dreammpc.runtime.compiling.MODES`; True is `default`.
        record: `forward` also writes `expert`, what a policy can learn from, see `expert_from_plan`.

    Raises:
        ValueError: the planner's action dimension differs from the model's; a model that cannot observe.
    """

    out_keys: tuple = ("action", ("next", "_carry"))

    def __init__(
        self,
        model: WorldModel,
        planner: Planner,
        noise_scale: float = 0.0,
        compile: bool | str = False,
        record: bool = False,
        noise_correlation: float = 0.0,
    ):
        super().__init__()
        if not (hasattr(model, "observe") and hasattr(model, "initial_belief")):
            wanted = "the methods initial_belief and observe, to act from observations (see WorldModel)"
            raise ValueError(f"model {type(model).__name__}: expected {wanted}")
        planned = getattr(planner, "action_dim", model.action_dim)
        if planned != model.action_dim:
            raise ValueError(f"the planner has action_dim {planned}, the model {model.action_dim}")
        if not 0 <= noise_correlation < 1:
            raise ValueError(f"noise_correlation must be at least 0 and below 1, got {noise_correlation}")
        self.model, self.planner, self.record = model, planner, record
        self.noise_scale, self.noise_correlation = noise_scale, noise_correlation
        self.obs_keys: tuple[str, ...] = getattr(model, "obs_keys", ("observation",))
        """Of an environment's TensorDict, what the model observes."""
        self.in_keys = (*self.obs_keys, "is_init", "_carry")
        if record:
            self.out_keys = (*self.out_keys, *EXPERT_KEYS)
        self.random = False
        """Act uniformly at random, and the updates are those on such data (the seed phase).

        The carry is still written; the plan that is recorded is N(0, 1), of value 0.
        """
        self.compile_as(compile)
        self._templates: dict[int, Any] = {}
        """What `act` returns, by the size of the batch."""
        self._graphs: dict[tuple, Graphed] = {}
        """Captured plans."""
        self.checked = False
        """The planner's promises have been checked, which the first `step` does."""

    def __getstate__(self) -> dict[str, Any]:
        # What is compiled or captured cannot travel to another process.
        return {**self.__dict__, "_act": None, "_graphs": {}, "_templates": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.compile_as(self._compiled)

    def compile_as(self, mode: bool | str) -> None:
        """Plan from now on as `mode` says, see `dreammpc.runtime.compiling.MODES`."""
        self._compiled, self.compiles = mode, compile_mode(mode) not in (None, "off")
        self._act = prepared(act_tensors, mode, self.planner)

    def _apply(self, *args: Any, **kwargs: Any) -> "Agent":
        self._graphs.clear()  # weights go elsewhere, and buffers become others
        if compile_mode(self._compiled) == "recorded":
            self.compile_as(self._compiled)
        return super()._apply(*args, **kwargs)

    @property
    def device(self) -> torch.device | None:
        """Where it plans: where the weights of its model are; None where observations are, if it has none."""
        return module_device(self.model)

    def initial_carry(self, batch_size: int, device: torch.device | None = None) -> TensorDictBase:
        """The carry before an episode's first step, TensorDict [B], where it plans (graphs: on the host)."""
        device = device or (CPU if compile_mode(self._compiled) == "graphs" else self.device)
        content = {
            "belief": self.model.initial_belief(batch_size, device),
            "prev_action": torch.zeros(batch_size, self.model.action_dim, device=device),
            "plan": self.planner.initial_state(batch_size, device),
            "noise": torch.zeros(batch_size, self.model.action_dim, device=device),
        }
        return TensorDict(content, [batch_size], device=device)

    @torch.no_grad()
    def step(
        self, obs: TensorDictBase, carry: TensorDictBase, is_init: Tensor
    ) -> tuple[Plan, TensorDictBase]:
        """The plan for `obs` [B], and the next carry; rows with `is_init` [B, 1] start from a fresh one.

        The first plan of all is made without `torch.compile` and held against what a planner promises.
        Whatever device they are on, the action goes to that of `obs` and the next carry to that of `carry`;
        what else is in the plan stays where the agent plans.

        Raises:
            UsageError: arguments of other batch sizes; the planner's result has a wrong shape, or the state
                it was given has changed.
        """
        check_arguments(obs, carry, is_init)
        eager = not self.checked or self._follows(carry, is_init)
        if compile_mode(self._compiled) == "graphs" and not eager:
            return self._replayed(obs, carry, is_init)
        home, held = tensor_device(obs), tensor_device(carry)
        here = self.device or home
        obs, carry, is_init = to_device(obs, here), to_device(carry, here), is_init.to(here)
        if eager:
            arguments = *self._arguments(obs, carry, is_init), not self.checked
            (plan, after), self.checked = act(*arguments), True
        else:
            plan, after = self._plan(obs, carry, is_init)
        return plan._replace(action=plan.action.to(home)), to_device(after, held)

    def _arguments(self, obs: TensorDictBase, carry: TensorDictBase, is_init: Tensor) -> Any:
        fresh = self.initial_carry(len(is_init), is_init.device)
        carry = torch.where(is_init.squeeze(-1), fresh, carry)
        return self.model, self.planner, obs, carry, self.noise_scale, self.noise_correlation

    def _plan(self, obs: TensorDictBase, carry: TensorDictBase, is_init: Tensor) -> Any:
        arguments = self._arguments(obs, carry, is_init)
        if not self.compiles:
            return act(*arguments)
        if len(is_init) not in self._templates:
            with forked_rng(is_init.device):
                self._templates[len(is_init)] = act(*arguments)
        return tree_unflatten(self._templates[len(is_init)], self._act(*arguments))

    def _follows(self, carry: TensorDictBase, is_init: Tensor) -> bool:
        """Whether all rows go on with their last plan (`replan_every`); what is compiled always makes one."""
        due = getattr(self.planner, "due", None) if getattr(self.planner, "replan_every", 1) > 1 else None
        return due is not None and not (due(carry["plan"]).to(is_init.device) | is_init.squeeze(-1)).any()

    def _replayed(self, obs: TensorDictBase, carry: TensorDictBase, is_init: Tensor) -> Any:
        """`_plan` as one graph, with one transfer there and one back; all of its results go to the CPU."""
        case = obs.shape[0], self.planner, self.noise_scale, self.noise_correlation, lies_at(self.model)
        if case not in self._graphs:
            here, what = self.device or tensor_device(obs), f"a plan of {type(self.planner).__name__}"
            self._graphs[case] = Graphed(self._plan, here, to_host=True, what=what)
        plan, after = self._graphs[case](obs, carry, is_init)
        return plan, to_device(after, tensor_device(carry))

    @torch.no_grad()
    def forward(self, td: TensorDictBase) -> TensorDictBase:
        """Write `action` and the next carry into `td` (what a TorchRL collector calls), on its device.

        Any batch size will do: that of an environment without one, [], counts as a batch of one.
        """
        rows = td if td.batch_dims == 1 else td.select(*self.in_keys).reshape(-1)
        obs, before = rows.select(*self.obs_keys), rows["_carry"]
        home, held = tensor_device(obs), tensor_device(before)
        if self.random:
            action = torch.rand(rows.shape[0], self.model.action_dim, device=home) * 2 - 1
            carry = to_device(self.initial_carry(rows.shape[0]), held)
            carry["prev_action"] = action
            expert = uninformed_expert(action) if self.record else None
        else:
            plan, carry = self.step(obs, before, rows["is_init"])
            action, expert = plan.action, expert_from_plan(plan) if self.record else None
        td["action"] = action.reshape(*td.batch_size, -1)
        td["next", "_carry"] = carry.reshape(td.batch_size)
        if expert is not None:
            td["expert"] = to_device(expert, home).reshape(td.batch_size)
        return td

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that gives an environment [B] the carry."""
        return TensorDictPrimer({"_carry": as_spec(self.initial_carry(1)[0])}, expand_specs=True)


def expert_from_plan(plan: Plan) -> TensorDictBase:
    """The first action of a plan as a Gaussian, `mean` and `std` [B, A], and its `value` [B, 1]."""
    content = {"mean": plan.mean[:, 0], "std": plan.std[:, 0], "value": plan.value.unsqueeze(-1)}
    return TensorDict(content, [plan.action.shape[0]]).float()


def uninformed_expert(action: Tensor) -> TensorDictBase:
    """What stands for a plan where none was made: N(0, 1), of value 0, for `action` [B, A]."""
    zeros = torch.zeros_like(action)
    return TensorDict({"mean": zeros, "std": zeros + 1, "value": zeros[:, :1]}, [action.shape[0]])


def act(
    model: WorldModel,
    planner: Planner,
    obs: TensorDictBase,
    carry: TensorDictBase,
    noise_scale: float,
    noise_correlation: float,
    check: bool = False,
) -> tuple[Plan, TensorDictBase]:
    """Observe, plan and explore: a function of its arguments alone.

    The noise begins an episode at zero: an Ornstein-Uhlenbeck process, as in DDPG (arXiv 1509.02971, §7).
    """
    belief = model.observe(obs, carry["prev_action"], carry["belief"])
    latent = belief.exclude(MEMORY)
    before = carry["plan"].clone() if check else None
    last = carry["prev_action"], carry["belief"].exclude(MEMORY)
    plan = planner.plan(Imagination(model, *last), latent, carry["plan"])
    if before is not None:
        check_plan(f"planner {type(planner).__name__}", plan, model.action_dim, before, carry["plan"])
    noise = carry["noise"]
    if noise_scale > 0:
        noise = noise_correlation * noise + (1 - noise_correlation**2) ** 0.5 * torch.randn_like(noise)
        moved = plan.action + noise_scale * noise * plan.std[:, 0].nan_to_num(0.0)
        plan = plan._replace(action=moved.clamp(-1, 1))
    content = {"belief": belief, "prev_action": plan.action, "plan": plan.state, "noise": noise}
    return plan, TensorDict(content, carry.batch_size)  # with a device, what has none would be a graph break


def check_arguments(obs: Any, carry: Any, is_init: Any) -> None:
    """Raise UsageError unless all three have one batch size [B]."""
    if not isinstance(obs, TensorDictBase) or obs.batch_dims != 1:
        got = list(obs.batch_size) if isinstance(obs, TensorDictBase) else type(obs).__name__
        raise UsageError(f"obs: expected a TensorDict of batch size [B], got {got}")
    size = obs.shape[0]
    if not isinstance(carry, TensorDictBase) or carry.batch_size != obs.batch_size:
        got = list(carry.batch_size) if isinstance(carry, TensorDictBase) else type(carry).__name__
        raise UsageError(
            f"carry: expected a TensorDict of batch size [{size}], as the observations', got {got};"
            f" the agent's initial_carry({size}) makes one"
        )
    if not isinstance(is_init, Tensor) or is_init.dtype != torch.bool or is_init.shape != (size, 1):
        tensor = isinstance(is_init, Tensor)
        got = f"{is_init.dtype} {list(is_init.shape)}" if tensor else type(is_init).__name__
        raise UsageError(f"is_init: expected bool [{size}, 1], got {got.removeprefix('torch.')}")


def act_tensors(*arguments: Any) -> list[Tensor]:
    """The tensors of what `act` returns: not every torch can hand TensorDicts out of what it compiles."""
    return tree_leaves(act(*arguments))


def check_plan(who: str, plan: Plan, action_dim: int, before: TensorDictBase, given: TensorDictBase) -> None:
    """Raise UsageError if a plan has wrong shapes, or the state `given` differs from its copy `before`."""
    if not isinstance(plan, Plan):
        raise UsageError(f"{who} must return a Plan, got {type(plan).__name__}")
    for name in ("state", "diagnostics"):
        if not isinstance(found := getattr(plan, name), TensorDictBase):
            raise UsageError(f"{who}: {name} must be a TensorDict, got {type(found).__name__}")
    if added := sorted(set(map(str, given.keys(True, True))) - set(map(str, before.keys(True, True)))):
        raise UsageError(f"{who} added {added[0]!r} to the state that it was given; it must return a new one")
    size = before.shape[0]
    horizon = plan.mean.shape[1] if isinstance(plan.mean, Tensor) and plan.mean.ndim == 3 else "H"
    sequence = [size, horizon, action_dim]
    expected = {"action": [size, action_dim], "mean": sequence, "std": sequence, "value": [size]}
    results = {name: getattr(plan, name) for name in expected}
    for name, value in before.items(True, True):
        key = ".".join(name) if isinstance(name, tuple) else name
        expected[f"state {key}"], results[f"state {key}"] = list(value.shape), plan.state.get(name, None)
        now = given[name]
        if not ((now == value) | (now.isnan() & value.isnan())).all():
            raise UsageError(f"{who} changed the state {key!r} that it was given; it must return a new one")
    for name, shape in expected.items():
        got = list(results[name].shape) if isinstance(results[name], Tensor) else type(results[name]).__name__
        if got != shape:
            raise UsageError(f"{who}: {name} must have the shape {shape}, got {got}".replace("'", ""))
    if not (plan.action.abs() <= 1).all():
        raise UsageError(f"{who}: action must be finite, within [-1, 1], got {plan.action.tolist()}")
    if extra := sorted(set(map(str, plan.state.keys(True, True))) - set(map(str, before.keys(True, True)))):
        raise UsageError(f"{who}: state has {extra[0]}, which initial_state does not make")


def as_spec(example: Any) -> Any:
    """The unbounded TorchRL spec of a tensor, or of a TensorDict without batch dimensions."""
    if isinstance(example, Tensor):
        return Unbounded(shape=example.shape, dtype=example.dtype)
    return Composite({key: as_spec(value) for key, value in example.items()})
