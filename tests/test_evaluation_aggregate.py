"""Aggregates: values computed by hand, and intervals that cover what they should on a known distribution."""

import math

import numpy as np
import pytest

from dreammpc.evaluation import aggregate
from dreammpc.evaluation.aggregate import interval, paired_interval

A = [np.array([0.0, 0.2, 0.4, 1.2]), np.array([0.5, 0.6, 0.7, 0.8])]


def test_by_hand():
    # Sorted: 0, .2, .4, .5, .6, .7, .8, 1.2; without two at each end: .4, .5, .6, .7.
    assert aggregate.iqm(A) == pytest.approx(0.55)
    assert aggregate.mean(A) == pytest.approx((0.45 + 0.65) / 2)
    assert aggregate.median([*A, np.array([9.0, 9.0])]) == pytest.approx(0.65)
    # Short of 1 by 1, .8, .6, 0 and .5, .4, .3, .2.
    assert aggregate.optimality_gap(A) == pytest.approx(3.8 / 8)
    profile = aggregate.performance_profile(A, np.array([-0.1, 0.5, 1.0, 2.0]))
    assert profile == pytest.approx([1, 4 / 8, 1 / 8, 0])


def test_iqm_of_few_runs_and_of_unequal_numbers():
    assert aggregate.iqm([np.array([0.0, 0.3, 0.9])]) == pytest.approx(0.4)  # a quarter of three is none
    assert aggregate.iqm([np.array([0.0, 0.3, 0.5]), np.array([9.0])]) == pytest.approx(0.4)


def test_probability_of_improvement_by_hand():
    x, y = [np.array([1.0, 2.0, 3.0])], [np.array([0.0, 2.0, 4.0])]
    assert aggregate.probability_of_improvement(x, y) == pytest.approx((1 + 1.5 + 2) / 9)
    assert aggregate.probability_of_improvement(y, x) == pytest.approx(1 - 4.5 / 9)
    # Mean over tasks: always better on the second one.
    both = aggregate.probability_of_improvement([*x, np.array([5.0])], [*y, np.array([1.0, 2.0])])
    assert both == pytest.approx((0.5 + 1) / 2)


def test_one_run_has_no_interval():
    assert interval([np.array([0.3]), np.array([0.1, 0.2])], aggregate.iqm) is None
    assert interval([np.array([0.3, 0.4]), np.array([0.1, 0.2])], aggregate.iqm) is not None


def test_intervals_repeat_and_hold_the_estimate():
    first, again = interval(A, aggregate.iqm), interval(A, aggregate.iqm)
    assert first == again
    assert first.low < aggregate.iqm(A) < first.high
    thresholds = np.linspace(0, 1, 11)
    band = interval(A, lambda drawn: aggregate.performance_profile(drawn, thresholds))
    profile = aggregate.performance_profile(A, thresholds)
    assert band.low.shape == (11,) and (band.low <= profile).all() and (profile <= band.high).all()


def test_resampling_stays_within_tasks():
    """Without strata the mean of two very different tasks would vary; within them nothing does."""
    constant = [np.zeros(3), np.ones(3)]
    assert interval(constant, aggregate.mean) == (0.5, 0.5)


@pytest.mark.parametrize("runs", [3, 10])
def test_coverage_is_that_of_the_percentile_bootstrap(runs):
    """On normal scores the interval of the mean is 1.96·σ·√((n-1)/n)/√(n·tasks) to each side, so that it
    covers the truth with a known probability: 93.7 % for ten runs a task, 89.0 % for three."""
    tasks, trials = 12, 400
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(trials):
        scores = list(rng.normal(0.5, 0.1, (tasks, runs)))
        low, high = interval(scores, aggregate.mean, repetitions=400, seed=trial)
        covered += low <= 0.5 <= high
    expected = math.erf(1.96 * math.sqrt((runs - 1) / runs) / math.sqrt(2))
    spread = math.sqrt(expected * (1 - expected) / trials)
    assert abs(covered / trials - expected) < 4 * spread + 0.01


def test_pairs_cancel_what_runs_share():
    rng = np.random.default_rng(1)
    agents = list(rng.normal(0.5, 0.2, (4, 5)))
    better = [agent + 0.05 + rng.normal(0, 0.001, 5) for agent in agents]

    def difference(x, y):
        return aggregate.mean(x) - aggregate.mean(y)

    low, high = paired_interval(better, agents, difference)
    assert 0.04 < low < high < 0.06
    low, high = paired_interval(better, agents, difference, paired=False)
    assert low < 0
