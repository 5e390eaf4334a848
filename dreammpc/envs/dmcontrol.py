"""The DeepMind control suite as Gymnasium environments.

Source: Tassa et al., "DeepMind Control Suite", 2018 (arXiv:1801.00690), and dm_control itself. Names and
the action repeat of 2 are those that TD-MPC2 uses (Hansen et al., 2024, arXiv:2310.16828).
"""

import functools
import importlib
import logging
import os
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np

from dreammpc.envs.state import mujoco_state, set_mujoco_state, set_stream_state, stream_state

#: Control steps in an episode, in every task. Only `lqr` has no limit of its own; it gets the same one.
CONTROL_STEPS = 1000

_SHORT_NAMES = {"ball_in_cup": "cup", "point_mass": "pointmass"}

# These draw their model itself at random when loaded, so a new seed needs a new model.
_RANDOM_MODELS = {"lqr"}

# These end where the state is at rest; all others run to their time limit.
_TERMINATE = {"lqr"}

# These have rewards that do not lie in [0, 1].
_UNBOUNDED = {"lqr"}

# Arrays of the model that a task changes at the start of an episode: targets, terrains, gains.
_CHANGED_BY_EPISODES = (
    "body_pos",
    "body_quat",
    "dof_damping",
    "geom_pos",
    "geom_rgba",
    "geom_size",
    "hfield_data",
    "jnt_stiffness",
    "light_pos",
    "mat_rgba",
    "site_pos",
    "site_rgba",
    "site_size",
    "wrap_prm",
)

# These upload a terrain to OpenGL at every reset, whether or not anyone looks.
_NEED_GL = {("quadruped", "escape")}


