"""Draw what planners make of their first candidates: a point that steers between obstacles.

    python benchmarks/plot_candidates.py docs/candidates.png

One plan each, from rest and without a warm start, at default settings but for the horizon and those of the
gradient planners below. Prints a Markdown table of how good such plans are over many seeds.
"""

import argparse
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.lines import Line2D
from torch import Tensor

from dreammpc.models import SimulatorModel
from dreammpc.planning import Composed, GaussianRefit, Imagination, PlanningContext, make_planner

START = (-2.0, 0.1, 0.0, 0.0)
HORIZON = 12
CENTERS = torch.tensor([[-1.0, 0.1], [-0.75, -0.55], [-1.45, 0.95]])
CLIMB = {"num_candidates": 8, "iterations": 20, "optimizer": "adam", "step_rule": "fixed", "step_size": 0.1}
PANELS = {
    "policy rollouts, unimproved": ("dream_mpc", {**CLIMB, "iterations": 0, "reuse_strategy": "none"}),
    "dream_mpc": ("dream_mpc", CLIMB),
    "grad_mpc": ("grad_mpc", CLIMB),
    "mppi": ("mppi", {}),
    "cem": ("cem", {}),
    "cem_grad": ("cem_grad", {}),
}
FIRST = {"color": "0.5", "lw": 0.7, "alpha": 0.55, "zorder": 2}
LAST = {"color": "tab:blue", "lw": 1.1, "alpha": 0.75, "zorder": 3}
CHOSEN = {"color": "black", "lw": 2.0, "zorder": 4, "marker": "o", "ms": 3.5}
LEGEND = {
    "first candidates (at most 128 drawn)": FIRST,
    "candidates after the last refinement": LAST,
    "the plan": CHOSEN,
    "start": {"color": "black", "marker": "s", "ls": "", "ms": 7},
    "goal": {"color": "tab:green", "marker": "*", "ls": "", "ms": 13},
    "obstacle": {"color": "tab:orange", "marker": "o", "ls": "", "ms": 11, "alpha": 0.7},
}


def dynamics(x: Tensor, a: Tensor) -> Tensor:
    """A point mass: position and velocity [M, 4], pushed by a [M, 2] for 0.2 s with up to 2 m/s²."""
    position, velocity = x.chunk(2, -1)
    velocity = velocity + 0.4 * a
    return torch.cat([position + 0.2 * velocity, velocity], -1)


def obstacles(position: Tensor) -> Tensor:
    """The price of being at `position` [M, 2]: up to 30 within an obstacle, a bump of 0.2 m."""
    distance = (position.unsqueeze(-2) - CENTERS).square().sum(-1)
    return 30 * torch.exp(-distance / (2 * 0.2**2)).sum(-1)


def cost(x: Tensor, a: Tensor, x2: Tensor) -> Tensor:
    """Distance to the origin, speed and effort, and the obstacles."""
    position, velocity = x2.chunk(2, -1)
    effort = 0.1 * velocity.square().sum(-1) + 0.01 * a.square().sum(-1)
    return position.square().sum(-1) + effort + obstacles(position)


def value(x: Tensor) -> Tensor:
    """Beyond the horizon: a guess that knows of no obstacle."""
    position, velocity = x.chunk(2, -1)
    return -5 * (position + 0.5 * velocity).square().sum(-1) - 0.5 * velocity.square().sum(-1)


def policy(x: Tensor) -> Tensor:
    """Straight to the goal, whatever is in the way."""
    position, velocity = x.chunk(2, -1)
    return (-0.5 * position - 0.7 * velocity).clamp(-1, 1)


MODEL = SimulatorModel(4, 2, dynamics, cost=cost, value=value, policy=policy, policy_std=0.35)


def planners() -> dict[str, Composed]:
    """Title of a panel → planner."""
    return {
        title: make_planner(name, 2, horizon=HORIZON, **settings).composed()
        for title, (name, settings) in PANELS.items()
    }


def stages(planner: Composed) -> tuple[Tensor, Tensor, Tensor, float, int]:
    """First and last candidates [N, H, A], the executed sequence [1, H, A], its J, model steps."""
    latent, state = MODEL.latent(torch.tensor([START])), planner.initial_state(1)
    context = PlanningContext(Imagination(MODEL), latent, state, planner.horizon, planner.objective)
    torch.manual_seed(0)
    first = planner.propose(context)
    search = first
    for stage in planner.refine:
        if search is first and isinstance(stage, GaussianRefit):
            # All samples of the first iteration: as many elites as there are samples.
            once = replace(stage, iterations=1, num_elites=stage.num_samples, keep_elites=0.0)
            first = once(context, first)
        search = stage(context, search)
    chosen = planner.select(context, search)
    return (
        first.candidates[0],
        search.candidates[0],
        chosen.sequence,
        chosen.value.item(),
        chosen.state.statistics.model_steps,
    )


def paths(actions: Tensor) -> Tensor:
    """Positions [N, H + 1, 2] under `actions` [N, H, A]."""
    x = torch.tensor([START]).expand(len(actions), 4)
    visited = [x]
    for t in range(actions.shape[1]):
        visited.append(dynamics(visited[-1], actions[:, t]))
    return torch.stack(visited, 1)[..., :2]


def draw(axis, title: str, planner: Composed) -> int:
    """One panel; returns the plan's model steps."""
    with torch.no_grad():
        before, after, chosen, worth, steps = stages(planner)
    span_x, span_y = torch.linspace(-2.4, 0.5, 160), torch.linspace(-1.5, 1.7, 160)
    price = obstacles(torch.stack(torch.meshgrid(span_x, span_y, indexing="xy"), -1))
    axis.contourf(span_x, span_y, price, levels=[3, 8, 15, 25, 60], cmap="Oranges", alpha=0.8, vmin=-10)
    improved = not torch.equal(before, after)
    for sequences, style in ((before[:128], FIRST), (after[: len(after) * improved], LAST), (chosen, CHOSEN)):
        for path in paths(sequences):
            axis.plot(*path.T, **style)
    axis.plot(*START[:2], zorder=5, **LEGEND["start"])
    axis.plot(0, 0, zorder=5, mec="white", **LEGEND["goal"])
    axis.set(xlim=(-2.4, 0.5), ylim=(-1.5, 1.7), aspect="equal", xticks=[], yticks=[])
    axis.set_title(f"{title}\nJ = {worth:.1f}, {steps:,} model steps", fontsize=12)
    return steps


def returns(planner: Composed, plans: int = 64) -> Tensor:
    """J [plans] of as many plans, which differ in their random numbers."""
    latent, state = MODEL.latent(torch.tensor([START]).repeat(plans, 1)), planner.initial_state(plans)
    torch.manual_seed(0)
    with torch.no_grad():
        return planner.plan(Imagination(MODEL), latent, state).value


def main(target: str) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(11.4, 9.4), layout="constrained")
    print("| planner | model steps | J, mean | worst tenth | best tenth |\n|---|---:|---:|---:|---:|")
    for axis, (title, planner) in zip(axes.flat, planners().items(), strict=True):
        found, steps = returns(planner), draw(axis, title, planner)
        tenths = found.quantile(torch.tensor([0.1, 0.9])).tolist()
        print(f"| {title} | {steps:,} | {found.mean():.1f} | {tenths[0]:.1f} | {tenths[1]:.1f} |")
    handles = [Line2D([], [], label=name, **style) for name, style in LEGEND.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    figure.savefig(target, dpi=90, facecolor="white")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", default="docs/candidates.png", help="picture to draw")
    main(parser.parse_args().target)
