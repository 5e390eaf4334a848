"""Frames to files that browsers play."""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dreammpc.support.atomic import replacing


def write_video(path: str | Path, frames: Any, fps: float) -> None:
    """Write an mp4 (H.264, yuv420p), atomically.

    H.264 wants even sizes: an odd height or width gets its last row or column twice.

    Args:
        path: the file to write; its folder is made if missing.
        frames: uint8 [T, H, W, 3].
        fps: frames per second.

    Raises:
        ValueError: if `frames` or `fps` are not as above, or there is no frame.
        OSError: if ffmpeg fails.
    """
    import imageio_ffmpeg

    video = _checked(frames, fps)
    height, width = video.shape[1:3]
    video = np.pad(video, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")

    def write(draft: Path) -> None:
        writer = imageio_ffmpeg.write_frames(
            draft,
            (video.shape[2], video.shape[1]),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",
            macro_block_size=2,  # the default, 16, resizes the picture
            output_params=["-movflags", "+faststart"],  # plays before it is loaded
        )
        writer.send(None)
        for frame in video:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        with suppress(RuntimeError):  # of a file that cannot be read
            if imageio_ffmpeg.count_frames_and_secs(draft)[0] == len(video):
                return
        raise OSError(errno.EIO, "ffmpeg left it unfinished: is the disk full?", str(path))

    _write_atomically(Path(path), write)


def check_writer() -> None:
    """Raise ImportError if what writes videos is not installed."""
    import imageio_ffmpeg  # noqa: F401
    import PIL  # noqa: F401


def write_gif(path: str | Path, frames: Any, fps: float, width: int | None = None) -> None:
    """Write an endless GIF, atomically. GIF counts time in hundredths of a second: 50 fps at most.

    Args:
        path: the file to write; its folder is made if missing.
        frames: uint8 [T, H, W, 3].
        fps: frames per second.
        width: in pixels, the height follows; None keeps the size.

    Raises:
        ValueError: if `frames`, `fps` or `width` are not as above, or there is no frame.
    """
    from PIL import Image

    video = _checked(frames, fps)
    if width is not None and width < 1:
        raise ValueError(f"width must be at least 1 pixel, got {width}")
    images = [Image.fromarray(frame) for frame in video]
    if width is not None:
        height = max(1, round(video.shape[1] * width / video.shape[2]))
        images = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
    hundredths = max(2, round(100 / fps))  # browsers slow down what is faster than 50 fps

    def write(draft: Path) -> None:
        images[0].save(draft, save_all=True, append_images=images[1:], duration=10 * hundredths, loop=0)

    _write_atomically(Path(path), write)


def _checked(frames: Any, fps: float) -> np.ndarray:
    video = np.asarray(frames)
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3 or 0 in video.shape:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    return video


def _write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path` and put it in place when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, path.suffix) as draft:  # whose ending names the format
        write(draft)
