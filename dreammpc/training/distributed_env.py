"""The process group that environment variables declare (WORLD_SIZE, RANK), checked against the settings."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dreammpc.interfaces import UsageError

log = logging.getLogger(__name__)

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
WAIT_WARNING_S = 5.0
"""Seconds after which waiting for other processes is reported."""


def world_size() -> int:
    """Processes that were started to train together; 1 without a launcher.

    Raises:
        UsageError: WORLD_SIZE is no number.
    """
    return env_number("WORLD_SIZE", 1)


def env_number(variable: str, otherwise: int) -> int:
    """A variable of the environment that counts processes.

    Raises:
        UsageError: it is none.
    """
    text = os.environ.get(variable, "")
    if text and not text.isdecimal():
        raise UsageError(f"{variable}={text} is set, and is no number; {unset_advice(variable)}")
    return int(text or otherwise)


def check_launched_processes(devices: int | str, num_nodes: int) -> None:
    """Refuse processes that were not asked for, and say where a scheduler has more than train here.

    Args:
        devices, num_nodes: as Lightning's Trainer takes them.

    Raises:
        UsageError: the environment speaks of other processes than `devices` on each of `num_nodes` machines.
    """
    started = world_size()
    if started == 1:
        for variable in ("RANK", "LOCAL_RANK"):
            if found := env_number(variable, 0):
                raise UsageError(
                    f"{variable}={found} is set, but for one process; {unset_advice(*variables_set())}"
                )
        if num_nodes > 1:
            raise UsageError(
                f"trainer.num_nodes={num_nodes} needs processes on {num_nodes} machines, and this is one;"
                f" on each: `lightning run RECIPE --num-nodes {num_nodes} --node-rank R --main-address HOST`"
            )
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # Lightning would take SLURM's number of the task for it
        warn_of_slurm_tasks()
        return
    here = int(devices) if str(devices).isdigit() else 1
    if started != here * num_nodes and (str(devices).isdigit() or num_nodes == 1):
        raise UsageError(
            f"{variables_text()} say that {started} processes train together, but {here * num_nodes} would"
            f" (devices {devices}, machines {num_nodes}): start them with `lightning run RECIPE --devices N`,"
            f" or for one process {unset_advice(*variables_set())}"
        )
    if missing := [variable for variable in VARIABLES if variable not in os.environ]:
        raise UsageError(
            f"{variables_text()} say that {started} processes train together, without {', '.join(missing)};"
            f" {unset_advice(*variables_set())}"
        )


def warn_of_slurm_tasks() -> None:
    """Say it if SLURM has several tasks, each of which is a training of its own here."""
    tasks = env_number("SLURM_NTASKS", 1)
    if tasks == 1 or env_number("SLURM_PROCID", 0):
        return
    log.warning(
        "SLURM has %d tasks here (SLURM_NTASKS), and each process that it starts is a training by itself; for"
        " one training of N processes on each machine write `srun --ntasks-per-node=1 lightning run train"
        " --devices N …` (docs/train.sbatch)",
        tasks,
    )


@contextlib.contextmanager
def warn_while_waiting() -> Iterator[None]:
    """Say whom this process waits for if that takes long."""
    host, port, rank = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"))
    text = (
        f"waiting for {world_size()} processes at {host}:{port}, of which this is {rank}:"
        f" {variables_text()} say so; if one process is meant, {unset_advice(*variables_set())}"
    )
    timer = threading.Timer(WAIT_WARNING_S, log.warning, ["%s", text])
    timer.daemon = True
    if env_number("LOCAL_RANK", 0) == 0 or "DREAMMPC_LAUNCHER" not in os.environ:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def variables_set() -> list[str]:
    return [variable for variable in VARIABLES if variable in os.environ]


def variables_text() -> str:
    """The variables that are set, as `NAME=value`."""
    return " ".join(f"{variable}={os.environ[variable]}" for variable in variables_set())


def unset_advice(*variables: str) -> str:
    return f"type `unset {' '.join(variables)}` first"
