"""What was started: how many processes the environment speaks of, and whether that is what is meant."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dreammpc.interfaces import UsageError

log = logging.getLogger(__name__)

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TELL_S = 5.0
"""Processes that are waited for so long are told of."""


def world_size() -> int:
    """Processes that were started to train together; 1 without a launcher.

    Raises:
        UsageError: WORLD_SIZE is no number.
    """
    return number("WORLD_SIZE", 1)


def number(variable: str, otherwise: int) -> int:
    """A variable of the environment that counts processes.

    Raises:
        UsageError: it is none.
    """
    text = os.environ.get(variable, "")
    if text and not text.isdecimal():
        raise UsageError(f"{variable}={text} is set, and is no number; {unset(variable)}")
    return int(text or otherwise)


def check_started(devices: int | str, num_nodes: int) -> None:
    """Refuse processes that were not asked for, and say where a scheduler has more than train here.

    Args:
        devices, num_nodes: as Lightning's Trainer takes them.

    Raises:
        UsageError: the environment speaks of other processes than `devices` on each of `num_nodes` machines.
    """
    started = world_size()
    if started == 1:
        for variable in ("RANK", "LOCAL_RANK"):
            if found := number(variable, 0):
                raise UsageError(f"{variable}={found} is set, but for one process; {unset(*found_set())}")
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # Lightning would take SLURM's number of the task for it
        tell_slurm()
        return
    here = int(devices) if str(devices).isdigit() else 1
    if started != here * num_nodes and (str(devices).isdigit() or num_nodes == 1):
        raise UsageError(
            f"{spelt()} say that {started} processes train together, but {here * num_nodes} would (devices"
            f" {devices}, machines {num_nodes}): start them with `lightning run RECIPE --devices N`, or for"
            f" one process {unset(*found_set())}"
        )
    if missing := [variable for variable in VARIABLES if variable not in os.environ]:
        raise UsageError(
            f"{spelt()} say that {started} processes train together, without {', '.join(missing)};"
            f" {unset(*found_set())}"
        )


def tell_slurm() -> None:
    """Say it if SLURM has several tasks, each of which is a training of its own here."""
    tasks = number("SLURM_NTASKS", 1)
    if tasks == 1 or number("SLURM_PROCID", 0):
        return
    log.warning(
        "SLURM has %d tasks here (SLURM_NTASKS), and each process that it starts is a training by itself; for"
        " one training of N processes on each machine write `srun --ntasks-per-node=1 lightning run train"
        " --devices N …` (docs/train.sbatch)",
        tasks,
    )


@contextlib.contextmanager
def told_while_waiting() -> Iterator[None]:
    """Say whom this process waits for if that takes long."""
    host, port, rank = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "RANK"))
    text = (
        f"waiting for {world_size()} processes at {host}:{port}, of which this is {rank}: {spelt()} say so;"
        f" if one process is meant, {unset(*found_set())}"
    )
    timer = threading.Timer(TELL_S, log.warning, ["%s", text])
    timer.daemon = True
    if number("LOCAL_RANK", 0) == 0 or "DREAMMPC_LAUNCHER" not in os.environ:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def found_set() -> list[str]:
    return [variable for variable in VARIABLES if variable in os.environ]


def spelt() -> str:
    """The variables as they are."""
    return " ".join(f"{variable}={os.environ[variable]}" for variable in found_set())


def unset(*variables: str) -> str:
    return f"type `unset {' '.join(variables)}` first"
