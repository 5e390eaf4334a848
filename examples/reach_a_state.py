"""A reacher that was trained to touch its target is told, when it plans, to take a posture instead.

    python examples/reach_a_state.py                      # reacher-easy's packaged agent, five postures
    python examples/reach_a_state.py --video posture.mp4

The goal is an observation: the simulator is put into the posture, at rest, and looked at. The term `goal` is
the distance of imagined latents to that observation's. Rewards and value know the target only: the value is
left out of J, and the term's weight is far above a reward.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from dreammpc import load_agent
from dreammpc.agent import Agent
from dreammpc.envs import make_env
from dreammpc.evaluation.film import film
from dreammpc.planning import Goal, make_planner

POSTURES = ((0.0, 1.5), (1.5, -1.5), (-1.5, 0.5), (3.0, 2.0), (-2.5, -1.0))
"""Angles of shoulder and wrist, in radians."""


def look(env: Any, posture: tuple[float, float]) -> tuple[float, ...]:
    """The observation in a posture, at rest, for the target of the present episode; nothing is changed."""
    inner = env.envs[0].unwrapped._env
    state = inner.physics.get_state()
    with inner.physics.reset_context():
        inner.physics.data.qpos[:], inner.physics.data.qvel[:] = posture, 0
    seen = inner.task.get_observation(inner.physics)
    with inner.physics.reset_context():
        inner.physics.set_state(state)
    return tuple(float(x) for part in seen.values() for x in part.ravel())


def away(observation: Tensor, posture: tuple[float, float]) -> Tensor:
    """The larger of both joints' angles to a posture, in degrees, for observations [..., O]."""
    turn = observation[..., :2] - torch.tensor(posture)
    return torch.atan2(turn.sin(), turn.cos()).abs().amax(-1) * 180 / math.pi


def told(model: Any, goal: tuple[float, ...], weight: float, horizon: int) -> Agent:
    """An agent that goes for the goal observation."""
    term = Goal(goal=goal, weight=weight, at="along")
    settings = {"horizon": horizon, "terminal_value": False, "terms": [term]}
    return Agent(model, make_planner("cem_grad", model.action_dim, **settings))


def play(agent: Agent, env: Any, seed: int, steps: int) -> Tensor:
    """Observations [T, O] of an episode from `seed`."""
    env.seed_rows([seed])
    torch.manual_seed(seed)
    obs, carry, begins = env.reset(), agent.initial_carry(1), torch.ones(1, 1, dtype=torch.bool)
    seen = []
    for _ in range(steps):
        plan, carry = agent.step(obs.select("observation"), carry, begins)
        after = env.step(TensorDict({"action": plan.action}, [1]).update(obs))["next"]
        obs, begins = after.exclude("reward"), torch.zeros_like(begins)
        seen.append(obs["observation"][0])
    return torch.stack(seen)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agent", default="reacher-easy/tdmpc2-seed1")
    parser.add_argument("--weight", type=float, default=1000.0)
    parser.add_argument("--horizon", type=int, default=10)
    parser.add_argument("--steps", type=int, default=150, help="agent steps of an episode")
    parser.add_argument("--postures", type=int, default=len(POSTURES), help="how many of the five")
    parser.add_argument("--seed", type=int, default=2000, help="of the first episode's start")
    parser.add_argument(
        "--video", type=Path, help="mp4 or gif of the first posture, beside the agent as trained"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained = load_agent(given.agent)
    task = given.agent.partition("/")[0]
    env = make_env(task, 1, given.seed)
    print("| posture | degrees away at the start | at the end | as trained |\n|---|---:|---:|---:|")
    for i, posture in enumerate(POSTURES[: given.postures]):
        env.seed_rows([given.seed + i])
        start = env.reset()["observation"][0]
        agent = told(trained.model, look(env, posture), given.weight, given.horizon)
        ends = [
            away(play(one, env, given.seed + i, given.steps)[-10:], posture).mean()
            for one in (agent, trained)
        ]
        print(f"| {posture} | {away(start, posture):.0f} | {ends[0]:.1f} | {ends[1]:.0f} |", flush=True)
        if i == 0 and given.video:
            film({"as trained": trained, "told a posture": agent}, task, given.seed, given.video)
    env.close()


if __name__ == "__main__":
    main()
