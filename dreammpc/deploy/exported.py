"""An exported file, loaded and called."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreammpc.deploy.description import read_description
from dreammpc.deploy.formats import needs, quiet
from dreammpc.interfaces import RunError, UsageError, first_line


class ExportedAgent:
    """Plans by an exported file, one environment at a time, with what it carries from call to call.

    Random numbers come from PyTorch's stream: after `torch.manual_seed` an episode is an agent's.

    Args:
        path: a file of `dreammpc export`, of any format.

    Attributes:
        description: what the file says of itself (docs/deploy.md).
        carry: what the next call reads, by name.
        value: J of the last call's plan, by the model; NaN before the first.

    Raises:
        UsageError: see `read_description`; a file that this PyTorch or this machine cannot run.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.description = read_description(self.path)
        self.kind: str = self.description["kind"]
        of = self.description["inputs"]
        self.inputs = [entry for entry in of if entry["kind"] != "carry"]
        self.carried = [entry for entry in of if entry["kind"] == "carry"]
        self.observed = [entry for entry in of if entry["kind"] == "observation"]
        shapes = {entry["kind"]: entry["shape"] for entry in [*of, *self.description["outputs"]]}
        self.action_dim: int = shapes["action"][1]
        self.horizon: int = shapes["plan"][1]
        self.ahead: int = shapes["pending"][1] if "pending" in shapes else 0
        """How many pending actions it takes."""
        self._call = self._loaded()
        self.reset()

    def reset(self) -> None:
        """Forget: the next call is an episode's first."""
        self.value = float("nan")
        self.carry: dict[str, Tensor] = {}
        for entry in self.carried:
            dtype = getattr(torch, entry["dtype"])
            start = torch.tensor(entry["initial"], dtype=dtype)
            self.carry[entry["name"]] = torch.zeros(entry["shape"], dtype=dtype) + start

    def skip(self, steps: int) -> None:
        """Let so many steps pass without a plan (take them back, if below 0).

        What follows a reference over time is at a later row in the next call.
        """
        if "plan.time" in self.carry:
            self.carry["plan.time"] = self.carry["plan.time"] + steps

    def __call__(self, observation: Any, pending: Any = ()) -> tuple[np.ndarray, np.ndarray]:
        """Observe and plan.

        Args:
            observation: a vector [O]; of agents that see frames a dictionary with `pixels`, bytes
                [C, 64, 64], and `observation`, if they see both.
            pending: actions [n, A] that will be executed before the plan's first, n at most `ahead`.

        Returns:
            The action [A] and the sequence [H, A] that it is the first of, float32 within -1 and 1.

        Raises:
            UsageError: an entry is missing or of another shape; more pending actions than the file takes.
            RunError: an action that is not finite; a program that has other inputs than are described.
        """
        inputs = self._inputs(observation, pending)
        try:
            action, plan, value, self.carry = self._call(inputs, self.carry)
        except Exception as error:
            raise RunError(
                f"file {self.path} cannot be run with the inputs that it describes: {first_line(error)}"
            ) from error
        self.value = float(value)
        if not bool(action.isfinite().all()):
            raise RunError(f"file {self.path}: the action is not finite: {action[0].tolist()}")
        return action[0].numpy(), plan[0].numpy()

    def _inputs(self, observation: Any, pending: Any) -> dict[str, Tensor]:
        given = observation if isinstance(observation, Mapping) else {"observation": observation}
        found: dict[str, Tensor] = {}
        for entry in self.inputs:
            name, shape, dtype = entry["name"], entry["shape"], getattr(torch, entry["dtype"])
            if entry["kind"] == "observation":
                value = given.get(name)
                got = None if value is None else list(np.shape(value))
                if got != shape[1:]:
                    raise UsageError(
                        f"{name}: expected the shape {shape[1:]}, got {'none' if got is None else got}"
                    )
                found[name] = torch.as_tensor(np.asarray(value)).to(dtype)[None]
            elif entry["kind"] == "noise":
                found[name] = draw(entry["distribution"], shape)
        self._add_pending(found, np.asarray(pending, dtype=np.float32).reshape(-1, self.action_dim))
        return {entry["name"]: found[entry["name"]] for entry in self.inputs}

    def _add_pending(self, found: dict[str, Tensor], pending: np.ndarray) -> None:
        if len(pending) > self.ahead:
            raise UsageError(
                f"file {self.path} plans for {self.ahead} pending actions at most, got {len(pending)};"
                f" export it with --ahead {len(pending)}"
            )
        if self.ahead:
            rows = np.zeros((1, self.ahead, self.action_dim), np.float32)
            rows[0, : len(pending)] = pending
            found["pending"] = torch.from_numpy(rows)
            found["ahead"] = torch.tensor([len(pending)])

    def _loaded(self) -> Any:
        try:
            if self.kind == "pt2":
                with quiet():
                    return torch.export.load(self.path).module()
            if self.kind == "aoti":
                self._check_machine()
                with quiet():
                    return torch._inductor.aoti_load_package(str(self.path))
            return self._onnx()
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"file {self.path} cannot be loaded: {first_line(error)}") from error

    def _check_machine(self) -> None:
        here = {"torch": torch.__version__.partition("+")[0], "machine": platform.machine()}
        for key, value in here.items():
            if self.description[key] != value:
                raise UsageError(
                    f"file {self.path} was compiled for {key} {self.description[key]}, here is {value}:"
                    " export it here, or with --format pt2"
                )

    def _onnx(self) -> Any:
        runtime = needs("onnxruntime", f"to run {self.path}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

        def call(inputs: dict[str, Tensor], carry: dict[str, Tensor]) -> Any:
            feed = {**inputs, **{f"carry.{name}": value for name, value in carry.items()}}
            wanted = {one.name for one in session.get_inputs()}
            arrays = {name: value.numpy() for name, value in feed.items() if name in wanted}
            action, plan, value, *after = map(torch.from_numpy, session.run(None, arrays))
            return action, plan, value, dict(zip(carry, after, strict=True))

        return call


def draw(distribution: str, shape: list[int]) -> Tensor:
    """Random numbers as a planner draws them, from PyTorch's stream."""
    if distribution == "normal":
        return torch.randn(shape)
    return torch.rand(shape) if distribution == "uniform" else torch.empty(shape).exponential_()
