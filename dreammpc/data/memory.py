"""What a replay will take of memory or disk, said and refused before a training starts."""

import math
import shutil
import zlib
from pathlib import Path

import psutil
import torch

from dreammpc.data.frames import ring_size
from dreammpc.interfaces import FRAME_SHAPE, STACK, UsageError
from dreammpc.runtime.devices import choose_device

SHARED = Path("/dev/shm")

KEEP_FREE = 0.05
"""Share of the free memory that a replay leaves: the update needs some too."""
DEVICE_FREE = 0.1
"""Share of a device's memory that a replay leaves to weights, updates and plans."""


def replay_bytes(
    capacity: int,
    num_envs: int,
    obs_dim: int,
    action_dim: int,
    pixels: bool = False,
    plans: bool = False,
    channels: int = 3,
    episodes: int = 0,
) -> int:
    """Bytes of a full replay.

    Args:
        capacity: transitions.
        obs_dim: of the vectors observed, 0 if there are none.
        plans: whether plans are stored too (BMPC).
        channels: of a frame.
        episodes: that there will be, where that is known.
    """
    floats = 2 * obs_dim + action_dim + 1 + (2 * action_dim + 1 if plans else 0)
    row = 4 * floats + 1 + 8 + 8 + 8 * (STACK + 1) * pixels  # flag, stamp, index
    frames = math.prod(FRAME_SHAPE[1:]) * channels * ring_size(capacity, num_envs, episodes) if pixels else 0
    return row * capacity + frames


def replay_place(
    storage: str, folder: str | None, run: str | Path, rank: int, accelerator: str = "auto"
) -> Path | torch.device | None:
    """Where a process keeps its replay on disk: in the folder of its run, or in a place of that run's own in
    `folder`; None where `storage` is memory, and the device of `accelerator` where it is device.
    """
    if storage == "device":
        return choose_device(accelerator, training=True)
    if storage == "memory":
        return None
    if folder is None:
        return Path(run) / f"memmap-rank{rank}"
    return Path(folder) / f"memmap-{zlib.crc32(bytes(Path(run).resolve())):08x}-rank{rank}"


def check_replay_memory(needed: int, transitions: int, folder: Path | torch.device | None = None) -> str:
    """One line that says what the replay will take.

    Args:
        folder: where it will lie on disk, or on which device; `None` is memory.

    Raises:
        UsageError: there is not as much.
    """
    what = f"replay of {transitions:,} transitions: {gigabytes(needed)}"
    if isinstance(folder, torch.device):
        return f"{what} on {folder}{_check_device_memory(needed, what, folder)}"
    if folder is not None:
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free
        if needed > free:
            raise UsageError(
                f"{what} do not fit on the disk of {there}, where {gigabytes(free)} are free;"
                " lower algorithm.capacity or choose another replay.folder"
            )
        return f"{what} on disk, in {folder}"
    free = int(psutil.virtual_memory().available * (1 - KEEP_FREE))
    if needed > free:
        raise UsageError(
            f"{what} do not fit into the {gigabytes(free)} of memory that are free; lower algorithm.capacity"
            " or keep it on disk with replay.storage=memmap"
        )
    return f"{what} of memory when full"


def _check_device_memory(needed: int, what: str, device: torch.device) -> str:
    """What is to be said of a replay on `device`; UsageError if it does not fit there."""
    if device.type != "cuda":
        return ", which is memory"
    free, total = torch.cuda.mem_get_info(device)
    if needed > free - DEVICE_FREE * total:
        raise UsageError(
            f"{what} do not fit on {device}, where {gigabytes(free)} of {gigabytes(total)} are free and the"
            " updates need some; choose replay.storage=memory or lower algorithm.capacity"
        )
    return f", of {gigabytes(free)} that are free"


def check_shared_memory(needed: int, what: str) -> None:
    """Raise UsageError unless there are `needed` bytes of memory to share with other processes, for `what`.

    Without them the system ends a process (SIGBUS) as soon as it writes there.
    """
    if not SHARED.is_dir():  # not on Linux
        return
    free = shutil.disk_usage(SHARED).free
    if needed > free:
        raise UsageError(
            f"{what} share {gigabytes(needed)} of memory with this process, and {SHARED} has"
            f" {gigabytes(free)} free; make it larger (docker run --shm-size=1g), lower collector.steps or"
            " collector.workers, or leave collector=serial"
        )


def gigabytes(size: int) -> str:
    """As people write it, in units of 10⁹, 10⁶ or 10³ bytes."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
