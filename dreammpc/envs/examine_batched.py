"""`dreammpc check-env` for TorchRL environments, which come in batches."""

import time
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.envs.examine_steps import (
    ENOUGH_S,
    LARGE_OBSERVATION,
    LARGE_REWARD,
    SLOW_STEP_S,
    Examination,
    many,
)
from dreammpc.envs.families import make_env
from dreammpc.envs.state import Unusable
from dreammpc.envs.task_env import TaskEnv
from dreammpc.interfaces import RunError

ALONE = 20
"""Steps of the repetitions."""
ROWS = 2
"""That are asked for; an environment may come with more."""


def examine_batched(found: Examination, task: str, steps: int, options: dict[str, Any]) -> None:
    """Play random steps, and look at ends, seeds, resets of some rows, and states that are put back."""
    try:
        first, second = (make_env(task, ROWS, **options) for _ in range(2))
    except (ValueError, RunError) as error:
        return found.error(
            "made", str(error).removeprefix(f"task {task!r} ").removeprefix(f"task {task!r}: ")
        )
    facts = (
        many(first.num_envs, "row"),
        many(first.observation_spec["observation"].shape[-1], "observation"),
        many(first.action_spec.shape[-1], "action"),
        f"on {first.device or 'cpu'}",
        f"episodes of at most {many(first.max_episode_steps or 0, 'step')}",
    )
    found.facts.extend(facts)
    if not getattr(first, "limited", True):
        found.warn(
            "limit", f"it has no time limit: episodes are cut off after {first.max_episode_steps} steps"
        )
    if not getattr(first, "heeds_masks", True):
        found.warn("mask", "reset() restarts all rows whatever `_reset` names: they must end together")
    try:
        seen = _play(found, first, steps)
        _repeat(found, first, second, seen)
        _state(found, first, second)
    except RunError as error:
        found.error("step", str(error).removeprefix(f"task {task!r}, "))
    finally:
        first.close()
        second.close()


def _actions(env: TaskEnv, steps: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.rand(steps, *env.action_spec.shape, generator=stream).to(env.device or "cpu") * 2 - 1


def _step(env: TaskEnv, action: Tensor) -> TensorDictBase:
    """A step; rows that are over begin anew."""
    after = env.step(TensorDict({"action": action}, env.batch_size, device=env.device))["next"]
    if bool(after["done"].any()):
        env.reset(after.exclude("reward").set("_reset", after["done"]))
    return after


def _play(found: Examination, env: TaskEnv, steps: int) -> list[Tensor]:
    """Observations from a reset with seed 0 on."""
    env.set_seed(0)
    seen, began, played = [env.reset()["observation"]], time.perf_counter(), 0
    for action in _actions(env, steps):
        if played and time.perf_counter() - began > ENOUGH_S:
            break
        after, played = _step(env, action), played + 1
        seen.append(after["observation"])
        if float(after["reward"].abs().max()) > LARGE_REWARD:
            found.warn("reward", f"step {played}: a reward beyond {LARGE_REWARD:g} is cut")
        if float(after["observation"].abs().max()) > LARGE_OBSERVATION:
            found.warn(
                "large", f"step {played}: an observation beyond {LARGE_OBSERVATION:g}: bring it near 1"
            )
        if not env.episodic and bool(after["terminated"].any()):
            found.warn("episodic", f"step {played}: it terminates, though it is said never to")
    each = (time.perf_counter() - began) / max(played, 1)
    if each > SLOW_STEP_S:
        found.warn("slow step", f"step() takes {1000 * each:.0f} ms: a training makes many thousands")
    found.facts.append(f"{many(played, 'step')} played")
    return seen


def _repeat(found: Examination, first: TaskEnv, second: TaskEnv, seen: list[Tensor]) -> None:
    """Whether another environment, and the first one again, do the same from the same seed on."""
    second.set_seed(0)
    if not torch.equal(second.reset()["observation"], seen[0]):
        return found.warn(
            "seed", "set_seed(0) gives another start each time: evaluations are not on the same starts"
        )
    first.set_seed(0)
    if not torch.equal(first.reset()["observation"], seen[0]):
        found.warn("seed", "set_seed(0) gives another start after an episode: something of it stays")
    for step, action in enumerate(_actions(first, len(seen) - 1)[:ALONE], 1):
        if not torch.equal(_step(second, action)["observation"], seen[step]):
            return found.warn(
                "noise", f"the same seed and actions give other observations from number {step + 1} on"
            )


def _state(found: Examination, first: TaskEnv, second: TaskEnv) -> None:
    for env, steps in ((first, 3), (second, 2)):
        env.set_seed(steps)
        env.reset()
        for action in _actions(env, steps, steps):
            _step(env, action)
    state = first.get_state()
    if state is None:
        return found.warn("state", f"a resumed training begins a fresh episode: {first.stateless}")
    try:
        second.set_state(state)
    except Unusable as error:
        return found.warn("state", f"a resumed training begins a fresh episode: {error}")
    for action in _actions(first, ALONE, 5):
        one, two = (_step(env, action)["observation"] for env in (first, second))
        if not torch.equal(one, two):
            return found.warn(
                "state", "after set_state(get_state()) the same actions give other observations"
            )
