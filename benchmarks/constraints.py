"""Constraints against exact solutions, and around an obstacle against stable-worldmodel's solvers.

    python benchmarks/constraints.py linear
    python benchmarks/constraints.py disc --output disc.json
    python benchmarks/constraints.py plot disc.json docs/constraints.png

`linear`: a double integrator with a bound on its input, replanned at every step; exact is the quadratic
program solved at every step. `disc`: a double integrator in the plane goes from the left of a disc to its
right and must not enter it, with nothing but costs: no policy, no value. Every seed is another start and new
random numbers. With stable-worldmodel installed (pip install stable-worldmodel) its solvers take part, on the
same functions: its Lagrangian with the constraint, its CEM and gradient descent with the constraint as our
penalty. It is warm-started with the rest of its last plan, as its own policy does it; actions are clamped in
its cost.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreammpc.models import SimulatorModel
from dreammpc.planning import Imagination, make_planner

PENALTY = 100.0
HORIZON, STEPS, DT = 15, 60, 0.1
RADIUS = 0.5
OURS: dict[str, dict[str, Any]] = {
    "dream_mpc": {"num_candidates": 8, "iterations": 6, "step_rule": "line_search", "reuse": 0.9},
    "mppi": {"num_samples": 256, "num_policy": 0, "num_elites": 32},
    "cem": {"num_samples": 256, "num_elites": 32},
    "cem_grad": {"num_samples": 128, "num_elites": 8},
}
"""Settings that differ from the defaults; chosen on seeds 100 to 104."""
TREATMENTS = {"none": None, "penalty": PENALTY, "lagrangian": 20.0, "reject": 1.0}
"""And their weights around the disc; on the line both are 100, the default."""


# --- a linear-quadratic problem -------------------------------------------------------------------------

LQ_HORIZON, LQ_STEPS, LIMIT = 10, 30, 0.5


@dataclass(frozen=True)
class Effort:
    """|a| of every step, [M, H]: with `risk=worst`, a bound on the largest."""

    weight: float = 1.0

    def __call__(self, trajectory: Any) -> Tensor:
        return trajectory.actions.abs().sum(-1).t()


def lq_step(x: Tensor, a: Tensor) -> Tensor:
    velocity = x[:, 1:] + 0.2 * a
    return torch.cat([x[:, :1] + 0.2 * velocity, velocity], 1)


def lq_cost(x: Tensor, a: Tensor, y: Tensor) -> Tensor:
    return (y.square() * torch.tensor([1.0, 0.1], dtype=y.dtype)).sum(-1) + 0.05 * a.square().sum(-1)


def exact_plan(x: Tensor, horizon: int, limit: float) -> Tensor:
    """The best actions [H] from state `x` [2] with |a| ≤ limit, by accelerated projected gradient, float64.

    It stops where no coordinate moves by more than 1e-12 in an iteration.
    """

    def states(a: Tensor) -> Tensor:
        state, out = x.double().unsqueeze(0), []
        for t in range(horizon):
            state = lq_step(state, a[t].view(1, 1))
            out.append(state[0])
        return torch.stack(out).flatten()

    start = torch.zeros(horizon, dtype=torch.float64)
    matrix = torch.autograd.functional.jacobian(states, start)
    weight = torch.tensor([1.0, 0.1], dtype=torch.float64).repeat(horizon)
    hessian = matrix.t() @ (weight[:, None] * matrix) + 0.05 * torch.eye(horizon, dtype=torch.float64)
    linear = matrix.t() @ (weight * states(start))
    rate, a, ahead, momentum = 1 / torch.linalg.eigvalsh(hessian)[-1], start, start, 1.0
    for _ in range(100_000):
        new = (ahead - rate * (hessian @ ahead + linear)).clamp(-limit, limit)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        if (new - a).abs().max() < 1e-12:
            break
        if ((ahead - new) * (new - a)).sum() > 0:  # restart where momentum leads uphill
            following = 1.0
        ahead, a, momentum = new + (momentum - 1) / following * (new - a), new, following
    return a


@dataclass(frozen=True)
class Exact:
    """The quadratic program, solved at every step."""

    limit: float

    def __call__(self, x: Tensor) -> Tensor:
        return exact_plan(x[0], LQ_HORIZON, self.limit)[:1, None].float()


def lq_episode(choose: Callable[[Tensor], Tensor]) -> tuple[float, list[float]]:
    """Cost of an episode from (1, 0), and |a| of its steps."""
    x, cost, efforts = torch.tensor([[1.0, 0.0]]), 0.0, []
    for _ in range(LQ_STEPS):
        a = choose(x)
        y = lq_step(x, a)
        x, cost = y, cost + lq_cost(x, a, y).item()
        efforts.append(a.abs().max().item())
    return cost, efforts


def linear(names: list[str], seeds: range) -> list[dict]:
    """A row for each planner and treatment; `none` has the box of all actions as its only bound."""
    model, rows = SimulatorModel(2, 1, lq_step, cost=lq_cost), []
    best = {limit: lq_episode(Exact(limit))[0] for limit in (1.0, LIMIT)}
    for name, treatment in cases(names):
        constraints = []
        if treatment != "none":
            more = {"treatment": treatment, "risk": "worst"}
            constraints = [{"term": Effort(), "limit": LIMIT, "weight": PENALTY, **more}]
        settings = {"horizon": LQ_HORIZON, "terminal_value": False, "constraints": constraints}
        planner = make_planner(name, 1, **OURS[name], **settings)
        found = []
        for seed in seeds:
            torch.manual_seed(seed)
            found.append(lq_episode(Closed(planner, model, 1)))
        costs, efforts = [each[0] for each in found], [x for each in found for x in each[1]]
        exact, cost = best[LIMIT if constraints else 1.0], sum(costs) / len(costs)
        over = sum(x > LIMIT + 1e-3 for x in efforts) / len(efforts)
        row = {"planner": name, "treatment": treatment, "cost": cost, "exact": exact}
        rows.append({**row, "above": cost / exact - 1, "violated": over, "effort": max(efforts)})
        cells = [name, treatment, f"{cost:.3f}", f"{exact:.3f}", f"{100 * (cost / exact - 1):+.1f} %"]
        print(f"| {' | '.join([*cells, f'{100 * over:.1f}', f'{max(efforts):.3f}'])} |", flush=True)
    return rows


def cases(names: list[str]) -> list[tuple[str, str]]:
    """Planners and treatments; planners that take gradient steps reject nothing."""
    grads = ("dream_mpc", "cem_grad")
    return [(name, how) for name in names for how in TREATMENTS if how != "reject" or name not in grads]


class Closed:
    """A planner of ours as a function of states, which keeps its warm start."""

    def __init__(self, planner: Any, model: Any, size: int):
        self.planner, self.model, self.state = planner, model, planner.initial_state(size)
        self.evaluations = 0.0

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        plan = self.planner.plan(Imagination(self.model), self.model.latent(x), self.state)
        self.state, self.evaluations = plan.state, plan.diagnostics["evaluations"][0].item()
        return plan.action


# --- around a disc --------------------------------------------------------------------------------------

GOAL = (1.5, 0.0)


def disc_step(x: Tensor, a: Tensor) -> Tensor:
    velocity = x[:, 2:] + DT * 2 * a
    return torch.cat([x[:, :2] + DT * velocity, velocity], 1)


def disc_cost(x: Tensor, a: Tensor, y: Tensor) -> Tensor:
    goal = y.new_zeros(2) + torch.arange(2, device=y.device).eq(0) * GOAL[0]
    return DT * (
        (y[:, :2] - goal).square().sum(-1) + 0.05 * y[:, 2:].square().sum(-1) + 0.02 * a.square().sum(-1)
    )


def inside(x: Tensor) -> Tensor:
    """By how much states [..., 4] are inside the disc; negative outside."""
    return RADIUS - (x[..., :2].square().sum(-1) + 1e-8).sqrt()


@dataclass(frozen=True)
class KeepOut:
    """How deep the deepest state of a plan lies in the disc."""

    weight: float = 1.0

    def __call__(self, trajectory: Any) -> Tensor:
        return inside(trajectory.latents["x"][1:]).amax(0)


class Rival:
    """A solver of stable-worldmodel as a function of states [B, 4]."""

    def __init__(self, kind: str, size: int, seed: int):
        import gymnasium
        import numpy as np
        from stable_worldmodel.policy import PlanConfig
        from stable_worldmodel.solver import CEMSolver, GradientSolver, LagrangianSolver

        adam: dict[str, Any] = {"optimizer_cls": torch.optim.Adam, "optimizer_kwargs": {"lr": 0.1}}
        world, plain = RivalWorld(0.0), RivalWorld(PENALTY)
        self.solver: Any
        if kind.startswith("lagrangian"):
            world.get_constraints = world.constraints  # type: ignore[attr-defined]
            samples = int(kind.split("×")[1])
            self.solver = LagrangianSolver(world, 10, 5, num_samples=samples, seed=seed, **adam)
            self.evaluations = 2 * samples * 50 * HORIZON
        elif kind == "cem":
            self.solver = CEMSolver(plain, batch_size=size, num_samples=300, n_steps=30, topk=30, seed=seed)
            self.evaluations = 300 * 30 * HORIZON
        else:
            self.solver = GradientSolver(plain, 50, num_samples=8, seed=seed, **adam)
            self.evaluations = 8 * 50 * HORIZON
        box = gymnasium.spaces.Box(-np.ones((size, 2), np.float32), np.ones((size, 2), np.float32))
        config = PlanConfig(horizon=HORIZON, receding_horizon=1)
        self.solver.configure(action_space=box, n_envs=size, config=config)
        self.last: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        with contextlib.redirect_stdout(io.StringIO()):
            found = self.solver.solve({"state": x}, init_action=self.last)["actions"]
        self.last = found[:, 1:].detach()
        return found[:, 0].clamp(-1, 1).detach()


class RivalWorld:
    """The same functions with the methods that stable-worldmodel's solvers call."""

    def __init__(self, penalty: float):
        self.penalty = penalty

    def rollout(self, info: dict, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Cost [B, S] and largest violation [B, S] of `actions` [B, S, H, A]."""
        size, samples = actions.shape[:2]
        steps = actions.clamp(-1, 1).flatten(0, 1)
        x = info["state"].reshape(size, -1, 4).expand(size, samples, 4).reshape(-1, 4)
        cost, deepest = torch.zeros(len(x)), []
        for t in range(steps.shape[1]):
            y = disc_step(x, steps[:, t])
            x, cost = y, cost + disc_cost(x, steps[:, t], y)
            deepest.append(inside(y))
        return cost.view(size, samples), torch.stack(deepest).amax(0).view(size, samples)

    def get_cost(self, info: dict, actions: Tensor) -> Tensor:
        cost, violation = self.rollout(info, actions)
        return cost + self.penalty * violation.clamp(min=0)

    def constraints(self, info: dict, actions: Tensor) -> Tensor:
        return self.rollout(info, actions)[1].unsqueeze(-1)


RIVALS = {
    "swm lagrangian ×1": "lagrangian",
    "swm lagrangian ×8": "lagrangian",
    "swm cem": "penalty",
    "swm gd": "penalty",
}
"""Lines of stable-worldmodel, and how each is told of the constraint."""


def starts(seeds: range) -> Tensor:
    """A start [B, 4] for each seed: at rest, left of the disc, a little above or below its axis."""
    rows = []
    for seed in seeds:
        place = torch.rand(2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        rows.append([-1.5 + 0.1 * place[0].item(), 0.3 * place[1].item(), 0.0, 0.0])
    return torch.tensor(rows)


def disc_episodes(choose: Any, seeds: range) -> dict:
    """Return, violated steps and largest violation of each seed, all in one batch, and CPU time of a step."""
    x = starts(seeds)
    total, violations = torch.zeros(len(x)), []
    began = time.process_time()
    for _ in range(STEPS):
        a = choose(x)
        y = disc_step(x, a)
        x, total = y, total - disc_cost(x, a, y)
        violations.append(inside(y).clamp(min=0))
    spent = time.process_time() - began
    deep = torch.stack(violations)
    return {
        "returns": total.tolist(),
        "violated": (deep > 1e-3).float().mean(0).tolist(),
        "deepest": deep.amax(0).tolist(),
        "evaluations": choose.evaluations,
        "cpu_ms": 1e3 * spent / STEPS / len(x),
    }


def disc(names: list[str], seeds: range) -> list[dict]:
    """A row for each planner and treatment, then the rival's."""
    model, rows = SimulatorModel(4, 2, disc_step, cost=disc_cost), []
    for name, treatment in cases(names):
        constraints = []
        if treatment != "none":
            constraints = [{"term": KeepOut(), "treatment": treatment, "weight": TREATMENTS[treatment]}]
        more = {"horizon": HORIZON, "terminal_value": False, "constraints": constraints}
        planner = make_planner(name, 2, **OURS[name], **more)
        torch.manual_seed(seeds[0])
        found = disc_episodes(Closed(planner, model, len(seeds)), seeds)
        rows.append({"planner": name, "treatment": treatment, **found})
        print(line(rows[-1]), flush=True)
    if importlib.util.find_spec("stable_worldmodel") is None:
        print("stable-worldmodel left out: not installed (pip install stable-worldmodel)")
        return rows
    for kind, treatment in RIVALS.items():
        found = disc_episodes(Rival(kind.removeprefix("swm "), len(seeds), seeds[0]), seeds)
        rows.append({"planner": kind, "treatment": treatment, **found})
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict) -> str:
    mean = lambda key: sum(row[key]) / len(row[key])  # noqa: E731
    cells = [row["planner"], row["treatment"], f"{mean('returns'):.2f}", f"{100 * mean('violated'):.1f}"]
    cells += [f"{100 * max(row['deepest']):.1f}", f"{row['evaluations']:.0f}", f"{row['cpu_ms']:.1f}"]
    return f"| {' | '.join(cells)} |"


