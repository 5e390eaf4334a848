"""What is collected: written by hand, by a stand-in for a collector, by an agent that follows its policy."""

import torch
from tensordict import TensorDict
from toy_models import random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.data import Feed, Replay
from dreammpc.planning import make_planner


class Writer:
    """B environments with ragged episodes. Rows tell who they are: observation = (env, episode, step).

    `windows(length, capacity)` lists, by brute force, every window that lies within one episode.
    """

    def __init__(self, num_envs: int, seed: int = 0, shortest: int = 2, longest: int = 9):
        self.num_envs, self.range = num_envs, (shortest, longest + 1)
        self.generator = torch.Generator().manual_seed(seed)
        self.episode, self.step = [0] * num_envs, [0] * num_envs
        self.left = [self._length() for _ in range(num_envs)]
        self.history: list[tuple[int, int, int]] = []
        """(env, episode, step) of every row, in order of writing."""

    def _length(self) -> int:
        return int(torch.randint(*self.range, (), generator=self.generator))

    def batch(self, steps: int) -> TensorDict:
        """What a collector yields: [B, steps]."""
        who = torch.zeros(self.num_envs, steps, 3)
        is_init, done = (torch.zeros(self.num_envs, steps, 1, dtype=torch.bool) for _ in range(2))
        for t in range(steps):
            for b in range(self.num_envs):
                row = (b, self.episode[b], self.step[b])
                who[b, t] = torch.tensor(row, dtype=torch.float32)
                is_init[b, t] = self.step[b] == 0
                self.history.append(row)
                self.step[b] += 1
                self.left[b] -= 1
                if self.left[b] == 0:
                    done[b, t] = True
                    self.episode[b], self.step[b], self.left[b] = self.episode[b] + 1, 0, self._length()
        after = {"observation": who + torch.tensor([0.0, 0, 1]), "reward": who[..., 2:], "terminated": done}
        content = {"observation": who, "action": who[..., :1], "is_init": is_init, "next": after}
        return TensorDict(content, [self.num_envs, steps])

    def windows(self, length: int, capacity: int) -> set[tuple[int, int, int]]:
        held = set(self.history[-capacity:])
        return {(b, e, s) for b, e, s in held if all((b, e, s + i) in held for i in range(length))}


class FakeAgent:
    random = False
    checked = False


class FakeCollector:
    """Yields [B, T] transitions of episodes of `length`; the reward of environment b at step t is b + t."""

    def __init__(self, agent, num_envs=1, steps=1, length=5):
        self.agent, self.num_envs, self.steps, self.length = agent, num_envs, steps, length
        self.was_random: list[bool] = []
        self.down = False

    def __iter__(self):
        clock = 0
        while True:
            self.was_random.append(self.agent.random)
            t = (clock + torch.arange(self.steps)) % self.length
            t = t.expand(self.num_envs, -1).unsqueeze(-1)
            done = t == self.length - 1
            reward = (torch.arange(self.num_envs)[:, None, None] + t).float()
            after = {
                "observation": t + 1.0,
                "reward": reward,
                "terminated": torch.zeros_like(done),
                "done": done,
            }
            content = {"observation": t.float(), "action": reward, "is_init": t == 0, "next": after}
            clock += self.steps
            yield TensorDict(content, [self.num_envs, self.steps])

    def shutdown(self):
        self.down = True


def make_feed(seed_steps, total_steps, utd, num_envs=1, steps=1, action_repeat=2, length=5):
    agent = FakeAgent()
    collector = FakeCollector(agent, num_envs, steps, length)
    replay = Replay(1000, num_envs, 2, 4)
    return Feed(collector, agent, replay, seed_steps, total_steps, utd, action_repeat)


def schedule(feed) -> list[int]:
    """The agent step at which each update was handed out."""
    return [feed.agent_steps for _ in feed]


def make_agent() -> Agent:
    """Acts as its policy's mode: every action follows from the observation and the weights."""
    return Agent(random_tdmpc2(), make_planner("policy", 2), 0.0)
