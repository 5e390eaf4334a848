"""Trainer assembly, checkpoints over environment steps, monitoring and distributed strategy."""

from dreammpc.training.callbacks import Evaluation, GracefulStop, Monitor, ProgressBar
from dreammpc.training.checkpoint import Checkpoints, load_checkpoint
from dreammpc.training.replicas import of_first, world_size
from dreammpc.training.resume import open_folder, open_resume
from dreammpc.training.trainer import (
    check_devices,
    choose_speed,
    keep_memory,
    make_trainer,
    seed_everything,
    set_threads,
)

__all__ = [
    "Checkpoints",
    "Evaluation",
    "GracefulStop",
    "Monitor",
    "ProgressBar",
    "check_devices",
    "choose_speed",
    "keep_memory",
    "load_checkpoint",
    "make_trainer",
    "of_first",
    "open_folder",
    "open_resume",
    "seed_everything",
    "set_threads",
    "world_size",
]
