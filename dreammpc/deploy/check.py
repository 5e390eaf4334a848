"""An exported file against the agent that it was made of, action by action."""

import base64
import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dreammpc.agent import Agent
from dreammpc.deploy.exported import ExportedAgent
from dreammpc.interfaces import UsageError
from dreammpc.runtime.devices import CPU, forked_rng

CLOSE = 1e-3
"""Actions that differ by less count as equal; their whole range is 2."""
SHARE = 0.9
"""Share of steps that must be equal. A planner that chooses among candidates of nearly equal J may choose
another where sums are rounded otherwise, so single steps differ. A wrong seed can go unnoticed where the same
candidate wins whatever is drawn."""
LARGEST_RECORD = 2_000_000
"""Bytes of observations that a file keeps."""


@dataclass
class Record:
    """An episode of an agent, to be played again: the planner's seed, what was seen and done."""

    seed: int
    observations: dict[str, np.ndarray]
    """By name, each [T, …]."""
    actions: np.ndarray
    """[T, A]."""
    value: float
    """The return of these steps."""

    def __len__(self) -> int:
        return len(self.actions)

    def plain(self) -> dict[str, Any]:
        """As JSON has it: numpy's compressed archive in base64, of as many steps as fit."""
        size = sum(x[0].nbytes for x in self.observations.values())
        count = min(len(self), max(LARGEST_RECORD // size, 1))
        buffer = io.BytesIO()
        seen = {f"seen.{name}": values[:count] for name, values in self.observations.items()}
        np.savez_compressed(buffer, action=self.actions[:count], **seen)  # type: ignore[arg-type]
        data = base64.b64encode(buffer.getvalue()).decode()
        return {
            "seed": self.seed,
            "steps": count,
            "npz": data,
            "return": self.value if count == len(self) else None,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Record":
        """Raises UsageError if it is damaged."""
        try:
            with np.load(io.BytesIO(base64.b64decode(plain["npz"])), allow_pickle=False) as held:
                found = {name: held[name] for name in held.files}
            actions = found.pop("action")
            seen = {name.removeprefix("seen."): values for name, values in found.items()}
            return cls(int(plain["seed"]), seen, actions, float(plain["return"] or 0))
        except Exception as error:
            raise UsageError("the file's record of an episode is damaged; export the agent again") from error


@dataclass
class Comparison:
    """A file's actions against the agent's, on the same observations with the same seed."""

    differences: np.ndarray
    """[T], the largest over an action's entries."""
    ms: float
    """CPU time of a call, median."""

    @property
    def equal(self) -> float:
        """Share of steps that are equal, see `CLOSE`."""
        return float((self.differences < CLOSE).mean())

    @property
    def passed(self) -> bool:
        return self.equal >= SHARE


def play_agent(agent: Agent, env: Any, seed: int, steps: int | None = None) -> Record:
    """One episode of `agent` in `env` (a batch of one): the start and the planner's noise are of `seed`.

    Args:
        agent: acts greedily.
        env: its task.
        seed: of both.
        steps: at most so many; None is the whole episode.
    """
    seen: dict[str, list[np.ndarray]] = {key: [] for key in agent.obs_keys}
    actions: list[np.ndarray] = []
    value = 0.0
    with forked_rng(CPU):
        torch.manual_seed(seed)
        env.seed_rows([seed])
        obs = env.reset()
        carry, is_init = agent.initial_carry(1), torch.ones(1, 1, dtype=torch.bool)
        while steps is None or len(actions) < steps:
            for key, kept in seen.items():
                kept.append(obs[key][0].numpy().copy())
            plan, carry = agent.step(obs.select(*agent.obs_keys), carry, is_init)
            actions.append(plan.action[0].numpy().copy())
            obs = env.step(obs.set("action", plan.action))["next"]
            value += float(obs["reward"])
            is_init = torch.zeros_like(is_init)
            if bool(obs["done"]):
                break
            obs = obs.exclude("reward")
    return Record(seed, {key: np.stack(kept) for key, kept in seen.items()}, np.stack(actions), value)


def play_file(file: ExportedAgent, env: Any, seed: int, steps: int | None = None) -> float:
    """The return of the same episode, played by an exported file."""
    value, count = 0.0, 0
    with forked_rng(CPU):
        torch.manual_seed(seed)
        env.seed_rows([seed])
        obs = env.reset()
        file.reset()
        while steps is None or count < steps:
            action, _ = file({entry["name"]: obs[entry["name"]][0].numpy() for entry in file.observed})
            obs = env.step(obs.set("action", torch.from_numpy(action)[None]))["next"]
            value, count = value + float(obs["reward"]), count + 1
            if bool(obs["done"]):
                break
            obs = obs.exclude("reward")
    return value


def compare(file: ExportedAgent, record: Record) -> Comparison:
    """Play `record` again by `file`, which carries its own plans from step to step."""
    differences, seconds = [], []
    with forked_rng(CPU):
        torch.manual_seed(record.seed)
        file.reset()
        for t, action in enumerate(record.actions):
            seen = {name: values[t] for name, values in record.observations.items()}
            began = time.thread_time()
            found, _ = file(seen)
            seconds.append(time.thread_time() - began)
            differences.append(np.abs(found - action).max())
    return Comparison(np.array(differences), 1e3 * float(np.median(seconds)))


HEAD = ("format", "steps", "largest difference", "median", "equal steps", "bytes", "ms (CPU)")


def row(file: ExportedAgent, found: Comparison, size: int) -> tuple[str, ...]:
    """A line of the table."""
    away = found.differences
    return (
        file.kind,
        str(len(away)),
        f"{away.max():.1e}",
        f"{np.median(away):.1e}",
        f"{100 * found.equal:.1f} %",
        f"{size:,}",
        f"{found.ms:.2f}",
    )


def table(*rows: tuple[str, ...], head: tuple[str, ...] = HEAD) -> str:
    """Rows as Markdown."""
    lines = [head, ("---",) + ("---:",) * (len(head) - 1), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(w) if i else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )
