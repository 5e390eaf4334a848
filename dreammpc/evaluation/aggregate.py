"""Scores over tasks × runs → aggregates with intervals (Agarwal et al. 2021, arXiv 2108.13264).

`Scores` are normalized scores by task: one array [..., n] for each, over the n training runs of that task.
Statistics take that list of arrays and work on their last axes, so that bootstrap samples come in front.
`rliable`, the paper's own program, is not used: it needs arch < 8, which fails to import beside pandas 3.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Scores = Sequence[np.ndarray]
Statistic = Callable[[Scores], np.ndarray]

REPETITIONS = 2000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """Ends of a bootstrap interval, of the shape of its statistic."""

    low: np.ndarray
    high: np.ndarray


def mean(scores: Scores) -> np.ndarray:
    """Mean over tasks of the mean over runs."""
    return np.mean(_task_means(scores), axis=-1)


def median(scores: Scores) -> np.ndarray:
    """Median over tasks of the mean over runs."""
    return np.median(_task_means(scores), axis=-1)


def iqm(scores: Scores) -> np.ndarray:
    """Interquartile mean over all runs of all tasks: without a quarter of them, rounded down, at each end."""
    ordered = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    count = ordered.shape[-1]
    cut = count // 4
    return np.mean(ordered[..., cut : count - cut], axis=-1)


def optimality_gap(scores: Scores, target: float = 1.0) -> np.ndarray:
    """By how much runs fall short of `target` in the mean; what lies above it makes up for nothing."""
    return target - np.mean(np.minimum(np.concatenate(scores, axis=-1), target), axis=-1)


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Share of all runs that score more than each threshold: [..., T] for `thresholds` [T]."""
    runs = np.concatenate(scores, axis=-1)
    return np.mean(runs[..., None, :] > np.asarray(thresholds)[:, None], axis=-1)


def probability_of_improvement(scores: Scores, others: Scores) -> np.ndarray:
    """P(a run of `scores` beats one of `others` on the same task), ties counted half, mean over tasks."""
    wins = [
        np.mean(
            (x[..., :, None] > y[..., None, :]) + 0.5 * (x[..., :, None] == y[..., None, :]), axis=(-2, -1)
        )
        for x, y in zip(scores, others, strict=True)
    ]
    return np.mean(wins, axis=0)


def interval(
    scores: Scores, statistic: Statistic, repetitions: int = REPETITIONS, seed: int = 0
) -> Interval | None:
    """The stratified percentile bootstrap: runs are drawn with replacement, within each task by itself.

    Returns:
        `None` if a task has one run only: nothing is known of how runs differ, and no interval is pretended.
    """
    return paired_interval(scores, scores, lambda drawn, _: statistic(drawn), repetitions, seed)


def paired_interval(
    scores: Scores,
    others: Scores,
    statistic: Callable[[Scores, Scores], np.ndarray],
    repetitions: int = REPETITIONS,
    seed: int = 0,
    paired: bool = True,
) -> Interval | None:
    """The same for a statistic of two methods.

    Args:
        paired: entry i of a task is the same training run in both, as where two planners play one agent: both
            are drawn together, and what differs between runs cancels. Else each is drawn by itself.
    """
    if any(len(runs) < 2 for runs in (*scores, *others)):
        return None
    rng = np.random.default_rng(seed)
    first, second = [], []
    for x, y in zip(scores, others, strict=True):
        chosen = rng.integers(len(x), size=(repetitions, len(x)))
        first.append(x[chosen])
        second.append(y[chosen if paired else rng.integers(len(y), size=(repetitions, len(y)))])
    drawn = statistic(first, second)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return Interval(low, high)


def _task_means(scores: Scores) -> np.ndarray:
    """[..., tasks]"""
    return np.stack([np.mean(runs, axis=-1) for runs in scores], axis=-1)


STATISTICS: dict[str, Statistic] = {
    "IQM": iqm,
    "mean": mean,
    "median": median,
    "optimality gap": optimality_gap,
}
