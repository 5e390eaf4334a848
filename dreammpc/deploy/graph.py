"""One call of an agent, observation and carry in, action and carry out, as a graph of tensor operations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from dreammpc.agent import Agent
from dreammpc.interfaces import MEMORY, UsageError, first_line
from dreammpc.planning import Imagination
from dreammpc.runtime.devices import CPU, forked_rng
from dreammpc.runtime.recording import ALIASES

DRAWS = {"randn": "normal", "randn_like": "normal", "rand": "uniform", "rand_like": "uniform"}
DRAWS |= {"exponential": "exponential", "exponential_": "exponential"}
"""Operations that draw random numbers, and from which distribution: N(0, 1), U[0, 1) or Exp(1)."""
SIZES = {"observation": "obs_dim", "pixels": "channels"}
"""What may be observed, and the attribute of a model that says how much: O, or C of [C, 64, 64]."""
RESULTS = ("action", "plan", "value")
"""What a call gives beside the carry: the action [1, A], the plan [1, H, A] and its J [1]."""


@dataclass(frozen=True)
class Entry:
    """A named tensor that goes in or comes out."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As PyTorch calls it: `float32`, `uint8`, …"""
    distribution: str | None = None
    """Of random numbers: `normal`, `uniform` or `exponential`."""

    @classmethod
    def of(cls, name: str, value: Tensor, distribution: str | None = None) -> "Entry":
        return cls(name, tuple(value.shape), str(value.dtype).removeprefix("torch."), distribution)

    def zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True)
