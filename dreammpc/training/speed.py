"""Device, compilation and precision of a training, chosen once from what the device is fast at."""

import functools
import logging
import math
import os
import shutil
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreammpc.interfaces import OBS_KEYS, UsageError
from dreammpc.runtime.compiling import compile_mode
from dreammpc.runtime.devices import matmul_precision
from dreammpc.runtime.threads import WIDE

log = logging.getLogger(__name__)

ON_CUDA = "default"
"""What `trainer.compile` is on a GPU if left open: `graphs`, once a card has shown these (docs/gpu.md)."""

PAYS_FROM = {False: (20_000, 5_000), True: (5_000, 1_000)}
"""Plans and updates from which compiling pays on a CPU, for narrow and wide models: with nano a plan gains
some 3 ms and an update 10, with 5M 8 and 90 (docs/history.md)."""

RECORDING_PAYS_FROM = 1_000
"""Plans of narrow models: recording one takes a second or two and spares some 3 ms each."""

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
        compile: how updates run, one of `dreammpc.runtime.compiling.MODES`.
        plans: how plans run, one of them.
        precision: as Lightning's Trainer names it.
        matmul: of float32 matrix products, as `torch.set_float32_matmul_precision` names it.
    """

    device: torch.device
    compile: str
    plans: str
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
        plans = f" (plans {self.plans})" if self.plans != self.compile else ""
        return f"{where}, trainer.compile={self.compile}{plans}, trainer.precision={self.precision}"


def choose_speed(
    device: torch.device,
    compile: Any,
    precision: str | None,
    width: int,
    obs: str,
    calls: tuple[float, float] = (math.inf, math.inf),
) -> Speed:
    """Fill in what was left open by what the device is fast at.

    Args:
        device: on which the training will run.
        compile: see `compile_mode`; `None` compiles where there is a compiler. On a CPU that takes half a
            minute each for plans and updates, so that what runs fewer than `PAYS_FROM` times is left as it
            is; and so are pixels, where it takes minutes and an update then takes longer. Quick plans of
            narrow models are recorded there, which is faster than compiled.
        precision: `None` takes bf16-mixed where matrix products in bfloat16 are faster than in float32 (GPUs;
            CPUs where a short trial shows it) and there is enough of them: the hidden `width` is large, or
            `obs`, what is observed, has pixels.
        calls: how many plans and updates there will be.

    Raises:
        UsageError: a setting that is unknown, or that the device cannot do.
    """
    mode, pixels = compile_mode(compile, "trainer.compile"), "pixels" in OBS_KEYS[obs]
    seldom, mode_left_open = [False, False], mode is None
    if mode is None:
        if device.type == "cpu":
            seldom = [number < least for number, least in zip(calls, PAYS_FROM[width >= WIDE], strict=True)]
        mode = "off" if (pixels and device.type == "cpu") or missing_compiler(device) else "default"
        mode = ON_CUDA if mode == "default" and device.type == "cuda" else mode
    elif mode == "graphs" and device.type != "cuda":
        log.warning("trainer.compile=graphs is for CUDA: on %s updates and plans are compiled alone", device)
    if mode not in ("off", "recorded") and (missing := missing_compiler(device)):
        raise UsageError(f"trainer.compile={mode} needs {missing}; choose off")
    if precision is None:
        precision = "bf16-mixed" if fast_bf16(device) and (pixels or width >= WIDE) else "32-true"
    check_precision(str(precision))
    plans, updates = ("off" if few else mode for few in seldom)
    if mode_left_open and device.type == "cpu" and width < WIDE and not pixels:
        plans = "recorded" if RECORDING_PAYS_FROM <= calls[0] < math.inf else plans
    return Speed(device, updates, plans, str(precision), matmul_precision(device))


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
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()) and gains_bf16()


@functools.cache
def gains_bf16() -> bool:
    """Whether this CPU multiplies matrices faster in bfloat16 than in float32, tried for some milliseconds.

    The instructions do not say: with AVX512_BF16 it takes half as long as float32 on an AMD Zen 4, and twice
    as long on an Intel (Emerald Rapids) whose AMX a virtual machine hides.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(512, 512, dtype=dtype)
        trials = []
        for _ in range(10):
            began = time.process_time()  # of the processor: other processes do not count
            matrix @ matrix
            trials.append(time.process_time() - began)
        seconds[dtype] = min(trials)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def missing_compiler(device: torch.device) -> str:
    """What `torch.compile` needs for that device and is not here; empty if nothing is missing."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            return "Triton"
        # Triton compiles a small module in C before its first kernel.
        if not (os.environ.get("CC") or shutil.which("clang") or shutil.which("gcc")):
            return "a C compiler (CC, gcc or clang)"
        scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's
        header = Path(sysconfig.get_path("include", scheme), "Python.h")
        elsewhere = os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH")
        return "" if elsewhere or header.is_file() else f"Python's headers ({header})"
    names = (os.environ.get("CXX", "g++"), "clang++", "cl")
    return "" if any(shutil.which(name) for name in names) else "a C++ compiler (CXX, g++ or clang++)"
