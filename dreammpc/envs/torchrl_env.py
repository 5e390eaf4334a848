"""TorchRL environments as they are, laid side by side as the rows of a task, on their own device."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from dreammpc.envs import torchrl_specs as specs
from dreammpc.envs.drawing import Undrawable, rendered
from dreammpc.envs.state import Unusable, plain, unplain
from dreammpc.envs.task_env import TIME_LIMIT, TaskEnv
from dreammpc.interfaces import LARGEST, RunError
from dreammpc.support.faults import exception_line

VIOLATION = ("violation", "cost", ("info", "violation"), ("info", "cost"))
SUCCESS = ("success", "is_success", ("info", "success"), ("info", "is_success"))


class TorchRLEnv(TaskEnv):
    """TorchRL environments of any batch size, all of whose elements are rows here.

    What they keep in the TensorDict from one step to the next is held here and goes no further: rows are
    `observation`, the numeric entries of their observation spec joined in its order, without those that are
    handed back to them (in their state spec), if others remain. Nothing leaves their device; a step waits for
    one flag, which says whether all numbers can be learned from.

    A batched environment has one seed for all of its rows, that of its first one: what follows depends on
    that and on the number of rows. Where an environment resets itself, the last observation of an episode is
    not known (TorchRL writes NaN); the one before stands for it.

    Args:
        envs: with equal specs, batched as they come; of any device.
        task: its name, for messages.
        max_episode_steps: a time limit, over which a row is truncated; None takes the environments' own
            attribute of that name, or 1000.
        action_bound: of actions that have none of their own.

    Attributes:
        envs: as given; those of `TaskEnv` besides. `action_repeat`, `episodic`, `full_return`,
            `variant` and `fps` are the environments' own attributes, where they have them; success is their
            entry `success` or `is_success`, at the root or in `info`.
        limited: whether the time limit is one that somebody set.
        heeds_masks: whether a reset of some rows leaves the others alone (see `torchrl_specs.heeds_masks`);
            where it does not, rows must end together.

    Raises:
        UsageError: specs that are not those of one agent with continuous, bounded actions and numbers to
            observe.
        RunError: when stepping or resetting: numbers that cannot be learned from, entries of another shape
            than declared, or rows that end apart where they cannot be restarted apart; a ForeignError where
            an environment raises something.
    """

    def __init__(
        self,
        envs: Sequence[EnvBase],
        task: str,
        max_episode_steps: int | None = None,
        action_bound: float | None = None,
    ):
        first = envs[0]
        self._keys = specs.observed(first, task)
        self._action_key, spec = specs.action(first, task)
        sizes = [env.batch_size.numel() for env in envs]
        widths = [specs.width(first, first.observation_spec[key]) for key in self._keys]
        super().__init__(task, "state", sum(sizes), sum(widths), specs.width(first, spec), first.device)
        self.envs, self._sizes = list(envs), sizes
        self.layout = ", ".join(
            f"{specs.name(k)}[{width}]" for k, width in zip(self._keys, widths, strict=True)
        )
        low, high = zip(
            *(specs.bounds(env, env.action_spec, action_bound, task) for env in envs), strict=True
        )
        self._low, self._high = torch.cat(low), torch.cat(high)
        for name in ("action_repeat", "episodic", "full_return", "variant", "fps"):
            if (own := getattr(first, name, None)) is not None:
                setattr(self, name, own)
        limit: int | None = max_episode_steps or getattr(first, "max_episode_steps", None)
        self.limited, self.heeds_masks = limit is not None, True
        self.max_episode_steps = self._limit = limit or TIME_LIMIT
        self._self_resetting = any(map(specs.resets_itself, specs.layers(first)))
        self._now: list[TensorDictBase | None] = [None] * len(envs)
        rows = (self.num_envs,)
        self._length = torch.zeros(rows, dtype=torch.int64, device=self.device)
        self._row = torch.zeros((*rows, sum(widths)), device=self.device)
        self.success = torch.full(rows, math.nan, device=self.device)
        self.any_success = self.success.clone()

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict.get("action")
        self.steps += 1
        self._whole = False
        own = torch.lerp(self._low, self._high, (action + 1) / 2).split(self._sizes)
        answers = []
        for i, (env, part) in enumerate(zip(self.envs, own, strict=True)):
            now = self._now[i]
            assert now is not None, "reset() comes before step()"
            spec = env.action_spec
            now.set(self._action_key, part.reshape(spec.shape).to(spec.dtype))
            try:
                stepped = env.step(now)
                self._now[i] = env.step_mdp(stepped)
                answers.append(self._flat(i, stepped.get("next"), True))
            except (Exception, SystemExit) as error:
                raise self._fault(self._first_row(i), error) from error
        answer: TensorDictBase = torch.cat(answers)  # type: ignore[arg-type, assignment]
        self._length = self._length + 1
        truncated = answer["truncated"] | (self._length >= self._limit).unsqueeze(-1)
        done = answer["terminated"] | truncated
        observation = answer["observation"]
        if self._self_resetting:
            observation = torch.where(done & observation.isnan(), self._row, observation)
        self._check(observation, answer["reward"], action)
        self._row = observation
        self.success, self.violation = answer["success"], answer["violation"]
        self.any_success = torch.fmax(self.any_success, self.success)
        self._whole = True
        return self._state(answer["terminated"], truncated, reward=answer["reward"])

    def _reset(self, tensordict: TensorDictBase | None = None) -> TensorDict:  # type: ignore[override]
        mask = None if tensordict is None else tensordict.get("_reset", None)
        self._whole = False
        masks = [None] * len(self.envs) if mask is None else mask.split(self._sizes)
        if mask is not None and not self.heeds_masks and not bool(mask.all()):
            raise RunError(
                f"{self._place(None, 'reset')}: rows end apart, and reset() restarts all of them whatever"
                " `_reset` names: mend it, or make environments of one row each, as many as env.num_envs"
            )
        for i, (env, part) in enumerate(zip(self.envs, masks, strict=True)):
            if part is not None and len(self.envs) > 1 and not part.any():
                continue
            try:
                self._now[i] = self._restart(i, env, part)
            except (Exception, SystemExit) as error:
                raise self._fault(self._first_row(i), error, "reset") from error
        self._seeds = [None] * self.num_envs
        try:
            flat = [self._flat(i, now, False) for i, now in enumerate(self._now)]  # type: ignore[arg-type]
        except RunError as error:
            raise self._fault(None, error, "reset") from error
        observation = torch.cat([each["observation"] for each in flat])
        if mask is None:
            mask = torch.ones(self.num_envs, 1, dtype=torch.bool, device=self.device)
        self._check(observation, None, None, "reset")
        ends, here = mask.squeeze(-1), torch.zeros_like(mask)
        self._row, self._length = observation, self._length.masked_fill(ends, 0)
        self.success = self.success.masked_fill(ends, math.nan)
        self.any_success = self.any_success.masked_fill(ends, math.nan)
        self._whole = True
        return self._state(here, here)

    def _restart(self, i: int, env: EnvBase, part: Tensor | None) -> TensorDictBase:
        if (seed := self._seeds[self._first_row(i)]) is not None:
            env.set_seed(seed)
        now = self._now[i]
        if part is None or now is None:
            return env.reset()
        spec = env.full_done_spec["done"]
        mask = part.reshape(spec.shape)
        return env.reset(now.set("_reset", mask), select_reset_only=True).exclude("_reset")

    def _first_row(self, i: int) -> int:
        return sum(self._sizes[:i])

    def _flat(self, i: int, answer: TensorDictBase, ends: bool) -> TensorDictBase:
        """What an environment gave as rows: `observation`; with `ends` also reward, ends and more."""
        env, size = self.envs[i], self._sizes[i]
        parts = []
        for key in self._keys:
            value, spec = answer.get(key, None), env.observation_spec[key]
            if value is None or value.shape != spec.shape:
                got = "none" if value is None else list(value.shape)
                raise RunError(
                    f"entry {specs.name(key)!r} must be {list(spec.shape)}, as its spec declares, got {got}"
                )
            parts.append(value.reshape(size, -1).float())
        rows = {"observation": torch.cat(parts, -1)}
        if ends:
            rows["reward"] = answer.get("reward").reshape(size, 1).float()
            rows["terminated"], rows["truncated"] = specs.ends(answer, size)
            for name, keys in (("success", SUCCESS), ("violation", VIOLATION)):
                found = next((value for key in keys if (value := answer.get(key, None)) is not None), None)
                rows[name] = (
                    torch.full((size,), math.nan, device=self.device)
                    if found is None or found.numel() != size
                    else found.reshape(size).float()
                )
        return TensorDict(rows, [size], device=self.device)

    def _check(
        self, observation: Tensor, reward: Tensor | None, action: Tensor | None, what: str = ""
    ) -> None:
        """Raise RunError for what is not finite or too large; where all is well it costs one flag."""
        numbers = {"action": action, "reward": reward, "observation": observation}
        given = {name: value for name, value in numbers.items() if value is not None}
        well = [(value.abs() <= LARGEST).all() for value in given.values()]
        if bool(torch.stack(well).all()):
            return
        for name, value in given.items():
            for row, entry in (~(value.abs() <= LARGEST)).nonzero().tolist()[:1]:
                found = float(value[row, entry])
                which = "the reward" if name == "reward" else f"{name}[{entry}]"
                bad = f"is {found:g}, beyond {LARGEST:g}" if math.isfinite(found) else "is not finite"
                raise RunError(f"{self._place(row, what)}: {which} {bad}: {found}")

    def _state(self, terminated: Tensor, truncated: Tensor, **extra: Tensor) -> TensorDict:
        done = terminated | truncated
        ends = {"terminated": terminated.clone(), "truncated": truncated.clone(), "done": done}
        return TensorDict(
            {"observation": self._row, **ends, **extra}, batch_size=self.batch_size, device=self.device
        )

    def get_state(self) -> dict[str, Any] | None:
        if not self._whole:
            return None
        try:
            envs = []
            for env, now in zip(self.envs, self._now, strict=True):
                owner = specs.owner(env)
                name = type(owner).__qualname__
                own = plain(_moved(owner.get_state(), "cpu"), f"get_state() of {name}")
                held = None if now is None else plain(now.cpu().to_dict(), f"the TensorDict of {name}")
                envs.append({"own": own, "now": held})
        except Unusable as error:
            self.stateless = str(error)
            return None
        tensors = {name: getattr(self, name).cpu().clone() for name in _BUFFERS}
        return {"envs": envs, "seeds": self._seeds, "buffers": tensors}

    def set_state(self, state: dict[str, Any]) -> None:
        for i, (env, saved) in enumerate(zip(self.envs, state["envs"], strict=True)):
            owner = specs.owner(env)
            try:
                owner.set_state(_moved(unplain(saved["own"]), env.device))
            except Exception as error:
                raise Unusable(
                    f"set_state() of {type(owner).__qualname__} raised {exception_line(error)}"
                ) from error
            held = saved["now"]
            content = None if held is None else _moved(unplain(held), env.device)
            self._now[i] = content and TensorDict(content, env.batch_size, device=env.device)
        for name, values in state["buffers"].items():
            setattr(self, name, values.clone().to(self._row.device))
        self._seeds = state["seeds"] or [None] * self.num_envs  # None in older checkpoints

    def render(self, index: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
        """What the environment itself draws by `render(index, height, width)`, if it does."""
        i = next(i for i in range(len(self.envs)) if index < self._first_row(i) + self._sizes[i])
        draw = getattr(self.envs[i], "render", None)
        if draw is None:
            raise Undrawable(f"task {self.task!r}: it has no render(index, height, width)")
        return rendered(self.task, lambda: draw(index - self._first_row(i), height, width))

    def close(self, *, raise_if_closed: bool = True) -> None:
        for env in self.envs:
            if not env.is_closed:
                env.close()


_BUFFERS = ("_length", "_row", "success", "any_success")


def _moved(values: Any, device: Any) -> Any:
    """Tensors in nested containers on a device."""
    if isinstance(values, Tensor):
        return values.to(device or "cpu")
    if isinstance(values, dict):
        return {key: _moved(value, device) for key, value in values.items()}
    return type(values)(_moved(v, device) for v in values) if type(values) in (list, tuple) else values
