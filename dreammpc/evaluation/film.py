"""Videos of an episode: one agent, or several side by side from the same start."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreammpc.envs import TaskEnv, make_env
from dreammpc.envs.drawing import Undrawable, advice
from dreammpc.evaluation.episodes import Episodes, run_episodes
from dreammpc.interfaces import UsageError
from dreammpc.tracking.video import check_writer, write_gif, write_video

log = logging.getLogger(__name__)

ENDINGS = (".mp4", ".gif")
VIDEO_SIZE = 256
MAX_FPS = 50
GIF_EVERY, GIF_WIDTH = 4, 160
CAPTION_HEIGHT = 24


def video_path(name: str | Path) -> Path:
    """The path of a video, refused before hours of episodes and not after.

    Raises:
        UsageError: its ending is neither .mp4 nor .gif.
    """
    path = Path(name)
    if path.suffix not in ENDINGS:
        raise UsageError(f"video {name}: expected a name that ends in .mp4 or .gif")
    return path


def film(
    agents: Mapping[str, object],
    task: str,
    seed: int,
    path: Path,
    action_repeat: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    obs: str = "state",
    stepped: Callable[[], None] = lambda: None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Episodes] | None:
    """Play an episode with each agent from the same start and write one video, mp4 or gif by `path`'s ending.

    Several agents stand side by side under their names; who ends first stays as it ended, darkened.
    `stepped` is told of every step; `options` are those of the task's own family, see `make_env`.

    Returns:
        The episodes by the agents' names; `None` if interrupted, or where nothing can be drawn (logged).
    """
    episodes: dict[str, Episodes] = {}
    env: TaskEnv | None = None
    try:
        check_writer()
        env = make_env(task, 1, seed, action_repeat, render=True, obs=obs, **(options or {}))
        env.reset()
        env.render(0, VIDEO_SIZE, VIDEO_SIZE)
    except Exception as error:  # whatever OpenGL says: a training must not end without its table
        _say_no_video(error)
        if env is not None:
            env.close()
        return None
    try:
        for name, agent in agents.items():
            played = run_episodes(env, agent, seed, VIDEO_SIZE, should_stop, stepped, 1)
            if played is None:
                return None
            episodes[name] = played
    except Undrawable as error:
        _say_no_video(error)
        return None
    finally:
        env.close()
    frames = side_by_side({name: played.frames for name, played in episodes.items()})
    fps = min(env.fps, MAX_FPS)
    if path.suffix == ".gif":
        write_gif(path, frames[::GIF_EVERY], fps / GIF_EVERY, GIF_WIDTH * len(agents))
    else:
        write_video(path, frames, fps)
    return episodes


def _say_no_video(error: Exception) -> None:
    log.warning("no video: %s%s", " ".join(str(error).split()), advice(error))


def side_by_side(films: Mapping[str, list[np.ndarray]]) -> list[np.ndarray]:
    """Frames [height, width, 3] of several films in a row, each under its name; a single one as it is."""
    if len(films) == 1:
        return next(iter(films.values()))
    longest = max(map(len, films.values()))
    columns = []
    for name, frames in films.items():
        top = caption(name, frames[0].shape[1])
        ended = [frames[-1] // 2] * (longest - len(frames))
        columns.append([np.concatenate([top, frame]) for frame in [*frames, *ended]])
    return [np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True)]


def caption(text: str, width: int) -> np.ndarray:
    """A bar with `text`, uint8 [CAPTION_HEIGHT, width, 3]."""
    from PIL import Image, ImageDraw  # here: who draws nothing needs no Pillow

    image = Image.new("RGB", (width, CAPTION_HEIGHT), "black")
    ImageDraw.Draw(image).text((6, 5), text, fill="white", font_size=13)
    return np.asarray(image)
