"""A runner trained for top speed is told, when it plans, to move at another; nothing is trained anew.

    python examples/another_speed.py                      # cheetah-run's packaged agent, at 1, 2, 3 and 4 m/s
    python examples/another_speed.py --agent walker-walk/tdmpc2-seed1 --index 16 --speeds 0.5 1.5

Rewards do not say how fast the body moves, but latents do: a few episodes are recorded, with noise of several
sizes, and the speed, an entry of the observation, is read out of latents by least squares. A term of 10 lines
then costs the squared distance of the imagined speed to the one that is wanted. The value still wants to run,
and so does the reward: the term's weight says by how much it outweighs them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from dreammpc import load_agent
from dreammpc.agent import Agent
from dreammpc.envs import make_env
from dreammpc.evaluation.film import film
from dreammpc.planning import Trajectory, make_planner


@dataclass(frozen=True)
class Speed:
    """Squared distance of the speed to `target`, mean over the steps of a plan."""

    target: float
    readout: tuple[float, ...]
    """A number for each entry of the latent, and a constant."""
    weight: float = 30.0

    def prepare(self, model: Any, device: torch.device) -> Tensor:
        return torch.tensor(self.readout, device=device)

    def __call__(self, trajectory: Trajectory) -> Tensor:
        slope, constant = trajectory.reference[:-1], trajectory.reference[-1]
        speed = (trajectory.latents["z"][1:] * slope).sum(-1) + constant  # [H, M]
        return (speed - self.target).square().mean(0)


def play(agent: Agent, task: str, size: int, seed: int, steps: int, noise: float = 0.0) -> dict[str, Tensor]:
    """Observations [T, B, O], latents [T, B, Z] and return [B] of B episodes; row i has noise·i/(B-1)."""
    env = make_env(task, size, seed)
    torch.manual_seed(seed)
    env.seed_rows([seed + i for i in range(size)])
    obs, carry, begins = env.reset(), agent.initial_carry(size), torch.ones(size, 1, dtype=torch.bool)
    scale, rows, total = torch.linspace(0, noise, size).unsqueeze(1), [], torch.zeros(size)
    for _ in range(steps):
        plan, carry = agent.step(obs.select("observation"), carry, begins)
        rows.append((obs["observation"], carry["belief", "z"]))
        action = (plan.action + scale * torch.randn_like(plan.action)).clamp(-1, 1)
        after = env.step(TensorDict({"action": action}, [size]).update(obs))["next"]
        obs, begins, total = after.exclude("reward"), torch.zeros_like(begins), total + after["reward"][:, 0]
    env.close()
    observations, latents = (torch.stack(part) for part in zip(*rows, strict=True))
    return {"observation": observations, "latent": latents, "return": total}


def fit_readout(agent: Agent, task: str, index: int, steps: int) -> tuple[tuple[float, ...], float]:
    """The readout of entry `index` from latents, and its error on episodes that it has not seen."""
    seen, unseen = play(agent, task, 6, 0, steps, 1.0), play(agent, task, 2, 50, steps, 0.5)
    inputs = [torch.cat([x["latent"], torch.ones_like(x["latent"][..., :1])], -1) for x in (seen, unseen)]
    rows, wanted = inputs[0].flatten(0, 1).double(), seen["observation"][..., index].flatten().double()
    ridge = 1e-3 * torch.eye(rows.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(rows.t() @ rows + ridge, rows.t() @ wanted)
    error = inputs[1].double() @ weights - unseen["observation"][..., index]
    return tuple(weights.tolist()), error.square().mean().sqrt().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agent", default="cheetah-run/tdmpc2-seed1")
    parser.add_argument("--index", type=int, default=8, help="of the speed in observations")
    parser.add_argument("--speeds", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0])
    parser.add_argument("--weight", type=float, default=30.0)
    parser.add_argument("--horizon", type=int, default=6)
    parser.add_argument("--steps", type=int, default=500, help="agent steps of an episode")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=2000, help="of the first episode's start")
    parser.add_argument("--video", type=Path, help="mp4 or gif, all speeds side by side")
    parser.add_argument("--figure", type=Path, help="speeds over time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task, policy = given.agent.partition("/")[0], load_agent(given.agent, "policy")
    readout, error = fit_readout(policy, task, given.index, given.steps // 2)
    print(f"speed is read out of latents to {error:.2f} m/s (root mean square, other episodes)")
    agents = {"as trained": load_agent(given.agent, horizon=given.horizon)}
    for speed in given.speeds:
        term = Speed(speed, readout, given.weight)
        planner = make_planner("dream_mpc", policy.model.action_dim, horizon=given.horizon, terms=[term])
        agents[f"{speed:g} m/s"] = Agent(policy.model, planner)
    lines = {}
    print(f"| told | speed | its std | return |\n|---|{'---:|' * 3}")
    for name, agent in agents.items():
        found = play(agent, task, given.episodes, given.seed, given.steps)
        lines[name] = found["observation"][..., given.index]
        later = lines[name][given.steps // 5 :]
        cells = [name, f"{later.mean():.2f}", f"{later.std():.2f}", f"{found['return'].mean():.0f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    if given.video:
        film(agents, task, given.seed, given.video)
    if given.figure:
        draw(lines, given.figure)


def draw(lines: dict[str, Tensor], path: Path) -> None:
    """Speeds over agent steps: the mean of the episodes, and their range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for i, (name, speeds) in enumerate(lines.items()):
        color = "0.5" if i == 0 else f"C{i - 1}"
        axes.plot(speeds.mean(1), color=color, label=name)
        axes.fill_between(range(len(speeds)), speeds.amin(1), speeds.amax(1), color=color, alpha=0.15, lw=0)
        if i:
            axes.axhline(float(name.split()[0]), color=color, ls=":", lw=1)
    axes.set(xlabel="agent step", ylabel="speed, m/s", xlim=(0, len(speeds)))
    axes.legend(frameon=False, ncols=5, fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
