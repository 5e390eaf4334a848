"""Recorded data, as a configuration names them → what a training learns from."""

import glob
import os
from pathlib import Path
from typing import Any

import numpy as np

from dreammpc.agent import EXPERT_KEYS, Agent
from dreammpc.configuration.assembly import obs_dim, replay_folder
from dreammpc.configuration.data_schemas import DataConfig
from dreammpc.configuration.schemas import TrainConfig
from dreammpc.data import Replay, check_replay_memory, replay_bytes
from dreammpc.data.demonstrations import Demonstrations
from dreammpc.data.formats import HDF5, Minari, Npz, Several, Source
from dreammpc.data.lerobot import LeRobot
from dreammpc.data.recorded import Recorded
from dreammpc.envs import TaskEnv
from dreammpc.interfaces import UsageError
from dreammpc.training.recorded_run import RunReplay, run_checkpoint
from dreammpc.training.trainer import quiet

ENDINGS = {
    ".npz": "npz",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".ckpt": "run",
}
PLAN_STD = 0.3
"""Of the plan that stands for a recorded action where none was stored: what BMPC's policy imitates first."""
SALT = 7919
"""Between the seeds of what is drawn from the data and from the replay."""


def open_data(config: DataConfig, obs: str) -> Recorded | None:
    """The data that a configuration names, looked through once; None where it names none.

    Args:
        obs: what is wanted of observations: `state`, `pixels` or `both`.

    Raises:
        UsageError: there are none such, or they cannot be read or learned from.
    """
    if config.path is None:
        return None
    return Recorded(open_source(config, obs), config.bounds, config.invalid == "drop", config.most)


def open_source(config: DataConfig, obs: str) -> Source:
    """The reader of the data that `config.path` names; of several files, by a pattern, one after another."""
    assert config.path is not None
    if glob.has_magic(config.path) and not Path(config.path).exists():
        paths = sorted(glob.glob(config.path))
        if not paths:
            raise UsageError(f"data {config.path}: no file matches")
        return Several(f"data {config.path}", [_opened(path, config, obs) for path in paths])
    return _opened(config.path, config, obs)


def _opened(name: str, config: DataConfig, obs: str) -> Source:
    path, kind = Path(name), kind_of(name) if config.kind == "auto" else config.kind
    if kind != "minari" and not path.exists():
        raise UsageError(f"data {name} does not exist")
    if kind == "run":
        if config.columns or config.episode_length:
            raise UsageError(
                f"data {name}: a run's replay has columns of its own; data.columns is for others"
            )
        return RunReplay(path, obs)
    if kind == "minari":
        return Minari(name, config.columns, obs)
    if kind == "lerobot":
        return LeRobot(path, config.columns, obs, config.episode_length)
    reader: Any = {"npz": Npz, "hdf5": HDF5}[kind]
    return reader(path, config.columns, obs, config.episode_length)


def kind_of(name: str) -> str:
    """The kind of some data, by what they are called and what is in their folder.

    Raises:
        UsageError: nothing is there of that name, or nothing that is known.
    """
    path = Path(name)
    if path.is_dir():
        if (path / "meta" / "info.json").is_file():
            return "lerobot"
        if run_checkpoint(path) is not None:
            return "run"
        raise UsageError(
            f"data {name}: neither a run's folder (checkpoints/last.ckpt) nor LeRobot's (meta/info.json);"
            f" files in it are named as {name.rstrip('/')}/*.npz"
        )
    if path.suffix.lower() in ENDINGS:
        return ENDINGS[path.suffix.lower()]
    if path.is_file():
        raise UsageError(
            f"data {name}: nothing is known of files that end so; there are: {', '.join(ENDINGS)}; data.kind="
            " says which it is"
        )
    if path.suffix or name.startswith((".", "/", "~")):
        raise UsageError(f"data {name} does not exist")
    return "minari"


def build_demonstrations(
    data: Recorded | None,
    env: TaskEnv,
    agent: Agent,
    config: TrainConfig,
    seed: int,
    world_size: int,
) -> tuple[Demonstrations | None, list[str]]:
    """All of the data in a replay of their own, and lines that say what there is and where it lies.

    They lie where the replay lies (`assembly.replay_folder`); what does not fit into memory goes to the run's
    folder. Without data nothing.

    Raises:
        UsageError: spaces that are not the task's, episodes too short, or no memory and no disk for them.
    """
    if data is None:
        return None, []
    pixels = "pixels" in agent.obs_keys
    data.check_spaces(obs_dim(env), env.action_spec.shape[-1], env.channels if pixels else 0, env.task)
    data.check_repeat(env.action_repeat, env.task)
    ragged, horizon = getattr(agent.model, "episodic", False), config.algorithm.horizon
    if data.longest < horizon and not ragged:
        raise UsageError(
            f"{data.name}: its longest episode has {data.longest} transitions; algorithm.horizon={horizon}"
            " needs as many"
        )
    size = obs_dim(env), env.action_spec.shape[-1], pixels, agent.record, env.channels
    needed = replay_bytes(data.transitions, 1, *size, data.episodes)
    quiet()  # the replay is made before there is a Trainer
    place, where = placed(needed, data.transitions, replay_folder(config), Path(str(config.folder)))
    replay = Replay(
        data.transitions,
        1,
        horizon,
        config.algorithm.batch_size // world_size,
        seed + SALT,
        mutable=EXPERT_KEYS if agent.record else (),
        ragged=ragged,
        obs_keys=agent.obs_keys,
        folder=place,
        episodes=data.episodes,
    )
    checksum = data.fill(replay, plans_for if agent.record else None)
    said = [*data.said(), where]
    if agent.record and not data.plans:
        said.append(
            f"{data.name}: no plans in it: N(action, {PLAN_STD}²) is imitated until they are planned anew"
        )
    if (task := data.source.facts.get("task") or env.task) != env.task:
        said.append(f"{data.name}: recorded on task {task}, whose rewards are learned, not on {env.task}")
    if data.terminated and not ragged:
        said.append(f"{data.name}: it has terminations, and the task has none: they count as time limits")
    return Demonstrations(replay, checksum, config.data.updates, config.data.share), said


def placed(needed: int, transitions: int, folder: Any, run: Path) -> tuple[Any, str]:
    """Where so many bytes of data go: `folder` or, where that is memory and too small, the run's own."""
    if isinstance(folder, Path):
        folder = folder.with_name(f"{folder.name}-data")
    try:
        return folder, check_replay_memory(needed, transitions, folder).replace("replay", "data", 1)
    except UsageError:
        if folder is not None:
            raise
        folder = run / f"memmap-data-rank{os.environ.get('RANK', 0)}"
        return folder, check_replay_memory(needed, transitions, folder).replace("replay", "data", 1)


def plans_for(action: np.ndarray) -> dict[str, np.ndarray]:
    """What stands for plans of recorded actions [T, A]."""
    spread = np.full_like(action, PLAN_STD)
    return {"mean": action, "std": spread, "value": np.zeros_like(action[:, :1])}
