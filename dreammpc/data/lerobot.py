"""LeRobot's layout: a folder with `meta/info.json`, and parquet files of columns with one row a frame.

    data/chunk-000/episode_000000.parquet     an episode each (versions 2.0, 2.1)
    data/chunk-000/file-000.parquet           several episodes each (version 3.0)
    videos/chunk-000/KEY/episode_000000.mp4   frames, where they are not in the parquet files (2.0, 2.1)
    videos/KEY/chunk-000/file-000.mp4         frames of several episodes, as meta/episodes says (3.0)

There is no observation after an episode's last frame, so that one has no transition.
"""

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreammpc.data.columns import Mapped, flat_episodes
from dreammpc.data.episode import Episode
from dreammpc.data.formats import DAMAGED, damaged, package
from dreammpc.data.lerobot_videos import Film, FramesOfRows, resized
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
        told = str(self.info.get("codebase_version", "v2.1"))
        self.version = told.lstrip("v")
        if self.version.partition(".")[0] not in ("2", "3"):
            raise UsageError(f"{self.name} has version {told} of LeRobot's layout; 2.x and 3.x are read")
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
        self.films = {key: Film() for key in self.videos & set(self.mapped.roles["pixels"])}
        self.begins = {key: self._begins(key) for key in self.films if self.version.startswith("3")}
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
        try:
            yield from self._episodes()
        finally:
            for film in self.films.values():
                film.close()

    def _episodes(self) -> Iterator[Episode]:
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
            frames = {key: self._frames(key, file, table.num_rows) for key in self.films}
            read = lambda key, a, b, own=arrays | frames: own[key][a:b]  # noqa: E731
            whole = not self.mapped.has("episode")  # a file is one episode at least
            for episode in flat_episodes(self.mapped, read, table.num_rows, self.length, whole, number):
                yield episode
                number += 1

    def _frames(self, key: str, file: Path, rows: int) -> FramesOfRows:
        """The frames of a video feature that belong to a parquet file with so many rows."""
        if self.version.startswith("2"):  # an episode each
            path = self.path / "videos" / file.parent.name / key / f"{file.stem}.mp4"
            return FramesOfRows(self.films[key], [(path, row) for row in range(rows)])
        table = self._table(file, ["episode_index", "frame_index"])
        begins = self.begins[key]
        try:
            places = [
                (begins[episode][0], begins[episode][1] + number)
                for episode, number in zip(*table.values(), strict=True)
            ]
        except KeyError as error:
            raise UsageError(
                f"{self.name}: meta/episodes does not say where the frames of episode {error} are"
            ) from error
        except TypeError as error:  # empty cells
            raise damaged(f"data {file}", "parquet file", error) from error
        return FramesOfRows(self.films[key], places)

    def _begins(self, key: str) -> dict[int, tuple[Path, int]]:
        """Where the frames of each episode begin: the video, and the number of the first (version 3)."""
        found, fps = {}, self.info.get("fps")
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
            raise UsageError(
                f"{self.name}: meta/info.json has no frames per second, `fps`, which videos need"
            )
        names = [f"videos/{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp")]
        for file in sorted(self.path.glob("meta/episodes/*/*.parquet")):
            table = self._table(file, ["episode_index", *names])
            for episode, *place in zip(*table.values(), strict=True):
                if None in place:  # which is told if the episode is needed
                    continue
                try:
                    path = self.path / "videos/{}/chunk-{:03d}/file-{:03d}.mp4".format(
                        key, *map(int, place[:2])
                    )
                    found[episode] = path, round(place[2] * fps)
                except (TypeError, ValueError, OverflowError) as error:
                    raise damaged(f"data {file}", "parquet file", error) from error
        return found

    def _table(self, file: Path, columns: list[str]) -> dict[str, list[Any]]:
        """Columns of a parquet file, in this order."""
        try:
            table = self.parquet.read_table(file, columns=columns)
        except (*DAMAGED, self._arrow_error()) as error:
            raise damaged(f"data {file}", "parquet file", error) from error
        if absent := [column for column in columns if column not in table.column_names]:
            raise UsageError(f"data {file} has no column {absent[0]!r}")
        return {column: table[column].to_pylist() for column in columns}


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