def plot(rows: list[dict], target: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    colors = {"none": "0.6", "penalty": "tab:orange", "lagrangian": "tab:blue", "reject": "tab:green"}
    marks = dict(zip(dict.fromkeys(row["planner"] for row in rows), "osD^vPX*", strict=False))
    for row in rows:
        spot = (
            [100 * sum(row["violated"]) / len(row["violated"])],
            [sum(row["returns"]) / len(row["returns"])],
        )
        axes.scatter(
            *spot,
            color=colors[row["treatment"]],
            marker=marks[row["planner"]],
            s=60,
            alpha=0.8,
            edgecolor="black",
            linewidth=0.5,
        )
    handles = [
        axes.scatter([], [], color="white", edgecolor="black", marker=mark, label=name)
        for name, mark in marks.items()
    ]
    handles += [
        axes.scatter([], [], color=color, marker="s", label=treatment) for treatment, color in colors.items()
    ]
    axes.set(xlabel="steps inside the disc, %", ylabel=f"return of {STEPS} steps")
    axes.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["linear", "disc", "plot"])
    parser.add_argument("files", nargs="*", help="plot: rows of disc, and the picture")
    parser.add_argument("--planners", nargs="+", default=list(OURS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--output")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "plot":
        plot(json.loads(Path(given.files[0]).read_text()), given.files[1])
        return
    seeds = range(given.first, given.first + given.seeds)
    rows = {"linear": linear, "disc": disc}[given.what](given.planners, seeds)
    if given.output:
        Path(given.output).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