class Program:
    """An agent's call: `action, plan, value, carry = module(inputs, carry)`, both of them dictionaries."""

    module: nn.Module
    inputs: list[Entry]
    """What is observed; `pending` and `ahead`, if it plans ahead; random numbers, if they are inputs."""
    carry: list[Entry]
    """What is handed from call to call; only what a plan reads."""
    outputs: list[Entry]
    """`action` [1, A], `plan` [1, H, A] and `value` [1], J of the plan; the carry follows."""
    initial: dict[str, Tensor]
    """The carry before an episode's first step."""

    def example(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Arguments of a first call."""
        return {entry.name: entry.zeros() for entry in self.inputs}, dict(self.initial)


def program(agent: Agent, ahead: int = 0, portable: bool = False) -> Program:
    """Trace one call of `agent` for a single environment, acting greedily, on the CPU.

    Args:
        agent: its model's weights are in the graph as they are now.
        ahead: above 0 the call also takes `pending` [1, ahead, A], actions that will be executed before the
            plan's first, and `ahead` [1], int64, how many of them count: the plan is for the state that the
            model predicts after these. 0 plans for the state that is observed.
        portable: for ONNX: random numbers are inputs in place of draws from PyTorch's stream, and operations
            that it lacks are written as others.

    Raises:
        UsageError: a planner whose operations depend on the clock or on values of tensors; one whose random
            numbers cannot be inputs; see `observed`.
    """
    planner, who = agent.planner, f"planner {type(agent.planner).__name__}"
    budget = getattr(planner, "max_ms", torch.inf)
    if budget != torch.inf:
        raise UsageError(
            f"{who}: max_ms={budget:g} depends on the clock and cannot be exported; leave it out, and"
            " give the loop that runs the file a deadline"
        )
    fresh = agent.initial_carry(1, CPU)
    start = dict(sorted((dotted(key), value) for key, value in fresh.items(True, True)))
    seen = observed(agent.model)
    if ahead:
        seen["pending"] = torch.zeros(1, ahead, agent.model.action_dim)
        seen["ahead"] = torch.zeros(1, dtype=torch.int64)
    names = [*seen, *start]

    def call(*tensors: Tensor) -> list[Tensor]:
        given = dict(zip(names, tensors, strict=True))
        before = nested({name: given[name] for name in start})
        results, after = plan_once(agent, {name: given[name] for name in seen}, before)
        return [*results, *(after[tuple(name.split("."))] for name in start)]

    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {}
    if portable:
        table = {aten.cumprod.default: cumprod, aten.mish_backward.default: mish_backward}
    try:
        with torch.no_grad(), forked_rng(CPU):
            traced = make_fx(torch.func.functionalize(call, remove="mutations"), table)(
                *(value.clone() for value in [*seen.values(), *start.values()])
            )
            results = call(*seen.values(), *start.values())
    except RuntimeError as error:
        raise UsageError(
            f"{who} cannot be exported: its operations depend on values of tensors ({first_line(error)})"
        ) from error
    for node in [node for node in traced.graph.nodes if node.target in ALIASES]:
        node.replace_all_uses_with(node.args[0])
    noise = noise_as_inputs(traced.graph, who) if portable else []
    carried = prune(traced.graph, len(seen), list(start))
    for name, weight in list(traced.named_parameters()):  # constants, of which nothing is learned
        delattr(traced, name)
        traced.register_buffer(name, weight.detach().clone())
    traced.recompile()
    carry = [Entry.of(name, start[name]) for name in carried]
    inputs = [*(Entry.of(name, value) for name, value in seen.items()), *noise]
    outputs = [Entry.of(name, value) for name, value in zip(RESULTS, results, strict=False)]
    module = Call(traced, [entry.name for entry in inputs], len(seen), carried)
    return Program(module, inputs, carry, outputs, {name: start[name] for name in carried})


def plan_once(
    agent: Agent, seen: dict[str, Tensor], carry: TensorDictBase
) -> tuple[tuple[Tensor, Tensor, Tensor], TensorDictBase]:
    """`RESULTS` and the next carry; see `dreammpc.agent.act` and `program`."""
    model, last, before = agent.model, carry["prev_action"], carry["belief"].exclude(MEMORY)
    obs = TensorDict({key: seen[key] for key in agent.obs_keys}, [1])
    belief = model.observe(obs, last, carry["belief"])
    latent, state = belief.exclude(MEMORY), carry["plan"]
    if "ahead" in seen:
        state = later(state, seen["ahead"])
        for i, action in enumerate(seen["pending"].unbind(1)):
            counts = seen["ahead"] > i
            latent = torch.where(counts, model.step(latent, action), latent)
            last = torch.where(counts[:, None], action, last)
    plan = agent.planner.plan(Imagination(model, last, before), latent, state)
    after = later(plan.state, -seen["ahead"]) if "ahead" in seen else plan.state
    content = {"belief": belief, "prev_action": plan.action, "plan": after, "noise": carry["noise"]}
    return (plan.action, plan.mean, plan.value), TensorDict(content, [1])


def later(state: TensorDictBase, steps: Tensor) -> TensorDictBase:
    """A planner's state with its `time` [1, 1], if it has one (objective terms do), `steps` [1] later."""
    return state.copy().set("time", state["time"] + steps[:, None]) if "time" in state else state


def observed(model: Any) -> dict[str, Tensor]:
    """Zeros for what `model` observes of one environment.

    Raises:
        UsageError: it observes something else, or does not say how much.
    """
    found: dict[str, Tensor] = {}
    for key in getattr(model, "obs_keys", ("observation",)):
        who, size = f"model {type(model).__name__}", SIZES.get(key)
        if size is None:
            raise UsageError(f"{who} observes {key!r}; what is exported takes {' and '.join(SIZES)}")
        if (count := getattr(model, size, None)) is None:
            raise UsageError(f"{who} has no attribute {size}, which an export needs for the shape of {key}")
        pixels = key == "pixels"
        found[key] = torch.zeros(1, count, 64, 64, dtype=torch.uint8) if pixels else torch.zeros(1, count)
    return found


class Call(nn.Module):
    """The traced graph, called with dictionaries.

    Args:
        traced: of flat arguments: what is seen, the carry, random numbers.
        inputs: names of what is seen and of random numbers.
        seen: how many of them are no random numbers.
        carried: names of the carry.
    """

    def __init__(self, traced: fx.GraphModule, inputs: Sequence[str], seen: int, carried: Sequence[str]):
        super().__init__()
        self.traced, self.names, self.seen, self.carried = traced, list(inputs), seen, list(carried)

    def forward(
        self, inputs: dict[str, Tensor], carry: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """The action, the plan, its J and the next carry."""
        values, before = [inputs[name] for name in self.names], [carry[name] for name in self.carried]
        action, plan, value, *after = self.traced(*values[: self.seen], *before, *values[self.seen :])
        return action, plan, value, dict(zip(self.carried, after, strict=True))


def noise_as_inputs(graph: fx.Graph, who: str) -> list[Entry]:
    """Make every draw of random numbers an input, the last ones, in the order of the draws."""
    drawn = [node for node in graph.nodes if is_random(node)]
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    entries = []
    for i, node in enumerate(drawn):
        operation = node.target.__name__.partition(".")[0]
        if operation not in DRAWS:
            raise UsageError(
                f"{who}: draws random numbers by {operation}, which cannot be an input"
                f" (those of {', '.join(DRAWS)} can); export to pt2 or aoti, which draw them inside"
            )
        value = node.meta["val"] if "val" in node.meta else node.meta["tensor_meta"]
        with graph.inserting_after(last):
            last = graph.placeholder(f"noise_{i}")
        entries.append(Entry.of(f"noise.{i}", value, DRAWS[operation]))
        node.replace_all_uses_with(last)
        graph.erase_node(node)
    return entries


def is_random(node: fx.Node) -> bool:
    tags = getattr(node.target, "tags", ()) if node.op == "call_function" else ()
    return torch.Tag.nondeterministic_seeded in tags


def prune(graph: fx.Graph, seen: int, carried: Sequence[str]) -> list[str]:
    """Take out of the graph what of the carry no plan reads; the names of what is left.

    The carry's inputs follow `seen` others, its outputs `RESULTS`.
    """
    places = [node for node in graph.nodes if node.op == "placeholder"][seen : seen + len(carried)]
    output = next(node for node in graph.nodes if node.op == "output")
    results, first = list(output.args[0]), len(RESULTS)
    read: list[int] = []
    while True:
        needed = ancestors([*results[:first], *(results[first + i] for i in read)])
        now = [i for i, place in enumerate(places) if place in needed]
        if now == read:
            break
        read = now
    output.args = ([*results[:first], *(results[first + i] for i in read)],)
    graph.eliminate_dead_code()
    for i in set(range(len(places))) - set(read):
        graph.erase_node(places[i])
    return [carried[i] for i in read]


def ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes and all that they are computed from."""
    found, left = set(nodes), list(nodes)
    while left:
        new = set(left.pop().all_input_nodes) - found
        found |= new
        left += new
    return found


def cumprod(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Products one after another along `dim`, which is short."""
    parts: list[Tensor] = []
    for one in (x if dtype is None else x.to(dtype)).unbind(dim):
        parts.append(parts[-1] * one if parts else one)
    return torch.stack(parts, dim)


def mish_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """As in `dreammpc.nn.layers.LargeMish`, which has no overflow."""
    u = torch.exp(torch.clamp(x, max=20.0))
    n = u * (u + 2)
    t = n / (n + 2)
    rest = 1 - t
    return gradient * (t + x * u * (u + 1) * rest * rest)


def dotted(key: str | tuple[str, ...]) -> str:
    return key if isinstance(key, str) else ".".join(key)


def nested(values: dict[str, Tensor]) -> TensorDictBase:
    """The TensorDict [1] of values with dotted names."""
    carry = TensorDict({"belief": TensorDict({}, [1]), "plan": TensorDict({}, [1])}, [1])
    for name, value in values.items():
        carry[tuple(name.split("."))] = value
    return carry
