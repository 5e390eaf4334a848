"""HumanoidBench's tasks (Sferrazza et al., 2024, arXiv:2403.10506), as `h1hand-NAME`, `h1-NAME`, ….

One control step per decision, 1000 in most tasks. The benchmark is on no package index and pins old versions.
What it needs of its surroundings is provided here while it is imported: the part of JAX that it imports and
does not use, and tables of MuJoCo's arrays without those that newer versions lack.
"""

import contextlib
import functools
import importlib
import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dreammpc.envs.mujoco_task import MujocoTask
from dreammpc.envs.state import set_stream_state, stream_state
from dreammpc.interfaces import UsageError

MODULE = "humanoid_bench"
ROBOTS = ("h1", "h1hand", "h1simplehand", "h1strong", "h1touch", "g1")
PREFIXES = tuple(f"{robot}-" for robot in ROBOTS)
INSTALL = (
    "git clone https://github.com/carlosferrazza/humanoid-bench && pip install --no-deps -e ./humanoid-bench"
)


class HumanoidBench(MujocoTask):
    """One task of HumanoidBench.

    Observation: float32 [O]. Action: [A] in [-1, 1]; 61 for `h1hand`, 19 for `h1`.
    `terminated` where the benchmark ends an episode, by a fall; `truncated` at the time limit.

    Args:
        name: Gymnasium's id of the task, such as `"h1hand-run-v0"`.
        action_repeat: control steps per call of `step`.
        render_mode: `"rgb_array"` if frames will be asked for.

    Attributes:
        full_return: the task's `success_bar`, the return from which the benchmark calls it solved.

    Raises:
        UsageError: the benchmark cannot make the task.
    """

    episodic = True
    changed_by_episodes = ("body_pos", "body_quat", "geom_rgba", "site_pos")

    def __init__(self, name: str, action_repeat: int = 1, render_mode: str | None = None):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # some tasks print what they are
                env: Any = gymnasium.make(name, render_mode=None, disable_env_checker=True)
        except Exception as error:  # whatever MuJoCo or the task says: a file is missing, a model is too old
            reason = " ".join(str(error).split()) or type(error).__name__
            task = name.rpartition("-v")[0]
            raise UsageError(f"task {task!r}: HumanoidBench cannot make it: {reason}") from error
        limit = env.spec.max_episode_steps
        super().__init__(env.unwrapped, action_repeat, limit, "cam_default", render_mode=render_mode)
        self.full_return = float(self._env.task.success_bar)
        self._random = np.random.RandomState()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. With a seed the random streams start anew, without one they go on."""
        if seed is not None:
            self._random.seed(seed)
        with self._as_global():
            observation, info = self._env.reset(seed=seed)
        self._steps = 0
        return observation.astype(np.float32), info

    def _step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        with self._as_global():
            return self._env.step(action)

    def stateful(self) -> list[Any]:
        return [self._env, self._env.task]

    def get_state(self) -> dict[str, Any] | None:
        """See `dreammpc.envs.state`."""
        return {**super().get_state(), "stream": stream_state(self._random)}  # type: ignore[dict-item]

    def set_state(self, state: dict[str, Any]) -> None:
        """See `dreammpc.envs.state`."""
        super().set_state(state)
        set_stream_state(self._random, state["stream"])

    @contextlib.contextmanager
    def _as_global(self) -> Iterator[None]:
        """Tasks draw from NumPy's global stream: let that be this environment's own meanwhile."""
        before = np.random.get_state()
        np.random.set_state(self._random.get_state())
        try:
            yield
        finally:
            self._random.set_state(np.random.get_state())
            np.random.set_state(before)


def make(task: str, *, action_repeat: int | None, render: bool) -> HumanoidBench:
    """Make the environment of a name from `list_tasks`; action repeat 1 by default."""
    return HumanoidBench(_table()[task], action_repeat or 1, "rgb_array" if render else None)


def list_tasks(robot: str) -> list[str]:
    """All tasks of a robot, as `ROBOT-NAME`, NAME as the benchmark writes it: `h1hand-balance_hard`."""
    return [task for task in _table() if task.startswith(f"{robot}-")]


@functools.cache
def _table() -> dict[str, str]:
    """Gymnasium's ids by our names: all that the benchmark registers and has a model of."""
    folder = Path(str(_import().__file__)).parent / "assets" / "envs"
    ours = (spec for spec in gymnasium.registry.values() if str(spec.entry_point).startswith(f"{MODULE}."))
    return {
        spec.name: spec.id
        for spec in ours
        if (folder / "{robot}_{control}_{task}.xml".format(**spec.kwargs)).exists()
    }


def _import() -> types.ModuleType:
    """The benchmark, imported.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        with _jax_stands_in():
            _mend(importlib.import_module(f"{MODULE}.dmc_deps.dmc_sizes"))
            return importlib.import_module(MODULE)
    except (ImportError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"HumanoidBench cannot be imported ({reason}); expected: {INSTALL}") from error


@contextlib.contextmanager
def _jax_stands_in() -> Iterator[None]:
    """Without JAX, NumPy stands for `jax.numpy`: a module that no task uses imports it."""
    try:
        importlib.import_module("jax.numpy")
    except ImportError:
        jax = types.ModuleType("jax")
        jax.numpy = np  # type: ignore[attr-defined]
        modules = {"jax": jax, "jax.numpy": np}
        sys.modules |= modules
        try:
            yield
        finally:
            for name in modules:
                del sys.modules[name]
    else:
        yield


def _mend(sizes: types.ModuleType) -> None:
    """Drop the arrays that the installed MuJoCo lacks."""
    import mujoco

    for struct, kind in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
        table = sizes.array_sizes[struct]
        for name in [name for name in table if not hasattr(kind, name)]:
            del table[name]
