"""The Lightning Trainer as this project needs it."""

import contextlib
import ctypes
import logging
import os
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from dreammpc.interfaces import UsageError
from dreammpc.runtime.devices import choose_device
from dreammpc.training.checkpoint import AtomicCheckpointIO
from dreammpc.training.distributed_env import check_launched_processes, world_size
from dreammpc.training.replicas import ReplicaStrategy
from dreammpc.training.speed import check_precision


def make_trainer(
    folder: str | Path,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    accelerator: str = "auto",
    devices: int | str = 1,
    strategy: str = "auto",
    precision: str | None = None,
    num_nodes: int = 1,
    timeout_s: float = 1800.0,
) -> Trainer:
    """A Trainer without epochs, with our checkpoints, which feeds on a `Feed`.

    Args:
        folder: the run's folder.
        accelerator: a device's name (see `choose_device`).
        devices, strategy, precision, num_nodes: as Lightning's Trainer takes them.
        timeout_s: of several processes, see `ReplicaStrategy`.

    Raises:
        UsageError: the device or the number of devices is not there; a precision that cannot train here; or
            the number of processes that were started is not the number that would train together.
    """
    check_launched_processes(devices, num_nodes)
    started = world_size()
    device = choose_device(accelerator, training=True)
    if precision is not None:
        check_precision(str(precision))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if started == 1 and strategy == "auto" and devices in (1, "1", "auto"):
        strategy, devices = SingleDeviceStrategy(device), 1  # type: ignore[assignment]
    # Else Lightning might take SLURM's ranks for ours.
    plugins.append(TorchElasticEnvironment() if started > 1 else LightningEnvironment())
    if started > 1 and strategy == "auto":
        strategy = ReplicaStrategy(timeout_s)  # type: ignore[assignment]
    quiet()
    try:
        trainer = Trainer(
            accelerator=device.type,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            default_root_dir=folder,
            callbacks=list(callbacks),
            logger=loggers,
            plugins=plugins,
            max_epochs=-1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=False,
            use_distributed_sampler=False,
            log_every_n_steps=10**9,
        )
    except (RuntimeError, TypeError, ValueError, MisconfigurationException) as error:
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
    if started != trainer.world_size:
        raise UsageError(
            f"{started} processes were started, {trainer.world_size} would train: start with"
            " `lightning run RECIPE --devices N`"
        )
    return trainer


def quiet() -> None:
    """Silence what Lightning and TorchRL say of every run and what does not concern ours."""
    for name in ("lightning.pytorch", "lightning.fabric", "torchrl"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The feed is no dataloader: the Checkpoints callback saves its state.
    for words in ("dataloader", "many workers", "Checkpoint directory", "LeafSpec", "weights_only"):
        warnings.filterwarnings("ignore", f".*{words}.*")


def check_devices(accelerator: str, devices: int | str, num_nodes: int = 1) -> None:
    """Refuse what this machine does not have, and other processes than asked for, before anything is made.

    Raises:
        UsageError: no such device here, fewer than asked for, or one process for several; see also
            `check_launched_processes`.
    """
    check_launched_processes(devices, num_nodes)
    device = choose_device(accelerator, training=True)
    on_gpu = device.type == "cuda"
    there = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if devices == "auto":
        devices = there if on_gpu and ":" not in accelerator else 1
    if world_size() == 1 and str(devices).isdigit() and 1 < int(devices) <= there:
        raise UsageError(f"{devices} devices need a process each: start with `--devices {devices}`")
    if str(devices).isdigit() and not 1 <= int(devices) <= there:
        raise UsageError(
            f"devices must be 1 to {there} ({'GPUs' if on_gpu else 'cores'} here), got {devices}"
        )


def keep_memory() -> None:
    """Have glibc keep freed memory instead of handing every large block back to the kernel.

    Each large temporary otherwise costs its page faults anew: a fifth of MPPI's time in eager mode. Elsewhere
    than on glibc it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""


def seed_everything(seed: int) -> int:
    """Seed Python, NumPy and torch, differently on every rank; returns this rank's seed."""
    seed += 10_000 * int(os.environ.get("RANK", 0))
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return seed
