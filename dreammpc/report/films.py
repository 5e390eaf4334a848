"""The videos of a report: moments of each, as pictures."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from dreammpc.interfaces import UsageError
from dreammpc.report.inputs import Curve

FRAMES, FRAME_HEIGHT = 6, 160


def films(videos: Sequence[Path], curves: Sequence[Curve]) -> str:
    """Frames of each video, evenly spaced; where the page is narrow, in several rows."""
    parts = []
    for path, name in zip(videos, names(videos, curves), strict=True):
        pictures = "".join(
            f'<img alt="{escape(name)}, moment {i} of {FRAMES}" width="{width}" height="{FRAME_HEIGHT}"'
            f' src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
            for i, (width, data) in enumerate(moments(path), 1)
        )
        parts.append(f'<figure><h3>{escape(name)}</h3><div class="strip">{pictures}</div></figure>')
    caption = (
        f"{FRAMES} moments of an episode each, from its start, left, to its end, right, evenly spaced. On a"
        " narrow page they go on in the next row."
    )
    head = f'<h2>Videos</h2><p class="lead">{caption}</p>'
    return f'<section>{head}<div class="films">{"".join(parts)}</div></section>'


def names(videos: Sequence[Path], curves: Sequence[Curve]) -> list[str]:
    """A heading for each: a run's with seed and folder, another's with its folder where two are alike."""
    seeds = {Path(curve.folder): curve.seed for curve in curves}
    folders = {path: path.parent.resolve().name for path in videos}
    known = Counter((path.stem, folders[path]) for path in videos)
    stems = Counter(path.stem for path in videos)
    found = []
    for path in videos:
        folder = folders[path] if known[path.stem, folders[path]] == 1 else str(path.parent)
        if path.parent in seeds:
            found.append(f"{path.stem}, seed {seeds[path.parent]} ({folder})")
        else:
            found.append(path.stem if stems[path.stem] == 1 else f"{path.stem} ({folder})")
    return found


def moments(path: Path) -> list[tuple[int, bytes]]:
    """Width and JPEG of each of `FRAMES` frames; the video is read twice, so that no others are held.

    Raises:
        UsageError: a video that cannot be read.
    """
    import imageio.v3 as iio
    from PIL import Image

    try:
        count = sum(1 for _ in iio.imiter(path))
        chosen = np.linspace(0, count - 1, FRAMES).round().astype(int).tolist()
        kept = {i: frame for i, frame in enumerate(iio.imiter(path)) if i in chosen}
        frames = [kept[i] for i in chosen]
    except Exception as error:  # the readers raise what they like
        raise UsageError(f"video {path} cannot be read ({type(error).__name__})") from error
    width = round(frames[0].shape[1] * FRAME_HEIGHT / frames[0].shape[0])
    found = []
    for frame in frames:
        file = io.BytesIO()
        picture = Image.fromarray(frame).resize((width, FRAME_HEIGHT)).convert("RGB")
        picture.save(file, "JPEG", quality=82)
        found.append((width, file.getvalue()))
    return found
