"""A toy environment, apart from all that trains: what workers import to act in it."""

import gymnasium
import numpy as np

from dreammpc.envs import BatchedEnv


class Drift(gymnasium.Env):
    """A point that drifts where the action says; episodes of 20 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.normal(size=5).astype(np.float32), 0
        return self.x, {}

    def step(self, action):
        self.t += 1
        self.x = self.x + np.float32(0.1 * action.sum())
        return self.x, float(-abs(self.x[0])), False, self.t == 20, {}


def make_drift(seed: int) -> BatchedEnv:
    """Two of them."""
    env = BatchedEnv([Drift(), Drift()], "drift")
    env.set_seed(seed)
    return env
