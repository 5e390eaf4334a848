"""The device that a benchmark runs on, by the names that everything else here takes."""

import argparse

import torch

from dreammpc.interfaces import UsageError
from dreammpc.runtime.devices import choose_device, matmul_precision


def named_device(name: str) -> torch.device:
    """`--device NAME` for argparse, which tells in one line what is not there (see `choose_device`)."""
    try:
        return choose_device(name)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def multiply_as_trainings(device: torch.device) -> None:
    """Have float32 matrix products as they are in a training on `device`."""
    torch.set_float32_matmul_precision(matmul_precision(device))
