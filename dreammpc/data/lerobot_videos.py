"""Frames of LeRobot's videos, which have an episode each (versions 2.0, 2.1) or several (3.0)."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from dreammpc.data.columns import FRAME
from dreammpc.data.formats import DAMAGED, damaged
from dreammpc.interfaces import UsageError


class Film:
    """Reads videos forward, so that frames that are asked for in their order are decoded once."""

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        """End what decodes; the next frames are read from a video's beginning."""
        self.path: Path | None = None
        self.at = 0
        self.frames: Iterator[np.ndarray] = iter(())

    def read(self, path: Path, start: int, stop: int) -> np.ndarray:
        """Frames `start` to `stop` of a video, [T, 64, 64, 3].

        Raises:
            UsageError: there is no such video, it is damaged, or has fewer frames.
        """
        if not path.is_file():
            raise UsageError(f"data: there is no video {path}")
        import imageio.v3 as imageio

        try:
            if path != self.path or start < self.at:
                self.path, self.at, self.frames = path, 0, imageio.imiter(path)
            found = [resized(frame) for frame in islice(self.frames, start - self.at, stop - self.at)]
        except DAMAGED as error:
            raise damaged(f"data {path}", "video", error) from error
        if len(found) < stop - start:
            raise UsageError(f"data {path} ends before its frame {stop}, which is needed")
        self.at = stop
        return np.stack(found)


class FramesOfRows:
    """Frames [T, 64, 64, 3] of rows, read as slices are taken.

    Args:
        film: by which they are read.
        places: of each row, the video and the number of the frame in it.
    """

    def __init__(self, film: Film, places: Sequence[tuple[Path, int]]):
        self.film, self.places = film, places

    def __getitem__(self, rows: slice) -> np.ndarray:
        parts = []
        for path, run in groupby(self.places[rows], itemgetter(0)):
            numbers = np.array([number for _, number in run])
            frames = self.film.read(path, int(numbers.min()), int(numbers.max()) + 1)
            parts.append(frames[numbers - numbers.min()])
        return np.concatenate(parts)


def resized(frame: np.ndarray) -> np.ndarray:
    """[height, width, 3] as 64 × 64, averaged over what lies under each pixel."""
    from PIL import Image

    if frame.shape[:2] == FRAME:
        return frame
    return np.asarray(Image.fromarray(frame).resize(FRAME, Image.Resampling.BOX))
