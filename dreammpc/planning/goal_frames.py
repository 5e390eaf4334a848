"""A picture as a setting: what a goal looks like, from a file or as numbers."""

import hashlib
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreammpc.interfaces import UsageError, first_line

EXPECTED = "a uint8 tensor or array [C, h, w]"


class Frames(str):
    """A picture, uint8 [C, h, w], that can stand in a frozen dataclass of settings.

    As text, which is what is stored, printed and compared, it is the file's name, or size and checksum.

    Args:
        given: a file (`.npy`, or a picture); or a uint8 tensor or array [C, h, w] with 3 channels for each
            camera.

    Raises:
        UsageError: no such file, not a picture, or of another shape or type.
    """

    _on: dict[torch.device, Tensor]

    def __new__(cls, given: Any) -> "Frames":
        named = isinstance(given, str | Path)
        try:
            given = np.ascontiguousarray(given) if isinstance(given, np.ndarray) else given
            pixels = read_picture(Path(given)) if named else torch.as_tensor(given).detach().cpu().clone()
        except UsageError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            got = reprlib.repr(given)
            raise UsageError(f"frames: expected a picture's file, or {EXPECTED}, got {got}") from error
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] % 3 or not pixels.numel():
            got = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
            raise UsageError(f"frames: expected {EXPECTED}, C a multiple of 3, got {got}")
        checksum = "" if named else hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:12]
        made = super().__new__(cls, given if named else f"bytes {list(pixels.shape)} {checksum}")
        made._on = {torch.device("cpu"): pixels}
        return made

    def on(self, device: torch.device) -> Tensor:
        """The picture on a device, where it stays, so that only the first plan has to copy it."""
        if device not in self._on:
            self._on[device] = self._on[torch.device("cpu")].to(device)
        return self._on[device]

    def __deepcopy__(self, memo: Any) -> "Frames":
        return self

    def __reduce__(self) -> Any:
        return _restored, (str(self), self._on[torch.device("cpu")])


def _restored(text: str, pixels: Tensor) -> Frames:
    """`Frames` as they were, also where the file is gone."""
    made = str.__new__(Frames, text)
    made._on = {torch.device("cpu"): pixels}
    return made


def read_picture(path: Path) -> Tensor:
    """uint8 [C, h, w] of a file; see `Frames`."""
    if not path.is_file():
        raise UsageError(f"frames: {path}: no such file")
    try:
        if path.suffix == ".npy":
            return torch.as_tensor(np.load(path, allow_pickle=False))
        import imageio.v3 as imageio

        return torch.as_tensor(np.array(imageio.imread(path, mode="RGB"))).permute(2, 0, 1).contiguous()
    except (OSError, EOFError, ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"frames: {path}: not a picture: {first_line(error)}") from error
