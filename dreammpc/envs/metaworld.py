"""Meta-World's 50 tasks in its environments of version 3, as `mw-NAME`.

Source: Yu et al., "Meta-World", 2019 (arXiv:1910.10897), and the package `metaworld`. The protocol is that
of published scores (Hansen et al., 2024, arXiv:2310.16828): action repeat 2 with summed rewards, 100
decisions, a goal drawn anew for every episode, and success at the last step. Those scores are on version 2,
whose rewards and starts are the same on the eight tasks that were compared, but whose physics differ a bit.
"""

import functools
import importlib.metadata
from typing import Any

import gymnasium
import numpy as np

from dreammpc.envs.mujoco_task import MujocoTask
from dreammpc.interfaces import UsageError

PREFIX = "mw-"
CONTROL_STEPS = 200
"""Of an episode: 100 decisions at action repeat 2. The package itself would go on to 500."""
INSTALL = "pip install 'dreammpc[metaworld]'"
_VERSION = "v3"


class MetaWorld(MujocoTask):
    """One task of Meta-World: a Sawyer arm, its gripper and objects.

    Observation: float32 [39]: the hand, gripper and objects of this step and of the one before, and the goal.
    Action: [4] in [-1, 1]: the hand's motion and the gripper's force. Episodes never terminate.
    `info["success"]` is that of the last step, `info["any_success"]` that of any step of this decision.

    Args:
        name: as the package calls the task, without its version, such as `"window-open"`.
        action_repeat: control steps per call of `step`, rewards summed.
        render_mode: `"rgb_array"` if frames will be asked for.
    """

    episodic = False
    variant = _VERSION
    changed_by_episodes = ("body_pos", "site_pos")

    def __init__(self, name: str, action_repeat: int = 2, render_mode: str | None = None):
        env = gymnasium.make(
            "Meta-World/goal_observable",
            env_name=f"{name}-{_VERSION}",
            seed=int(np.random.SeedSequence().generate_state(1)[0]),
            disable_env_checker=True,
        ).unwrapped
        env._freeze_rand_vec, env.seeded_rand_vec = False, True  # type: ignore[attr-defined]
        # The camera of TD-MPC2's videos. All of the package's cameras but the top view stand on their heads.
        super().__init__(env, action_repeat, CONTROL_STEPS, "corner4", True, render_mode)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode with a goal of its own. Without a seed the random stream goes on."""
        if seed is not None:
            self._env.seed(seed)  # the seed of its reset() is ignored
        observation, info = self._env.reset()
        self._steps = 0
        return observation.astype(np.float32), info


def make(task: str, *, action_repeat: int | None, render: bool) -> MetaWorld:
    """Make the environment of `mw-NAME`; action repeat 2 by default."""
    _names()
    return MetaWorld(task.removeprefix(PREFIX), action_repeat or 2, "rgb_array" if render else None)


def list_tasks() -> list[str]:
    """All 50, as `mw-NAME`."""
    return [PREFIX + name for name in _names()]


@functools.cache
def _names() -> list[str]:
    """Import the package.

    Raises:
        UsageError: another version of it.
    """
    import metaworld  # registers its environments with Gymnasium

    try:
        names = metaworld.env_dict.ALL_V3_ENVIRONMENTS
    except AttributeError as error:
        found = importlib.metadata.version("metaworld")
        raise UsageError(
            f"tasks {PREFIX}…: Meta-World {found} has no environments of version 3; expected 3.1 or later,"
            f" below 4: {INSTALL}"
        ) from error
    return [name.removesuffix(f"-{_VERSION}") for name in names]
