"""How fast a training runs: one policy, resolved once from the device that it uses."""

import logging
import os
import shutil
from dataclasses import dataclass
from typing import Any

import torch

from dreammpc.compiling import compile_mode
from dreammpc.interfaces import OBS_KEYS, UsageError
from dreammpc.threads import WIDE

log = logging.getLogger(__name__)

ON_CUDA = "default"
"""What `trainer.compile` is on a GPU if left open: `graphs`, once a card has shown these (docs/gpu.md)."""

UNSUITED = {
    "16": "its scaled gradients would be clipped as they are, and the guard could not skip an update",
    "bf16-true": "environments and replay are float32",
    "16-true": "environments and replay are float32",
    "64-true": "environments and replay are float32",
    "transformer-engine": "the updates know nothing of it",
}
"""Lightning's precisions that would train wrongly or not at all."""


@dataclass(frozen=True)
class Speed:
    """What was chosen; `choose_speed` makes it.

    Args:
        device: of the training.
        compile: one of `dreammpc.compiling.MODES`.
        precision: as Lightning's Trainer names it.
        matmul: of float32 matrix products, as `torch.set_float32_matmul_precision` names it.
    """

    device: torch.device
    compile: str
    precision: str
    matmul: str

    def apply(self) -> None:
        """Set what is global in torch."""
        torch.set_float32_matmul_precision(self.matmul)

    def __str__(self) -> str:
        where = str(self.device)
        if self.device.type == "cuda":
            where = f"{where} ({torch.cuda.get_device_name(self.device)})"
        elif self.device.type == "cpu":
            threads = torch.get_num_threads()
            where = f"{where} with {threads} thread{'s' * (threads > 1)}"
        return f"{where}, trainer.compile={self.compile}, trainer.precision={self.precision}"


def choose_speed(device: torch.device, compile: Any, precision: str | None, width: int, obs: str) -> Speed:
    """Fill in what was left open by what the device is fast at.

    Args:
        device: on which the training will run.
        compile: see `compile_mode`; `None` compiles where there is a compiler, but not pixels on a CPU, where
            it takes minutes and an update then takes longer.
        precision: `None` takes bf16-mixed where matrix products in bfloat16 are faster than in float32 (GPUs;
            CPUs with AMX or AVX512_BF16) and there is enough of them: the model's hidden `width` is large, or
            `obs`, what is observed, has pixels.

    Raises:
        UsageError: a setting that is unknown, or that the device cannot do.
    """
    mode, pixels = compile_mode(compile, "trainer.compile"), "pixels" in OBS_KEYS[obs]
    if mode is None:
        mode = "off" if (pixels and device.type == "cpu") or missing_compiler(device) else "default"
        mode = ON_CUDA if mode == "default" and device.type == "cuda" else mode
    elif mode == "graphs" and device.type != "cuda":
        log.warning("trainer.compile=graphs is for CUDA: on %s updates and plans are compiled alone", device)
    if mode != "off" and (missing := missing_compiler(device)):
        raise UsageError(f"trainer.compile={mode} needs {missing}; choose off")
    if precision is None:
        precision = "bf16-mixed" if fast_bf16(device) and (pixels or width >= WIDE) else "32-true"
    check_precision(str(precision))
    return Speed(device, mode, str(precision), "high" if device.type == "cuda" else "highest")


def check_precision(precision: str) -> None:
    """Raise UsageError if a training would go wrong in `precision`."""
    kind = {"16-mixed": "16", "64": "64-true"}.get(precision, precision)
    for name, why in UNSUITED.items():
        if kind == name or (name.startswith("transformer") and kind.startswith(name)):
            raise UsageError(f"trainer.precision={precision}: {why}; there are: 32-true, bf16-mixed")


def fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on that device."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def missing_compiler(device: torch.device) -> str:
    """What `torch.compile` needs for that device and is not here; empty if nothing is missing."""
    if device.type == "cuda":
        return "" if torch.utils._triton.has_triton() else "Triton"
    names = (os.environ.get("CXX", "g++"), "clang++", "cl")
    return "" if any(shutil.which(name) for name in names) else "a C++ compiler (CXX, g++ or clang++)"
