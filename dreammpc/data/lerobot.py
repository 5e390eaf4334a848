"""LeRobot's layout: a folder with `meta/info.json`, and parquet files of columns with one row a frame.

    data/chunk-000/episode_000000.parquet     an episode each (versions 2.0, 2.1)
    data/chunk-000/file-000.parquet           several episodes each (version 3.0)
    videos/chunk-000/KEY/episode_000000.mp4   frames, where they are not in the parquet files (2.0, 2.1)

There is no observation after an episode's last frame, so that one has no transition.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreammpc.data.columns import FRAME, Mapped, flat_episodes
from dreammpc.data.episode import Episode
from dreammpc.data.formats import DAMAGED, damaged, package
from dreammpc.interfaces import UsageError
from dreammpc.support.atomic import from_json


class LeRobot:
    """A data set of LeRobot's, read one parquet file at a time.

    Args:
        path: its folder.
        columns: which is what; by default `observation.state`, `action`, `next.reward`, `next.done` and
            `episode_index`. `pixels` is a feature that is an image or a video; frames become 64 × 64.
        obs: what is wanted of observations: `state`, `pixels` or `both`.
        length: see `flat_episodes`.

    Raises:
        UsageError: no such folder, nothing in it, or a column that is needed and not there.
    """

    def __init__(self, path: Path, columns: Mapping[str, Any], obs: str, length: int | None):
        self.path, self.name, self.length = path, f"data {path}", length
        self.parquet = package("pyarrow.parquet", "data in LeRobot's layout").parquet
        try:
            self.info = from_json((path / "meta" / "info.json").read_text())
            features = self.info["features"]
            self.videos = {key for key, feature in features.items() if feature["dtype"] == "video"}
        except (*DAMAGED, AttributeError) as error:
            raise damaged(self.name, "data set of LeRobot's: meta/info.json", error) from error
        version = str(self.info.get("codebase_version", "v2.1"))
        if version.lstrip("v").partition(".")[0] not in ("2", "3"):
            raise UsageError(f"{self.name} has version {version} of LeRobot's layout; 2.x and 3.x are read")
        self.files = sorted(path.glob("data/*/*.parquet"))
        if not self.files:
            raise UsageError(f"{self.name}: no data/*/*.parquet in it")
        try:
            schema = self.parquet.read_schema(self.files[0])
        except (*DAMAGED, self._arrow_error()) as error:
            raise damaged(f"data {self.files[0]}", "parquet file", error) from error
        shapes: dict[str, tuple[int, ...]] = {column: () for column in schema.names}
        shapes |= {key: () for key in self.videos}
        self.mapped = Mapped(self.name, shapes, columns, obs)
        self.facts: Mapping[str, Any] = {}
        self.absent = {"meta/info.json counts them, and no file has them": self._absent()}

    def _absent(self) -> int:
        """Rows that the data set says it has, and that are in no file."""
        told = self.info.get("total_frames")
        if not isinstance(told, int):
            return 0
        rows = 0
        for file in self.files:
            try:
                rows += self.parquet.read_metadata(file).num_rows
            except (*DAMAGED, self._arrow_error()) as error:
                raise damaged(f"data {file}", "parquet file", error) from error
        return max(told - rows, 0)

    def _arrow_error(self) -> type[Exception]:
        return package("pyarrow", "data in LeRobot's layout").ArrowException

    def episodes(self) -> Iterator[Episode]:
        used = [column for columns in self.mapped.roles.values() for column in columns]
        stored = [column for column in used if column not in self.videos]
        number = 0
        for file in self.files:
            try:
                table = self.parquet.read_table(file, columns=stored)
                missing = [column for column in stored if column not in table.column_names]
                arrays = {} if missing else {key: array(table[key], key) for key in stored}
            except (*DAMAGED, self._arrow_error()) as error:
                raise damaged(f"data {file}", "parquet file", error) from error
            if missing:
                raise UsageError(f"data {file} has no column {missing[0]!r}, which the first file has")
            for key in self.videos & set(used):
                arrays[key] = self._video(key, file, table.num_rows)
            read = lambda key, a, b, own=arrays: own[key][a:b]  # noqa: E731
            whole = not self.mapped.has("episode")  # a file is one episode at least
            for episode in flat_episodes(self.mapped, read, table.num_rows, self.length, whole, number):
                yield episode
                number += 1

    def _video(self, key: str, file: Path, rows: int) -> np.ndarray:
        """The frames [T, 64, 64, 3] that belong to a parquet file of one episode."""
        path = self.path / "videos" / file.parent.name / key / f"{file.stem}.mp4"
        if not path.is_file():
            raise UsageError(
                f"{self.name}: there is no video {path.relative_to(self.path)}; frames are read of images in"
                " parquet files, and of videos of one episode each (LeRobot 2.0, 2.1)"
            )
        import imageio.v3 as imageio

        try:
            frames = np.stack([resized(frame) for frame in imageio.imiter(path)])
        except DAMAGED as error:
            raise damaged(f"data {path}", "video", error) from error
        if len(frames) < rows:
            raise UsageError(f"data {path} has {len(frames)} frames, and {file.name} {rows} rows")
        return frames[:rows]


def array(column: Any, name: str) -> np.ndarray:
    """A column of a table: numbers [T], lists of equal length [T, ...], or encoded images [T, 64, 64, 3].

    Raises:
        ValueError: lists of different lengths, or something else.
    """
    values = column.to_pylist() if str(column.type).startswith("struct") else column.to_numpy()
    if len(values) and isinstance(values[0], dict):
        return np.stack([resized(decoded(value.get("bytes"))) for value in values])
    values = np.asarray(values)
    if values.dtype.kind == "O":  # a list in each row, perhaps of lists
        if odd := [row for row, value in enumerate(values) if not isinstance(value, np.ndarray)]:
            what = "empty" if values[odd[0]] is None else f"no list of numbers: {str(values[odd[0]])[:40]!r}"
            raise ValueError(f"column {name!r}, row {odd[0]} is {what}")
        return np.stack([np.stack(value) if value.dtype.kind == "O" else value for value in values])
    return values


def decoded(content: bytes | None) -> np.ndarray:
    """An image of a parquet file.

    Raises:
        ValueError: it is elsewhere.
    """
    from PIL import Image

    if content is None:
        raise ValueError("its images are not in the parquet files")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def resized(frame: np.ndarray) -> np.ndarray:
    """[height, width, 3] as 64 × 64, averaged over what lies under each pixel."""
    from PIL import Image

    if frame.shape[:2] == FRAME:
        return frame
    return np.asarray(Image.fromarray(frame).resize(FRAME, Image.Resampling.BOX))
