from pathlib import Path

import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box

from humanoid_bench import sizes

ASSETS = Path(__file__).parent / "assets" / "envs"


class Task:
    """Draws a goal from NumPy's global stream; stands as long as its stage says."""

    success_bar = 8

    def __init__(self, env):
        self._env, self.unwrapped, self.goal, self.stage = env, self, np.zeros(1), 0


class HumanoidEnv(MujocoEnv):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, robot, control, task, render_mode="rgb_array"):
        assert render_mode is None, "the benchmark's own renderer does not work with this Gymnasium"
        print("No randomness in this env.")
        super().__init__(
            str(ASSETS / f"{robot}_{control}_{task}.xml"),
            frame_skip=10,
            observation_space=Box(-np.inf, np.inf, (3,), np.float64),
        )
        for struct, arrays in (("mjdata", self.data), ("mjmodel", self.model)):
            for name in sizes.array_sizes[struct]:
                getattr(arrays, name)
        self.action_space = Box(-1, 1, self.action_space.shape, np.float32)
        self.falls, self.task = task == "balance_hard", Task(self)

    def look(self):
        return np.concatenate([self.data.qpos, self.data.qvel, self.task.goal])

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        self.task.stage += 1
        return self.look(), 1.0, self.falls and self.task.stage == 5, False, {}

    def reset_model(self):
        self.task.goal, self.task.stage = np.random.uniform(-1, 1, 1), 0
        self.set_state(self.init_qpos + self.np_random.uniform(-0.1, 0.1, 1), self.init_qvel)
        return self.look()
