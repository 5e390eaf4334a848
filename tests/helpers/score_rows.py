"""Tidy rows of made-up scores, for tests of what is made from them."""

import numpy as np

from dreammpc.evaluation import Episodes
from dreammpc.evaluation.rows import Row, make_rows

QUALITY = {"policy": 0.6, "mppi": 0.7, "dream_mpc": 0.8}
MILLISECONDS = {"policy": 0.3, "mppi": 90.0, "dream_mpc": 4.0}


def score_rows(
    tasks=("cup-catch", "walker-walk"),
    planners=tuple(QUALITY),
    train_seeds=(1, 2, 3),
    episodes=4,
    algorithm="tdmpc2",
    settings=None,
    **changes,
) -> list[Row]:
    """Scores near each planner's `QUALITY`; the agent's own share of luck is the same for all planners."""
    rows = []
    for number, task in enumerate(tasks):
        for seed in train_seeds or ():
            rng = np.random.default_rng([number, seed])
            luck = rng.normal(0, 60)
            for planner in planners:
                returns = 1000 * QUALITY[planner] - 50 * number + luck + rng.normal(0, 5, episodes)
                played = Episodes(
                    returns.clip(0, 1000).tolist(),
                    [500] * episodes,
                    [False] * episodes,
                    MILLISECONDS[planner],
                    {},
                    successes=[None] * episodes,
                    any_successes=[None] * episodes,
                    scores=(returns.clip(0, 1000) / 1000).tolist(),
                    row_diagnostics=[{"gain": 0.1, "evaluations": 55.0}] * episodes,
                )
                common = {
                    "task": task,
                    "variant": None,
                    "checkpoint": f"runs/{task}-{algorithm}-{seed}/last.ckpt",
                    "train_seed": seed,
                    "algorithm": algorithm,
                    "model": "nano",
                    "env_steps": 50_000,
                    "planner": planner,
                    "settings": {} if planner == "policy" else {"horizon": 3, **(settings or {})},
                    "mode": "greedy",
                    "action_repeat": 2,
                    "versions": {"torch": "2.13.0"},
                    "machine": "a CPU, 2 cores, 1 threads",
                }
                made = make_rows(played, range(1000, 1000 + episodes), **common)
                rows += [{**row, **changes} for row in made]
    return rows
