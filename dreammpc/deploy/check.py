"""An exported file against the agent that it was made of, action by action."""

import base64
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from dreammpc.agent import Agent
from dreammpc.deploy.exported import ExportedAgent
from dreammpc.interfaces import UsageError
from dreammpc.runtime.devices import CPU, seeded_rng
from dreammpc.support import markdown

CLOSE = 1e-3
"""Actions that differ by less count as equal; their whole range is 2."""
CLOSE_VALUE = 1e-4
"""Plans whose J differ by less, as a share of the episode's largest J, count as equally good. A planner that
chooses among candidates of nearly equal J chooses another where sums are rounded otherwise: MPPI draws one of
its elites by their rank, and elites of equal J come in any order."""
SHARE = 0.9
"""Share of steps that must be equal, or planned equally well. A wrong seed can go unnoticed where candidates
are equally good whatever is drawn."""
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
    values: np.ndarray
    """[T], J of the plans."""
    score: float
    """The return of these steps."""

    def __len__(self) -> int:
        return len(self.actions)

    def plain(self) -> dict[str, Any]:
        """As JSON has it: numpy's compressed archive in base64, of as many steps as fit."""
        size = sum(x[0].nbytes for x in self.observations.values())
        count = min(len(self), max(LARGEST_RECORD // size, 1))
        buffer = io.BytesIO()
        seen = {f"seen.{name}": values[:count] for name, values in self.observations.items()}
        held = {"action": self.actions[:count], "value": self.values[:count], **seen}
        np.savez_compressed(buffer, **held)  # type: ignore[arg-type]
        data = base64.b64encode(buffer.getvalue()).decode()
        return {
            "seed": self.seed,
            "steps": count,
            "npz": data,
            "return": self.score if count == len(self) else None,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Record":
        """Raises UsageError if it is damaged."""
        try:
            with np.load(io.BytesIO(base64.b64decode(plain["npz"])), allow_pickle=False) as held:
                found = {name: held[name] for name in held.files}
            actions, values = found.pop("action"), found.pop("value")
            seen = {name.removeprefix("seen."): kept for name, kept in found.items()}
            return cls(int(plain["seed"]), seen, actions, values, float(plain["return"] or 0))
        except Exception as error:
            raise UsageError("the file's record of an episode is damaged; export the agent again") from error


@dataclass
class Comparison:
    """A file's actions against the agent's, on the same observations with the same seed."""

    differences: np.ndarray
    """[T], the largest over an action's entries."""
    value_differences: np.ndarray
    """[T], of the plans' J, as a share of the largest J; NaN where no plan was chosen, or another acts."""
    ms: float
    """CPU time of a call, median."""

    @property
    def equal(self) -> float:
        """Share of steps that are equal, see `CLOSE`."""
        return float((self.differences < CLOSE).mean())

    @property
    def as_good(self) -> float:
        """Share of steps that are equal, or whose plans have the same J, see `CLOSE_VALUE`."""
        return float(((self.differences < CLOSE) | (self.value_differences < CLOSE_VALUE)).mean())

    @property
    def passed(self) -> bool:
        return self.as_good >= SHARE

    @property
    def told(self) -> str:
        """How far it is from the agent, in words."""
        count, shares = len(self.differences), (100 * self.equal, 100 * self.as_good)
        return (
            f"{shares[0]:.1f} % of {count} actions are equal, {shares[1]:.1f} % are or have a plan of equal"
            f" J; the largest difference is {self.differences.max():.1e}"
        )


def play_agent(agent: Agent, env: Any, seed: int, steps: int | None = None) -> Record:
    """An episode of `agent`, which acts greedily; see `played`."""
    seen: dict[str, list[np.ndarray]] = {key: [] for key in agent.obs_keys}
    actions: list[np.ndarray] = []
    values: list[float] = []
    carry = agent.initial_carry(1)

    def act(obs: TensorDictBase) -> torch.Tensor:
        nonlocal carry
        for key, kept in seen.items():
            kept.append(obs[key][0].numpy().copy())
        plan, carry = agent.step(obs.select(*agent.obs_keys), carry, torch.full((1, 1), not actions))
        actions.append(plan.action[0].numpy().copy())
        values.append(float(plan.value))
        return plan.action

    score = played(env, seed, steps, act)
    observations = {key: np.stack(kept) for key, kept in seen.items()}
    return Record(seed, observations, np.stack(actions), np.array(values), score)


def play_file(file: ExportedAgent, env: Any, seed: int, steps: int | None = None) -> float:
    """The return of the same episode, played by an exported file."""

    def act(obs: TensorDictBase) -> torch.Tensor:
        action, _ = file({entry["name"]: obs[entry["name"]][0].numpy() for entry in file.observed})
        return torch.from_numpy(action)[None]

    file.reset()
    return played(env, seed, steps, act)


def played(env: Any, seed: int, steps: int | None, act: Callable[[TensorDictBase], torch.Tensor]) -> float:
    """The return of one episode.

    Args:
        env: the task, a batch of one.
        seed: of the start and of the random numbers that `act` draws.
        steps: at most so many; None is the whole episode.
        act: what is observed → the action [1, A].
    """
    score, count = 0.0, 0
    with seeded_rng(seed, CPU):
        env.seed_rows([seed])
        obs = env.reset()
        while steps is None or count < steps:
            obs = env.step(obs.set("action", act(obs)))["next"]
            score, count = score + float(obs["reward"]), count + 1
            if bool(obs["done"]):
                break
            obs = obs.exclude("reward")
    return score


def compare(file: ExportedAgent, record: Record) -> Comparison:
    """Play `record` again by `file`, which carries its own plans from step to step."""
    differences, values, seconds = [], [], []
    with seeded_rng(record.seed, CPU):
        file.reset()
        for t, action in enumerate(record.actions):
            seen = {name: values[t] for name, values in record.observations.items()}
            began = time.thread_time()
            found, plan = file(seen)
            seconds.append(time.thread_time() - began)
            differences.append(np.abs(found - action).max())
            searched = file.description["planner"]["name"] != "policy" and np.allclose(
                found, plan[0].clip(-1, 1)
            )
            values.append(file.value if searched else np.nan)
    away = np.abs(np.array(values) - record.values) / max(float(np.abs(record.values).max()), 1e-6)
    return Comparison(np.array(differences), away, 1e3 * float(np.median(seconds)))


HEAD = ("format", "steps", "largest difference", "median", "equal steps", "or as good", "bytes", "ms (CPU)")


def row(file: ExportedAgent, found: Comparison, size: int) -> tuple[str, ...]:
    """A line of the table."""
    away = found.differences
    return (
        file.kind,
        str(len(away)),
        f"{away.max():.1e}",
        f"{np.median(away):.1e}",
        f"{100 * found.equal:.1f} %",
        f"{100 * found.as_good:.1f} %",
        f"{size:,}",
        f"{found.ms:.2f}",
    )


def table(*rows: tuple[str, ...], head: tuple[str, ...] = HEAD) -> str:
    """Rows as Markdown."""
    return markdown.table(head, rows)
