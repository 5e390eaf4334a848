"""Whole episodes of an agent, all environments side by side with batched planning."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tensordict import TensorDictBase

from dreammpc.data.recorder import Recorder
from dreammpc.runtime.devices import (
    CPU,
    device_name,
    module_device,
    seeded_rng,
    tensor_device,
    to_device,
    where,
)


@dataclass
class Episodes:
    """What B episodes gave; lists have one entry per episode."""

    returns: list[float]
    lengths: list[int]
    """Agent steps."""
    terminated: list[bool]
    ms_per_action: float
    """Wall time of observing and planning, divided by all actions taken in the batch."""
    diagnostics: dict[str, float]
    """The planner's diagnostics, averaged over all steps of all episodes; without what it does not know.

    `violation_reported` is what the environment itself said of a constraint, if it did.
    """
    frames: list[np.ndarray] = field(default_factory=list)
    """Pictures of the first environment, uint8 [height, width, 3], if asked for."""
    successes: list[float | None] = field(default_factory=list)
    """1 or 0 at the last step; None where the environment does not report success."""
    any_successes: list[float | None] = field(default_factory=list)
    """1 or 0 for success at any step."""
    scores: list[float | None] = field(default_factory=list)
    """Normalized: the share of the return that the environment calls full, else `successes`."""
    row_diagnostics: list[dict[str, float]] = field(default_factory=list)
    """`diagnostics` of each episode by itself."""
    device: str = "cpu"
    """What planned: a GPU's name, or `cpu`; `threads` are torch's on the CPU."""
    threads: int = 1

    @property
    def where(self) -> str:
        """What the milliseconds are of, such as `cpu, 2 threads`."""
        return where(self.device, self.threads)

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        return float(np.std(self.returns))

    def success_rates(self) -> dict[str, float]:
        """Shares of episodes, `success` at the last step and `any_success`; empty unless all report it."""
        found = {"success": self.successes, "any_success": self.any_successes}
        return {
            name: float(np.mean(values))  # type: ignore[arg-type]
            for name, values in found.items()
            if values and None not in values
        }


def run_episodes(
    env,
    agent,
    seed: int | Sequence[int],
    render_size: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    stepped: Callable[[], None] = lambda: None,
    rows: int | None = None,
    record: Recorder | None = None,
) -> Episodes | None:
    """Play one episode in each of the B environments of `env`.

    Environment i starts from seed + i and the planner's noise from `seed`, whatever was drawn before; the
    global random state is left as it was. The noise of an episode depends on how many are played beside it.

    Args:
        env: a batched environment [B].
        agent: acts with its own `noise_scale`.
        seed: of starts and noise; or one of each environment's start, the first of which is the noise's, too.
        render_size: height and width of the pictures to take of environment 0; `None` takes none.
        should_stop: asked at every step; True gives up and returns `None`.
        stepped: told of every step.
        rows: how many environments are played, the first ones; the others only run beside them. None is all.
        record: is told of every step, and when all episodes are over.
    """
    size = env.batch_size[0]
    seeds = [seed + i for i in range(size)] if isinstance(seed, int) else list(seed)
    played = size if rows is None else rows
    returns, lengths = torch.zeros(size), torch.zeros(size, dtype=torch.int64)
    terminated, alive = torch.zeros(size, dtype=torch.bool), torch.arange(size) < played
    successes: list[float | None] = [None] * size
    any_successes: list[float | None] = [None] * size
    sums: TensorDictBase | None = None
    violations, reports = torch.zeros(size), False
    frames: list[np.ndarray] = []
    seconds = actions = 0.0
    device = module_device(agent.model) or CPU
    with seeded_rng(seeds[0], device):
        env.seed_rows(seeds)
        obs = env.reset()
        home = tensor_device(obs)
        carry, is_init = agent.initial_carry(size), torch.ones(size, 1, dtype=torch.bool)
        while alive.any():
            if should_stop():
                return None
            if render_size is not None and alive[0]:
                frames.append(env.render(0, height=render_size, width=render_size))
            began = time.perf_counter()
            plan, carry = agent.step(obs.select(*agent.obs_keys), carry, is_init)
            action = plan.action.cpu()  # that it is here has waited for the device: the time is the plan's
            action = plan.action.to(home) if home.type != "cpu" else action
            seconds += time.perf_counter() - began
            actions += size
            masked = to_device(plan.diagnostics.detach(), CPU) * alive
            sums = masked if sums is None else sums + masked
            obs["action"] = action
            before, obs = obs, env.step(obs)["next"]
            stepped()
            if record is not None:
                record.step(before, obs, alive)
            violation = torch.as_tensor(getattr(env, "violation", math.nan)).float().cpu().expand(size)
            reports |= bool(violation.isfinite().any())
            violations += violation.nan_to_num(0.0) * alive
            after = to_device(obs.select("reward", "terminated", "done"), CPU)
            returns += after["reward"].squeeze(-1) * alive
            lengths += alive
            terminated |= after["terminated"].squeeze(-1) & alive
            is_init = after["done"].clone()
            for i in (alive & is_init.squeeze(-1)).nonzero().flatten().tolist():
                successes[i], any_successes[i] = _known(env.success[i]), _known(env.any_success[i])
            alive &= ~is_init.squeeze(-1)
            obs = obs.exclude("reward")
            if is_init.any() and alive.any():  # an environment that is over must not be stepped on
                obs = env.reset(obs.set("_reset", obs["done"])).exclude("_reset")
    if record is not None:
        record.end()
    each = {} if sums is None else {key: value[:played] for key, value in sums.items()}
    each |= {"violation_reported": violations[:played]} if reports else {}
    returns, lengths, terminated = returns[:played], lengths[:played], terminated[:played]
    total = float(lengths.sum())
    means = {key: float(value.sum()) / total for key, value in each.items()}
    successes, any_successes = successes[:played], any_successes[:played]
    return Episodes(
        returns.tolist(),
        lengths.tolist(),
        terminated.tolist(),
        1e3 * seconds / actions,
        finite(means),
        frames,
        successes,
        any_successes,
        successes if env.full_return is None else (returns / env.full_return).tolist(),
        [finite({key: float((v / lengths)[i]) for key, v in each.items()}) for i in range(played)],
        device_name(device),
        torch.get_num_threads(),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def finite(values: dict[str, float]) -> dict[str, float]:
    """Without what is NaN or infinite."""
    return {key: value for key, value in values.items() if math.isfinite(value)}
