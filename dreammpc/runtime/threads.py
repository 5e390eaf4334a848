"""How many threads torch computes with on the CPU. Whatever computes asks here before it does."""

import logging
import os

import torch

log = logging.getLogger(__name__)

WIDE = 384
"""Narrower models spend their time on elementwise work, where neither threads nor bfloat16 gain anything."""

SHARE = "DREAMMPC_THREADS"
"""The variable that a sweep sets beside OMP_NUM_THREADS, to the same number."""

MOST_PER_CORE = 4
"""More threads than that gain nothing anywhere, and a great many end the process."""

_own_choice = torch.get_num_threads()
"""Of torch, or of OMP_NUM_THREADS."""


def set_threads(width: int, threads: int | None = None) -> None:
    """Set torch's threads for a model.

    Args:
        width: of the model's hidden layers.
        threads: `None` keeps what a user says with OMP_NUM_THREADS; without it, a narrow model takes one (a
            second gains it little, and two beside another busy process are far slower than one) and a wider
            model torch's own choice, in a sweep its share of it. More than `MOST_PER_CORE` for each core, as
            a checkpoint of a larger machine may ask for, are not taken, and a line says so.
    """
    most = MOST_PER_CORE * (os.cpu_count() or 1)
    if threads is not None and threads > most:
        log.warning("trainer.threads=%d: %d are taken, %d for each core here", threads, most, MOST_PER_CORE)
        threads = most
    if threads is None:
        given = os.environ.get("OMP_NUM_THREADS") not in (None, os.environ.get(SHARE))
        threads = _own_choice if given or width >= WIDE else 1
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
