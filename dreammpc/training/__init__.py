"""Trainer assembly, checkpoints over environment steps, monitoring and distributed strategy."""

from dreammpc.training.callbacks import GracefulStop, Monitor, OwnFolder, ProgressBar
from dreammpc.training.checkpoint import Checkpoints
from dreammpc.training.checkpoint_format import DESCRIPTION, load_checkpoint
from dreammpc.training.distributed_env import world_size
from dreammpc.training.evaluation_callback import Evaluation
from dreammpc.training.owner import check_free, release_folders
from dreammpc.training.resume import find_resumable, open_folder, open_resume, open_run, open_target, runs_of
from dreammpc.training.speed import choose_speed
from dreammpc.training.trainer import (
    check_devices,
    keep_memory,
    make_trainer,
    seed_everything,
)

__all__ = [
    "DESCRIPTION",
    "Checkpoints",
    "Evaluation",
    "GracefulStop",
    "Monitor",
    "OwnFolder",
    "ProgressBar",
    "check_devices",
    "check_free",
    "choose_speed",
    "find_resumable",
    "keep_memory",
    "load_checkpoint",
    "make_trainer",
    "open_folder",
    "open_resume",
    "open_run",
    "open_target",
    "release_folders",
    "runs_of",
    "seed_everything",
    "world_size",
]
