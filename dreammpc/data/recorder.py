"""Episodes → a file of recorded data, which `data=` reads back to the bit.

data.npz          columns with one row a step, `observations` and `next_observations` among them
data.h5, .hdf5    a group for each episode, in which there is one observation more than there are steps
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from dreammpc.data.episode import Episode
from dreammpc.data.formats import FACTS, package
from dreammpc.interfaces import RunError, UsageError
from dreammpc.support.atomic import replacing

FILES = (".npz", ".h5", ".hdf5")
OBS = {"observation": "observations", "pixels": "pixels"}
"""Names of what is observed, in an episode and in a file."""


def check_target(path: str | Path) -> Path:
    """The path of a file that is going to be written.

    Raises:
        UsageError: another ending than one of `FILES`, or HDF5 without its package.
    """
    target = Path(path)
    if target.suffix.lower() not in FILES:
        raise UsageError(f"record {path}: expected a file that ends in {', '.join(FILES)}")
    if target.suffix.lower() != ".npz":
        package("h5py", "data in HDF5")
    return target


def write_episodes(path: Path, episodes: Iterable[Episode], facts: Mapping[str, Any]) -> tuple[int, int]:
    """Write a file beside `path` and rename it over `path`; returns how many episodes and transitions.

    Args:
        episodes: with actions in the bounds that `facts` declare.
        facts: `task`, `action_repeat`, `action_low`, `action_high`, as far as they are known.

    Raises:
        RunError: no space, no permission; `path` is then what it was.
    """
    text = json.dumps({**facts, "format": 1})
    write: Callable[..., tuple[int, int]] = _npz if path.suffix.lower() == ".npz" else _hdf5
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            return write(draft, episodes, text)
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise RunError(f"record {path} cannot be written: {why}", saveable=False) from error


def amount(transitions: int, episodes: int) -> str:
    """`1 transition in 1 episode`."""
    counts = (transitions, "transition"), (episodes, "episode")
    return " in ".join(f"{count:,} {what}{'s' * (count != 1)}" for count, what in counts)


def flags(episode: Episode) -> dict[str, np.ndarray]:
    """Where it terminated or was truncated, [T]: at the last step or nowhere."""
    ends = {"terminations": episode.terminated, "truncations": episode.truncated}
    found = {name: np.zeros(len(episode), bool) for name in ends}
    for name, value in ends.items():
        found[name][-1] = value
    return found


def _npz(path: Path, episodes: Iterable[Episode], text: str) -> tuple[int, int]:
    columns: dict[str, list[np.ndarray]] = {}
    number = 0
    for number, episode in enumerate(episodes, 1):
        row: dict[str, np.ndarray] = {}
        for key, value in episode.obs.items():
            name = OBS[key]
            row |= {name: value[:-1], f"next_{name}": value[1:]}
        row |= {"actions": episode.action, "rewards": episode.reward, **flags(episode)}
        row["episode"] = np.full(len(episode), number - 1, np.int32)
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **{FACTS: np.array(text)}, **joined)  # type: ignore[arg-type]
    return number, len(joined["actions"]) if joined else 0


def _hdf5(path: Path, episodes: Iterable[Episode], text: str) -> tuple[int, int]:
    h5py = package("h5py", "data in HDF5")
    number = total = 0
    with h5py.File(path, "w") as file:
        file.attrs[FACTS] = text
        for episode in episodes:
            group = file.create_group(f"episode_{number}")
            for key, value in episode.obs.items():
                how = {"compression": "gzip", "compression_opts": 1} if key == "pixels" else {}
                group.create_dataset(OBS[key], data=value, **how)
            content = {"actions": episode.action, "rewards": episode.reward, **flags(episode)}
            for name, value in content.items():
                group.create_dataset(name, data=value)
            number, total = number + 1, total + len(episode)
    return number, total


class Recorder:
    """Keeps the episodes that are played, and writes them to a file.

    Args:
        path: of the file.

    Raises:
        UsageError: see `check_target`.
    """

    def __init__(self, path: str | Path):
        self.path = check_target(path)
        self.facts: dict[str, Any] = {}
        self.episodes: list[Episode] = []
        self._spaces: tuple[Any, ...] | None = None
        self._steps: list[tuple[TensorDictBase, Tensor]] = []

    def expect(self, env: Any) -> None:
        """Say what is going to be played.

        Raises:
            UsageError: other observations, actions or another action repeat than before: one file has one.
        """
        shapes = {key: tuple(spec.shape[1:]) for key, spec in env.observation_spec.items()}
        spaces = shapes, env.action_spec.shape[-1], env.action_repeat
        if self._spaces not in (None, spaces):
            raise UsageError(
                f"record {self.path}: task {env.task} has other spaces or another action repeat than task"
                f" {self.facts['task']}; one file holds one kind"
            )
        self._spaces = spaces
        bounds = {"action_low": -1.0, "action_high": 1.0}
        self.facts = {"task": env.task, "action_repeat": env.action_repeat, **bounds}

    def step(self, before: TensorDictBase, after: TensorDictBase, alive: Tensor) -> None:
        """A step of B environments.

        Args:
            before: what was observed, and the `action`.
            after: what was observed then, with `reward`, `terminated` and `truncated`.
            alive: which of them are still played, [B].
        """
        seen = [key for key in OBS if before.get(key, None) is not None]
        rows = before.select(*seen, "action").cpu().clone()
        rows["next"] = after.select(*seen, "reward", "terminated", "truncated").cpu().clone()
        self._steps.append((rows, alive.clone()))

    def end(self) -> None:
        """All episodes of this batch are over."""
        if not self._steps:
            return
        lived = torch.stack([alive for _, alive in self._steps]).sum(0).tolist()
        for row, length in enumerate(lived):
            steps = [rows[row] for rows, _ in self._steps[:length]]
            if not steps:
                continue
            last = steps[-1]["next"]
            self.episodes.append(
                Episode(
                    f"episode {len(self.episodes)}",
                    {
                        key: torch.stack([*(each[key] for each in steps), last[key]]).numpy()
                        for key in OBS
                        if last.get(key, None) is not None
                    },
                    torch.stack([each["action"] for each in steps]).numpy(),
                    torch.cat([each["next", "reward"] for each in steps]).numpy(),
                    terminated=bool(last["terminated"]),
                    truncated=bool(last["truncated"]),
                )
            )
        self._steps = []

    def save(self) -> str:
        """Write all episodes so far; a line that says how many.

        Raises:
            RunError: see `write_episodes`.
        """
        episodes, transitions = write_episodes(self.path, self.episodes, self.facts)
        return f"record: {amount(transitions, episodes)}, {self.path}"
