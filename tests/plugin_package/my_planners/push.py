import gymnasium
import numpy as np
from gymnasium.spaces import Box

from dreammpc.envs import register_env


class Push(gymnasium.Env):
    """A point on a line; the action is its velocity, the reward falls with its distance from 0."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    max_episode_steps = 20

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken, self.x = 0, self.np_random.uniform(-1, 1)
        return np.array([self.x], np.float32), {}

    def step(self, action):
        self.taken += 1
        self.x += 0.1 * float(action[0])
        over = self.taken == self.max_episode_steps
        return np.array([self.x], np.float32), 1 - abs(self.x), False, over, {}


@register_env("push-", tasks=lambda: ["push-home"])
def make(task, *, action_repeat, render):
    return Push()
