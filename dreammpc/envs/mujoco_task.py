"""What the tasks of other packages that step MuJoCo share: time limit, frames, and states to go on from."""

import atexit
import contextlib
import importlib
import math
import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium
import numpy as np

from dreammpc.envs.dmcontrol import use_egl_if_headless
from dreammpc.envs.state import Unusable, mujoco_state, plain, set_mujoco_state, unplain


class MujocoTask(gymnasium.Env):
    """A Gymnasium MujocoEnv of another package under a time limit of ours.

    Observation: float32 [O] without bounds, whatever the package declares. Action: as it declares.
    Reward: the sum over repeated steps. `terminated` is the package's own, `truncated` the time limit.

    Args:
        env: the package's environment, without Gymnasium's wrappers.
        action_repeat: steps of `env` per call of `step`; fewer where the episode ends between.
        time_limit: steps of `env` in an episode.
        camera: that draws; the model's name of it.
        flipped: whether that camera stands on its head.
        render_mode: `"rgb_array"` if frames will be asked for.

    Attributes:
        action_repeat: as given.
        max_episode_steps: the time limit, in calls of `step`.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's own declaration)
    changed_by_episodes: tuple[str, ...] = ()
    """Arrays of the model that an episode changes."""

    def __init__(
        self,
        env: Any,
        action_repeat: int,
        time_limit: int,
        camera: str,
        flipped: bool = False,
        render_mode: str | None = None,
    ):
        self._env, self._limit = env, time_limit
        self.action_repeat, self.max_episode_steps = action_repeat, math.ceil(time_limit / action_repeat)
        self.render_mode, self._frames = render_mode, Frames(env.model, camera, flipped)
        self.metadata = {**self.metadata, "render_fps": 1 / (env.dt * action_repeat)}
        size = env.observation_space.shape
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, size, np.float32)
        self.action_space = env.action_space
        self._steps = time_limit  # none may follow before a reset

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply `action` [A] up to `action_repeat` times."""
        assert self._steps < self._limit, "the episode is over: reset() comes before step()"
        total, succeeded = 0.0, False
        for _ in range(self.action_repeat):
            observation, reward, terminated, _, info = self._step(action)
            total += float(reward)
            succeeded = succeeded or bool(info.get("success", False))
            self._steps = self._limit if terminated else self._steps + 1
            if self._steps == self._limit:
                break
        if "success" in info:
            info = {**info, "any_success": succeeded}
        truncated = self._steps == self._limit and not terminated
        return observation.astype(np.float32), total, bool(terminated), truncated, info

    def _step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of the package's environment."""
        return self._env.step(action)

    def stateful(self) -> Iterable[Any]:
        """The objects whose plain attributes belong to the state."""
        return [self._env]

    def get_state(self) -> dict[str, Any] | None:
        """See `dreammpc.envs.state`."""
        env = self._env
        return {
            "steps": self._steps,
            "random": env.np_random.bit_generator.state,
            "mujoco": mujoco_state(env.model, env.data, self.changed_by_episodes),
            "attributes": [plain_attributes(thing) for thing in self.stateful()],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """See `dreammpc.envs.state`."""
        env, self._steps = self._env, state["steps"]
        env.np_random.bit_generator.state = state["random"]
        set_mujoco_state(env.model, env.data, state["mujoco"], self.changed_by_episodes)
        for thing, attributes in zip(self.stateful(), state["attributes"], strict=True):
            set_plain_attributes(thing, attributes)

    def render(self, height: int = 64, width: int = 64) -> np.ndarray:  # type: ignore[override]
        """Draws the current state, uint8 [height, width, 3].

        Raises:
            ValueError: the environment was made without `render_mode="rgb_array"`.
        """
        if self.render_mode is None:
            raise ValueError("made without render_mode='rgb_array' (render=True)")
        return self._frames.draw(self._env.data, height, width)

    def close(self) -> None:
        """Free the simulation and its graphics context."""
        self._frames.close()
        self._env.close()


class Frames:
    """Draws a MuJoCo model from one of its cameras; a graphics context is made when it is first needed.

    Args:
        model: MuJoCo's MjModel.
        camera: its name.
        flipped: whether the camera stands on its head.
    """

    def __init__(self, model: Any, camera: str, flipped: bool = False):
        self.model, self.camera, self.flipped = model, camera, flipped
        self._renderers: dict[tuple[int, int], Any] = {}

    def draw(self, data: Any, height: int, width: int) -> np.ndarray:
        """The state `data`, uint8 [height, width, 3]."""
        if not self._renderers:
            atexit.register(_close, weakref.ref(self))  # before the graphics library itself goes
        if (height, width) not in self._renderers:
            self._renderers[height, width] = _renderer(self.model, height, width)
        renderer = self._renderers[height, width]
        renderer.update_scene(data, self.camera)
        frame = renderer.render()
        return np.ascontiguousarray(frame[::-1, ::-1]) if self.flipped else frame

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def _renderer(model: Any, height: int, width: int) -> Any:
    use_egl_if_headless()
    import mujoco
    from mujoco import gl_context

    chosen = os.environ.get("MUJOCO_GL")
    if chosen in ("egl", "osmesa") and gl_context.GLContext.__module__ != f"mujoco.{chosen}":
        importlib.reload(gl_context)  # it chose when it was imported, before anybody asked for frames
    return mujoco.Renderer(model, height, width)


def _close(reference: "weakref.ref[Frames]") -> None:
    if (frames := reference()) is not None:
        frames.close()


def plain_attributes(thing: Any) -> dict[str, Any]:
    """Those attributes of an object that are numbers, strings, arrays, or containers of them, as copies.

    Left out is what no episode changes: models, spaces, other objects, and windows on MuJoCo's memory.
    """
    found = {}
    for name, value in vars(thing).items():
        if name == "fullpath" or _is_window(value):  # the path of a file on this machine
            continue
        with contextlib.suppress(Unusable):
            found[name] = unplain(plain(value, name))
    return found


def set_plain_attributes(thing: Any, values: Mapping[str, Any]) -> None:
    """Put back what `plain_attributes` returned."""
    for name, value in values.items():
        setattr(thing, name, value)


def _is_window(value: Any) -> bool:
    """Whether it is an array that shows memory that is not NumPy's, as those of MuJoCo's MjData do."""
    if not isinstance(value, np.ndarray):
        return False
    while isinstance(value, np.ndarray):
        value = value.base
    return value is not None
