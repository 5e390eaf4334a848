"""Play trained agents with dream_mpc, its settings changed one at a time from the default.

    python benchmarks/ablation.py runs/*/checkpoints/best.ckpt --episodes 10
    python benchmarks/ablation.py runs/*/checkpoints/last.ckpt --change step_size=0.5 iterations=3,reuse=0

Prints a Markdown table per checkpoint: return over the episodes and its difference to the default on the
same starts (mean ± standard error), gain in J over the policy's rollouts, gradient norm, ms per action and
model steps. The time is that of the batch of all episodes divided by their number; run it alone. Of several
checkpoints a last table has the differences of all: mean, standard error over checkpoints, extremes.
"""

import argparse
import sys
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from dreammpc.agent import Agent
from dreammpc.configuration.planners import build_planner
from dreammpc.evaluation import Evaluator
from dreammpc.evaluation.episodes import Episodes
from dreammpc.interfaces import UsageError
from dreammpc.trained.loading import action_repeat_of, load_model

ALONE = {
    "step_rule": ["fixed", "normalized"],
    "step_size": [0.1, 0.3, 0.5, 3.0],
    "iterations": [0, 2, 3],
    "reuse_strategy": ["none", "best", "matched"],
    "reuse": [0.3, 0.6],
    "value_reduction": ["mean", "mean-std"],
    "uncertainty_coef": [0.0, 0.1, 1.0],
    "uncertainty": ["std", "released"],
    "clip_over": ["all"],
    "num_candidates": [1, 2, 10, 20],
    "include_mode": [False],
    "keep_policy": [False],
}
PAPER = {"step_rule": "fixed", "step_size": 0.1, "uncertainty": "std", "value_reduction": "mean"}
"""The paper's gradient step and J, with our choice among the candidates."""
TOGETHER: list[dict[str, Any]] = [
    PAPER,
    {**PAPER, "iterations": 3},
    {"step_rule": "normalized", "step_size": 0.1},
    {"optimizer": "adam", "step_size": 0.1},
    {"value_reduction": "mean", "uncertainty_coef": 1.0},
]


def settings(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The default first, then the changes that were asked for, or all."""
    if args.change:
        changes = [dict(OmegaConf.from_dotlist(change.split(","))) for change in args.change]
    else:
        changes = [{name: value} for name, values in ALONE.items() for value in values] + TOGETHER
        changes = [change for change in changes if not args.only or set(change) & set(args.only)]
    return [{}, *changes]


def mean(values: np.ndarray, sign: str = "") -> str:
    """The mean and its standard error, which one value does not have."""
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.1f}{error}"


def row(name: str, result: Episodes, base: Episodes) -> str:
    """A line of the table."""
    found, returns = result.diagnostics, np.array(result.returns)
    cells = [
        name,
        mean(returns),
        "" if result is base else mean(returns - np.array(base.returns), "+"),
        *(f"{found[key]:.3g}" for key in ("gain", "gradient_norm")),
        f"{result.ms_per_action:.2f}",
        f"{found['evaluations']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def ablate(checkpoint: str, args: argparse.Namespace) -> dict[str, float]:
    """Play and print the table of one checkpoint; the mean return of every setting."""
    model, facts = load_model(checkpoint)
    task = facts["task"]
    evaluator = Evaluator(task, args.episodes, args.seed, action_repeat_of(facts), obs=model.obs)
    print(f"\n{task}, trained for {facts['env_steps']} environment steps, {args.episodes} episodes\n")
    print("| setting | return | against default | gain in J | gradient norm | ms/action | model steps |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    base: Episodes | None = None
    means: dict[str, float] = {}
    changes = [*settings(args), None]
    planners = [
        build_planner(
            {"name": "policy"} if change is None else {"name": "dream_mpc", **change}, model.action_dim
        )
        for change in changes
    ]  # all of them first: a mistake must show before anything is played
    for change, planner in zip(changes, planners, strict=True):
        result = evaluator.play(Agent(model, planner))
        assert result is not None
        base = result if base is None else base
        name = "policy alone" if change is None else ", ".join(f"{k} {v}" for k, v in change.items())
        name = name or "default"
        print(row(name, result, base), flush=True)
        means[name] = float(np.mean(result.returns))
    evaluator.close()
    return means


def print_summary(found: list[dict[str, float]]) -> None:
    """Differences to the default over several checkpoints, the best setting first."""
    print(f"\n{len(found)} checkpoints, returns against default\n")
    print("| setting | mean | standard error | least | most |")
    print("|---|---:|---:|---:|---:|")
    lines = []
    for name in found[0]:
        differences = np.array([means[name] - means["default"] for means in found])
        error = differences.std(ddof=1) / len(differences) ** 0.5
        cells = (differences.mean(), error, differences.min(), differences.max())
        signs = ("+.1f", ".1f", "+.1f", "+.1f")
        shown = " | ".join(format(cell, sign) for cell, sign in zip(cells, signs, strict=True))
        lines.append((-differences.mean(), f"| {name} | {shown} |"))
    print("\n".join(line for _, line in sorted(lines)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], choices=[*ALONE, "optimizer"], metavar="SETTING")
    parser.add_argument("--change", nargs="*", default=[], metavar="KEY=VALUE[,KEY=VALUE]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = [ablate(checkpoint, args) for checkpoint in args.checkpoints]
    if len(found) > 1:
        print_summary(found)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