class DMControl(gymnasium.Env):
    """One task of the control suite, or one of `dreammpc.envs.dmcontrol_extra`.

    Observation: float32 [O], the task's values concatenated in the order in which dm_control defines them.
    Action: the task's own bounds (the wrapper to TorchRL rescales them to [-1, 1]); an actuator without
    bounds is given [-1, 1].
    Reward: the sum over the repeated control steps, so within [0, `action_repeat`] (`lqr` aside).
    `terminated` only where dm_control ends with discount 0; the time limit gives `truncated`.

    Args:
        domain: dm_control's name of the domain, such as `"ball_in_cup"`.
        task: dm_control's name of the task, such as `"turn_easy"`.
        action_repeat: control steps per call of `step`; fewer where the episode ends between.
        render_mode: `"rgb_array"` if frames will be asked for. On Linux without a display, and only
            then, this chooses EGL unless the user has set `MUJOCO_GL`.

    Attributes:
        action_repeat: as given.
        max_episode_steps: the time limit, in calls of `step`.
        episodic: whether an episode can end before it.
        full_return: 1000, for 1000 control steps of reward at most 1; `lqr` has no such bound.

    Raises:
        ValueError: no such domain or task, or `action_repeat` below 1.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, domain: str, task: str, action_repeat: int = 2, render_mode: str | None = None):
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1, got {action_repeat}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if render_mode or (domain, task) in _NEED_GL:
            use_egl_if_headless()
        self.domain, self.task = domain, task
        self.action_repeat = action_repeat
        self.max_episode_steps = -(-CONTROL_STEPS // action_repeat)
        self.episodic = domain in _TERMINATE
        self.full_return = _full_return(domain)
        self.render_mode = render_mode
        self._random = np.random.RandomState()
        self._env = self._load()
        self.metadata = {**self.metadata, "render_fps": 1 / (self._env.control_timestep() * action_repeat)}
        self._steps = CONTROL_STEPS  # control steps since the reset: none may follow before one

        size = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        bounds = self._env.action_spec()
        limited = (bounds.maximum - bounds.minimum) < 1e6  # mujoco's "no limit" is 1e10
        low, high = np.where(limited, bounds.minimum, -1.0), np.where(limited, bounds.maximum, 1.0)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float64)

    def _load(self) -> Any:
        suite, extra = _import_suite()
        if (self.domain, self.task) in extra.TASKS:
            return extra.TASKS[self.domain, self.task](self._random)
        return suite.load(self.domain, self.task, task_kwargs={"random": self._random})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. With a seed the random stream starts anew, without one it goes on."""
        if seed is not None:
            # The task draws from this very object, so seeding it in place spares a reload of the model.
            self._random.seed(seed)
            if self.domain in _RANDOM_MODELS:
                self._env = self._load()
        self._steps = 0
        return _flatten(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply `action` [A] for `action_repeat` control steps."""
        assert self._steps < CONTROL_STEPS, "the episode is over: reset() comes before step()"
        reward = 0.0
        for _ in range(self.action_repeat):
            time_step = self._env.step(action)
            reward += float(time_step.reward)
            self._steps = CONTROL_STEPS if time_step.last() else self._steps + 1
            if self._steps == CONTROL_STEPS:
                break
        terminated = time_step.last() and time_step.discount == 0.0
        truncated = self._steps == CONTROL_STEPS and not terminated
        return _flatten(time_step.observation), reward, terminated, truncated, {}

    def get_state(self) -> dict[str, Any]:
        """See `dreammpc.envs.state`."""
        physics = self._env.physics
        return {
            "steps": self._steps,
            "count": self._env._step_count,
            "over": self._env._reset_next_step,
            "random": stream_state(self._random),
            "mujoco": mujoco_state(physics.model.ptr, physics.data.ptr, _CHANGED_BY_EPISODES),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """See `dreammpc.envs.state`."""
        physics = self._env.physics
        set_mujoco_state(physics.model.ptr, physics.data.ptr, state["mujoco"], _CHANGED_BY_EPISODES)
        set_stream_state(self._random, state["random"])
        self._steps, self._env._step_count = state["steps"], state["count"]
        self._env._reset_next_step = state["over"]

    def render(self, height: int = 64, width: int = 64) -> np.ndarray:  # type: ignore[override]
        """Draws the current state, uint8 [height, width, 3], from the camera that TD-MPC2 uses.

        Raises:
            ValueError: the environment was made without `render_mode="rgb_array"`.
        """
        if self.render_mode is None:
            raise ValueError(
                f"{self.domain}-{self.task} was made without render_mode='rgb_array' (render=True)"
            )
        camera = 2 if self.domain == "quadruped" else 0  # quadruped's camera 0 is 17 m away
        return self._env.physics.render(height, width, camera_id=camera)

    def close(self) -> None:
        """Free the simulation and its graphics context."""
        self._env.physics.free()


def make(task: str, *, action_repeat: int | None, render: bool) -> DMControl:
    """Make the environment of a name from `list_tasks`; action repeat 2 by default."""
    domain, name = _table()[task]
    return DMControl(domain, name, action_repeat or 2, "rgb_array" if render else None)


def list_tasks() -> list[str]:
    """Names as TD-MPC2's users write them: `walker-walk`, `cup-catch`, `finger-turn-hard`."""
    return list(_table())


def full_return(task: str) -> float | None:
    """`DMControl.full_return` of a task's name, without making it; None for a name that is none of these."""
    return _full_return(_table()[task][0]) if task in _table() else None


def _full_return(domain: str) -> float | None:
    return None if domain in _UNBOUNDED else float(CONTROL_STEPS)


@functools.cache
def _table() -> dict[str, tuple[str, str]]:
    suite, extra = _import_suite()
    return {
        f"{_SHORT_NAMES.get(domain, domain)}-{task.replace('_', '-')}": (domain, task)
        for domain, task in (*suite.ALL_TASKS, *extra.TASKS)
    }


def _import_suite() -> tuple[Any, Any]:
    _log_plainly()
    with warnings.catch_warnings():
        # Without a display glfw complains at import, also to those who never render.
        warnings.filterwarnings("ignore", module="glfw")
        from dm_control import suite

        from dreammpc.envs import dmcontrol_extra
    return suite, dmcontrol_extra


def _log_plainly() -> None:
    """Have warnings printed as they are. Else dm_control's absl puts a logger's name before everybody's."""
    logging.basicConfig(format="%(message)s")


def _flatten(observation: dict[str, Any]) -> np.ndarray:
    values = [np.ravel(value) for value in observation.values()]
    return np.concatenate(values, dtype=np.float32, casting="same_kind")


def use_egl_if_headless() -> None:
    """Choose EGL for whatever renders with MuJoCo, on Linux without a display, unless the user chose."""
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("MUJOCO_GL"):
        return
    imported = "dm_control._render" in sys.modules
    os.environ["MUJOCO_GL"] = "egl"
    _log_plainly()
    try:
        from dm_control import _render

        if imported:
            # dm_control chooses when it is first imported. Whoever trains without frames and makes a
            # second environment for videos comes too late, so let it choose again.
            importlib.reload(_render)
    except (ImportError, AttributeError) as error:  # PyOpenGL raises either where the library is missing
        del os.environ["MUJOCO_GL"]
        raise RuntimeError(
            "rendering without a display needs the EGL library (Debian and Ubuntu: libegl1), or another "
            "backend chosen by the environment variable MUJOCO_GL"
        ) from error
